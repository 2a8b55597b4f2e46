# A root of nothing but busybox with its own init: no systemd, no libc, 2 MB.

# fetch PACKAGE: its files under $work/deb; the host stays as it is.
fetch() {
	local get=(apt-get -qq -o APT::Sandbox::User=root download "$1")
	cd "$work"
	"${get[@]}" >&2 || { apt-get -qq update >&2 && "${get[@]}" >&2; }
	dpkg-deb -x "$1"_*.deb deb
}

make_guest() { # NAME TAR
	local root=$work/root applet
	mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc/init.d,proc,sys,dev,run,tmp,root,home/alice,var/log,mnt}
	fetch busybox-static
	find "$work/deb" -type f -path '*/bin/busybox' -exec cp {} "$root/bin/busybox" \;
	"$root/bin/busybox" --list-full >"$work/applets"
	while read -r applet; do
		[ "$applet" = bin/busybox ] || ln -sf /bin/busybox "$root/$applet"
	done <"$work/applets"
	cat >"$root/etc/inittab" <<-'END'
		::sysinit:/etc/init.d/rcS
		::askfirst:-/bin/sh
		::shutdown:/etc/init.d/rcK
	END
	cat >"$root/etc/init.d/rcS" <<-'END'
		#!/bin/sh
		hostname -F /etc/hostname 2>/dev/null
		ip link set lo up 2>/dev/null
		echo "busybox guest is up"
	END
	printf '#!/bin/sh\necho "busybox guest goes down"\n' >"$root/etc/init.d/rcK"
	chmod 755 "$root"/etc/init.d/rc[SK]
	printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534:nobody:/:/bin/false \
		alice:x:1000:1000::/home/alice:/bin/sh >"$root/etc/passwd"
	printf '%s\n' root:x:0: tty:x:5: nogroup:x:65534: alice:x:1000: >"$root/etc/group"
	printf '%s\n' ID=busybox NAME=Busybox 'PRETTY_NAME="Busybox"' >"$root/etc/os-release"
	printf '%s\n' /bin/sh >"$root/etc/shells"
	chmod 1777 "$root/tmp"
	chmod 700 "$root/root"
	chown -R 0:0 "$root"
	chown 1000:1000 "$root/home/alice"
	tar --numeric-owner -C "$root" -cf "$2" .
}
