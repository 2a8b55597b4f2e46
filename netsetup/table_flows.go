package netsetup

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// staleFlows are those of UDP that go on where a port led before. The kernel asks the table about the first packet of a flow
// alone, and a client that keeps asking from one port keeps its flow: to the host, to a machine that is gone, or to another.
type staleFlows struct {
	ports map[string][]byte // from the keys of maps of ports to whom they lead
	ended bool              // they led there, and do no more
	local map[netip.Addr]bool
}

// endFlows ends the flows to ports of UDP that are as they were before all was added or, with ended, removed.
func endFlows(all []element, ended bool) error {
	stale := staleFlows{ports: map[string][]byte{}, ended: ended, local: map[netip.Addr]bool{}}
	var v4, v6 bool
	for _, e := range all {
		if strings.HasPrefix(e.set, "ports") && e.key[len(e.key)-8] == unix.IPPROTO_UDP {
			stale.ports[e.set[:len("ports4")]+string(e.key)] = e.value
			v4, v6 = v4 || e.set[5] == '4', v6 || e.set[5] == '6'
		}
	}
	if len(stale.ports) == 0 {
		return nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			stale.local[p.Addr()] = true
		}
	}
	if v4 {
		_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, stale)
	}
	if v6 && err == nil {
		_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET6, stale)
	}
	if errors.Is(err, unix.EINVAL) { // a kernel without ctnetlink: flows end by themselves, when nobody has asked for a while
		return nil
	}
	return err
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	from, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	to, from = to.Unmap(), from.Unmap()
	if flow.Forward.Protocol != unix.IPPROTO_UDP || !s.local[to] && !to.IsLoopback() {
		return false
	}
	set := "ports4"
	if to.Is6() {
		set = "ports6"
	}
	port := string(service("udp", flow.Forward.DstPort))
	leads, published := s.ports[set+string(to.AsSlice())+port]
	if !published {
		leads, published = s.ports[set+port]
	}
	there := slices.Equal(leads, slices.Concat(from.AsSlice(), number(flow.Reverse.SrcPort)))
	return published && there == s.ended
}
