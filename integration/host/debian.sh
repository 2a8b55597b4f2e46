# The tree of a host: a Debian with systemd and a kernel, in which /usr/lib/croft-test runs what /croft/run says. systemd boots it in
# namespaces, vm.sh makes a machine's disk of it.

# What costs time at boot and no test looks at; apparmor.service alone takes 5 s in a VM, and the security module is on without it.
# kmod-static-nodes and systemd-tmpfiles-setup-dev-early must stay: they make /dev/loop-control and /dev/net/tun.
idle='apparmor systemd-hwdb-update ldconfig systemd-journal-catalog-update systemd-update-done systemd-firstboot systemd-pcrmachine
	systemd-pcrphase systemd-pcrphase-sysinit systemd-tpm2-setup-early systemd-tpm2-setup systemd-hibernate-clear
	systemd-machine-id-commit systemd-random-seed systemd-pstore systemd-battery-check systemd-sysusers systemd-remount-fs
	systemd-udev-load-credentials systemd-udev-trigger modprobe@drm modprobe@configfs modprobe@fuse systemd-networkd-wait-online
	e2scrub_reap lxcfs networking ifupdown-pre'
idle_units='getty.target apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
	systemd-tmpfiles-clean.timer systemd-ask-password-console.path systemd-ask-password-wall.path dev-hugepages.mount
	sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount proc-sys-fs-binfmt_misc.automount systemd-pcrextend.socket
	systemd-pcrlock.socket'

make_part() { # SUITE DIR
	local tree=$2/tree unit etc
	"$here/../install-deps" mmdebstrap >&2
	mmdebstrap --quiet --mode=root --variant=minbase \
		--include=systemd-sysv,systemd-container,libnss-mymachines,dbus,libpam-systemd,udev,kmod,linux-image-cloud-$(dpkg --print-architecture),apparmor \
		--include=iproute2,nftables,procps,psmisc,util-linux,mount,e2fsprogs,uidmap,keyutils,strace,socat,curl,squashfs-tools,erofs-utils,xfsprogs,lxcfs \
		--include=python3-minimal,xz-utils,zstd,busybox-static \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' "$1" "$tree" </dev/null >&2
	etc=$tree/etc/systemd/system
	for unit in $idle; do ln -sf /dev/null "$etc/$unit.service"; done
	for unit in $idle_units; do ln -sf /dev/null "$etc/$unit"; done
	: >"$tree/etc/fstab"
	echo croft-test >"$tree/etc/hostname"
	echo 127.0.0.1 localhost croft-test >"$tree/etc/hosts"
	echo 0123456789abcdef0123456789abcdef >"$tree/etc/machine-id"
	touch -d 2037-01-01 "$tree/etc/.updated" "$tree/var/.updated" # or systemd would bring both up to date at each boot
	mkdir "$tree/croft" "$tree/var/lib/croft"
	chmod 700 "$tree/var/lib/croft"
	cat >"$etc/croft-test.service" <<-'END'
		[Unit]
		Description=What is to be done in this host
		After=multi-user.target dbus.service systemd-logind.service
		Wants=systemd-logind.service
		[Service]
		Type=exec
		ExecStart=/usr/lib/croft-test
	END
	mkdir -p "$etc/multi-user.target.wants"
	ln -s ../croft-test.service "$etc/multi-user.target.wants/"
	cat >"$tree/usr/lib/croft-test" <<-'END'
		#!/bin/bash
		# In a VM what is to be done comes as a disk, and the answer goes through a port.
		[ -e /croft/run ] || mount /dev/vdb /croft
		out=/croft/out
		[ -p $out ] || out=$(echo /dev/vport*)
		exec /bin/bash /croft/run >"$out" 2>&1 </dev/null
	END
	chmod 755 "$tree/usr/lib/croft-test"
}
