# The client of Incus, to look at images from outside of croft. It is run in a chroot.
make_guest() { # NAME TAR
	"$here/../install-deps" mmdebstrap >&2
	mmdebstrap --quiet --mode=root --format=tar --variant=minbase --include=incus-client \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		trixie "$2" </dev/null >&2
}
