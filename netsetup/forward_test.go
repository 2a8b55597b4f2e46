package netsetup

import (
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// switches are the sysctls of this namespace that forwarding is about.
func switches(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"ipv4/ip_forward", "ipv?/conf/*/forwarding", "ipv?/conf/*/accept_redirects", "ipv6/conf/*/accept_ra"} {
		files, err := filepath.Glob(filepath.Join("/proc/sys/net", pattern))
		if err != nil || files == nil {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			value, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all[f] = strings.TrimSpace(string(value))
		}
	}
	return all
}

func forward(t *testing.T, owner string, v4, v6 bool) {
	t.Helper()
	if err := Forward(owner, v4, v6); err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, path, want string) {
	t.Helper()
	if value, err := readSysctl(path); err != nil || value != want {
		t.Errorf("%s is %q, %v; want %s", path, value, err, want)
	}
}

func TestForwardPutsBack(t *testing.T) {
	if !ownHost(t) {
		return
	}
	must(t, `
		echo 0 >/proc/sys/net/ipv4/ip_forward # a new namespace has what the first one has
		ip link add eth0 type veth peer name eth1; ip link set eth0 up
		echo 0 >/proc/sys/net/ipv4/conf/all/accept_redirects
		echo 1 >/proc/sys/net/ipv4/conf/eth1/forwarding
		echo 1 >/proc/sys/net/ipv6/conf/eth1/forwarding`)
	before := switches(t)

	forward(t, "a", true, false)
	is(t, "ipv4/ip_forward", "1")
	is(t, "ipv6/conf/all/forwarding", "0") // nobody has asked for it
	forward(t, "b", true, true)
	is(t, "ipv6/conf/all/forwarding", "1")
	forward(t, "b", true, true)

	must(t, "echo 0 >/proc/sys/net/ipv4/ip_forward") // as sysctl --system does
	forward(t, "a", true, false)
	is(t, "ipv4/ip_forward", "1")

	forward(t, "b", false, false)
	is(t, "ipv4/ip_forward", "1") // a still needs it
	is(t, "ipv6/conf/all/forwarding", "0")
	forward(t, "a", false, false)
	forward(t, "a", false, false)
	if after := switches(t); !maps.Equal(before, after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	if exists(netDir()) {
		t.Errorf("%s is left behind", netDir())
	}
}

func TestForwardLeavesWhatOthersHaveTurnedOn(t *testing.T) {
	if !ownHost(t) {
		return
	}
	must(t, "echo 1 >/proc/sys/net/ipv4/ip_forward")
	forward(t, "a", true, true)
	forward(t, "a", false, false)
	is(t, "ipv4/ip_forward", "1")
	is(t, "ipv6/conf/all/forwarding", "0")
}

func TestForwardLeavesItToWhoMasquerades(t *testing.T) {
	if !ownHost(t) {
		return
	}
	for _, kind := range []string{"nft", "legacy"} {
		forward(t, "a", true, true)
		// Docker finds it on and takes it as it is.
		must(t, "iptables-"+kind+" -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE")
		forward(t, "a", false, false)
		is(t, "ipv4/ip_forward", "1")
		is(t, "ipv6/conf/all/forwarding", "0")
		must(t, "iptables-"+kind+" -t nat -F; echo 0 >/proc/sys/net/ipv4/ip_forward")
	}
}

// advertise sends a router advertisement from the namespace out: the router is the default one, and prefix is on the link.
func advertise(t *testing.T, prefix string) {
	t.Helper()
	err := in(t, "out", func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		message := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0} // RFC 4861, 4.2: for half an hour
		option := make([]byte, 32)                                                 // 4.6.2
		option[0], option[1], option[2], option[3] = 3, 4, 64, 0xc0
		binary.BigEndian.PutUint32(option[4:], 3600)
		binary.BigEndian.PutUint32(option[8:], 3600)
		address := netip.MustParseAddr(prefix).As16()
		copy(option[16:], address[:])
		to := &unix.SockaddrInet6{ZoneId: uint32(link.Index), Addr: netip.MustParseAddr("ff02::1").As16()}
		return unix.Sendto(fd, append(message, option...), 0, to)
	})
	if err != nil && !errors.Is(err, unix.ENETUNREACH) { // an interface that has just come up has no address to send from
		t.Fatal(err)
	}
}

// hears says whether an advertisement arrives at the host. An interface that has just come up may miss the first ones.
func hears(t *testing.T, prefix string, patience time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		advertise(t, prefix)
		if strings.Contains(must(t, "ip -6 addr show dev eth0"), strings.TrimSuffix(prefix, ":")) {
			return true
		}
	}
	return false
}

func TestForwardKeepsUplinksOfAdvertisements(t *testing.T) {
	if !ownHost(t) {
		return
	}
	must(t, `
		ip netns add out; ip -n out link set lo up
		ip link add eth0 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns out
		ip link add eth1 type veth peer name eth2; ip link set eth1 up
		ip netns exec out sh -c 'echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad'; ip -n out link set eth0 up; ip link set eth0 up`)
	before := switches(t)
	router := func() bool { return strings.Contains(must(t, "ip -6 route show default"), "proto ra") }
	if !hears(t, "2001:db8:1::", 20*time.Second) || !router() {
		t.Fatal("the advertisement did not arrive")
	}

	forward(t, "a", false, true)
	if !router() {
		t.Error("the default route is gone")
	}
	if !hears(t, "2001:db8:2::", 20*time.Second) {
		t.Error("a later advertisement is not heard")
	}
	is(t, "ipv6/conf/eth1/accept_ra", "1") // it lives by none

	forward(t, "a", false, false)
	if after := switches(t); !maps.Equal(before, after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	if !router() {
		t.Error("the default route is gone afterwards")
	}

	must(t, "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding") // the control: the kernel by itself
	if hears(t, "2001:db8:3::", 500*time.Millisecond) {
		t.Error("the kernel has changed: this test shows nothing")
	}
}
