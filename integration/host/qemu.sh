# QEMU of Debian 13, in a tree that it runs from on any host: 7.2 of Debian 12 crashes kernel 6.12 on two processors.
make_part() { # NAME DIR
	"$here/../install-deps" mmdebstrap >&2
	[ "$(dpkg --print-architecture)" = amd64 ] || { echo "build: $1: the VM is an amd64 machine" >&2; exit 1; }
	mmdebstrap --quiet --mode=root --variant=apt --include=qemu-system-x86,qemu-utils,seabios \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' trixie "$2/tree" </dev/null >&2
}
