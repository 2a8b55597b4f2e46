# What the application images of registries are made of: a Debian without an init, with nginx and redis of its packages.
make_guest() { # NAME TAR
	"$here/../install-deps" mmdebstrap >&2
	mmdebstrap --quiet --mode=root --format=tar --variant=minbase --include=nginx-light,redis-server \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		trixie "$2" </dev/null >&2
}
