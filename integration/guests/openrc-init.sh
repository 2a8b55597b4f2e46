# The guest openrc ($base) with OpenRC's own PID 1. No package makes that link: its manual asks the administrator to.
make_guest() { # NAME TAR
	cp "$base" "$2"
	ln -s openrc-init "$work/init"
	tar --numeric-owner --owner=0 --group=0 --transform 's,^init$,./usr/sbin/init,' -rf "$2" -C "$work" init
}
