// Package netsetup makes the host's side of networks: bridges, the links of machines, and what the firewall lets through.
//
// It is told what to make and knows neither machines nor who holds them. Everything it makes is the kernel's: nothing stays
// resident. All of it can be asked for twice, and what is to go may be gone already.
package netsetup

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"croft/idmap"
	"croft/state"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// HostPrefix begins the names of the host's ends of links, so that others can leave them alone by it.
const HostPrefix = "croftv"

// Bridge makes sure that the bridge of n is there, up, and has its addresses, and says whether it had to make it. One that
// is not croft's own is only looked at.
func Bridge(n *state.Network) (made bool, err error) {
	link, err := netlink.LinkByName(n.Bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) && n.Managed {
		made = true
		link, err = addBridge(n)
	}
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, fmt.Errorf("bridge %s: %w", n.Bridge, state.ErrNotExist)
	}
	if err != nil {
		return made, fmt.Errorf("bridge %s: %w", n.Bridge, err)
	}
	if link.Type() != "bridge" {
		return false, fmt.Errorf("interface %s is no bridge but a %s: %w", n.Bridge, link.Type(), state.ErrExist)
	}
	if !n.Managed {
		return false, nil
	}
	if err := address(link, n); err != nil {
		return made, fmt.Errorf("bridge %s: %w", n.Bridge, err)
	}
	return made, nil
}

func addBridge(n *state.Network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	// An address of its own: otherwise it has that of one of its links, and another one when that goes.
	attrs.Name, attrs.MTU, attrs.HardwareAddr = n.Bridge, n.MTU, hardware(n.UUID)
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return netlink.LinkByName(n.Bridge)
}

// address gives a bridge of croft's what it lacks of its addresses, and takes away those it had before.
func address(link netlink.Link, n *state.Network) error {
	wanted := []netip.Prefix{}
	if n.IPv4.IsValid() {
		wanted = append(wanted, n.IPv4)
	}
	if n.IPv6.IsValid() && HasIPv6() {
		wanted = append(wanted, n.IPv6)
		if err := bridgeIPv6(n.Bridge); err != nil {
			return err
		}
	}
	has, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, a := range has {
		p := prefixOf(a.IPNet)
		if i := slices.Index(wanted, p); i >= 0 {
			wanted = slices.Delete(wanted, i, i+1)
		} else if !p.Addr().IsLinkLocalUnicast() {
			if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
	}
	for _, p := range wanted {
		if err := netlink.AddrAdd(link, addrOf(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	if n.MTU != 0 && link.Attrs().MTU != n.MTU {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("mtu %d: %w", n.MTU, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	return netlink.LinkSetUp(link)
}

// whole asks for a list again that changed while the kernel gave it out, as it does when many machines start at once.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// bridgeIPv6 turns it on for a bridge, without router advertisements: nobody there may tell the host its routes.
func bridgeIPv6(bridge string) error {
	for _, set := range [...]struct{ key, value string }{{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"accept_dad", "0"}} {
		if err := sysctl("ipv6", bridge, set.key, set.value); err != nil {
			return err
		}
	}
	return nil
}

// sysctl sets a value of an interface in this thread's network namespace, unless it has it.
func sysctl(family, link, key, value string) error {
	path := filepath.Join(family, "conf", link, key)
	if has, err := readSysctl(path); err == nil && has == value {
		return nil
	}
	return writeSysctl(path, value)
}

// HasIPv6 says whether the host speaks it and nobody has switched it off.
func HasIPv6() bool {
	off, err := readSysctl("ipv6/conf/default/disable_ipv6")
	return err == nil && off == "0"
}

// takeSelf has the host take what comes for the addresses of self as its own, or no longer.
func takeSelf(take bool) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL,
		Dst: &net.IPNet{IP: self[:], Mask: net.CIDRMask(selfBits, 128)}}
	if take {
		err = netlink.RouteAdd(route)
	} else {
		err = netlink.RouteDel(route)
	}
	if errors.Is(err, unix.ENETDOWN) { // nobody can ask at ::1 either while lo is down
		return nil
	}
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("local route of %s: %w", route.Dst, err)
	}
	return nil
}

// RemoveBridge takes a bridge of croft's away. Gone is fine.
func RemoveBridge(name string) error { return removeLink(name) }

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// Connect makes the links, in their order, straight into a machine's network namespace, and configures them there: up, with
// their addresses and routes. What it has made of links when one fails goes with that namespace, or by Disconnect.
func Connect(links []state.Link, netns *os.File) error {
	ipv6 := HasIPv6()
	for _, l := range links {
		if err := attach(l, netns); err != nil {
			return fmt.Errorf("interface %s: %w", l.Name, err)
		}
	}
	return Within(netns, func() error {
		for _, l := range links {
			if err := configure(l, ipv6); err != nil {
				return fmt.Errorf("interface %s: %w", l.Name, err)
			}
		}
		return nil
	})
}

// attach makes one link, its end with the machine down and without addresses.
func attach(l state.Link, netns *os.File) error {
	parent, err := netlink.LinkByName(l.Parent)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("%s: %w", l.Parent, state.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.Parent, err)
	}
	mac, err := net.ParseMAC(l.MAC)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.MTU = l.MTU
	if attrs.MTU == 0 {
		attrs.MTU = parent.Attrs().MTU
	}
	if l.Kind == state.NetworkMacvlan {
		attrs.Name, attrs.ParentIndex, attrs.HardwareAddr, attrs.Namespace = l.Name, parent.Attrs().Index, mac, netlink.NsFd(netns.Fd())
		if err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
			return fmt.Errorf("create macvlan on %s: %w", l.Parent, err)
		}
		return nil
	}
	if parent.Type() != "bridge" {
		return fmt.Errorf("%s is no bridge but a %s: %w", l.Parent, parent.Type(), state.ErrUnsupported)
	}
	attrs.Name, attrs.MasterIndex = l.Host, parent.Attrs().Index
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1 // the kernel's own number is that of the processors, of which a veth makes no use
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: l.Name, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(netns.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("create veth: %w", err)
	}
	if err := becomePort(veth.Index, l); err != nil {
		return fmt.Errorf("port of %s: %w", l.Parent, err)
	}
	return netlink.LinkSetUp(veth)
}

// becomePort has a link that is on its bridge be a port as croft wants it. No frame has been let through before.
func becomePort(index int, l state.Link) error {
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	// Frames to the groups that are bridges' own would be the host's without having been on the bridge: now they are as others.
	// The one group that cannot be had, of pause frames, is dropped.
	const groups = 0xffff &^ (1 << 1)
	port.AddRtAttr(nl.IFLA_BRPORT_GROUP_FWD_MASK, nl.Uint16Attr(groups))
	port.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, flag(l.Isolated))
	port.AddRtAttr(nl.IFLA_BRPORT_MODE, flag(l.Managed)) // a hairpin
	port.AddRtAttr(nl.IFLA_BRPORT_LEARNING, flag(!l.Managed))
	to := nl.NewIfInfomsg(unix.AF_BRIDGE)
	to.Index = int32(index)
	set := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	set.AddData(to)
	set.AddData(port)
	if _, err := set.Execute(unix.NETLINK_ROUTE, 0); err != nil || !l.Managed {
		return err
	}
	// Where its MAC is need not be learnt.
	mac, err := net.ParseMAC(l.MAC)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{Family: unix.AF_BRIDGE, LinkIndex: index, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: mac})
}

func flag(on bool) []byte {
	if on {
		return []byte{1}
	}
	return []byte{0}
}

// configure gives the machine's end of a link what it needs, in the machine's own network namespace; without ipv6 that is
// left out.
func configure(l state.Link, ipv6 bool) error {
	if !ipv6 {
		l.IP6, l.Gateway6 = netip.Prefix{}, netip.Addr{}
	}
	link, err := netlink.LinkByName(l.Name)
	if err != nil {
		return err
	}
	// Addresses are ours to give and cannot be taken by two: looking for another who has one would cost a second.
	if l.IP6.IsValid() {
		if err := sysctl("ipv6", l.Name, "accept_dad", "0"); err != nil {
			return err
		}
	}
	for _, p := range []netip.Prefix{l.IP, l.IP6} {
		if !p.IsValid() {
			continue
		}
		if err := netlink.AddrAdd(link, addrOf(p)); err != nil && !errors.Is(err, unix.EEXIST) { // its manager may be faster
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return lead(link, l)
}

// lead makes a link the way out, by the gateways that it has.
func lead(link netlink.Link, l state.Link) error {
	for _, gateway := range []netip.Addr{l.Gateway, l.Gateway6} {
		if !gateway.IsValid() {
			continue
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(), Protocol: unix.RTPROT_STATIC}
		if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) { // another link is the way out
			return fmt.Errorf("route by %s: %w", gateway, err)
		}
	}
	return nil
}

// Lead makes a link of a machine that runs the way out.
func Lead(l state.Link, netns *os.File) error {
	if !HasIPv6() {
		l.Gateway6 = netip.Addr{}
	}
	return Within(netns, func() error {
		link, err := netlink.LinkByName(l.Name)
		if err == nil {
			err = lead(link, l)
		}
		if err != nil {
			return fmt.Errorf("interface %s: %w", l.Name, err)
		}
		return nil
	})
}

// Disconnect takes one link away from a machine that runs. Gone is fine.
func Disconnect(l state.Link, netns *os.File) error {
	if l.Host != "" {
		return removeLink(l.Host)
	}
	return Within(netns, func() error { return removeLink(l.Name) })
}

// Holds says whether the host's end of a link is there and on its bridge, after putting it back there if it had lost it.
func Holds(l state.Link) (bool, error) {
	if l.Host == "" {
		return true, nil // all of it is the machine's
	}
	link, err := netlink.LinkByName(l.Host)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("interface %s: %w", l.Host, err)
	}
	bridge, err := netlink.LinkByName(l.Parent)
	if err == nil && link.Attrs().MasterIndex != bridge.Attrs().Index {
		if err = netlink.LinkSetMaster(link, bridge); err == nil {
			err = becomePort(link.Attrs().Index, l)
		}
	}
	if err != nil {
		return false, fmt.Errorf("interface %s: on %s: %w", l.Host, l.Parent, err)
	}
	return true, nil
}

// Isolate keeps a link apart from the other isolated ones of its bridge, or no longer.
func Isolate(l state.Link, isolated bool) error {
	link, err := netlink.LinkByName(l.Host)
	if err == nil {
		err = netlink.LinkSetIsolated(link, isolated)
	}
	if err != nil {
		return fmt.Errorf("interface %s: isolate: %w", l.Host, err)
	}
	return nil
}

// Within runs do in the network namespace of ns, which is one or a process's pidfd.
func Within(ns *os.File, do func() error) error {
	return idmap.Thread(func() error { return os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)) }, do)
}

func addrOf(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func prefixOf(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}
