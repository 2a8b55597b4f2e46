package netsetup

import (
	"net/netip"
	"testing"
)

func TestPickIPv4OfAPool(t *testing.T) {
	for pool, want := range map[string]string{"10.42.0.0/20": "10.42.0.1/20", "192.168.7.0/24": "192.168.7.1/24"} {
		pool := netip.MustParsePrefix(pool)
		p, err := PickIPv4(pool, nil, "seed")
		if err != nil || p.String() != want {
			t.Errorf("of %s: %v, %v", pool, p, err)
		}
		if p, err := PickIPv4(pool, []netip.Prefix{p.Masked()}, "seed"); err == nil {
			t.Errorf("%v is taken, and yet was picked", p)
		}
	}
	large := netip.MustParsePrefix("10.42.0.0/16")
	if p, err := PickIPv4(large, nil, "seed"); err != nil || p.Bits() != subnetBits || !large.Contains(p.Addr()) {
		t.Errorf("of %s: %v, %v", large, p, err)
	}
}

func TestPickIPv4AvoidsWhatIsTaken(t *testing.T) {
	first, err := PickIPv4(netip.Prefix{}, nil, "seed")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := PickIPv4(netip.Prefix{}, nil, "seed"); again != first {
		t.Errorf("the same seed gives %s and %s", first, again)
	}
	if other, _ := PickIPv4(netip.Prefix{}, []netip.Prefix{first.Masked()}, "seed"); other.Overlaps(first) {
		t.Errorf("%s overlaps with %s, which is taken", other, first)
	}
	office := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12")}
	p, err := PickIPv4(netip.Prefix{}, office, "seed")
	if err != nil || !netip.MustParsePrefix("192.168.0.0/16").Overlaps(p) {
		t.Errorf("beside %s: %s, %v", office, p, err)
	}
	if p, err := PickIPv4(netip.Prefix{}, append(office, netip.MustParsePrefix("192.168.0.0/16")), "seed"); err == nil {
		t.Errorf("nothing is free, and it picks %s", p)
	}
	if gateway := first.Addr(); gateway != first.Masked().Addr().Next() || first.Bits() != 20 {
		t.Errorf("the gateway is %s", first)
	}
}

func TestPickIPv6IsUniqueAndLocal(t *testing.T) {
	a, b := PickIPv6(nil), PickIPv6(nil)
	if a == b || !netip.MustParsePrefix("fd00::/8").Overlaps(a) || a.Bits() != 64 || a.Addr() == a.Masked().Addr() {
		t.Errorf("picked %s and %s", a, b)
	}
}

func TestAddressesAreThoseThatAMachineCanHave(t *testing.T) {
	gateway := netip.MustParsePrefix("10.9.0.1/29")
	seen := map[netip.Addr]bool{}
	for a := range Addresses(gateway, "web") {
		seen[a] = true
	}
	if len(seen) != 5 {
		t.Errorf("of %s: %v", gateway, seen)
	}
	for _, not := range []string{"10.9.0.0", "10.9.0.1", "10.9.0.7", "10.9.0.8"} {
		if seen[netip.MustParseAddr(not)] {
			t.Errorf("%s is among them", not)
		}
	}
	for a := range Addresses(netip.MustParsePrefix("fd00:9::1/64"), "web") {
		if !netip.MustParsePrefix("fd00:9::/64").Contains(a) || a.Is4() {
			t.Errorf("%s is not of the subnet", a)
		}
		break
	}
}

func TestPlusCarries(t *testing.T) {
	for _, c := range []struct {
		a    string
		n    uint64
		want string
	}{
		{"10.0.0.255", 1, "10.0.1.0"},
		{"10.255.255.255", 1, "11.0.0.0"},
		{"10.64.0.0", 1 << 12, "10.64.16.0"},
		{"fd00::ffff:ffff", 1, "fd00::1:0:0"},
	} {
		if got := plus(netip.MustParseAddr(c.a), c.n); got.String() != c.want {
			t.Errorf("%s + %d is %s, want %s", c.a, c.n, got, c.want)
		}
	}
}

func TestMACIsOfOneStationAndNobodys(t *testing.T) {
	if a, b := MAC("uuid", "eth0"), MAC("uuid", "eth1"); a == b || a != MAC("uuid", "eth0") || a[:2] != "02" {
		t.Errorf("%s and %s", a, b)
	}
}
