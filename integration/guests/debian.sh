# A Debian that boots: what a user gets from a minimal install with systemd, an ordinary user in it, no manuals.
make_guest() { # NAME TAR
	"$here/../install-deps" mmdebstrap >&2
	mmdebstrap --quiet --mode=root --format=tar --variant=minbase \
		--include=systemd-sysv,dbus,libpam-systemd,udev,procps,iproute2,login,passwd,util-linux,libcap2-bin \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--customize-hook='chroot "$1" useradd -m -u 1000 -s /bin/bash alice' \
		"$1" "$2" </dev/null >&2
}
