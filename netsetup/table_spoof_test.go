package netsetup

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// packets is a socket that sends and gets whole frames, on eth0 of a namespace.
func (w *world) packets(ns string) (fd int) {
	w.t.Helper()
	err := w.at(ns, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// liar sends frames from one guest and watches for them at another.
type liar struct {
	*world
	from, to int
	sent     uint32
	fence    func(payload []byte) []byte // makes a frame that nobody minds
}

// newLiar makes one on this thread, which stays on one processor: what it sends stays in order.
func newLiar(w *world, from, to string) *liar {
	w.t.Helper()
	runtime.LockOSThread() // and never unlocked: it is the test's
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		w.t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		w.t.Fatal(err)
	}
	a := w.members[from].Links[0]
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		w.t.Fatal(err)
	}
	everybody := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	return &liar{world: w, from: w.packets(from), to: w.packets(to), fence: func(p []byte) []byte {
		return ether(everybody, mac, 0x0800, ip4(a.IP.Addr(), w.members[to].Links[0].IP.Addr(), unix.IPPROTO_UDP, udp(1, 9, p)))
	}}
}

// arrives sends a frame with a payload that it knows again, then the fence. What has not come before that does not come.
func (l *liar) arrives(frame func(payload []byte) []byte) bool {
	l.t.Helper()
	l.sent += 2
	mark := func(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte("a frame of croft's test "), n) }
	for i, f := range []func([]byte) []byte{frame, l.fence} {
		if _, err := unix.Write(l.from, f(mark(l.sent+uint32(i)))); err != nil {
			l.t.Fatal(err)
		}
	}
	came := false
	buf := make([]byte, 2000)
	for {
		n, err := unix.Read(l.to, buf)
		if err != nil {
			l.t.Fatalf("the fence does not arrive: %v", err)
		}
		if bytes.Contains(buf[:n], mark(l.sent+1)) {
			return came
		}
		came = came || bytes.Contains(buf[:n], mark(l.sent))
	}
}

func ether(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	return slices.Concat(dst, src, binary.BigEndian.AppendUint16(nil, kind), payload)
}

func ip4(src, dst netip.Addr, proto byte, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	h = slices.Concat(h, src.AsSlice(), dst.AsSlice())
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	return append(h, payload...)
}

func ip6(src, dst netip.Addr, next byte, payload []byte) []byte {
	h := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(payload)))
	return slices.Concat(h, []byte{next, 255}, src.AsSlice(), dst.AsSlice(), payload)
}

func udp(src, dst uint16, payload []byte) []byte {
	h := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src), dst)
	return slices.Concat(binary.BigEndian.AppendUint16(h, uint16(8+len(payload))), []byte{0, 0}, payload)
}

func arpSays(operation byte, mac net.HardwareAddr, ip netip.Addr, payload []byte) []byte {
	nobody := make([]byte, 10)
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, operation}, mac, ip.AsSlice(), nobody, payload)
}

// neighbour is a message of neighbour discovery about an address.
func neighbour(kind byte, about netip.Addr, payload []byte) []byte {
	return slices.Concat([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, about.AsSlice(), payload)
}

func TestNobodySpeaksForAnother(t *testing.T) { nobodySpeaksForAnother(t, false) }

func TestNobodySpeaksForAnotherWithBridgeNetfilter(t *testing.T) { nobodySpeaksForAnother(t, true) }

func nobodySpeaksForAnother(t *testing.T, bridgeNetfilter bool) {
	t.Parallel()
	if !ownHost(t) {
		return
	}
	passBridges(t, bridgeNetfilter)
	w := newWorld(t)
	a, b := w.members["a"].Links[0], w.members["b"].Links[0]
	macA, _ := net.ParseMAC(a.MAC)
	macB, _ := net.ParseMAC(b.MAC)
	local := func(mac net.HardwareAddr) netip.Addr { return netip.AddrFrom16([16]byte(linkLocal(mac))) }
	everybody := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	allNodes, nowhere := netip.MustParseAddr("ff02::1"), netip.MustParseAddr("192.0.2.1")
	ip4To := func(src netip.Addr, payload []byte) []byte { return ip4(src, b.IP.Addr(), unix.IPPROTO_UDP, payload) }
	ip6To := func(src netip.Addr, next byte, payload []byte) []byte { return ip6(src, allNodes, next, payload) }
	l := newLiar(w, "a", "b")

	honest := map[string]func(p []byte) []byte{
		"IPv4": l.fence,
		"IPv6": func(p []byte) []byte { return ether(everybody, macA, 0x86dd, ip6To(a.IP6.Addr(), 17, udp(1, 9, p))) },
		"IPv6 by the link": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(local(macA), 17, udp(1, 9, p)))
		},
		"ARP": func(p []byte) []byte { return ether(everybody, macA, 0x0806, arpSays(2, macA, a.IP.Addr(), p)) },
		"ARP probe": func(p []byte) []byte {
			return ether(everybody, macA, 0x0806, arpSays(1, macA, netip.IPv4Unspecified(), p))
		},
		"advertisement": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(a.IP6.Addr(), 58, neighbour(136, a.IP6.Addr(), p)))
		},
		"solicitation": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(a.IP6.Addr(), 58, neighbour(135, b.IP6.Addr(), p)))
		},
		"DAD for its own": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(netip.IPv6Unspecified(), 58, neighbour(135, a.IP6.Addr(), p)))
		},
		"DHCP's question": func(p []byte) []byte { return ether(everybody, macA, 0x0800, ip4To(a.IP.Addr(), udp(68, 67, p))) },
	}
	lies := map[string]func(p []byte) []byte{
		"MAC":                   func(p []byte) []byte { return ether(everybody, macB, 0x0800, ip4To(a.IP.Addr(), udp(1, 9, p))) },
		"IPv4 of the neighbour": func(p []byte) []byte { return ether(everybody, macA, 0x0800, ip4To(b.IP.Addr(), udp(1, 9, p))) },
		"IPv4 of the gateway":   func(p []byte) []byte { return ether(everybody, macA, 0x0800, ip4To(a.Gateway, udp(1, 9, p))) },
		"IPv4 of nobody": func(p []byte) []byte {
			return ether(everybody, macA, 0x0800, ip4To(netip.IPv4Unspecified(), udp(68, 67, p)))
		},
		"IPv4 of somewhere":     func(p []byte) []byte { return ether(everybody, macA, 0x0800, ip4To(nowhere, udp(1, 9, p))) },
		"IPv6 of the neighbour": func(p []byte) []byte { return ether(everybody, macA, 0x86dd, ip6To(b.IP6.Addr(), 17, udp(1, 9, p))) },
		"IPv6 of the gateway":   func(p []byte) []byte { return ether(everybody, macA, 0x86dd, ip6To(a.Gateway6, 17, udp(1, 9, p))) },
		"another's link":        func(p []byte) []byte { return ether(everybody, macA, 0x86dd, ip6To(local(macB), 17, udp(1, 9, p))) },
		"IPv6 of nobody": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(netip.IPv6Unspecified(), 17, udp(1, 9, p)))
		},
		"ARP for the gateway":     func(p []byte) []byte { return ether(everybody, macA, 0x0806, arpSays(2, macA, a.Gateway, p)) },
		"ARP with another's MAC":  func(p []byte) []byte { return ether(everybody, macA, 0x0806, arpSays(2, macB, a.IP.Addr(), p)) },
		"ARP question as another": func(p []byte) []byte { return ether(everybody, macA, 0x0806, arpSays(1, macA, b.IP.Addr(), p)) },
		"advertisement for another": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(a.IP6.Addr(), 58, neighbour(136, a.Gateway6, p)))
		},
		"DAD for another": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(netip.IPv6Unspecified(), 58, neighbour(135, b.IP6.Addr(), p)))
		},
		"router": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(local(macA), 58, neighbour(134, a.IP6.Addr(), p)))
		},
		"router behind options": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(local(macA), 0, slices.Concat([]byte{58, 0, 1, 4, 0, 0, 0, 0}, neighbour(134, a.IP6.Addr(), p))))
		},
		"IPv6 redirect": func(p []byte) []byte {
			return ether(everybody, macA, 0x86dd, ip6To(local(macA), 58, neighbour(137, a.IP6.Addr(), p)))
		},
		"IPv4 redirect": func(p []byte) []byte {
			return ether(everybody, macA, 0x0800, ip4(a.IP.Addr(), b.IP.Addr(), unix.IPPROTO_ICMP, slices.Concat([]byte{5, 1, 0, 0, 0, 0, 0, 0}, p)))
		},
		"DHCP's answer":   func(p []byte) []byte { return ether(everybody, macA, 0x0800, ip4To(a.IP.Addr(), udp(67, 68, p))) },
		"DHCPv6's answer": func(p []byte) []byte { return ether(everybody, macA, 0x86dd, ip6To(local(macA), 17, udp(547, 546, p))) },
		"VLAN": func(p []byte) []byte {
			return ether(everybody, macA, 0x8100, slices.Concat([]byte{0, 5, 8, 0}, ip4To(a.IP.Addr(), udp(1, 9, p))))
		},
		"no VLAN, tagged": func(p []byte) []byte {
			return ether(everybody, macA, 0x8100, slices.Concat([]byte{0, 0, 8, 0}, ip4To(a.IP.Addr(), udp(1, 9, p))))
		},
		"PPPoE": func(p []byte) []byte { return ether(everybody, macA, 0x8863, p) },
		"LLC":   func(p []byte) []byte { return ether(everybody, macA, uint16(len(p)), p) },
	}
	for name, frame := range honest {
		if !l.arrives(frame) {
			t.Errorf("honest, and does not arrive: %s", name)
		}
	}
	for name, frame := range lies {
		if l.arrives(frame) {
			t.Errorf("a lie, and arrives: %s", name)
		}
	}
	// It was the table that kept them: without this machine in it they come.
	if err := w.table.Remove(w.members["a"]); err != nil {
		t.Fatal(err)
	}
	for name, frame := range lies {
		if !l.arrives(frame) {
			t.Errorf("would not arrive without the table either: %s", name)
		}
	}
	// And a machine of these addresses says nothing but the truth.
	m := w.members["a"]
	link := m.Links[0]
	link.IP, link.IP6, link.MAC = b.IP, b.IP6, b.MAC
	w.add(Member{Links: []state.Link{link}})
	l.fence = func(p []byte) []byte { return ether(everybody, macB, 0x0806, arpSays(2, macB, b.IP.Addr(), p)) }
	if !l.arrives(func(p []byte) []byte { return ether(everybody, macB, 0x0800, ip4To(b.IP.Addr(), udp(1, 9, p))) }) {
		t.Errorf("does not arrive from a machine that has these addresses")
	}
}

// A frame to one of the groups that are bridges' own would be the host's without having been on the bridge.
func TestNobodyPassesBesideTheBridge(t *testing.T) {
	t.Parallel()
	wantNFT(t)
	if !ownHost(t) {
		return
	}
	w := newWorld(t)
	a, b := w.members["a"].Links[0], w.members["b"].Links[0]
	mac, _ := net.ParseMAC(a.MAC)
	must(t, "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf."+a.Host+".rp_filter=0")
	c, err := net.ListenPacket("udp4", "10.87.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := newLiar(w, "a", "b")
	send := func(said string) { // as b
		for group := range byte(16) {
			frame := ether(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, group}, mac, 0x0800, ip4(b.IP.Addr(), a.Gateway, unix.IPPROTO_UDP, udp(1234, 53, []byte(said))))
			if _, err := unix.Write(l.from, frame); err != nil {
				t.Fatal(err)
			}
		}
		l.arrives(l.fence) // they are through
	}
	hears := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		c.SetDeadline(time.Now().Add(5 * time.Second))
		n, _, err := c.ReadFrom(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("the host hears %q (%v), want %q", buf[:n], err, want)
		}
		c.SetDeadline(time.Now().Add(100 * time.Millisecond))
		for err == nil { // the other groups
			_, _, err = c.ReadFrom(buf)
		}
	}
	must(t, "nft flush chain inet croft input")
	send("by the bridge, with a lie")
	must(t, "ip link set "+a.Host+" type bridge_slave group_fwd_mask 0")
	send("beside the bridge")
	hears("beside the bridge")
	// A link that is a port no more is nobody's way to the host either.
	if err := w.table.Build([]*state.Network{w.one, w.two}, nil); err != nil {
		t.Fatal(err)
	}
	send("by a link without a bridge")
	must(t, "nft flush chain inet croft input")
	send("without the rule")
	hears("without the rule")
}

// Though its port is a hairpin.
func TestNobodyHearsItself(t *testing.T) {
	t.Parallel()
	wantNFT(t)
	if !ownHost(t) {
		return
	}
	w := newWorld(t)
	a, b := newLiar(w, "a", "b"), newLiar(w, "b", "a")
	heard := func(by int) string { // what comes in, and not what goes out
		buf := make([]byte, 2000)
		for {
			n, from, err := unix.Recvfrom(by, buf, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, after, ours := bytes.Cut(buf[:n], []byte("croft's test: ")); ours && from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
				return string(after)
			}
		}
	}
	say := func(l *liar, what string) {
		if _, err := unix.Write(l.from, l.fence([]byte("croft's test: "+what))); err != nil {
			t.Fatal(err)
		}
	}
	say(a, "to all others")
	say(b, "of another")
	if got := heard(a.from); got != "of another" {
		t.Errorf("a hears %q", got)
	}
	must(t, "nft flush chain bridge croft across")
	say(a, "to myself")
	if got := heard(a.from); got != "to myself" {
		t.Errorf("without the rule a hears %q", got)
	}
}
