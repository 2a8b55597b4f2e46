package run

import (
	"net/netip"
	"testing"

	"croft/state"
)

func TestResolvConf(t *testing.T) {
	world := resolv{text: "# by hand\nnameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.org lab\noptions timeout:1\nsortlist 10.0.0.0\n"}
	stub := resolv{
		text:     "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n",
		upstream: "nameserver 192.0.2.54\nnameserver fe80::1%eth0\nsearch corp\n",
	}
	alone := resolv{text: "nameserver 127.0.0.1\nnameserver ::1\nsearch corp\n"}
	lan := state.Link{Network: "lan", Managed: true, IP: netip.MustParsePrefix("10.9.0.2/24"), Gateway: netip.MustParseAddr("10.9.0.1")}
	own := lan
	own.DNS = []string{"10.9.0.53"}
	internal := lan
	internal.Gateway = netip.Addr{}
	for _, c := range []struct {
		what  string
		spec  state.Spec
		links []state.Link
		host  resolv
		want  string
		lacks bool
	}{
		{what: "none", host: world},
		{what: "host", spec: state.Spec{NICs: []state.NIC{{Network: "host"}}}, host: stub, want: stub.text},
		{what: "ns", spec: state.Spec{NICs: []state.NIC{{Network: "ns:/run/netns/x"}}}, host: world, want: world.text},
		{what: "host's", links: []state.Link{lan}, host: world, want: "# made by croft\nnameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.org lab\noptions timeout:1\n"},
		{what: "upstream", links: []state.Link{lan}, host: stub, want: "# made by croft\nnameserver 192.0.2.54\nsearch corp\n"},
		{what: "loopback alone", links: []state.Link{lan}, host: alone, want: "# made by croft\nsearch corp\n", lacks: true},
		{what: "no server at all", links: []state.Link{lan}, want: "# made by croft\n"},
		{what: "network's", links: []state.Link{lan, own, own}, host: world, want: "# made by croft\nnameserver 10.9.0.53\nsearch example.org lab\noptions timeout:1\n"},
		{what: "network's, beside loopback", links: []state.Link{own}, host: alone, want: "# made by croft\nnameserver 10.9.0.53\nsearch corp\n"},
		{what: "asked", spec: state.Spec{DNS: []string{"192.0.2.1"}}, links: []state.Link{own}, host: world, want: "# made by croft\nnameserver 192.0.2.1\nsearch example.org lab\noptions timeout:1\n"},
		{what: "asked of host", spec: state.Spec{DNS: []string{"192.0.2.1"}, NICs: []state.NIC{{Network: "host"}}}, host: stub, want: "# made by croft\nnameserver 192.0.2.1\nsearch corp\n"},
		{what: "internal", links: []state.Link{internal}, host: world, want: "# made by croft\nsearch example.org lab\noptions timeout:1\n"},
		{what: "internal, and a server in it", links: []state.Link{internal, own}, host: world, want: "# made by croft\nnameserver 10.9.0.53\nsearch example.org lab\noptions timeout:1\n"},
		{what: "dhcp", links: []state.Link{lan, {Network: "macvlan:eth0"}}, host: world},
	} {
		in := &state.Instance{Spec: c.spec, Facts: state.Facts{Links: c.links}}
		if text, lacks := resolvConf(in, c.host); text != c.want || lacks != c.lacks {
			t.Errorf("%s: %q, %v, and not %q, %v", c.what, text, lacks, c.want, c.lacks)
		}
	}
}
