package run

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"croft/state"
)

// guestLinks are one of each kind: croft's own with both families, one without a way out, and of a LAN one that asks and one
// that does not.
func guestLinks() []state.Link {
	return []state.Link{
		{
			Name: "eth0", Network: "croft0", Kind: state.NetworkBridge, Managed: true,
			IP: netip.MustParsePrefix("10.87.0.5/20"), IP6: netip.MustParsePrefix("fd00:87::5/64"),
			Gateway: netip.MustParseAddr("10.87.0.1"), Gateway6: netip.MustParseAddr("fd00:87::1"),
		},
		{
			Name: "eth1", Network: "lab", Kind: state.NetworkBridge, Managed: true,
			IP: netip.MustParsePrefix("10.88.0.5/24"), Gateway: netip.MustParseAddr("10.88.0.1"),
		},
		{Name: "lan0", Network: "macvlan:en0", Kind: state.NetworkMacvlan},
		{Name: "lan1", Network: "bridge:br0", Kind: state.NetworkBridge, IP: netip.MustParsePrefix("192.0.2.5/24")},
	}
}

func TestNetworkManagers(t *testing.T) {
	dns := []string{"192.0.2.53", "2001:db8::53"}
	all := managers{networkd: true, networkManager: true, netplan: true, cloudInit: true, ifupdown: true}
	all.interfaces = map[string]string{
		"/etc/network/interfaces":         "auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n\thostname web\nsource interfaces.d/*",
		"/etc/network/interfaces.d/other": "auto tun0\niface tun0 inet manual\n",
	}
	golden(t, "managers.files", all.files(guestLinks(), dns))
	golden(t, "managers-static.files", all.files(guestLinks()[:1], nil))

	golden(t, "managers-none.files", all.files(nil, dns))
	all.onlyIPv4 = true
	for name, f := range all.files(guestLinks(), nil) {
		if strings.Contains(f.Text, "fd00:87:") {
			t.Errorf("IPv6 where there is none: %s: %s", name, f.Text)
		}
	}
	if got := (managers{}).files(guestLinks(), dns); len(got) > 0 {
		t.Errorf("without a manager: %v", got)
	}
	all.interfaces = map[string]string{interfacesFile: "auto lo\niface lo inet loopback\n"}
	if got, has := all.files(guestLinks(), dns)[interfacesFile]; has {
		t.Errorf("NetworkManager's links are taken away from it: %s", got.Text)
	}
	all.networkManager = false
	if _, has := all.files(guestLinks(), dns)[interfacesFile]; !has {
		t.Error("ifupdown alone is not told")
	}
}

func TestUnasked(t *testing.T) {
	for _, c := range []struct {
		what string
		m    managers
		want []string
	}{
		{"no manager", managers{}, nil},
		{"NetworkManager", managers{networkManager: true, networkd: true}, []string{"lan0"}},
		{"networkd is started", managers{networkManager: true, networkd: true, networkdStarts: true}, nil},
		{"netplan starts one of them", managers{networkManager: true, netplan: true}, nil},
		{"cloud-init is told", managers{networkManager: true, told: true}, nil},
		{"ifupdown with other links", managers{networkManager: true, ifupdown: true, interfaces: map[string]string{interfacesFile: "auto lo\n"}}, []string{"lan0"}},
		{"ifupdown", managers{networkManager: true, ifupdown: true, interfaces: map[string]string{interfacesFile: "auto lan0\niface lan0 inet dhcp\n"}}, nil},
	} {
		if got := c.m.unasked(guestLinks()); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestOneWayOut(t *testing.T) {
	links := guestLinks()
	links[0].Gateway = netip.Addr{} // the first that has one counts, of each kind
	links[1].Gateway6 = netip.MustParseAddr("fd00:88::1")
	got := oneWayOut(links)
	if got[1].Gateway != links[1].Gateway || got[0].Gateway6 != links[0].Gateway6 || got[1].Gateway6.IsValid() {
		t.Errorf("%v", got)
	}
	if !links[1].Gateway6.IsValid() {
		t.Error("the record has changed")
	}
}

func TestWithoutInterfaces(t *testing.T) {
	ours := map[string]bool{"eth0": true, "eth1": true}
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"auto lo\niface lo inet loopback\n", "auto lo\niface lo inet loopback\n"},
		{"auto eth0\niface eth0 inet dhcp\n  hostname $(hostname)\niface lo inet loopback\n", "iface lo inet loopback\n"},
		{"auto eth0 lo eth1\nallow-hotplug eth0\n", "auto lo\n"},
		{"iface eth0 inet static\n\taddress 192.0.2.1/24\n# of tun0\n\niface tun0 inet manual\n\tup true\n", "# of tun0\n\niface tun0 inet manual\n\tup true\n"},
		{"iface eth0 inet dhcp\niface eth1 inet6 auto\nsource /etc/network/interfaces.d/*\n", "source /etc/network/interfaces.d/*\n"},
		{"iface eth0:1 inet manual\niface eth10 inet dhcp\n", "iface eth0:1 inet manual\niface eth10 inet dhcp\n"},
		{"iface\nauto\n", "iface\nauto\n"},
	} {
		if got := withoutInterfaces(c.text, ours); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}

func TestManagersOf(t *testing.T) {
	base, top := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"/sbin/ifup": "#!/bin/sh\n", "/usr/sbin/netplan": "#!/bin/sh\n",
		"/etc/network/interfaces": "auto lo\n", "/etc/network/interfaces.d/a": "auto a\n",
	} {
		put(t, base+name, text)
		if err := os.Chmod(base+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, top+"/etc/network/interfaces.d/b", "auto b\n")
	m, err := managersOf([]string{base, top})
	if err != nil {
		t.Fatal(err)
	}
	if m.networkManager || m.netplan || m.networkd || m.cloudInit || !m.ifupdown || len(m.interfaces) != 3 {
		t.Errorf("%+v", m)
	}
	if m.networkdStarts {
		t.Error("networkd is not enabled")
	}
	put(t, top+"/usr/lib/systemd/system/systemd-networkd.service", "")
	enabled := filepath.Join(base, "etc/systemd/system/dbus-org.freedesktop.network1.service")
	if err := errors.Join(os.MkdirAll(filepath.Dir(enabled), 0o755), os.Symlink("/usr/lib/systemd/system/systemd-networkd.service", enabled)); err != nil {
		t.Fatal(err)
	}
	if m, err = managersOf([]string{base, top}); err != nil || !m.networkdStarts {
		t.Errorf("with networkd enabled: %+v, %v", m, err)
	}
	put(t, top+"/etc/netplan/10-lxc.yaml", "network: {}\n")
	if m, err = managersOf([]string{base, top}); err != nil || !m.netplan {
		t.Errorf("with something to do for netplan: %+v, %v", m, err)
	}
	if names := slices.Sorted(maps.Keys(m.interfaces)); !slices.Equal(names, []string{interfacesFile, interfacesFile + ".d/a", interfacesFile + ".d/b"}) {
		t.Errorf("%q", names)
	}
}
