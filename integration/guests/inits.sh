# A Debian with another init than systemd, as its packages set it up: sysvinit, OpenRC under sysvinit (openrc), runit.
make_guest() { # NAME TAR
	local init
	case $1 in
	sysvinit) init=sysvinit-core ;;
	openrc) init=sysvinit-core,openrc ;;
	runit) init=runit-init ;;
	esac
	"$here/../install-deps" mmdebstrap >&2
	mmdebstrap --quiet --mode=root --format=tar --variant=minbase \
		--include="$init",initscripts,procps,iproute2,login,passwd,util-linux \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--customize-hook='chroot "$1" useradd -m -u 1000 -s /bin/bash alice' \
		trixie "$2" </dev/null >&2
}
