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
