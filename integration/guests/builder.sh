# A Debian to build packages in: what a build machine has before it gets the build dependencies.
make_guest() { # NAME TAR
	"$here/../install-deps" mmdebstrap >&2
	mmdebstrap --quiet --mode=root --format=tar --variant=minbase \
		--include=systemd-sysv,dbus,build-essential,debhelper \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		trixie "$2" </dev/null >&2
}
