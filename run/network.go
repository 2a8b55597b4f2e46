package run

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"croft/netsetup"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Networks are all of this root, by name.
func (e *Engine) Networks() ([]*state.Network, error) { return e.Dir.Networks() }

// NetworkUsers names the instances that want to be on a network, running or not.
func (e *Engine) NetworkUsers(name string) ([]string, error) {
	all, _, err := e.Dir.List()
	if err != nil {
		return nil, err
	}
	var users []string
	for _, in := range all {
		if slices.ContainsFunc(in.Spec.NICs, func(n state.NIC) bool { return n.Network == name }) {
			users = append(users, in.Spec.Name)
		}
	}
	return users, nil
}

// network reads the record of a network; the default one is made when it is not there.
func (e *Engine) network(name string) (*state.Network, error) {
	n, err := e.Dir.Network(name)
	if !errors.Is(err, state.ErrNotExist) || name != state.DefaultNetwork {
		return n, state.Hint(err, "croft network create "+name)
	}
	n = &state.Network{Name: name, Kind: state.NetworkBridge, Managed: true, NAT4: true, NAT6: true}
	err = e.Dir.CreateNetwork(n, func(n *state.Network) error { return e.design(n, true, true) })
	if errors.Is(err, state.ErrExist) { // another was faster
		return e.Dir.Network(name)
	}
	return n, err
}

// design fills in what the record of a new network leaves open, with subnets that are free where they are to be picked, and
// refuses one that this host has no place for.
func (e *Engine) design(n *state.Network, pick4, pick6 bool) error {
	switch {
	case n.Kind == state.NetworkMacvlan:
		return wantInterface("network "+n.Name, n.Parent)
	case n.Bridge != "" && !n.Managed:
		if _, err := netsetup.Bridge(n); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
		return nil
	}
	n.Managed, n.Bridge = true, e.bridge(n.Name)
	if _, err := net.InterfaceByName(n.Bridge); err == nil && n.Name != state.DefaultNetwork { // that one is found again
		return fmt.Errorf("network %s: the host has an interface %s: %w", n.Name, n.Bridge, state.ErrExist)
	}
	taken, err := e.taken(n)
	if err != nil {
		return err
	}
	if pick4 {
		if n.IPv4, err = netsetup.PickIPv4(e.Subnet, taken, e.Dir.Root+n.Name); err != nil {
			return state.Hint(err, "croft network create "+n.Name+" --subnet ADDRESS/LENGTH")
		}
	}
	if pick6 && netsetup.HasIPv6() {
		n.IPv6 = netsetup.PickIPv6(taken)
	}
	n.NAT4, n.NAT6 = n.NAT4 && n.IPv4.IsValid(), n.NAT6 && n.IPv6.IsValid()
	return checkSubnets(n, taken)
}

// bridge names the bridge of a network as the network, as far as other roots cannot have one of that name.
func (e *Engine) bridge(network string) string {
	if tag(e.Dir.Root) == "" {
		return network
	}
	return "croft-" + hash(e.Dir.Root+"/"+network)
}

// wantInterface wants the host to have one.
func wantInterface(field, name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return fmt.Errorf("%s: the host has no interface %q: %w", field, name, state.ErrNotExist)
	}
	return nil
}

// taken are the subnets that a network cannot have: those of the host's routes, but for n's own, and of other networks.
func (e *Engine) taken(n *state.Network) ([]netip.Prefix, error) {
	all, err := netsetup.Taken(n.Bridge)
	if err != nil {
		return nil, err
	}
	others, err := e.Dir.Networks()
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		for _, p := range []netip.Prefix{o.IPv4, o.IPv6} {
			if o.Managed && o.Name != n.Name && p.IsValid() {
				all = append(all, p.Masked())
			}
		}
	}
	return all, nil
}

func checkSubnets(n *state.Network, taken []netip.Prefix) error {
	for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
		for _, t := range taken {
			if p.IsValid() && p.Overlaps(t) {
				return fmt.Errorf("network %s: %s overlaps with %s of this host: %w", n.Name, p.Masked(), t, state.ErrBusy)
			}
		}
	}
	return nil
}

// relink decides about the links of in: those that it had keep their addresses, as far as its spec and its networks still
// have them. What it takes and does not keep is given back.
func (e *Engine) relink(in *state.Instance) error {
	was := in.Facts.Links
	var links []state.Link
	for i, nic := range in.Spec.NICs {
		kind, _ := nic.Form()
		if kind == state.NetworkNone || kind == state.NetworkHost || kind == state.NetworkNS {
			continue
		}
		l, err := e.decideLink(in, i, nic)
		if err == nil {
			err = ownAddresses(links, l)
			links = append(links, l)
		}
		if err != nil {
			in.Facts.Links = append(links, was...)
			return errors.Join(err, e.endLeases(in, links, was))
		}
	}
	in.Facts.Links = links
	return e.endLeases(in, was, links)
}

// ownAddresses complains of a link that would have an address of one of the others of its machine: a lease is the machine's.
func ownAddresses(others []state.Link, l state.Link) error {
	for _, o := range others {
		for _, p := range []netip.Prefix{l.IP, l.IP6} {
			if o.Network == l.Network && p.IsValid() && (o.IP == p || o.IP6 == p) {
				err := fmt.Errorf("network %s: %s and %s cannot both have the address %s: %w", l.Network, o.Name, l.Name, p.Addr(), state.ErrInvalid)
				return state.Hint(err, fmt.Sprintf("--network %s,name=%s,ip=ADDRESS,ip6=ADDRESS", l.Network, l.Name))
			}
		}
	}
	return nil
}

// endLeases gives back the addresses of links that are not among those kept, nor with the machine that runs.
func (e *Engine) endLeases(in *state.Instance, links, kept []state.Link) error {
	if in.Applied != nil {
		kept = slices.Concat(kept, in.Applied.Facts.Links)
	}
	var all []error
	for _, l := range links {
		for _, p := range []netip.Prefix{l.IP, l.IP6} {
			stays := func(k state.Link) bool { return k.Network == l.Network && (k.IP == p || k.IP6 == p) }
			if kind, of := l.Form(); kind == "" && p.IsValid() && !slices.ContainsFunc(kept, stays) {
				all = append(all, e.Dir.EndLease(of, p.Addr(), in.UUID))
			}
		}
	}
	return errors.Join(all...)
}

// decideLink decides about the i-th link of in.
func (e *Engine) decideLink(in *state.Instance, i int, nic state.NIC) (state.Link, error) {
	l := state.Link{Name: nic.Name, Network: nic.Network, MAC: nic.MAC}
	if l.Name == "" {
		l.Name = fmt.Sprintf("eth%d", i)
	}
	if l.MAC == "" {
		l.MAC = netsetup.MAC(in.UUID, l.Name)
	}
	kind, of := nic.Form()
	if kind != "" {
		l.Kind, l.Parent = kind, of
		return l, onLAN(&l, nic)
	}
	n, err := e.network(of)
	if err != nil {
		return l, err
	}
	var had state.Link
	if at := slices.IndexFunc(in.Facts.Links, func(o state.Link) bool { return o.Name == l.Name && o.Network == l.Network }); at >= 0 {
		had = in.Facts.Links[at]
	}
	if l.IP, err = e.lease(in, n, n.IPv4, nic.IP, had.IP); err != nil {
		return l, err
	}
	if l.IP6, err = e.lease(in, n, n.IPv6, nic.IP6, had.IP6); err != nil {
		return l, errors.Join(err, e.endLeases(in, []state.Link{l}, in.Facts.Links))
	}
	return l, nil
}

// onLAN gives l the addresses that are asked for on a network that is not croft's.
func onLAN(l *state.Link, nic state.NIC) (err error) {
	if nic.IP != "" {
		if l.IP, err = netip.ParsePrefix(nic.IP); err != nil {
			return err
		}
	}
	if nic.IP6 != "" {
		if l.IP6, err = netip.ParsePrefix(nic.IP6); err != nil {
			return err
		}
	}
	if nic.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(nic.Gateway)
	if gateway.Is4() {
		l.Gateway = gateway
	} else {
		l.Gateway6 = gateway
	}
	return err
}

// lease takes an address in the gateway's subnet for in: the pinned one, the one that it had, or one that is free. The
// result has the subnet's length; it is zero where the network has no such addresses.
func (e *Engine) lease(in *state.Instance, n *state.Network, gateway netip.Prefix, pinned string, had netip.Prefix) (netip.Prefix, error) {
	if pinned != "" {
		a, err := netip.ParseAddr(pinned)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(a, gateway.Bits()), e.pin(in, n, gateway, a)
	}
	if !gateway.IsValid() {
		return netip.Prefix{}, nil
	}
	if usable(gateway, had.Addr()) {
		err := e.Dir.Lease(n.Name, had.Addr(), in.UUID)
		if !errors.Is(err, state.ErrExist) {
			return netip.PrefixFrom(had.Addr(), gateway.Bits()), err
		}
	}
	for range 2 {
		for a := range netsetup.Addresses(gateway, in.Spec.Name) {
			err := e.Dir.Lease(n.Name, a, in.UUID)
			if !errors.Is(err, state.ErrExist) {
				return netip.PrefixFrom(a, gateway.Bits()), err
			}
		}
		if _, err := e.sweepLeases(n.Name, in.UUID); err != nil {
			return netip.Prefix{}, err
		}
	}
	err := fmt.Errorf("network %s: all addresses of %s are taken: %w", n.Name, gateway.Masked(), state.ErrBusy)
	return netip.Prefix{}, state.Hint(err, "croft network create OTHER, and --network OTHER")
}

// usable says whether a machine can have a in the gateway's subnet.
func usable(gateway netip.Prefix, a netip.Addr) bool {
	return gateway.IsValid() && gateway.Contains(a) && a != gateway.Addr() && a != gateway.Masked().Addr() &&
		!(a.Is4() && a == state.Last(gateway))
}

// pin takes exactly the address a.
func (e *Engine) pin(in *state.Instance, n *state.Network, gateway netip.Prefix, a netip.Addr) error {
	if !gateway.IsValid() {
		return fmt.Errorf("address %s: network %s has no addresses of that kind: %w", a, n.Name, state.ErrInvalid)
	}
	if !usable(gateway, a) {
		return fmt.Errorf("address %s: is none that a machine can have in %s of network %s: %w", a, gateway.Masked(), n.Name, state.ErrInvalid)
	}
	err := e.Dir.Lease(n.Name, a, in.UUID)
	if !errors.Is(err, state.ErrExist) {
		return err
	}
	if _, err := e.sweepLeases(n.Name, in.UUID); err != nil {
		return err
	}
	if err = e.Dir.Lease(n.Name, a, in.UUID); !errors.Is(err, state.ErrExist) {
		return err
	}
	return fmt.Errorf("address %s of network %s: %w by %s", a, n.Name, state.ErrBusy, e.holderOf(n.Name, a))
}

// holderOf names the instance that has an address.
func (e *Engine) holderOf(network string, a netip.Addr) string {
	all, _, err := e.Dir.List()
	if err != nil {
		return "another machine"
	}
	for _, in := range all {
		if hasAddress(in, network, a) {
			return in.Spec.Name
		}
	}
	return "another machine"
}

func hasAddress(in *state.Instance, network string, a netip.Addr) bool {
	has := func(l state.Link) bool { return l.Network == network && (l.IP.Addr() == a || l.IP6.Addr() == a) }
	return slices.ContainsFunc(in.Facts.Links, has) || in.Applied != nil && slices.ContainsFunc(in.Applied.Facts.Links, has)
}

// sweepLeases frees the addresses of a network whose instances are gone or have others, but for those of the instance
// with that UUID, which is about to be written down. It tells which.
func (e *Engine) sweepLeases(network, but string) (freed []netip.Addr, err error) {
	leases, err := e.Dir.Leases(network)
	if err != nil || len(leases) == 0 {
		return nil, err
	}
	all, damaged, err := e.Dir.List()
	if err != nil || len(damaged) > 0 { // nobody knows what those have
		return nil, err
	}
	for a, uuid := range leases {
		has := func(in *state.Instance) bool { return in.UUID == uuid && hasAddress(in, network, a) }
		if uuid == but || slices.ContainsFunc(all, has) {
			continue
		}
		if err := e.Dir.EndLease(network, a, uuid); err != nil {
			return freed, err
		}
		freed = append(freed, a)
	}
	return freed, nil
}

// sweepAllLeases does it for every network. No instance is created meanwhile.
func (e *Engine) sweepAllLeases() (did []string, err error) {
	err = e.Dir.Still(func() error {
		networks, err := e.Dir.Networks()
		if err != nil {
			return err
		}
		for _, n := range networks {
			freed, err := e.sweepLeases(n.Name, "")
			if err != nil {
				return err
			}
			for _, a := range freed {
				did = append(did, fmt.Sprintf("freed address %s of network %s, which no instance has", a, n.Name))
			}
		}
		return nil
	})
	return did, err
}

// furnishLinks gives links what their networks are like now, and the host's ends new names.
func (e *Engine) furnishLinks(links []state.Link) error {
	for i := range links {
		l := &links[i]
		if kind, of := l.Form(); kind == "" {
			n, err := e.network(of)
			if err != nil {
				return err
			}
			furnish(l, n)
		}
		if l.Kind == state.NetworkBridge {
			l.Host = newHostEnd()
		}
	}
	return nil
}

func furnish(l *state.Link, n *state.Network) {
	l.Kind, l.Parent, l.MTU, l.DNS = n.Kind, n.Bridge, n.MTU, n.DNS
	if n.Kind == state.NetworkMacvlan {
		l.Parent = n.Parent
	}
	l.Managed, l.Isolated = n.Managed, n.Isolated
	l.Gateway, l.Gateway6 = netip.Addr{}, netip.Addr{}
	if !n.Internal && n.IPv4.IsValid() {
		l.Gateway = n.IPv4.Addr()
	}
	if !n.Internal && n.IPv6.IsValid() {
		l.Gateway6 = n.IPv6.Addr()
	}
}

// newHostEnd is a name that no link has had. The kernel takes a moment to be rid of the links of a machine that has ended.
func newHostEnd() string {
	var b [4]byte
	rand.Read(b[:]) // never fails, says crypto/rand
	return netsetup.HostPrefix + hex.EncodeToString(b[:])
}

// checkNetworks wants what a spec names to be there, of what its record alone does not tell.
func checkNetworks(s *state.Spec) error {
	for _, nic := range s.NICs {
		switch kind, of := nic.Form(); kind {
		case state.NetworkBridge:
			if _, err := netsetup.Bridge(&state.Network{Bridge: of}); err != nil {
				return fmt.Errorf("network %s: %w", nic.Network, err)
			}
		case state.NetworkMacvlan:
			if err := wantInterface("network "+nic.Network, of); err != nil {
				return err
			}
		case state.NetworkNS:
			if err := wantNetworkNamespace(of); err != nil {
				return fmt.Errorf("network %s: %w", nic.Network, err)
			}
		}
	}
	return nil
}

// wantNetworkNamespace wants path to be one.
func wantNetworkNamespace(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is no network namespace: %w", path, state.ErrInvalid)
	}
	return nil
}
