package netsetup

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"croft/state"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wantNFT skips where there is no nft: the product does not need it.
func wantNFT(t *testing.T) {
	t.Helper()
	if _, err := lookPath("nft"); err != nil {
		t.Skip("SKIPPED, PROVES NOTHING: needs nft")
	}
}

// ruleText is the whole of table croft as nft reads it: made of what stands beside each rule.
func ruleText() string {
	var b strings.Builder
	for _, family := range tableFamilies() {
		fmt.Fprintf(&b, "table %s croft {\n", familyName(family))
		for _, s := range tableSets() {
			if s.family != family {
				continue
			}
			word, types := "set", typeNames(s.key)
			if s.data != nil {
				word, types = "map", types+" : "+typeNames(s.data)
			}
			fmt.Fprintf(&b, "%s %s { type %s; }\n", word, s.name, types)
		}
		for _, ch := range tableChains() {
			if ch.family != family {
				continue
			}
			fmt.Fprintf(&b, "chain %s {\n", ch.name)
			if ch.hook != nil {
				fmt.Fprintf(&b, "type %s hook %s priority %d; policy accept;\n", ch.kind, hookName(*ch.hook), ch.priority)
			}
			for _, r := range (Table{"croft"}).rules() {
				if r.chain == ch.name {
					fmt.Fprintln(&b, r.nft)
				}
			}
			fmt.Fprintln(&b, "}")
		}
		fmt.Fprintln(&b, "}")
	}
	return b.String()
}

func familyName(f nftables.TableFamily) string {
	return map[nftables.TableFamily]string{familyInet: "inet", familyBridge: "bridge"}[f]
}

func hookName(h nftables.ChainHook) string {
	return [...]string{"prerouting", "input", "forward", "output", "postrouting"}[h]
}

func typeNames(types []nftables.SetDatatype) string {
	var names []string
	for _, t := range types {
		names = append(names, t.Name)
	}
	return strings.Join(names, " . ")
}

// What the kernel has been told is what stands beside it: nft, reading the one and printing the other, says the same.
func TestRulesAreWhatTheySay(t *testing.T) {
	t.Parallel()
	wantNFT(t)
	if !ownHost(t) {
		return
	}
	// nft has words for the target of a neighbour message since 1.0.9. An older one is not shown those rules, and prints them so.
	text, unworded := ruleText(), regexp.MustCompile(`(?m)^.*(icmpv6 taddr|@th,64,128).*\n`)
	if exec.Command("nft", "-c", "add table bridge t; add chain bridge t c; add rule bridge t c icmpv6 taddr ::1").Run() != nil {
		text = unworded.ReplaceAllString(text, "")
	}
	load := exec.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader(text)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s\n%s", err, out, ruleText())
	}
	written := must(t, "nft -s list ruleset")
	must(t, "nft flush ruleset")
	if err := (Table{"croft"}).Build(nil, nil); err != nil {
		t.Fatal(err)
	}
	built := must(t, "nft -s list ruleset")
	if !strings.Contains(written, "icmpv6 taddr") {
		built = unworded.ReplaceAllString(built, "")
	}
	if built != written {
		t.Errorf("built:\n%s\nwritten:\n%s", built, written)
	}
}

// They stand in the decision about them as well, in their order.
func TestRulesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/decisions/036-filter.md")
	if err != nil {
		t.Fatal(err)
	}
	rest := string(text)
	for _, r := range (Table{"croft"}).rules() {
		_, after, found := strings.Cut(rest, "\t"+r.nft+"\n")
		if !found {
			t.Fatalf("036-filter.md lacks, or has elsewhere: %s", r.nft)
		}
		rest = after
	}
}

// A host with two networks of croft's, one and two; guests a and b on the first and c on the second, each with a link as
// croft makes it; and what lies outside.
type world struct {
	t        *testing.T
	table    Table
	one, two *state.Network
	members  map[string]Member
}

func newWorld(t *testing.T) *world {
	t.Helper()
	must(t, `
	sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
	for ns in out a b c; do ip netns add $ns; ip -n $ns link set lo up; done
	ip link add eth0 type veth peer name eth0 netns out
	ip addr add 198.51.100.1/24 dev eth0; ip addr add 2001:db8::1/64 dev eth0 nodad; ip link set eth0 up
	ip -n out addr add 198.51.100.2/24 dev eth0; ip -n out addr add 2001:db8::2/64 dev eth0 nodad; ip -n out link set eth0 up
	# A neighbour who knows the way to what is not published.
	ip -n out route add 10.87.0.0/16 via 198.51.100.1; ip -n out route add fd87::/16 via 2001:db8::1`)
	w := &world{t: t, table: Table{"croft"}, one: aNetwork("one", 0), two: aNetwork("two", 1), members: map[string]Member{}}
	for _, n := range []*state.Network{w.one, w.two} {
		if _, err := Bridge(n); err != nil {
			t.Fatal(err)
		}
	}
	w.guest("a", w.one, 5)
	w.guest("b", w.one, 6)
	w.guest("c", w.two, 5)
	if err := w.table.Build([]*state.Network{w.one, w.two}, nil); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.members {
		w.add(m)
	}
	return w
}

func aNetwork(name string, third byte) *state.Network {
	return &state.Network{
		Name: name, Kind: state.NetworkBridge, Bridge: name, Managed: true, NAT4: true, NAT6: true,
		UUID: fmt.Sprintf("%032x", 1+int(third)),
		IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 87, third, 1}), 24),
		IPv6: netip.MustParsePrefix(fmt.Sprintf("fd87:%x::1/64", third)),
	}
}

// guest connects a namespace to a network, with the host's number in the addresses.
func (w *world) guest(ns string, n *state.Network, host byte) {
	w.t.Helper()
	at := func(gateway netip.Prefix) netip.Prefix {
		b := gateway.Addr().AsSlice()
		b[len(b)-1] = host
		a, _ := netip.AddrFromSlice(b)
		return netip.PrefixFrom(a, gateway.Bits())
	}
	l := state.Link{
		Name: "eth0", Network: n.Name, Kind: state.NetworkBridge, Parent: n.Bridge, Host: HostPrefix + ns, Managed: true,
		MAC: MAC(n.UUID, ns), IP: at(n.IPv4), IP6: at(n.IPv6), Gateway: n.IPv4.Addr(), Gateway6: n.IPv6.Addr(),
	}
	w.members[ns] = Member{Name: ns, Links: []state.Link{l}}
	netns, err := os.Open("/run/netns/" + ns)
	if err != nil {
		w.t.Fatal(err)
	}
	defer netns.Close()
	if err := Connect([]state.Link{l}, netns); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) add(m Member) {
	w.t.Helper()
	if err := w.table.Add(m); err != nil {
		w.t.Fatal(err)
	}
}

// publish has the table know more ports of a guest.
func (w *world) publish(ns string, ports ...state.Port) {
	w.t.Helper()
	m := w.members[ns]
	m.Ports = append(m.Ports, ports...)
	w.members[ns] = m
	w.add(m)
}

// at does something in a namespace; "" is the host.
func (w *world) at(ns string, do func() error) error {
	if ns == "" {
		return do()
	}
	w.t.Helper()
	return in(w.t, ns, do)
}

// answer serves a port of a guest's: who asks is told who answers, and who it seems to be.
func (w *world) answer(ns, proto string, port int) {
	w.t.Helper()
	err := w.at(ns, func() error {
		if proto == state.UDP {
			c, err := net.ListenPacket("udp", fmt.Sprintf("[::]:%d", port))
			if err != nil {
				return err
			}
			w.t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 100)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					c.WriteTo([]byte(ns+" "+seen(from)), from)
				}
			}()
			return nil
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, ns+" "+seen(c.RemoteAddr()))
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func seen(a net.Addr) string {
	p, _ := netip.ParseAddrPort(a.String())
	return p.Addr().Unmap().String()
}

// ask gives what answers there; what does not within patience is an error.
func (w *world) ask(from, proto, address string, patience time.Duration) (said string, err error) {
	w.t.Helper()
	err = w.at(from, func() error {
		c, err := net.DialTimeout(proto, address, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		if proto == state.UDP {
			fmt.Fprint(c, "who is there?")
		}
		c.SetDeadline(time.Now().Add(patience))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		said = string(buf[:n])
		return err
	})
	return said, err
}

// hears wants that answer.
func (w *world) hears(from, proto, address, want string) {
	w.t.Helper()
	if said, err := w.ask(from, proto, address, 5*time.Second); err != nil || said != want {
		w.t.Errorf("%s asks %s by %s: %q (%v), want %q", who(from), address, proto, said, err, want)
	}
}

// hearsNot wants none.
func (w *world) hearsNot(from, proto, address string) {
	w.t.Helper()
	if said, err := w.ask(from, proto, address, 300*time.Millisecond); err == nil {
		w.t.Errorf("%s asks %s by %s and hears %q", who(from), address, proto, said)
	}
}

func who(ns string) string {
	if ns == "" {
		return "the host"
	}
	return ns
}

// passBridges says whether what is bridged goes through the tables for IP as well (br_netfilter), as Docker wants it.
func passBridges(t *testing.T, through bool) {
	t.Helper()
	value := map[bool]string{false: "0", true: "1"}[through]
	for _, key := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"} {
		err := os.WriteFile("/proc/sys/net/bridge/"+key, []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) && through {
			t.Skip("SKIPPED, PROVES NOTHING: the kernel has no br_netfilter")
		}
	}
}

func TestPortsArePublished(t *testing.T) { portsArePublished(t, false) }

func TestPortsArePublishedWithBridgeNetfilter(t *testing.T) { portsArePublished(t, true) }

func portsArePublished(t *testing.T, bridgeNetfilter bool) {
	t.Parallel()
	if !ownHost(t) {
		return
	}
	passBridges(t, bridgeNetfilter)
	w := newWorld(t)
	for _, proto := range []string{state.TCP, state.UDP} {
		w.answer("a", proto, 80)
		w.answer("c", proto, 80)
		w.publish("a", state.Port{Proto: proto, Host: 8080, Guest: 80})
		w.publish("c", state.Port{Proto: proto, Host: 8090, Guest: 80})
	}
	for _, proto := range []string{state.TCP, state.UDP} {
		// From outside, with the address that the client has there.
		w.hears("out", proto, "198.51.100.1:8080", "a 198.51.100.2")
		w.hears("out", proto, "[2001:db8::1]:8080", "a 2001:db8::2")
		// From the host, by every address of it.
		w.hears("", proto, "198.51.100.1:8080", "a 198.51.100.1")
		w.hears("", proto, "[2001:db8::1]:8080", "a 2001:db8::1")
		w.hears("", proto, "10.87.0.1:8080", "a 10.87.0.1")
		w.hears("", proto, "127.0.0.1:8080", "a 10.87.0.1")
		w.hears("", proto, "127.9.9.9:8080", "a 10.87.0.1")
		w.hears("", proto, "[::1]:8080", map[string]string{state.TCP: "a fd63:726f:6674::6:1f90", state.UDP: "a fd63:726f:6674::11:1f90"}[proto])
		// From a machine of another network, with its own address; from a neighbour and from itself, with the bridge's.
		w.hears("c", proto, "198.51.100.1:8080", "a 10.87.1.5")
		w.hears("c", proto, "[2001:db8::1]:8080", "a fd87:1::5")
		w.hears("b", proto, "198.51.100.1:8080", "a 10.87.0.1")
		w.hears("b", proto, "[2001:db8::1]:8080", "a fd87::1")
		w.hears("a", proto, "198.51.100.1:8080", "a 10.87.0.1")
		w.hears("a", proto, "[2001:db8::1]:8080", "a fd87::1")
		w.hears("b", proto, "10.87.0.1:8090", "c 10.87.0.6")
		// What is not published.
		w.hearsNot("out", proto, "198.51.100.1:80")
		w.hearsNot("out", proto, "10.87.0.5:80")
		w.hearsNot("out", proto, "[fd87::5]:80")
		w.hearsNot("", proto, "[::1]:80")
		// The addresses that the host asks as are for answers alone.
		w.answer("", proto, 7777)
		w.hears("", proto, "[::1]:7777", " ::1")
		for _, host := range []string{"a", "out"} {
			w.hearsNot(host, proto, "[fd63:726f:6674::6:1f90]:7777")
			w.hearsNot(host, proto, "[fd63:726f:6674::11:1f90]:7777")
		}
	}
	for _, m := range w.members {
		if err := errors.Join(w.table.Remove(m), w.table.Remove(m)); err != nil {
			t.Fatal(err)
		}
	}
	w.hearsNot("out", state.TCP, "198.51.100.1:8080")
	w.hearsNot("", state.TCP, "127.0.0.1:8080")
}

func TestPortsAtOneAddress(t *testing.T) {
	t.Parallel()
	if !ownHost(t) {
		return
	}
	w := newWorld(t)
	must(t, "ip addr add 198.51.100.7/32 dev eth0; ip addr add 2001:db8::7/128 dev eth0 nodad")
	for _, ns := range []string{"a", "b", "c"} {
		w.answer(ns, state.TCP, 80)
		w.answer(ns, state.TCP, 81)
	}
	w.publish("a", state.Port{Proto: state.TCP, Host: 8080, Guest: 80})
	w.publish("b", state.Port{Proto: state.TCP, IP: "198.51.100.7", Host: 8080, Guest: 80, Count: 2},
		state.Port{Proto: state.TCP, IP: "2001:db8::7", Host: 8080, Guest: 80})
	w.publish("c", state.Port{Proto: state.TCP, IP: "127.0.0.1", Host: 9090, Guest: 80},
		state.Port{Proto: state.TCP, IP: "0.0.0.0", Host: 9091, Guest: 80})
	w.hears("out", state.TCP, "198.51.100.1:8080", "a 198.51.100.2")
	w.hears("out", state.TCP, "198.51.100.7:8080", "b 198.51.100.2")
	w.hears("out", state.TCP, "198.51.100.7:8081", "b 198.51.100.2")
	w.hears("out", state.TCP, "[2001:db8::7]:8080", "b 2001:db8::2")
	w.hears("out", state.TCP, "[2001:db8::1]:8080", "a 2001:db8::2")
	w.hears("", state.TCP, "127.0.0.1:9090", "c 10.87.1.1")
	w.hears("out", state.TCP, "198.51.100.1:9091", "c 198.51.100.2")
	w.hearsNot("out", state.TCP, "[2001:db8::1]:9091")
	w.hearsNot("out", state.TCP, "198.51.100.1:9090")
	w.hearsNot("out", state.TCP, "198.51.100.1:8081")

	// What is at 127.0.0.1 is for the host: a neighbour outside, and a machine, who send there all the same.
	for _, ns := range []string{"out", "a"} {
		gateway := map[string]string{"out": "198.51.100.1", "a": "10.87.0.1"}[ns]
		must(t, fmt.Sprintf(`ip netns exec %s sysctl -qw net.ipv4.conf.all.route_localnet=1
		ip -n %[1]s addr del 127.0.0.1/8 dev lo
		ip -n %[1]s route add 127.0.0.1 via %s`, ns, gateway))
		w.hearsNot(ns, state.TCP, "127.0.0.1:9090")
	}
	w.answer("", state.TCP, 7777)
	must(t, "sysctl -qw net.ipv4.conf.all.route_localnet=1")
	w.hearsNot("out", state.TCP, "127.0.0.1:9090")
	w.hearsNot("out", state.TCP, "127.0.0.1:7777")
	if _, err := lookPath("nft"); err == nil { // it is the table that keeps them out: what is published, and what is the host's own
		must(t, "nft flush chain inet croft prerouting; nft add rule inet croft prerouting goto ports")
		w.hears("out", state.TCP, "127.0.0.1:9090", "c 198.51.100.2")
		w.hearsNot("out", state.TCP, "127.0.0.1:7777")
		must(t, "nft flush chain inet croft input")
		w.hears("out", state.TCP, "127.0.0.1:7777", " 198.51.100.2")
	}
}

// tracked says whether there is a connection to one of these addresses.
func tracked(t *testing.T, to ...string) bool {
	t.Helper()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(flows, func(f *netlink.ConntrackFlow) bool { return slices.Contains(to, f.Forward.DstIP.String()) }) {
			return true
		}
	}
	return false
}

func TestNetworksAreApart(t *testing.T) { networksAreApart(t, false) }

func TestNetworksAreApartWithBridgeNetfilter(t *testing.T) { networksAreApart(t, true) }

func networksAreApart(t *testing.T, bridgeNetfilter bool) {
	t.Parallel()
	if !ownHost(t) {
		return
	}
	passBridges(t, bridgeNetfilter)
	w := newWorld(t)
	for _, ns := range []string{"", "a", "b", "c", "out"} {
		w.answer(ns, state.TCP, 80)
	}
	change := func(n *state.Network, do func()) {
		t.Helper()
		gone := w.table.RemoveNetwork(n)
		do()
		if _, err := w.table.AddNetwork(n); err != nil || gone != nil {
			t.Fatal(gone, err)
		}
	}
	apart := func() {
		t.Helper()
		w.hearsNot("a", state.TCP, "10.87.1.5:80")
		w.hearsNot("c", state.TCP, "[fd87::5]:80")
		w.hearsNot("out", state.TCP, "10.87.0.5:80")
		w.hearsNot("out", state.TCP, "[fd87:1::5]:80")
	}
	apart()
	w.hears("a", state.TCP, "10.87.0.6:80", "b 10.87.0.5")
	w.hears("a", state.TCP, "[fd87::6]:80", "b fd87::5")
	if tracked(t, "10.87.0.6", "fd87::6") {
		t.Error("the host tracks what one machine says to another of its bridge")
	}
	if _, err := lookPath("nft"); err == nil && bridgeNetfilter {
		must(t, "nft flush chain bridge croft onward")
		w.hears("a", state.TCP, "10.87.0.6:80", "b 10.87.0.5")
		if !tracked(t, "10.87.0.6") {
			t.Error("without the rule it is not tracked either")
		}
		if err := w.table.Build([]*state.Network{w.one, w.two}, slices.Collect(maps.Values(w.members))); err != nil {
			t.Fatal(err)
		}
	}
	w.hears("a", state.TCP, "198.51.100.2:80", "out 198.51.100.1")
	w.hears("a", state.TCP, "[2001:db8::2]:80", "out 2001:db8::1")
	w.hears("", state.TCP, "10.87.0.5:80", "a 10.87.0.1")

	// The host is closed to machines, but for what the network allows; and says so at once.
	for _, address := range []string{"10.87.0.1:80", "198.51.100.1:80", "[fd87::1]:80", "10.87.1.1:80"} {
		if _, err := w.ask("a", state.TCP, address, 5*time.Second); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EACCES) {
			t.Errorf("a asks the host by %s: %v, want a refusal", address, err)
		}
	}
	w.hears("out", state.TCP, "198.51.100.1:80", " 198.51.100.2")
	change(w.one, func() { w.one.Allow = []string{"tcp/80"} })
	w.hears("a", state.TCP, "10.87.0.1:80", " 10.87.0.5")
	w.hears("a", state.TCP, "[fd87::1]:80", " fd87::5")
	w.hearsNot("c", state.TCP, "10.87.1.1:80")
	change(w.one, func() { w.one.Allow = nil })
	w.hearsNot("a", state.TCP, "10.87.0.1:80")

	// Machines of an isolated network have neither the bridge's way to one another, which link.go closes, nor the host's.
	change(w.one, func() { w.one.Isolated = true })
	must(t, "bridge link set dev croftva isolated on; bridge link set dev croftvb isolated on")
	w.hearsNot("a", state.TCP, "10.87.0.6:80")
	must(t, `mac=$(ip -o link show one | sed 's/.*ether //; s/ .*//')
	ip -n a neigh replace 10.87.0.6 lladdr $mac dev eth0; ip -n b neigh replace 10.87.0.5 lladdr $mac dev eth0`)
	w.hearsNot("a", state.TCP, "10.87.0.6:80")
	w.hears("a", state.TCP, "198.51.100.2:80", "out 198.51.100.1")
	change(w.one, func() { w.one.Isolated = false })
	w.hears("a", state.TCP, "10.87.0.6:80", "b 10.87.0.5") // the long way: it was the table that closed it
	must(t, "bridge link set dev croftva isolated off; bridge link set dev croftvb isolated off; ip -n a neigh flush all; ip -n b neigh flush all")

	// An internal one has no way out and none in, ports neither; but its own.
	w.publish("a", state.Port{Proto: state.TCP, Host: 8080, Guest: 80})
	w.publish("c", state.Port{Proto: state.TCP, Host: 8090, Guest: 80})
	change(w.one, func() { w.one.Internal, w.one.NAT4, w.one.NAT6 = true, false, false })
	w.hearsNot("a", state.TCP, "198.51.100.2:80")
	w.hearsNot("a", state.TCP, "198.51.100.1:8090")
	w.hearsNot("out", state.TCP, "198.51.100.1:8080")
	w.hearsNot("c", state.TCP, "198.51.100.1:8080")
	w.hears("a", state.TCP, "10.87.0.6:80", "b 10.87.0.5")
	w.hears("", state.TCP, "10.87.0.5:80", "a 10.87.0.1")
	w.hears("c", state.TCP, "198.51.100.2:80", "out 198.51.100.1")
	apart()
}

func TestBuildRepairs(t *testing.T) {
	t.Parallel()
	wantNFT(t)
	if !ownHost(t) {
		return
	}
	w := newWorld(t)
	w.answer("c", state.TCP, 80)
	w.publish("c", state.Port{Proto: state.TCP, Host: 8080, Guest: 80})
	intact := func(want bool) {
		t.Helper()
		if is, err := w.table.Intact(); err != nil || is != want {
			t.Errorf("intact: %v (%v), want %v", is, err, want)
		}
	}
	intact(true)

	// A connection that goes on while all of it is broken and made anew.
	var listener net.Listener
	if err := w.at("a", func() (err error) {
		listener, err = net.Listen("tcp", "10.87.0.5:7777")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	w.publish("a", state.Port{Proto: state.TCP, Host: 7777, Guest: 7777})
	var client net.Conn
	if err := w.at("out", func() (err error) {
		client, err = net.DialTimeout("tcp", "198.51.100.1:7777", 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	served, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	defer served.Close()

	for _, harm := range []string{
		"nft flush table inet croft", "nft flush table bridge croft", "nft delete table inet croft", "nft flush ruleset",
		"nft flush chain inet croft forward", "nft 'insert rule inet croft forward accept'", "nft 'add rule inet croft input accept'",
		"nft delete table bridge croft; nft add table bridge croft",
	} {
		must(t, harm)
		intact(false)
		var members []Member
		for _, m := range w.members {
			members = append(members, m)
		}
		if err := w.table.Build([]*state.Network{w.one, w.two}, members); err != nil {
			t.Fatal(err)
		}
		intact(true)
		w.hears("out", state.TCP, "198.51.100.1:8080", "c 198.51.100.2")
		fmt.Fprint(client, "still there?")
		served.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 100)
		if n, err := served.Read(buf); err != nil || string(buf[:n]) != "still there?" {
			t.Fatalf("after %s: the connection that was there: %q (%v)", harm, buf[:n], err)
		}
	}
	if err := errors.Join(w.table.Delete(), w.table.Delete()); err != nil {
		t.Fatal(err)
	}
	intact(false)
	if left := must(t, "nft list ruleset"); left != "" {
		t.Errorf("left: %s", left)
	}
	if err := errors.Join(w.table.Remove(w.members["a"]), w.table.RemoveNetwork(w.one)); err != nil {
		t.Errorf("what is gone already: %v", err)
	}
}

// What is somebody's stays so, and who wanted it has nothing.
func TestPortsHaveOneOwner(t *testing.T) {
	t.Parallel()
	if !ownHost(t) {
		return
	}
	w := newWorld(t)
	w.answer("a", state.TCP, 80)
	w.answer("b", state.TCP, 80)
	w.publish("a", state.Port{Proto: state.TCP, Host: 8080, Guest: 80})
	second := w.members["b"]
	second.Ports = []state.Port{{Proto: state.TCP, Host: 8070, Guest: 80, Count: 20}}
	err := w.table.Add(second)
	if want := "port 8080/tcp is published by a: is in use"; !errors.Is(err, state.ErrBusy) || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	w.hearsNot("out", state.TCP, "198.51.100.1:8070")
	if err := w.table.Remove(second); err != nil { // as an undo does that knows no better
		t.Fatal(err)
	}
	w.hears("out", state.TCP, "198.51.100.1:8080", "a 198.51.100.2")
	w.add(w.members["a"]) // once more is fine

	// Its own port goes with a machine wherever it led: a change may have been killed before the record of it was written.
	changed := w.members["a"]
	changed.Ports = []state.Port{{Proto: state.TCP, Host: 8080, Guest: 81}, {Proto: state.TCP, Host: 8081, Guest: 80}}
	if err := w.table.Remove(changed); err != nil {
		t.Fatal(err)
	}
	w.hearsNot("out", state.TCP, "198.51.100.1:8080")
	w.hearsNot("", state.TCP, "[::1]:8080")
	many := w.members["b"]
	many.Ports = []state.Port{{Proto: state.TCP, Host: 20000, Guest: 80}, {Proto: state.UDP, Host: 1, Guest: 1, Count: 65535}}
	w.add(many)
	w.hears("out", state.TCP, "198.51.100.1:20000", "b 198.51.100.2")
	if err := w.table.Remove(many); err != nil {
		t.Fatal(err)
	}
	w.hearsNot("out", state.TCP, "198.51.100.1:20000")
}

func TestProbeTable(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, PROVES NOTHING: making network namespaces takes root")
	}
	if err := ProbeTable(); err != nil {
		t.Error(err)
	}
}

// A client that keeps asking from one socket is heard by who has the port, and not by who had it when it began.
func TestFlowsFollowPorts(t *testing.T) {
	t.Parallel()
	if !ownHost(t) {
		return
	}
	w := newWorld(t)
	host, err := net.ListenPacket("udp", "198.51.100.1:5353")
	if err != nil {
		t.Fatal(err)
	}
	w.answer("a", state.UDP, 53)
	w.answer("b", state.UDP, 53)
	var client, other net.Conn
	if err := w.at("out", func() (err error) {
		client, err = net.Dial("udp", "198.51.100.1:5353")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	buf := make([]byte, 100)
	ask := func(c net.Conn, want string) {
		t.Helper()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(c, "who is there?")
		if want == "" {
			return
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("hears %q (%v), want %q", buf[:n], err, want)
		}
	}
	ask(client, "")
	if _, _, err := host.ReadFrom(buf); err != nil {
		t.Fatal(err)
	}
	host.Close()
	w.publish("a", state.Port{Proto: state.UDP, Host: 5353, Guest: 53})
	ask(client, "a 198.51.100.2")
	if err := w.table.Remove(w.members["a"]); err != nil {
		t.Fatal(err)
	}
	b := w.members["b"]
	b.Ports = []state.Port{{Proto: state.UDP, Host: 5353, Guest: 53}}
	w.add(b)
	ask(client, "b 198.51.100.2")

	// A flow that is where it belongs goes on, and so does one that goes elsewhere by that port.
	if err := w.at("b", func() (err error) {
		other, err = net.Dial("udp", "198.51.100.2:5353")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ask(other, "")
	flows := func() string {
		list, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(unix.AF_INET))
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, f := range list {
			if f.Forward.DstPort == 5353 {
				all = append(all, fmt.Sprint(f.Forward.SrcIP, f.Forward.SrcPort, f.Reverse.SrcIP))
			}
		}
		slices.Sort(all)
		return strings.Join(all, "; ")
	}
	before := flows()
	if strings.Count(before, ";") != 1 {
		t.Fatalf("flows: %s", before)
	}
	w.add(b)
	if after := flows(); after != before {
		t.Errorf("flows before: %s; after: %s", before, after)
	}
}
