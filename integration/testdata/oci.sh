# What the scripts about OCI images make them with: `. "$OCI"`, then layers on top of each other in the layout ./lay.

# image TAG: an image without layers.
image() {
	[ -d lay ] || umoci init --layout lay
	umoci new --image "lay:$1"
}

# layer TAG COMMAND...: a layer of what COMMAND makes in an empty directory, its working directory.
layer() {
	tag=$1
	shift
	rm -rf layer.dir
	mkdir layer.dir
	(cd layer.dir && "$@")
	tar -C layer.dir --numeric-owner --xattrs --xattrs-include='*' -cf layer.tar .
	umoci raw add-layer --image "lay:$tag" layer.tar
}

# busybox TAG: an image that can run something; $busybox is the guest's tar.
busybox() {
	image "$1"
	umoci raw add-layer --image "lay:$1" "$busybox"
}

# config TAG --FLAG VALUE...: as umoci's --config.FLAG.
config() {
	tag=$1
	shift
	umoci config --image "lay:$tag" "$@"
}

# push TAG REFERENCE: into a registry without TLS.
push() { skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:lay:$1" "docker://$2"; }

# plain TAG TAR: an image of one layer, TAR as it is. To compress a whole system takes longer than the rest of a script.
plain() {
	image "$1"
	layer=$(blob <"$2")
	old=$(jq -r --arg tag "$1" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"]==$tag) | .digest' lay/index.json)
	manifest=lay/blobs/sha256/${old#sha256:}
	config=$(jq -r .config.digest "$manifest")
	config=$(jq --arg layer "$layer" '.rootfs.diff_ids = [$layer]' "lay/blobs/sha256/${config#sha256:}" | blob)
	new=$(jq --arg config "$config" --arg layer "$layer" --argjson csize "$(size "$config")" --argjson lsize "$(size "$layer")" \
		'.config.digest = $config | .config.size = $csize |
		.layers = [{mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $layer, size: $lsize}]' "$manifest" | blob)
	jq --arg old "$old" --arg new "$new" --argjson size "$(size "$new")" \
		'(.manifests[] | select(.digest == $old)) |= (.digest = $new | .size = $size)' lay/index.json >index.json
	mv index.json lay/index.json
}

# blob: what is read becomes a blob of the layout, and its digest is printed.
blob() {
	sum=$(tee lay/blob | sha256sum)
	mv lay/blob "lay/blobs/sha256/${sum%% *}"
	echo "sha256:${sum%% *}"
}

size() { stat -c %s "lay/blobs/sha256/${1#sha256:}"; }
