package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Network is one record of a network. What is on the host follows from it: made at first use, again after the host has
// started again, and whenever somebody has removed it.
type Network struct {
	Schema  int       `json:"schema"`
	UUID    string    `json:"uuid"` // 32 hex digits, never changes
	Created time.Time `json:"created"`

	Name     string       `json:"name"`
	Kind     string       `json:"kind"`               // NetworkBridge, NetworkMacvlan
	Bridge   string       `json:"bridge,omitempty"`   // interface of the host
	Managed  bool         `json:"managed,omitempty"`  // the bridge is croft's own
	Parent   string       `json:"parent,omitempty"`   // interface of the host that the macvlans are on
	IPv4     netip.Prefix `json:"ipv4,omitzero"`      // the gateway's address and how long the subnet's part of it is; zero: no IPv4
	IPv6     netip.Prefix `json:"ipv6,omitzero"`      // the same
	NAT4     bool         `json:"ipv4_nat,omitempty"` // what goes out of it has the host's address
	NAT6     bool         `json:"ipv6_nat,omitempty"`
	MTU      int          `json:"mtu,omitempty"`      // 0: that of the host's way out
	Isolated bool         `json:"isolated,omitempty"` // its machines cannot reach one another
	Internal bool         `json:"internal,omitempty"` // it has no way out, and none in
	DNS      []string     `json:"dns,omitempty"`      // addresses; none: the host's servers
	Allow    []string     `json:"allow,omitempty"`    // what machines may reach of the host itself: PROTO/PORT

	raw []byte // the record as read, for what a later build has added
}

// CheckNetworkName judges the name of a network: as a machine's, but short enough for an interface.
func CheckNetworkName(name string) error {
	if validLabel(name) && strings.Trim(name, "0123456789") != "" && len(name) <= 15 &&
		!slices.Contains([]string{NetworkNone, NetworkHost, NetworkNS, NetworkBridge, NetworkMacvlan}, name) {
		return nil
	}
	return fmt.Errorf("network %q: 1-15 letters, digits and '-', not only digits, no '-' at either end, and no word with a meaning of its own: %w", name, ErrMisnamed)
}

// Check tells every violation of a network's record; nil means it can be made.
func (n *Network) Check() error {
	var v Violations
	say := v.say
	if err := CheckNetworkName(n.Name); err != nil {
		v = append(v, err.Error())
	}
	switch n.Kind {
	case NetworkBridge:
		if !validInterface(n.Bridge) {
			say("bridge", "%q is no name of an interface", n.Bridge)
		}
		if n.Parent != "" {
			say("parent", "a bridge has none")
		}
	case NetworkMacvlan:
		if !validInterface(n.Parent) {
			say("parent", "%q is no name of an interface", n.Parent)
		}
		if n.Bridge != "" || n.Managed {
			say("bridge", "a macvlan has none")
		}
	default:
		say("type", "%q is neither bridge nor macvlan", n.Kind)
	}
	n.checkAddresses(say)
	for _, d := range n.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			say("dns", "%q is no address", d)
		}
	}
	for _, a := range n.Allow {
		if _, _, err := ParseService(a); err != nil {
			say("allow", "%v", err)
		}
	}
	return v.Err()
}

func (n *Network) checkAddresses(say func(field, format string, a ...any)) {
	if !n.Managed {
		if n.NAT4 || n.NAT6 || n.Isolated || n.Internal || len(n.Allow) > 0 {
			say("type", "isolated, internal, allow and nat are for bridges that croft makes")
		}
	} else if !n.IPv4.IsValid() && !n.IPv6.IsValid() {
		say("ipv4.address", "a network needs addresses of one kind at least")
	}
	if p := n.IPv4; p.IsValid() && (!p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 30 || p.Addr() == p.Masked().Addr() || p.Addr() == Last(p)) {
		say("ipv4.address", "%s is not the gateway's own address with a length of 8 to 30, as in 10.9.0.1/24", p)
	}
	if p := n.IPv6; p.IsValid() && (!p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() < 32 || p.Bits() > 120 || p.Addr() == p.Masked().Addr()) {
		say("ipv6.address", "%s is not the gateway's own address with a length of 32 to 120, as in fd00:9::1/64", p)
	}
	if n.MTU != 0 && (n.MTU < 576 || n.MTU > 65535 || n.IPv6.IsValid() && n.MTU < 1280) {
		say("mtu", "%d is none from 576, with IPv6 from 1280, to 65535", n.MTU)
	}
}

// Last is the last address of a subnet: of IPv4 its broadcast address.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// ParseService reads PROTO/PORT.
func ParseService(text string) (proto string, port uint16, err error) {
	proto, number, _ := strings.Cut(text, "/")
	n := 0
	if _, err := fmt.Sscanf(number+"$", "%d$", &n); err != nil || n < 1 || n > 65535 || proto != TCP && proto != UDP {
		return "", 0, fmt.Errorf("%q is not tcp/PORT or udp/PORT", text)
	}
	return proto, uint16(n), nil
}

func (d *Dir) networks() string { return filepath.Join(d.Root, "networks") }

func (d *Dir) networkDir(name string) string { return filepath.Join(d.networks(), name) }

func (d *Dir) networkRecord(name string) string {
	return filepath.Join(d.networkDir(name), "network.json")
}

func (d *Dir) leases(network string) string { return filepath.Join(d.networkDir(network), "leases") }

// lockNetworks keeps networks from being made, changed and removed by others.
func (d *Dir) lockNetworks() (*os.File, error) {
	if err := os.MkdirAll(d.networks(), 0o700); err != nil {
		return nil, err
	}
	return Lock(filepath.Join(d.networks(), ".lock"))
}

// CreateNetwork makes the record of n; decide fills in what was left open, while no other network can be made. ErrExist
// when the name is taken.
func (d *Dir) CreateNetwork(n *Network, decide func(n *Network) error) error {
	if err := CheckNetworkName(n.Name); err != nil {
		return err
	}
	lock, err := d.lockNetworks()
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Lstat(d.networkDir(n.Name)); err == nil {
		return fmt.Errorf("network %s: %w", n.Name, ErrExist)
	}
	n.Schema, n.UUID, n.Created = Schema, newUUID(), time.Now().UTC().Truncate(time.Millisecond)
	if err := decide(n); err != nil {
		return err
	}
	if err := n.Check(); err != nil {
		return err
	}
	data, err := n.marshal()
	if err != nil {
		return err
	}
	aside, err := os.MkdirTemp(d.networks(), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside) // after the rename there is nothing left to remove
	if err := os.Mkdir(filepath.Join(aside, "leases"), 0o700); err != nil {
		return err
	}
	if err := Replace(filepath.Join(aside, "network.json"), data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(aside, d.networkDir(n.Name)); err != nil {
		return err
	}
	return SyncDir(d.networks())
}

// Network reads one record. ErrNotExist when there is none of that name.
func (d *Dir) Network(name string) (*Network, error) {
	if err := CheckNetworkName(name); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(d.networkRecord(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("network %s: %w", name, ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	n := &Network{raw: data}
	if err := json.Unmarshal(data, n); err != nil {
		return nil, fmt.Errorf("network %s: record is damaged: %w", name, err)
	}
	if n.Schema > Schema {
		return nil, fmt.Errorf("network %s: record has schema %d, this croft knows %d: a newer croft wrote it: %w", name, n.Schema, Schema, ErrUnsupported)
	}
	return n, nil
}

// Networks reads all records, by name.
func (d *Dir) Networks() ([]*Network, error) {
	entries, err := os.ReadDir(d.networks())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []*Network
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		n, err := d.Network(e.Name())
		if errors.Is(err, ErrNotExist) {
			continue // removed just now
		}
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// EditNetwork changes the record under the lock, and gives it as it is then. When change fails, or what it made is not
// valid, nothing is written.
func (d *Dir) EditNetwork(name string, change func(n *Network) error) (*Network, error) {
	lock, err := d.lockNetworks()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	n, err := d.Network(name)
	if err != nil {
		return nil, err
	}
	if err := change(n); err != nil {
		return nil, err
	}
	if err := n.Check(); err != nil {
		return nil, err
	}
	data, err := n.marshal()
	if err != nil {
		return nil, err
	}
	return n, Replace(d.networkRecord(name), data, 0o600)
}

// RemoveNetwork removes the record and its leases once undo, called under the lock, has returned nil.
func (d *Dir) RemoveNetwork(name string, undo func(n *Network) error) error {
	lock, err := d.lockNetworks()
	if err != nil {
		return err
	}
	defer lock.Close()
	n, err := d.Network(name)
	if err != nil {
		return err
	}
	if err := undo(n); err != nil {
		return err
	}
	gone := filepath.Join(d.networks(), ".gone-"+n.UUID)
	if err := os.Rename(d.networkDir(name), gone); err != nil {
		return err
	}
	return errors.Join(SyncDir(d.networks()), os.RemoveAll(gone))
}

func (n *Network) marshal() ([]byte, error) { return encode(n.raw, n, reflect.TypeFor[Network]()) }

// Lease takes an address of a network for the instance of that UUID. ErrExist when another has it; its own twice is fine.
func (d *Dir) Lease(network string, addr netip.Addr, uuid string) error {
	path := filepath.Join(d.leases(network), addr.String())
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		if owner, err := os.ReadFile(path); err == nil && string(owner) == uuid {
			return nil
		}
		return fmt.Errorf("address %s of network %s: %w", addr, network, ErrExist)
	}
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network %s: %w", network, ErrNotExist)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(uuid)
	return errors.Join(err, f.Close())
}

// EndLease gives an address back if the instance of that UUID has it. Not having it is success.
func (d *Dir) EndLease(network string, addr netip.Addr, uuid string) error {
	path := filepath.Join(d.leases(network), addr.String())
	if owner, err := os.ReadFile(path); err != nil || string(owner) != uuid {
		return nil
	}
	return os.Remove(path)
}

// Leases are the addresses of a network that are taken, each with the UUID of the instance that has it.
func (d *Dir) Leases(network string) (map[netip.Addr]string, error) {
	entries, err := os.ReadDir(d.leases(network))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	all := map[netip.Addr]string{}
	for _, e := range entries {
		addr, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		owner, err := os.ReadFile(filepath.Join(d.leases(network), e.Name()))
		if err != nil {
			continue // given back just now
		}
		all[addr] = string(owner)
	}
	return all, nil
}
