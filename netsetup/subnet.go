package netsetup

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"net"
	"net/netip"

	"croft/state"

	"github.com/vishvananda/netlink"
)

// Taken are the subnets that this host has routes or addresses for, but for default routes and those by the interface
// called own, if there is one.
func Taken(own string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	index := 0
	if link, err := net.InterfaceByName(own); err == nil {
		index = link.Index
	}
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && r.LinkIndex != index {
			all = append(all, prefixOf(r.Dst))
		}
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	for _, a := range addrs {
		if a.LinkIndex == index {
			continue
		}
		all = append(all, prefixOf(a.IPNet))
	}
	kept := all[:0]
	for _, p := range all {
		if p = p.Masked(); p.IsValid() && p.Bits() > 0 {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// Uplink tells the MTU of the host's way out; 0 when it has none.
func Uplink() int {
	// Where packets to the world would go is asked and not looked for: a router has a million routes. None is sent.
	for _, world := range [...]string{"8.8.8.8", "2000::1"} {
		routes, err := netlink.RouteGet(net.ParseIP(world))
		if err != nil || len(routes) == 0 {
			continue
		}
		if link, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil && link.Attrs().Flags&net.FlagLoopback == 0 {
			return link.Attrs().MTU
		}
	}
	return 0
}

// subnetBits is how large a subnet that croft picks is: 4093 machines.
const subnetBits = 20

// PickIPv4 is the gateway's address in a subnet of pool, or of what is private where that is the zero prefix, that overlaps with
// none of those that are taken. Where the search begins follows from seed, so that two roots of a host hardly meet.
func PickIPv4(pool netip.Prefix, taken []netip.Prefix, seed string) (netip.Prefix, error) {
	pools, whose := []netip.Prefix{pool}, "of "+pool.String()
	if !pool.IsValid() {
		// First what hardly anybody numbers an office or a VPN from.
		pools, whose = nil, "that is private"
		for _, p := range [...]string{"10.64.0.0/10", "172.16.0.0/12", "10.0.0.0/8", "192.168.0.0/16"} {
			pools = append(pools, netip.MustParsePrefix(p))
		}
	}
	for _, pool := range pools {
		bits := max(subnetBits, pool.Bits())
		n := uint32(1) << (bits - pool.Bits())
		for i, start := uint32(0), sum(seed)%n; i < n; i++ {
			p := netip.PrefixFrom(plus(pool.Masked().Addr(), uint64((start+i)%n)<<(32-bits)), bits)
			if !Overlaps(p, taken) {
				return netip.PrefixFrom(p.Addr().Next(), bits), nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("no IPv4 subnet %s is free on this host: %w", whose, state.ErrBusy)
}

// PickIPv6 is the gateway's address in a random subnet of unique local addresses (RFC 4193).
func PickIPv6(taken []netip.Prefix) netip.Prefix {
	for {
		b := [16]byte{0: 0xfd, 15: 1}
		rand.Read(b[1:6]) // never fails, says crypto/rand
		if p := netip.PrefixFrom(netip.AddrFrom16(b), 64); !Overlaps(p, taken) {
			return p
		}
	}
}

// Overlaps says whether p shares an address with one of the others.
func Overlaps(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// Addresses are those that a machine could have in the gateway's subnet, beginning at one that follows from seed.
func Addresses(gateway netip.Prefix, seed string) iter.Seq[netip.Addr] {
	const most = 20 // bits: of an IPv6 subnet the first million
	bits := min(gateway.Addr().BitLen()-gateway.Bits(), most)
	n, first, last := uint64(1)<<bits, gateway.Masked().Addr(), state.Last(gateway)
	return func(yield func(netip.Addr) bool) {
		for i, start := uint64(0), uint64(sum(seed))%n; i < n; i++ {
			a := plus(first, (start+i)%n)
			if a == first || a == gateway.Addr() || a.Is4() && a == last {
				continue
			}
			if !yield(a) {
				return
			}
		}
	}
}

// plus is the n-th address after a.
func plus(a netip.Addr, n uint64) netip.Addr {
	b := a.AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += uint64(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	sum, _ := netip.AddrFromSlice(b)
	return sum
}

// MAC is the hardware address of the link of that name of a machine: always the same, and of nobody's factory.
func MAC(uuid, link string) string { return hardware(uuid + link).String() }

func hardware(seed string) net.HardwareAddr {
	h := fnv.New64a()
	h.Write([]byte(seed))
	b := h.Sum(nil)
	return net.HardwareAddr{0x02, b[1], b[2], b[3], b[4], b[5]}
}

func sum(seed string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(seed))
	return h.Sum32()
}
