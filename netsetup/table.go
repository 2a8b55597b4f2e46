package netsetup

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"

	"croft/state"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Table is croft's part of the packet filter: a table of family inet and one of family bridge of the same name, which nobody
// else is to write to. Everything is changed in one transaction, so that a packet finds it as it was or as it will be. Callers
// hold the lock of the host's networks.
type Table struct{ Name string }

// Member is a running machine as the table knows it.
type Member struct {
	Name  string
	Links []state.Link
	Ports []state.Port
}

// element is one of a set or a map.
type element struct {
	set     string
	key     []byte
	value   []byte        // of a map
	verdict *expr.Verdict // of a map of verdicts
	comment string
}

// Build makes all of it anew. Connections that are there go on.
func (t Table) Build(networks []*state.Network, members []Member) error {
	c, err := connect()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	t.clear(c)
	for _, family := range tableFamilies() {
		c.AddTable(t.of(family))
	}
	for _, s := range tableSets() {
		if err := c.AddSet(t.set(s), nil); err != nil {
			return fmt.Errorf("nf_tables: set %s: %w", s.name, err)
		}
	}
	for _, ch := range tableChains() {
		c.AddChain(t.chain(ch))
	}
	for _, r := range t.rules() {
		c.AddRule(t.rule(r))
	}
	var all []element
	for _, n := range networks {
		all = append(all, networkElements(n)...)
	}
	for _, m := range members {
		all = append(all, memberElements(m)...)
	}
	if err := t.change(c, c.SetAddElements, all); err != nil {
		return err
	}
	for _, n := range networks {
		if _, err := t.mark(n); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return t.explain(err, all)
	}
	for _, n := range networks {
		if err := takeLoopback(n); err != nil {
			return err
		}
	}
	return endFlows(all, false)
}

// Intact says whether all chains and rules are there as this build writes them.
func (t Table) Intact() (bool, error) {
	c, err := connect()
	if err != nil {
		return false, err
	}
	defer c.CloseLasting()
	wanted := t.rules()
	for _, ch := range tableChains() {
		rules, err := c.GetRules(t.of(ch.family), &nftables.Chain{Name: ch.name})
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("nf_tables: %w", err)
		}
		for _, r := range rules {
			if len(wanted) == 0 || wanted[0].chain != ch.name || string(r.UserData) != string(wanted[0].sum(ch.family)) {
				return false, nil
			}
			wanted = wanted[1:]
		}
	}
	return len(wanted) == 0, nil
}

// AddNetwork makes the table know a network whose bridge is there, and says whether that was not in its group.
func (t Table) AddNetwork(n *state.Network) (marked bool, err error) {
	if marked, err = t.mark(n); err != nil {
		return marked, err
	}
	if err = t.add(networkElements(n)); err != nil {
		return marked, err
	}
	return marked, takeLoopback(n)
}

// RemoveNetwork makes it forget one.
func (t Table) RemoveNetwork(n *state.Network) error { return t.remove(networkElements(n)) }

// Add makes the table know a machine: what its links may send, and where its ports are. It does that before they are there, or
// nothing would keep the machine from sending what it likes. A port that another has is an error, and nothing is done.
func (t Table) Add(m Member) error { return t.add(memberElements(m)) }

// Remove makes it forget a machine, or what there is of it. Ports that another has stay the other's.
func (t Table) Remove(m Member) error {
	all := memberElements(m)
	return errors.Join(t.remove(all), endFlows(all, true))
}

// Delete takes all of it away. Gone is fine.
func (t Table) Delete() error {
	c, err := connect()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	t.clear(c)
	if err := c.Flush(); err != nil {
		return wrap(err)
	}
	others, err := t.others(c)
	if err != nil || len(others) > 0 {
		return err // those of other roots need what all share
	}
	return takeSelf(false)
}

// ProbeTable says what this kernel lacks of what the table is made of, by making one in a network namespace of its own.
func ProbeTable() error {
	return trial(func() error {
		t := Table{"croft-probe"}
		err := t.Build(nil, nil)
		if err == nil {
			return nil
		}
		return cmp.Or(t.firstRefused(), err)
	})
}

// firstRefused finds the rule that a kernel refuses.
func (t Table) firstRefused() error {
	c, err := connect()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	try := func(what string, do func()) error {
		do()
		if err := c.Flush(); err != nil {
			return fmt.Errorf("this kernel's nf_tables cannot do %s", what)
		}
		return nil
	}
	for _, family := range tableFamilies() {
		if err := try("tables of this family", func() { c.AddTable(t.of(family)) }); err != nil {
			return err
		}
	}
	for _, s := range tableSets() {
		if err := try("the set "+s.name, func() { c.AddSet(t.set(s), nil) }); err != nil {
			return err
		}
	}
	for _, ch := range tableChains() {
		if err := try(fmt.Sprintf("chains of type %s", ch.kind), func() { c.AddChain(t.chain(ch)) }); err != nil {
			return err
		}
	}
	for _, r := range t.rules() {
		if err := try(r.nft, func() { c.AddRule(t.rule(r)) }); err != nil {
			return err
		}
	}
	return nil
}

func tableFamilies() [2]nftables.TableFamily {
	return [...]nftables.TableFamily{familyInet, familyBridge}
}

// clear takes the tables away, those that are not there as well: nf_tables has no other way to say that they may be missing.
func (t Table) clear(c *nftables.Conn) {
	for _, family := range tableFamilies() {
		c.AddTable(t.of(family))
		c.DelTable(t.of(family))
	}
}

// add makes elements be there. Those that are there already stay.
func (t Table) add(all []element) error {
	if len(all) == 0 {
		return nil
	}
	c, err := connect()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	if err := t.change(c, c.SetAddElements, all); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return t.explain(err, all)
	}
	return endFlows(all, false)
}

// remove makes elements not be there. Each is added first, since one that is missing cannot be deleted; that fails for one of
// a map that has another value, and so is not meant.
func (t Table) remove(all []element) error {
	if len(all) == 0 {
		return nil
	}
	err := t.tryRemove(all)
	if clashes(err) {
		found, err := t.conflicts(all)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(e element) bool {
			return slices.ContainsFunc(found, func(o conflict) bool { return o.is(e) })
		})
		for _, o := range found { // where a port led before is the machine's all the same
			if o.holder == o.comment {
				o.value = o.there
				all = append(all, o.element)
			}
		}
		return wrap(t.tryRemove(all))
	}
	if errors.Is(err, unix.ENOENT) { // the table is gone, and all that was in it
		return nil
	}
	return wrap(err)
}

func (t Table) tryRemove(all []element) error {
	c, err := connect()
	if err != nil {
		return err
	}
	// Closing waits until the kernel has freed what was removed, some 10 ms; the caller has a lock that others wait for.
	defer func() { go c.CloseLasting() }()
	return errors.Join(t.change(c, c.SetAddElements, all), t.change(c, c.SetDeleteElements, all), c.Flush())
}

// change puts elements, set by set, into the transaction. A message has room for some hundreds of them.
func (t Table) change(c *nftables.Conn, do func(*nftables.Set, []nftables.SetElement) error, all []element) error {
	for _, s := range tableSets() {
		var some []nftables.SetElement
		for _, e := range all {
			if e.set == s.name {
				some = append(some, nftables.SetElement{Key: e.key, Val: e.value, VerdictData: e.verdict, Comment: e.comment})
			}
		}
		for part := range slices.Chunk(some, 256) {
			if err := do(t.set(s), part); err != nil {
				return wrap(err)
			}
		}
	}
	return nil
}

// conflict is an element that cannot be added to its map, which has another value for its key.
type conflict struct {
	element
	there  []byte
	holder string
}

func (e element) is(o element) bool { return e.set == o.set && string(e.key) == string(o.key) }

// conflicts finds those of all that are in their maps with another value, whoever's.
func (t Table) conflicts(all []element) (found []conflict, err error) {
	c, err := connect() // one that has had an error has more answers to come
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	for _, s := range tableSets() {
		if s.data == nil || !slices.ContainsFunc(all, func(e element) bool { return e.set == s.name }) {
			continue
		}
		there, err := c.GetSetElements(t.set(s))
		if err != nil {
			return nil, wrap(err)
		}
		for _, e := range all {
			for _, o := range there {
				if e.set == s.name && string(o.Key) == string(e.key) && e.verdict == nil && string(o.Val) != string(e.value) {
					found = append(found, conflict{e, o.Val, o.Comment})
				}
			}
		}
	}
	return found, nil
}

// clashes says whether an element could not be added to its map for the value that is there.
func clashes(err error) bool { return errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) }

// explain tells whose the port is that all could not be added for.
func (t Table) explain(err error, all []element) error {
	if !clashes(err) {
		return wrap(err)
	}
	taken, failed := t.conflicts(all)
	taken = slices.DeleteFunc(taken, func(o conflict) bool { return o.holder == o.comment })
	if failed != nil || len(taken) == 0 {
		return wrap(err)
	}
	return fmt.Errorf("port %s is published by %s: %w", taken[0].port(), taken[0].holder, state.ErrBusy)
}

// port names the port that is the key of an element.
func (e element) port() string {
	proto, port := serviceOf(e.key)
	return fmt.Sprintf("%d/%s", port, proto)
}

// wrap gives the first of the errors that a transaction has for each of its parts.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	var first unix.Errno
	if errors.As(err, &first) {
		err = first
	}
	return fmt.Errorf("nf_tables: %w", err)
}

// connect opens a connection that has room for the largest of transactions, and for the answer to each part of it.
func connect() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(64<<20), c.SetReadBuffer(4<<20))
	}))
	if err != nil {
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	return c, nil
}

func (t Table) of(family nftables.TableFamily) *nftables.Table {
	return &nftables.Table{Name: t.Name, Family: family}
}

func (t Table) set(s tableSet) *nftables.Set {
	set := &nftables.Set{Table: t.of(s.family), Name: s.name, IsMap: s.data != nil, Concatenation: len(s.key) > 1}
	set.KeyType = nftables.MustConcatSetType(s.key...)
	if s.data != nil {
		set.DataType = nftables.MustConcatSetType(s.data...)
	}
	return set
}

func (t Table) chain(ch tableChain) *nftables.Chain {
	chain := &nftables.Chain{Table: t.of(ch.family), Name: ch.name, Type: ch.kind}
	if ch.hook != nil {
		chain.Hooknum, chain.Priority = ch.hook, &ch.priority
	}
	return chain
}

func (t Table) rule(r tableRule) *nftables.Rule {
	i := slices.IndexFunc(tableChains(), func(ch tableChain) bool { return ch.name == r.chain })
	ch := t.chain(tableChains()[i])
	return &nftables.Rule{Table: ch.Table, Chain: ch, Exprs: r.exprs, UserData: r.sum(ch.Table.Family)}
}

// sum is what Intact knows a rule by: a part of its user data that nft has no meaning for, with a hash of what it does.
func (r tableRule) sum(family nftables.TableFamily) []byte {
	h := fnv.New64a()
	for _, e := range r.exprs {
		b, err := expr.Marshal(byte(family), e)
		if err != nil {
			panic(err) // of a constant
		}
		h.Write(b)
	}
	const ours = 0xcf
	return userdata.Append(nil, ours, h.Sum(nil))
}

// networkElements is what the table has of a network: nothing, unless its bridge is croft's.
func networkElements(n *state.Network) (all []element) {
	if !n.Managed {
		return nil
	}
	bridge := name(n.Bridge)
	if !n.Isolated {
		all = append(all, element{set: "within", key: slices.Concat(bridge, bridge)})
	}
	for _, a := range n.Allow {
		proto, port, err := state.ParseService(a)
		if err == nil { // the record has been checked
			all = append(all, element{set: "allowed", key: slices.Concat(bridge, service(proto, port))})
		}
	}
	return all
}

// memberElements is what the table has of a machine.
func memberElements(m Member) (all []element) {
	var to4, to6 netip.Addr // where its ports are: at its first address of each kind
	for _, l := range m.Links {
		all = append(all, linkElements(l, m.Name)...)
		if !to4.IsValid() {
			to4 = l.IP.Addr()
		}
		if !to6.IsValid() {
			to6 = l.IP6.Addr()
		}
	}
	for _, p := range m.Ports {
		at, _ := netip.ParseAddr(p.IP)
		if to4.IsValid() && !at.Is6() {
			all = append(all, portElements("ports4", p, at, to4, m.Name)...)
		}
		if to6.IsValid() && !at.Is4() {
			all = append(all, portElements("ports6", p, at, to6, m.Name)...)
			if !at.IsValid() || at.IsUnspecified() || at.IsLoopback() {
				all = append(all, selfElements(p, to6, m.Name)...)
			}
		}
	}
	return all
}

// portElements sends a port of the host's, at one address or, if that is not valid or unspecified, at all of them, to a machine.
func portElements(set string, p state.Port, at, to netip.Addr, machine string) (all []element) {
	var key []byte
	if at.IsValid() && !at.IsUnspecified() {
		set, key = set+"_at", at.AsSlice()
	}
	for i := range uint16(p.Len()) {
		all = append(all, element{
			set: set, key: slices.Concat(key, service(p.Proto, p.Host+i)),
			value: slices.Concat(to.AsSlice(), number(p.Guest+i)), comment: machine,
		})
	}
	return all
}

// selfElements sends a port of ::1 to a machine.
func selfElements(p state.Port, to netip.Addr, machine string) (all []element) {
	for i := range uint16(p.Len()) {
		key := service(p.Proto, p.Host+i)
		as := asking(p.Proto, p.Host+i)
		put := func(set string, key, value []byte) {
			all = append(all, element{set: set, key: key, value: value, comment: machine})
		}
		put("self_as", key, as)
		put("self_to", key, to.AsSlice())
		put("self_at", key, number(p.Guest+i))
		put("self_back", as, number(p.Host+i))
	}
	return all
}

// self has the addresses as which the table asks machines for who asks at a port of ::1: a subnet of the host's own, and
// nobody else's.
var self = [16]byte{0xfd, 'c', 'r', 'o', 'f', 't'}

const selfBits = 96

// asking is the address for a port: the protocol and the port are its end.
func asking(proto string, port uint16) []byte {
	a, s := self, service(proto, port)
	a[13], a[14], a[15] = s[0], s[4], s[5]
	return a[:]
}

func linkElements(l state.Link, machine string) (all []element) {
	if l.Host == "" {
		return nil
	}
	host := name(l.Host)
	mac, err := net.ParseMAC(l.MAC)
	if err != nil {
		return nil // croft's own, or checked
	}
	chain := "lan"
	if l.Managed {
		chain = "guest"
	}
	own := slices.Concat(mac, []byte{0, 0})
	from := slices.Concat(host, own)
	all = []element{
		{set: "guests", key: host, verdict: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}, comment: machine},
		{set: "macs", key: from},
	}
	if !l.Managed {
		return all
	}
	all = append(all, element{set: "machines", key: own}, element{set: "same", key: slices.Concat(host, host)})
	addresses := func(version string, a netip.Addr) {
		all = append(all,
			element{set: "senders" + version, key: slices.Concat(from, a.AsSlice())},
			element{set: "neighbours" + version, key: slices.Concat(name(l.Parent), a.AsSlice())})
	}
	if l.IP.IsValid() {
		addresses("4", l.IP.Addr())
	}
	if l.IP6.IsValid() {
		addresses("6", l.IP6.Addr())
	}
	return append(all, element{set: "senders6", key: slices.Concat(from, linkLocal(mac))})
}

// linkLocal is the address that a link gives itself (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) []byte {
	return []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
}

// service is a protocol and a port as sets have them, each with a register of its own.
func service(proto string, port uint16) []byte {
	p := byte(unix.IPPROTO_TCP)
	if strings.EqualFold(proto, state.UDP) {
		p = unix.IPPROTO_UDP
	}
	return slices.Concat([]byte{p, 0, 0, 0}, number(port))
}

// serviceOf reads the service at the end of a key.
func serviceOf(key []byte) (proto string, port uint16) {
	end := key[len(key)-8:]
	proto = state.TCP
	if end[0] == unix.IPPROTO_UDP {
		proto = state.UDP
	}
	return proto, binary.BigEndian.Uint16(end[4:])
}

func number(port uint16) []byte { return []byte{byte(port >> 8), byte(port), 0, 0} }

// takeLoopback has the bridge of n take what is routed to 127.0.0.0/8: the answers to what the host asks there. The table drops
// everything else that would come that way, so it must be there first. And it has the host take what is answered to self.
func takeLoopback(n *state.Network) error {
	if n.Managed && n.IPv4.IsValid() {
		if err := sysctl("ipv4", n.Bridge, "route_localnet", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("bridge %s: %w", n.Bridge, err)
		}
	}
	if n.Managed && n.IPv6.IsValid() && HasIPv6() {
		return takeSelf(true)
	}
	return nil
}
