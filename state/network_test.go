package state

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestPortIsWrittenAsItIsTyped(t *testing.T) {
	for want, p := range map[string]Port{
		"80":                      {Proto: TCP, Guest: 80},
		"8080:80":                 {Proto: TCP, Host: 8080, Guest: 80},
		"53:53/udp":               {Proto: UDP, Host: 53, Guest: 53},
		"127.0.0.1:8080:80":       {Proto: TCP, IP: "127.0.0.1", Host: 8080, Guest: 80},
		"[::1]:8080:80":           {Proto: TCP, IP: "::1", Host: 8080, Guest: 80},
		"127.0.0.1::80":           {Proto: TCP, IP: "127.0.0.1", Guest: 80},
		"8000-8010:80-90":         {Proto: TCP, Host: 8000, Guest: 80, Count: 11},
		"10.0.0.1:5-6:7-8/udp":    {Proto: UDP, IP: "10.0.0.1", Host: 5, Guest: 7, Count: 2},
		"65535:65535":             {Proto: TCP, Host: 65535, Guest: 65535, Count: 1},
		"[2001:db8::1]:1:2":       {Proto: TCP, IP: "2001:db8::1", Host: 1, Guest: 2},
		"[2001:db8::1]:1-2:3-4":   {Proto: TCP, IP: "2001:db8::1", Host: 1, Guest: 3, Count: 2},
		"[2001:db8::1]::7000/udp": {Proto: UDP, IP: "2001:db8::1", Guest: 7000},
	} {
		if got := p.String(); got != want {
			t.Errorf("%+v is %s, want %s", p, got, want)
		}
	}
}

func TestPortsOverlap(t *testing.T) {
	web := Port{Proto: TCP, Host: 8080, Guest: 80}
	for _, c := range []struct {
		other Port
		want  bool
	}{
		{Port{Proto: TCP, Host: 8080, Guest: 1}, true},
		{Port{Proto: UDP, Host: 8080, Guest: 1}, false},
		{Port{Proto: TCP, Host: 8081, Guest: 80}, false},
		{Port{Proto: TCP, Host: 8075, Guest: 1, Count: 5}, false},
		{Port{Proto: TCP, Host: 8075, Guest: 1, Count: 6}, true},
		{Port{Proto: TCP, IP: "127.0.0.1", Host: 8080, Guest: 1}, true},
		{Port{Proto: TCP, Guest: 80}, false},
	} {
		if got := web.Overlaps(c.other); got != c.want {
			t.Errorf("%s and %s: %v", web, c.other, got)
		}
		if got := c.other.Overlaps(web); got != c.want {
			t.Errorf("%s and %s: %v", c.other, web, got)
		}
	}
	one, two := web, web
	one.IP, two.IP = "192.0.2.1", "192.0.2.2"
	if one.Overlaps(two) {
		t.Error("ports of two addresses overlap")
	}
}

func lan() *Network {
	return &Network{Name: "lan", Kind: NetworkBridge, Bridge: "lan", Managed: true, NAT4: true,
		IPv4: netip.MustParsePrefix("10.9.0.1/24"), IPv6: netip.MustParsePrefix("fd00:9::1/64")}
}

func TestNetworkRecord(t *testing.T) {
	d, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keep := func(*Network) error { return nil }
	if err := d.CreateNetwork(lan(), keep); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateNetwork(lan(), keep); !errors.Is(err, ErrExist) {
		t.Errorf("a second one of that name: %v", err)
	}
	data, err := os.ReadFile(d.networkRecord("lan"))
	if err != nil {
		t.Fatal(err)
	}
	later := strings.Replace(string(data), "{", `{"of_a_later_build": 1,`, 1)
	if err := os.WriteFile(d.networkRecord("lan"), []byte(later), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := d.EditNetwork("lan", func(n *Network) error { n.Isolated = true; return nil })
	if err != nil || !n.Isolated {
		t.Fatal(n, err)
	}
	if data, _ := os.ReadFile(d.networkRecord("lan")); !strings.Contains(string(data), "of_a_later_build") {
		t.Errorf("what this build does not know is lost: %s", data)
	}
	if _, err := d.EditNetwork("lan", func(n *Network) error { n.MTU = 7; return nil }); !errors.Is(err, ErrInvalid) {
		t.Errorf("an MTU of 7: %v", err)
	}
	if n, _ = d.Network("lan"); n.MTU != 0 || n.IPv4 != lan().IPv4 {
		t.Errorf("after a change that was refused: %+v", n)
	}
	if err := d.RemoveNetwork("lan", func(*Network) error { return ErrBusy }); !errors.Is(err, ErrBusy) {
		t.Errorf("one in use: %v", err)
	}
	if err := d.RemoveNetwork("lan", keep); err != nil {
		t.Fatal(err)
	}
	if all, err := d.Networks(); len(all) != 0 || err != nil {
		t.Errorf("after its removal: %v, %v", all, err)
	}
}

func TestNetworkCheckNamesTheField(t *testing.T) {
	for _, c := range []struct {
		field string
		spoil func(n *Network)
	}{
		{"network", func(n *Network) { n.Name = "host" }},
		{"network", func(n *Network) { n.Name = "a-name-too-long-for-a-link" }},
		{"type", func(n *Network) { n.Kind = "ovn" }},
		{"bridge", func(n *Network) { n.Bridge = "a/b" }},
		{"parent", func(n *Network) { n.Parent = "eth0" }},
		{"ipv4.address", func(n *Network) { n.IPv4 = netip.MustParsePrefix("10.9.0.0/24") }},
		{"ipv4.address", func(n *Network) { n.IPv4 = netip.MustParsePrefix("10.9.0.255/24") }},
		{"ipv4.address", func(n *Network) { n.IPv4 = netip.MustParsePrefix("10.9.0.1/31") }},
		{"ipv6.address", func(n *Network) { n.IPv6 = netip.MustParsePrefix("fd00::1/127") }},
		{"ipv4.address", func(n *Network) { n.IPv4, n.IPv6 = netip.Prefix{}, netip.Prefix{} }},
		{"mtu", func(n *Network) { n.MTU = 1279 }},
		{"dns", func(n *Network) { n.DNS = []string{"x"} }},
		{"allow", func(n *Network) { n.Allow = []string{"tcp/0"} }},
	} {
		n := lan()
		c.spoil(n)
		var v Violations
		if err := n.Check(); !errors.As(err, &v) || !strings.HasPrefix(v[0], c.field) {
			t.Errorf("%s: complaints are %q", c.field, v)
		}
	}
	if err := lan().Check(); err != nil {
		t.Error(err)
	}
}

func TestLeases(t *testing.T) {
	d, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CreateNetwork(lan(), func(*Network) error { return nil }); err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr("10.9.0.7")
	for range 2 {
		if err := d.Lease("lan", a, "one"); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Lease("lan", a, "two"); !errors.Is(err, ErrExist) {
		t.Errorf("a second owner: %v", err)
	}
	if err := d.EndLease("lan", a, "two"); err != nil {
		t.Error(err)
	}
	if all, _ := d.Leases("lan"); len(all) != 1 || all[a] != "one" {
		t.Errorf("leases are %v", all)
	}
	if err := d.EndLease("lan", a, "one"); err != nil {
		t.Error(err)
	}
	if err := d.EndLease("lan", a, "one"); err != nil {
		t.Error("given back twice:", err)
	}
	if err := d.Lease("lan", a, "two"); err != nil {
		t.Error("after it was given back:", err)
	}
	if err := d.Lease("wan", a, "two"); !errors.Is(err, ErrNotExist) {
		t.Errorf("of a network that is not there: %v", err)
	}
}
