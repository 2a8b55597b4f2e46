# A Debian that runs containers and machines of its own: its engines, not started at boot, and what a snap is mounted by.
make_guest() { # NAME TAR
	"$here/../install-deps" mmdebstrap >&2
	mmdebstrap --quiet --mode=root --format=tar --variant=minbase \
		--include=systemd-sysv,dbus,libpam-systemd,procps,iproute2,login,passwd,util-linux \
		--include=docker.io,docker-cli,podman,crun,netavark,nftables,iptables,uidmap,passt,squashfuse,fuse3 \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--customize-hook='chroot "$1" systemctl -q disable docker docker.socket containerd podman podman.socket podman-auto-update.timer' \
		--customize-hook='chroot "$1" useradd -m -u 1000 -s /bin/bash alice' \
		trixie "$2" </dev/null >&2
}
