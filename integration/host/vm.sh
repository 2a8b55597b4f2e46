# What a VM starts from: root.ext4, vmlinuz and initrd, made of the tree of debian.sh.
make_part() { # NAME DIR
	local tree=$base/tree initrd=$2/initrd.tree release module
	"$here/../install-deps" cpio e2fsprogs xz-utils >&2
	release=$(basename "$tree"/lib/modules/*)
	cp "$tree/boot/vmlinuz-$release" "$2/vmlinuz"

	# Debian's own initrd takes seconds to find what we know: the disk is a virtio one with an ext4.
	mkdir -p "$initrd"/{bin,dev,root}
	cp "$tree/bin/busybox" "$initrd/bin/"
	chroot "$tree" modprobe --all --show-depends -S "$release" virtio_pci virtio_blk virtio_console ext4 |
		sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$2/modules"
	{
		printf '%s\n' '#!/bin/busybox sh' '/bin/busybox mount -t devtmpfs dev /dev'
		while read -r module; do
			case $module in
			*.xz) xz -dc "$tree$module" >"$initrd/$(basename "$module" .xz)" ;;
			*) cp "$tree$module" "$initrd/" ;;
			esac
			echo "/bin/busybox insmod /$(basename "$module" .xz)"
		done <"$2/modules"
		printf '%s\n' '/bin/busybox mount -t ext4 -o noatime /dev/vda /root' '/bin/busybox mount --move /dev /root/dev' \
			'exec /bin/busybox switch_root /root /sbin/init'
	} >"$initrd/init"
	chmod 755 "$initrd/init"
	(cd "$initrd" && find . | cpio -o -H newc --quiet) >"$2/initrd"
	rm -r "$initrd" "$2/modules"
	mkfs.ext4 -q -F -O ^metadata_csum,^64bit -E nodiscard -m 0 -d "$tree" "$2/root.ext4" 6G
}
