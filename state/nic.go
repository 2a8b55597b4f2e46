package state

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// NIC is one attachment to a network, as asked for.
type NIC struct {
	Network string `json:"network"`           // the name of a network, or one of the forms of NICKind
	Name    string `json:"name,omitempty"`    // in the machine; "": eth0, eth1 and so on, by its place
	IP      string `json:"ip,omitempty"`      // an address of the network's, of a LAN's with its length; "": croft's choice, of a LAN's DHCP
	IP6     string `json:"ip6,omitempty"`     // the same
	Gateway string `json:"gateway,omitempty"` // of a LAN that IP is of; "": none
	MAC     string `json:"mac,omitempty"`     // "": croft's choice
}

// What NIC.Network can be instead of the name of a network: a word, or a word, a colon and what it is about.
const (
	NetworkNone    = "none"    // loopback only
	NetworkHost    = "host"    // the host's own stack
	NetworkNS      = "ns"      // ns:PATH, a network namespace that somebody else has made, joined as it is
	NetworkBridge  = "bridge"  // bridge:NAME, a bridge of the host's that somebody else has made
	NetworkMacvlan = "macvlan" // macvlan:PARENT, an address of its own on the LAN of an interface of the host's
)

// DefaultNetwork is made when the first machine wants it.
const DefaultNetwork = "croft0"

// Form takes n.Network apart: kind is "" for the name of a network, and of one of the forms what stands before the colon.
func (n NIC) Form() (kind, of string) { return formOf(n.Network) }

func formOf(network string) (kind, of string) {
	switch kind, of, _ := strings.Cut(network, ":"); kind {
	case NetworkNone, NetworkHost, NetworkNS, NetworkBridge, NetworkMacvlan:
		return kind, of
	}
	return "", network
}

// Port publishes ports of the machine on the host.
type Port struct {
	Proto string `json:"proto"`           // tcp, udp
	IP    string `json:"ip,omitempty"`    // the host's address; "": all of them
	Host  uint16 `json:"host,omitempty"`  // the first port on the host; 0: any that is free
	Guest uint16 `json:"guest"`           // the first port of the machine
	Count uint16 `json:"count,omitempty"` // how many in a row; 0: one
}

// Protocols of a port.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Len is how many ports there are.
func (p Port) Len() int { return max(1, int(p.Count)) }

// Overlaps says whether two published ports want the same port of the host's.
func (p Port) Overlaps(o Port) bool {
	return p.Host != 0 && o.Host != 0 && p.Proto == o.Proto && (p.IP == "" || o.IP == "" || p.IP == o.IP) &&
		int(p.Host) < int(o.Host)+o.Len() && int(o.Host) < int(p.Host)+p.Len()
}

// String is the port as -p takes it.
func (p Port) String() string {
	span := func(first uint16) string {
		if p.Len() == 1 {
			return fmt.Sprint(first)
		}
		return fmt.Sprintf("%d-%d", first, int(first)+p.Len()-1)
	}
	text := span(p.Guest)
	if p.Host != 0 || p.IP != "" {
		host := ""
		if p.Host != 0 {
			host = span(p.Host)
		}
		text = host + ":" + text
	}
	switch {
	case strings.Contains(p.IP, ":"):
		text = "[" + p.IP + "]:" + text
	case p.IP != "":
		text = p.IP + ":" + text
	}
	if p.Proto == UDP {
		text += "/" + UDP
	}
	return text
}

// HostName is a line for the machine's /etc/hosts.
type HostName struct {
	Name    string `json:"name"`
	Address string `json:"address"` // or HostGateway
}

// HostGateway stands for the addresses that the host has on the first network of croft's own that the machine is on, as they are
// when it starts. A machine that uses the host's own stack finds it at 127.0.0.1.
const HostGateway = "host-gateway"

// Link is one network interface as decided. What it is called and its addresses are the machine's for life; the rest is
// what its network is like when it starts.
type Link struct {
	Name     string       `json:"name"` // in the machine
	Network  string       `json:"network"`
	MAC      string       `json:"mac,omitempty"`
	IP       netip.Prefix `json:"ip,omitzero"`       // zero: none, or of the machine's own asking
	IP6      netip.Prefix `json:"ip6,omitzero"`      // the same
	Kind     string       `json:"kind,omitempty"`    // NetworkBridge, NetworkMacvlan
	Parent   string       `json:"parent,omitempty"`  // the bridge, or what the macvlan is on
	Host     string       `json:"host,omitempty"`    // the host's end of it; another one at every start. "": it has none
	Gateway  netip.Addr   `json:"gateway,omitzero"`  // zero: no way out
	Gateway6 netip.Addr   `json:"gateway6,omitzero"` // the same
	MTU      int          `json:"mtu,omitempty"`     // 0: the kernel's
	Managed  bool         `json:"managed,omitempty"` // on a bridge of croft's own: filtered, and known to the table
	Isolated bool         `json:"isolated,omitempty"`
	DNS      []string     `json:"dns,omitempty"` // its network's
}

// Form takes l.Network apart as that of a NIC.
func (l Link) Form() (kind, of string) { return formOf(l.Network) }

// DHCP says whether the machine has to ask the LAN for its address.
func (l Link) DHCP() bool { return !l.Managed && !l.IP.IsValid() && !l.IP6.IsValid() }

// HostNetwork says whether the machine uses the host's network stack.
func (s *Spec) HostNetwork() bool { return len(s.NICs) == 1 && s.NICs[0].Network == NetworkHost }

// NetworkNamespace is the path of the network namespace that the machine joins; "" for one of its own, and for the host's.
func (s *Spec) NetworkNamespace() string {
	if len(s.NICs) == 1 {
		if kind, of := s.NICs[0].Form(); kind == NetworkNS {
			return of
		}
	}
	return ""
}

// SharesNetwork says whether the machine's network stack is somebody else's, so that its root has no say there.
func (s *Spec) SharesNetwork() bool { return s.HostNetwork() || s.NetworkNamespace() != "" }

func (s *Spec) checkNICs(say func(field, format string, a ...any)) {
	names := map[string]bool{}
	linked, alone := false, false
	for i, n := range s.NICs {
		kind, of := n.Form()
		switch kind {
		case NetworkNone, NetworkHost:
			if of != "" {
				say("network", "%q: %s is about nothing", n.Network, kind)
			}
		case NetworkNS:
			if !path.IsAbs(of) {
				say("network", "%q: ns: wants the absolute path of a network namespace", n.Network)
			}
		case NetworkBridge, NetworkMacvlan:
			linked = true
			if !validInterface(of) {
				say("network", "%q: %q is no name of an interface", n.Network, of)
			}
		default:
			linked = true
			if err := CheckNetworkName(n.Network); err != nil {
				say("network", "%v", err)
			}
		}
		alone = alone || kind == NetworkNone || kind == NetworkHost || kind == NetworkNS
		name := n.Name
		if name == "" {
			name = fmt.Sprintf("eth%d", i)
		}
		if !validInterface(name) || name == "lo" {
			say("network", "name %q is none that an interface can have", name)
		}
		if names[name] {
			say("network", "name %s is given twice", name)
		}
		names[name] = true
		n.checkAddresses(kind, say)
	}
	if alone && len(s.NICs) > 1 {
		say("network", "%s, %s and %s stand alone", NetworkNone, NetworkHost, NetworkNS)
	}
	s.checkPorts(linked, say)
	for _, d := range s.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			say("dns", "%q is no address", d)
		}
	}
	named := func(n NIC) bool { kind, _ := n.Form(); return kind == "" }
	for _, h := range s.AddHosts {
		if _, err := netip.ParseAddr(h.Address); err != nil && h.Address != HostGateway || !validHostname(h.Name) {
			say("add-host", "%s:%s is not NAME:ADDRESS", h.Name, h.Address)
		}
		if h.Address == HostGateway && !s.HostNetwork() && !slices.ContainsFunc(s.NICs, named) {
			say("add-host", "%s:%s: the machine is on no network of croft's, on which the host would have an address", h.Name, h.Address)
		}
	}
}

func (n NIC) checkAddresses(kind string, say func(field, format string, a ...any)) {
	if n.IP+n.IP6+n.Gateway+n.MAC != "" && (kind == NetworkNone || kind == NetworkHost || kind == NetworkNS) {
		say("network", "%s: its addresses are not the machine's to choose", n.Network)
		return
	}
	check := func(field, text string, four bool) {
		if text == "" {
			return
		}
		addr, err := netip.ParseAddr(text)
		if kind != "" {
			var p netip.Prefix
			p, err = netip.ParsePrefix(text)
			addr = p.Addr()
			if err != nil {
				say("network", "%s %q is not ADDRESS/LENGTH, as the LAN has it", field, text)
				return
			}
		}
		if err != nil || addr.Zone() != "" || addr.Is4() != four {
			say("network", "%s %q is not an address of its kind", field, text)
		}
	}
	check("ip", n.IP, true)
	check("ip6", n.IP6, false)
	if n.Gateway != "" {
		if _, err := netip.ParseAddr(n.Gateway); err != nil || kind == "" {
			say("network", "gateway %q: wants an address, and a LAN that is not croft's", n.Gateway)
		}
	}
	if n.MAC != "" {
		if hw, err := net.ParseMAC(n.MAC); err != nil || len(hw) != 6 || hw[0]&1 != 0 {
			say("network", "mac %q is not six bytes of one station, as in 02:00:00:00:00:01", n.MAC)
		}
	}
}

func (s *Spec) checkPorts(linked bool, say func(field, format string, a ...any)) {
	if len(s.Ports) > 0 && !linked {
		say("publish", "there is no network to publish them through")
	}
	for i, p := range s.Ports {
		if p.Proto != TCP && p.Proto != UDP {
			say("publish", "%q is neither tcp nor udp", p.Proto)
		}
		if p.Guest == 0 || int(p.Guest)+p.Len()-1 > 65535 || int(p.Host)+p.Len()-1 > 65535 {
			say("publish", "%s: a port is 1 to 65535", p)
		}
		if p.IP != "" {
			if a, err := netip.ParseAddr(p.IP); err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
				say("publish", "%s: %q is no address of a host", p, p.IP)
			}
		}
		for _, o := range s.Ports[:i] {
			if p.Overlaps(o) {
				say("publish", "%s and %s want the same port of the host", o, p)
			}
		}
	}
}

// validInterface judges the name of a network interface, as the kernel does (dev_valid_name), but for ASCII alone.
func validInterface(name string) bool {
	if name == "" || len(name) > 15 || name == "." || name == ".." {
		return false
	}
	for _, r := range name {
		if r <= ' ' || r > '~' || r == '/' || r == ':' {
			return false
		}
	}
	return true
}
