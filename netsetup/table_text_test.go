package netsetup

import (
	"net/netip"
	"strings"
	"testing"

	"croft/state"
)

func TestDescribe(t *testing.T) {
	m := Member{
		Name: "web",
		Links: []state.Link{{
			Name: "eth0", Kind: state.NetworkBridge, Parent: "croft0", Host: "croft1234", Managed: true, MAC: "02:00:00:00:00:05",
			IP: netip.MustParsePrefix("10.9.0.5/24"), IP6: netip.MustParsePrefix("fd00:9::5/64"),
		}},
		Ports: []state.Port{{Proto: "tcp", Host: 8080, Guest: 80}, {Proto: "udp", IP: "127.0.0.1", Host: 53, Guest: 5353}, {Proto: "tcp", IP: "2001:db8::1", Host: 443, Guest: 443, Count: 2}},
	}
	want := `bridge croft guests: croft1234 : goto guest
bridge croft macs: croft1234 . 02:00:00:00:00:05
bridge croft machines: 02:00:00:00:00:05
bridge croft same: croft1234 . croft1234
bridge croft senders4: croft1234 . 02:00:00:00:00:05 . 10.9.0.5
inet croft neighbours4: croft0 . 10.9.0.5
bridge croft senders6: croft1234 . 02:00:00:00:00:05 . fd00:9::5
inet croft neighbours6: croft0 . fd00:9::5
bridge croft senders6: croft1234 . 02:00:00:00:00:05 . fe80::ff:fe00:5
inet croft ports4: tcp . 8080 : 10.9.0.5 . 80
inet croft ports6: tcp . 8080 : fd00:9::5 . 80
inet croft self_as: tcp . 8080 : fd63:726f:6674::6:1f90
inet croft self_to: tcp . 8080 : fd00:9::5
inet croft self_at: tcp . 8080 : 80
inet croft self_back: fd63:726f:6674::6:1f90 : 8080
inet croft ports4_at: 127.0.0.1 . udp . 53 : 10.9.0.5 . 5353
inet croft ports6_at: 2001:db8::1 . tcp . 443 : fd00:9::5 . 443
inet croft ports6_at: 2001:db8::1 . tcp . 444 : fd00:9::5 . 444`
	if got := strings.Join(Table{Name: "croft"}.Describe(m), "\n"); got != want {
		t.Errorf("%s\nis not\n%s", got, want)
	}
}
