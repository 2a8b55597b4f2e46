# The guest openrc ($base) with OpenRC's own PID 1. No package makes the link, its manual asks the administrator to; reboot
# and poweroff are as OpenRC installs them where sysvinit is not there.
make_guest() { # NAME TAR
	local verb
	cp "$base" "$2"
	ln -s openrc-init "$work/init"
	for verb in reboot poweroff; do
		printf '#!/bin/sh\nexec openrc-shutdown --%s now\n' "$verb" >"$work/$verb"
		chmod 755 "$work/$verb"
	done
	tar --numeric-owner --owner=0 --group=0 --transform 's,^,./usr/sbin/,S' -rf "$2" -C "$work" init reboot poweroff
}
