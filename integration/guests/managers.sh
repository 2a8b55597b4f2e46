# A Debian with every network manager that it has for a system, none of them enabled: what uses it enables one, as an image would
# have it. online.service makes each boot want network-online.target.
make_guest() { # NAME TAR
	"$here/../install-deps" mmdebstrap >&2
	cat >"$work/choose" <<-'END'
		#!/bin/sh -e
		systemctl -q disable NetworkManager networking systemd-resolved cloud-init-local cloud-init-main cloud-init-network cloud-config cloud-final
		rm -rf /etc/systemd/system/network-online.target.wants /etc/resolv.conf
		cat >/etc/systemd/system/online.service <<-'UNIT'
			[Unit]
			Wants=network-online.target
			After=network-online.target
			[Service]
			Type=oneshot
			RemainAfterExit=yes
			ExecStart=true
			[Install]
			WantedBy=multi-user.target
		UNIT
		systemctl -q enable online
	END
	mmdebstrap --quiet --mode=root --format=tar --variant=minbase \
		--include=systemd-sysv,dbus,libpam-systemd,udev,procps,iproute2,login,passwd,util-linux \
		--include=systemd-resolved,ifupdown,dhcpcd-base,network-manager,netplan.io,cloud-init,openssh-client \
		--aptopt='Acquire::Languages "none"' --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--customize-hook="chroot \"\$1\" sh -es <$work/choose" \
		trixie "$2" </dev/null >&2
}
