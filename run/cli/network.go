package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

// network is one row of network list; its JSON names are a promise (docs/json.md).
type network struct {
	Name     string    `json:"name"`
	UUID     string    `json:"uuid"`
	Created  time.Time `json:"created"`
	Type     string    `json:"type"`
	Bridge   string    `json:"bridge"`  // interface of the host
	Managed  bool      `json:"managed"` // the bridge is croft's own
	Parent   string    `json:"parent"`  // interface of the host
	IPv4     string    `json:"ipv4"`    // the gateway's, with the length of the subnet's part
	IPv6     string    `json:"ipv6"`
	NAT4     bool      `json:"ipv4_nat"`
	NAT6     bool      `json:"ipv6_nat"`
	MTU      int       `json:"mtu"` // 0: that of the host's way out
	Isolated bool      `json:"isolated"`
	Internal bool      `json:"internal"`
	DNS      []string  `json:"dns"`
	Allow    []string  `json:"allow"`
	UsedBy   []string  `json:"used_by"` // names of machines
}

func networkOf(n *state.Network, machines []*state.Instance) network {
	row := network{
		Name: n.Name, UUID: n.UUID, Created: n.Created, Type: n.Kind, Bridge: n.Bridge, Managed: n.Managed, Parent: n.Parent,
		IPv4: prefixText(n.IPv4), IPv6: prefixText(n.IPv6), NAT4: n.NAT4, NAT6: n.NAT6, MTU: n.MTU, Isolated: n.Isolated, Internal: n.Internal,
		DNS: append([]string{}, n.DNS...), Allow: append([]string{}, n.Allow...), UsedBy: []string{},
	}
	for _, in := range machines {
		if slices.ContainsFunc(in.Spec.NICs, func(nic state.NIC) bool { return nic.Network == n.Name }) {
			row.UsedBy = append(row.UsedBy, in.Spec.Name)
		}
	}
	return row
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func networkView() view[network] {
	return view[network]{
		{Head: "NAME", Cell: func(n network) string { return n.Name }},
		{Head: "TYPE", Cell: func(n network) string { return n.Type }},
		{Head: "ON", Cell: func(n network) string { return n.Bridge + n.Parent }},
		{Head: "IPV4", Cell: func(n network) string { return n.IPv4 }},
		{Head: "IPV6", Cell: func(n network) string { return n.IPv6 }},
		{Head: "RULES", Cell: func(n network) string { return strings.Join(n.rules(), ",") }},
		{Head: "MACHINES", Cell: func(n network) string { return strconv.Itoa(len(n.UsedBy)) }},
		{Head: "MTU", Extra: true, Cell: func(n network) string { return strconv.Itoa(n.MTU) }},
		{Head: "DNS", Extra: true, Cell: func(n network) string { return strings.Join(n.DNS, " ") }},
		{Head: "UUID", Extra: true, Cell: func(n network) string { return n.UUID }},
	}
}

// rules are those that a network does not have by itself.
func (n network) rules() (words []string) {
	say := func(is bool, word string) {
		if is {
			words = append(words, word)
		}
	}
	say(n.Internal, "internal")
	say(n.Isolated, "isolated")
	say(n.Managed && !n.Internal && !n.NAT4 && n.IPv4 != "", "no-nat4")
	say(n.Managed && !n.Internal && !n.NAT6 && n.IPv6 != "", "no-nat6")
	return append(words, n.Allow...)
}

func (a *app) networkList() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		what := bindListing(fs)
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(context.Context, []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			networks, err := e.Networks()
			if err != nil {
				return err
			}
			machines, _, err := e.Dir.List()
			if err != nil {
				return err
			}
			rows := []network{}
			for _, n := range networks {
				rows = append(rows, networkOf(n, machines))
			}
			return show(networkView(), string(format), what, rows)
		}
	}
}

func (a *app) networkInfo() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("yaml")
		fs.Var(&format, "format", "print `yaml|json|TEMPLATE`")
		return func(_ context.Context, names []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			machines, _, err := e.Dir.List()
			if err != nil {
				return err
			}
			rows := []network{}
			err = a.each(names, func(name string) error {
				n, err := e.Dir.Network(name)
				if err == nil {
					rows = append(rows, networkOf(n, machines))
				}
				return err
			})
			return errors.Join(networkView().found(os.Stdout, string(format), rows), err)
		}
	}
}

// networkKey is one thing that can be said of a network, in LXD's words where LXD has it.
type networkKey struct {
	name string
	says string
	put  func(n *state.Network, value string) error // whole or not at all
}

// networkKeys is the table of what set takes, and create.
func networkKeys() []networkKey {
	return []networkKey{
		{"ipv4.address", "the subnet, 10.9.0.0/24, or the host's address in it, 10.9.0.1/24; `none`", func(n *state.Network, v string) (err error) {
			n.IPv4, err = gateway(v)
			return err
		}},
		{"ipv4.nat", "what goes out to the world has the host's address: `true`, `false`", flagged(func(n *state.Network) *bool { return &n.NAT4 })},
		{"ipv6.address", "the same of IPv6: fd00:9::/64; `none`", func(n *state.Network, v string) (err error) {
			n.IPv6, err = gateway(v)
			return err
		}},
		{"ipv6.nat", "the same of IPv6", flagged(func(n *state.Network) *bool { return &n.NAT6 })},
		{"bridge.mtu", "the longest packet; 0: as on the host's way out", func(n *state.Network, v string) (err error) {
			mtu, err := strconv.ParseUint(v, 10, 16)
			if err != nil {
				return errors.New("is no number of bytes")
			}
			n.MTU = int(mtu)
			return nil
		}},
		{"parent", "interface of the host that a macvlan is on", func(n *state.Network, v string) error {
			n.Parent = v
			return nil
		}},
		{"isolated", "its machines cannot reach one another: `true`, `false`", flagged(func(n *state.Network) *bool { return &n.Isolated })},
		{"internal", "it has no way out, and none in: `true`, `false`", flagged(func(n *state.Network) *bool { return &n.Internal })},
		{"dns", "name servers that its machines ask, separated by commas; empty: the host's", func(n *state.Network, v string) error {
			n.DNS = listOf(v)
			return nil
		}},
		{"allow", "what its machines may reach of the host itself, separated by commas: tcp/53,udp/53", func(n *state.Network, v string) error {
			n.Allow = listOf(v)
			return nil
		}},
	}
}

// gateway reads a subnet: the host has the address that is named, or where none is, the first.
func gateway(text string) (netip.Prefix, error) {
	if text == "none" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, errors.New("is no subnet like 10.9.0.0/24 or fd00:9::/64")
	}
	if p == p.Masked() {
		p = netip.PrefixFrom(p.Addr().Next(), p.Bits())
	}
	return p, nil
}

// flagged is a switch.
func flagged(at func(*state.Network) *bool) func(*state.Network, string) error {
	return func(n *state.Network, value string) error {
		on, err := strconv.ParseBool(value)
		if err != nil {
			return errors.New("is neither true nor false")
		}
		*at(n) = on
		return nil
	}
}

func listOf(value string) []string {
	if value == "" {
		return nil
	}
	return strings.Split(value, ",")
}

// change is what a command line says of a network.
type networkChange struct {
	networkKey
	value string
}

func (c networkChange) apply(n *state.Network) error {
	if err := c.put(n, c.value); err != nil {
		return man.Misused("%s=%s: %v", c.name, c.value, err)
	}
	return nil
}

// networkChanges reads KEY=VALUE.
func networkChanges(words []string) (all []networkChange, err error) {
	keys := networkKeys()
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			return nil, man.Misused("%q is not KEY=VALUE", word)
		}
		i := slices.IndexFunc(keys, func(k networkKey) bool { return k.name == name })
		if i < 0 {
			return nil, &man.Misuse{Say: fmt.Sprintf("no such key %q", name), Hint: man.Nearest(name, networkKeyNames())}
		}
		all = append(all, networkChange{keys[i], value})
	}
	return all, nil
}

func networkKeyNames() (names []string) {
	for _, k := range networkKeys() {
		names = append(names, k.name)
	}
	return names
}

// networkFlags are those of create, each of which stands for a key.
type networkFlags struct {
	kind, bridge, parent string
	subnet, subnet6      string
	noNAT                bool
	mtu                  string
	isolated, internal   bool
	dns, allow           []string
}

func (f *networkFlags) bind(fs *pflag.FlagSet) {
	f.kind = state.NetworkBridge
	fs.Var(oneOf(&f.kind, state.NetworkBridge, state.NetworkMacvlan), "type", "make a network of this type: `bridge|macvlan`; default: bridge")
	fs.StringVar(&f.bridge, "bridge", "", "use the bridge `IF` of the host, which somebody else has made; its addresses are its LAN's")
	fs.StringVar(&f.parent, "parent", "", "the machines of a macvlan are on the LAN of `IF`, an interface of the host")
	fs.StringVar(&f.subnet, "subnet", "", "its IPv4 addresses are `ADDRESS/LENGTH`, or none; default: one that is free")
	fs.StringVar(&f.subnet6, "subnet6", "", "its IPv6 addresses are `ADDRESS/LENGTH`, or none; default: one that is free")
	fs.BoolVar(&f.noNAT, "no-nat", false, "let what goes out keep the machine's address; somebody has to know the way back")
	fs.StringVar(&f.mtu, "mtu", "", "let packets have `BYTES`; default: as on the host's way out")
	fs.BoolVar(&f.isolated, "isolated", false, "keep its machines apart from one another")
	fs.BoolVar(&f.internal, "internal", false, "give it no way out, and none in")
	fs.StringSliceVar(&f.dns, "dns", nil, "have its machines ask the name server at `ADDRESS`; default: the host's")
	fs.StringSliceVar(&f.allow, "allow", nil, "let its machines reach `tcp|udp/PORT` of the host itself")
}

// words are what the flags say, as KEY=VALUE.
func (f *networkFlags) words() (words []string) {
	say := func(said bool, word string) {
		if said {
			words = append(words, word)
		}
	}
	say(f.subnet != "", "ipv4.address="+f.subnet)
	say(f.subnet6 != "", "ipv6.address="+f.subnet6)
	say(f.noNAT, "ipv4.nat=false")
	say(f.noNAT, "ipv6.nat=false")
	say(f.mtu != "", "bridge.mtu="+f.mtu)
	say(f.parent != "", "parent="+f.parent)
	say(f.isolated, "isolated=true")
	say(f.internal, "internal=true")
	say(f.dns != nil, "dns="+strings.Join(f.dns, ","))
	say(f.allow != nil, "allow="+strings.Join(f.allow, ","))
	return words
}

func (a *app) networkCreate() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var flags networkFlags
		flags.bind(fs)
		return func(_ context.Context, args []string) error {
			changes, err := networkChanges(append(flags.words(), args[1:]...))
			if err != nil {
				return err
			}
			n := &state.Network{Name: args[0], Kind: flags.kind, Bridge: flags.bridge}
			if n.Managed = n.Kind == state.NetworkBridge && n.Bridge == ""; n.Managed {
				n.NAT4, n.NAT6 = true, true
			}
			said := map[string]bool{}
			for _, c := range changes {
				if err := c.apply(n); err != nil {
					return err
				}
				said[c.name] = true
			}
			if n.Kind == state.NetworkMacvlan && n.Parent == "" {
				return man.Misused("a macvlan needs a --parent, an interface of the host")
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if err := e.CreateNetwork(n, n.Managed && !said["ipv4.address"], n.Managed && !said["ipv6.address"]); err != nil {
				return err
			}
			fmt.Println(n.Name)
			return nil
		}
	}
}

func (a *app) networkSet() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		return func(_ context.Context, args []string) error {
			changes, err := networkChanges(args[1:])
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			_, err = e.SetNetwork(args[0], func(n *state.Network) error {
				for _, c := range changes {
					if err := c.apply(n); err != nil {
						return err
					}
				}
				return nil
			})
			return err
		}
	}
}

func (a *app) networkRemove() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		return func(_ context.Context, names []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return a.each(names, e.RemoveNetwork)
		}
	}
}

func (a *app) networkAttach() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var nic state.NIC
		fs.StringVar(&nic.Name, "name", "", "call it `IF` in the machine; default: the next of eth0, eth1 and so on")
		fs.StringVar(&nic.IP, "ip", "", "its IPv4 `ADDRESS` there; default: one that is free")
		fs.StringVar(&nic.IP6, "ip6", "", "its IPv6 `ADDRESS` there")
		fs.StringVar(&nic.MAC, "mac", "", "its Ethernet `ADDRESS` there")
		return func(ctx context.Context, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			nic.Network = args[0]
			return e.Attach(ctx, args[1], nic)
		}
	}
}

func (a *app) networkDetach() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		name := fs.String("name", "", "the one that is called `IF` in the machine, where it has several there")
		return func(ctx context.Context, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Detach(ctx, args[1], cmp.Or(*name, args[0]))
		}
	}
}
