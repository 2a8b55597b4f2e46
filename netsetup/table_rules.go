package netsetup

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What croft's tables are made of. Chains and rules are the same on every host: what networks and machines there are is in the
// sets and maps, so that a start adds a few elements, however many machines there are.
//
// There is a table of family inet, for what is routed, and one of family bridge, for what machines send: there alone a frame
// is seen with the link that it came by, before anything has believed it (docs/decisions/036-filter.md).

// chain is one of ours. One without a hook is gone to by rules of others.
type tableChain struct {
	family   nftables.TableFamily
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
}

// tableSet is a set or, with data, a map.
type tableSet struct {
	family    nftables.TableFamily
	name      string
	key, data []nftables.SetDatatype
}

// tableRule is a rule of a chain, twice: as nft prints it, and as the kernel is told. The test has nft read the one and
// compares what the kernel then has with the other.
type tableRule struct {
	chain string
	nft   string
	exprs []expr.Any
}

const (
	familyInet   = nftables.TableFamilyINet
	familyBridge = nftables.TableFamilyBridge
)

func tableSets() []tableSet {
	type types = []nftables.SetDatatype
	ifname, mac, proto, port := nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeInetProto, nftables.TypeInetService
	ip, ip6 := nftables.TypeIPAddr, nftables.TypeIP6Addr
	return []tableSet{
		{familyInet, "within", types{ifname, ifname}, nil},  // each bridge with itself, if its machines reach one another
		{familyInet, "neighbours4", types{ifname, ip}, nil}, // who is on which bridge
		{familyInet, "neighbours6", types{ifname, ip6}, nil},
		{familyInet, "allowed", types{ifname, proto, port}, nil}, // what machines may reach of the host itself
		{familyInet, "ports4", types{proto, port}, types{ip, port}},
		{familyInet, "ports6", types{proto, port}, types{ip6, port}},
		{familyInet, "ports4_at", types{ip, proto, port}, types{ip, port}}, // published at one address of the host's
		{familyInet, "ports6_at", types{ip6, proto, port}, types{ip6, port}},
		// Where ports are for who asks at ::1: as whom to ask, whom, at which port; and at which port the answer is awaited.
		{familyInet, "self_as", types{proto, port}, types{ip6}},
		{familyInet, "self_to", types{proto, port}, types{ip6}},
		{familyInet, "self_at", types{proto, port}, types{port}},
		{familyInet, "self_back", types{ip6}, types{port}},
		{familyBridge, "guests", types{ifname}, types{nftables.TypeVerdict}}, // the host's ends of links
		{familyBridge, "macs", types{ifname, mac}, nil},
		{familyBridge, "senders4", types{ifname, mac, ip}, nil}, // who speaks for which address on which link
		{familyBridge, "senders6", types{ifname, mac, ip6}, nil},
		{familyBridge, "machines", types{mac}, nil},        // on croft's own bridges
		{familyBridge, "same", types{ifname, ifname}, nil}, // each link of theirs with itself
	}
}

func tableChains() []tableChain {
	none := nftables.ChainPriority(0)
	return []tableChain{
		{familyInet, "prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest},
		{familyInet, "output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest},
		{familyInet, "ports", "", nil, none},
		{familyInet, "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource},
		{familyInet, "arrive", "", nil, none},
		{familyInet, "forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter},
		{familyInet, "leave", "", nil, none},
		{familyInet, "enter", "", nil, none},
		{familyInet, "inside", "", nil, none},
		{familyInet, "closed", "", nil, none},
		{familyInet, "input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter},
		// Before connection tracking, and after it and all other filters.
		{familyInet, "self", nftables.ChainTypeRoute, nftables.ChainHookOutput, -300},
		{familyInet, "self_answer", nftables.ChainTypeFilter, nftables.ChainHookInput, 300},
		// Before br_netfilter, which is at 0 and would have the inet table see what nobody has looked at yet.
		{familyBridge, "from", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300},
		{familyBridge, "lan", "", nil, none},
		{familyBridge, "guest", "", nil, none},
		{familyBridge, "guest_arp", "", nil, none},
		{familyBridge, "guest_ipv4", "", nil, none},
		{familyBridge, "guest_ipv6", "", nil, none},
		{familyBridge, "guest_nobody", "", nil, none},
		{familyBridge, "onward", "", nil, none},
		{familyBridge, "across", nftables.ChainTypeFilter, nftables.ChainHookForward, none},
	}
}

// rules in their order. What none of croft's bridges has to do with passes each chain without a look into a set.
func (t Table) rules() []tableRule {
	ours, internal, nat4, nat6 := t.group(0), t.group(groupInternal), t.group(groupNAT4), t.group(groupNAT6)
	return []tableRule{
		{"prerouting", `fib daddr type != local accept`, do(notToHost(), accept())},
		// Bridges take what is routed to 127.0.0.0/8 (route_localnet), for the answers to what the host asked of itself there.
		// Nobody else is to come that way, nor by the rules for ports: those are before routing and know no martians.
		{"prerouting", `ip daddr 127.0.0.0/8 iifname != "lo" drop`,
			do(viaIPv4(), isLoopback(ipDaddr), ne(iifname, name("lo")...), drop())},
		{"prerouting", `goto ports`, do(toChain("ports"))},
		{"output", `fib daddr type local jump ports`, do(toHost(), jump("ports"))},
		{"ports", `dnat ip to ip daddr . meta l4proto . th dport map @ports4_at`,
			do(viaIPv4(), dnat(unix.NFPROTO_IPV4, "ports4_at", ipDaddr, l4proto, dport))},
		{"ports", `meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports4`,
			do(viaIPv4(), dnat(unix.NFPROTO_IPV4, "ports4", l4proto, dport))},
		{"ports", `dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6_at`,
			do(viaIPv6(), dnat(unix.NFPROTO_IPV6, "ports6_at", ip6Daddr, l4proto, dport))},
		{"ports", `meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @ports6`,
			do(viaIPv6(), dnat(unix.NFPROTO_IPV6, "ports6", l4proto, dport))},

		{"postrouting", `oifgroup ` + ours.nft() + ` goto arrive`, do(ours.among(oifgroup), toChain("arrive"))},
		{"postrouting", `meta nfproto ipv4 iifgroup ` + nat4.nft() + ` masquerade`, do(viaIPv4(), nat4.among(iifgroup), masquerade())},
		{"postrouting", `meta nfproto ipv6 iifgroup ` + nat6.nft() + ` masquerade`, do(viaIPv6(), nat6.among(iifgroup), masquerade())},
		{"arrive", `iifgroup ` + ours.not().nft() + ` accept`, do(ours.not().among(iifgroup), accept())},
		// A machine that asks its neighbour, or itself, by the host's address: the answer has to come back here.
		// By its address and not by the bridge it came from, which br_netfilter keeps to itself.
		{"arrive", `ct status dnat oifname . ip saddr @neighbours4 masquerade`,
			do(ctDNAT(), viaIPv4(), among("neighbours4", oifname, ipSaddr), masquerade())},
		{"arrive", `ct status dnat oifname . ip6 saddr @neighbours6 masquerade`,
			do(ctDNAT(), viaIPv6(), among("neighbours6", oifname, ip6Saddr), masquerade())},
		// The host that asks by 127.0.0.1, which no machine would answer.
		{"arrive", `ip saddr 127.0.0.0/8 masquerade`, do(viaIPv4(), isLoopback(ipSaddr), masquerade())},

		// Nearly every packet, also of others than croft's: they go on in either way.
		{"forward", `ct state established,related accept`,
			do(ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())},
		{"forward", `iifname "` + HostPrefix + `*" drop`, do(eq(iifname, []byte(HostPrefix)...), drop())}, // it has lost its bridge
		{"forward", `iifgroup ` + ours.nft() + ` goto leave`, do(ours.among(iifgroup), toChain("leave"))},
		{"forward", `oifgroup ` + ours.nft() + ` goto enter`, do(ours.among(oifgroup), toChain("enter"))},
		{"leave", `oifgroup ` + ours.nft() + ` goto enter`, do(ours.among(oifgroup), toChain("enter"))},
		{"leave", `iifgroup ` + internal.nft() + ` goto closed`, do(internal.among(iifgroup), toChain("closed"))},
		// It would go out with the machine's own address: nothing translates what belongs to no connection.
		{"leave", `ct state invalid drop`, do(ctState(expr.CtStateBitINVALID), drop())},
		{"enter", `ct status dnat iifgroup ` + internal.not().nft() + ` oifgroup ` + internal.not().nft() + ` accept`,
			do(ctDNAT(), internal.not().among(iifgroup), internal.not().among(oifgroup), accept())},
		{"enter", `goto inside`, do(toChain("inside"))},
		{"inside", `iifname . oifname @within accept`, do(among("within", iifname, oifname), accept())},
		{"inside", `goto closed`, do(toChain("closed"))},
		{"closed", `iifgroup ` + ours.nft() + ` reject with icmpx admin-prohibited`, do(ours.among(iifgroup), reject())},
		{"closed", `drop`, do(drop())},

		{"input", `ct state established,related accept`,
			do(ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())},
		{"input", `ip daddr 127.0.0.0/8 iifname != "lo" drop`,
			do(viaIPv4(), isLoopback(ipDaddr), ne(iifname, name("lo")...), drop())},
		{"input", `iifname "` + HostPrefix + `*" drop`, do(eq(iifname, []byte(HostPrefix)...), drop())},
		{"input", `iifgroup ` + ours.not().nft() + ` accept`, do(ours.not().among(iifgroup), accept())},
		{"input", `meta l4proto icmp accept`, do(eq(l4proto, unix.IPPROTO_ICMP), accept())},
		{"input", `meta l4proto ipv6-icmp accept`, do(eq(l4proto, unix.IPPROTO_ICMPV6), accept())},
		{"input", `iifname . meta l4proto . th dport @allowed accept`, do(among("allowed", iifname, l4proto, dport), accept())},
		{"input", `reject with icmpx admin-prohibited`, do(reject())},

		// What is asked at ::1 gets other addresses before it is tracked, and the answer gets those back when all else is done.
		// Nothing else will do: no answer to ::1 may come in by a link (RFC 4291), and connection tracking would have
		// made it one by then.
		{"self", `ip6 daddr ::1 ip6 saddr set meta l4proto . tcp dport map @self_as ip6 daddr set meta l4proto . tcp dport map @self_to tcp dport set meta l4proto . tcp dport map @self_at`,
			do(viaIPv6(), eq(ip6Daddr, loopback6...), eq(l4proto, unix.IPPROTO_TCP), ask(tcpSum))},
		{"self", `ip6 daddr ::1 ip6 saddr set meta l4proto . udp dport map @self_as ip6 daddr set meta l4proto . udp dport map @self_to udp dport set meta l4proto . udp dport map @self_at`,
			do(viaIPv6(), eq(ip6Daddr, loopback6...), eq(l4proto, unix.IPPROTO_UDP), ask(udpSum))},
		{"self_answer", `iifgroup ` + ours.nft() + ` ct state established tcp sport set ip6 daddr map @self_back ip6 saddr set ::1 ip6 daddr set ::1`,
			do(ours.among(iifgroup), ctState(expr.CtStateBitESTABLISHED), eq(l4proto, unix.IPPROTO_TCP), answer(tcpSum))},
		{"self_answer", `iifgroup ` + ours.nft() + ` ct state established udp sport set ip6 daddr map @self_back ip6 saddr set ::1 ip6 daddr set ::1`,
			do(ours.among(iifgroup), ctState(expr.CtStateBitESTABLISHED), eq(l4proto, unix.IPPROTO_UDP), answer(udpSum))},

		// What most of it is, with as little work as can be: nothing that the chain of a machine refuses is TCP of a right sender.
		{"from", `ether type ip meta l4proto tcp iifname . ether saddr . ip saddr @senders4 goto onward`,
			do(isIPv4(), eq(l4proto, unix.IPPROTO_TCP), among("senders4", iifname, etherSaddr, ipSaddr), toChain("onward"))},
		{"from", `ether type ip6 meta l4proto tcp iifname . ether saddr . ip6 saddr @senders6 goto onward`,
			do(isIPv6(), eq(l4proto, unix.IPPROTO_TCP), among("senders6", iifname, etherSaddr, ip6Saddr), toChain("onward"))},
		{"from", `iifname vmap @guests`, do(verdictOf("guests", iifname))},
		// A link on a bridge that is not croft's: its addresses are between the machine and the LAN.
		{"lan", `ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop`, do(isBridgeGroup(), drop())}, // never meant to be bridged
		{"lan", `iifname . ether saddr @macs accept`, do(among("macs", iifname, etherSaddr), accept())},
		{"lan", `drop`, do(drop())},

		{"guest", `iifname . ether saddr != @macs drop`, do(notAmong("macs", iifname, etherSaddr), drop())},
		{"guest", `ether type arp goto guest_arp`, do(eq(etherType, 0x08, 0x06), toChain("guest_arp"))},
		{"guest", `ether type ip goto guest_ipv4`, do(eq(etherType, 0x08, 0x00), toChain("guest_ipv4"))},
		{"guest", `ether type ip6 goto guest_ipv6`, do(eq(etherType, 0x86, 0xdd), toChain("guest_ipv6"))},
		{"guest", `drop`, do(drop())},

		{"guest_arp", `iifname . arp saddr ether . arp saddr ip @senders4 accept`,
			do(isARP(), among("senders4", iifname, arpSaddrEther, arpSaddrIP), accept())},
		{"guest_arp", `iifname . arp saddr ether != @macs drop`, do(isARP(), notAmong("macs", iifname, arpSaddrEther), drop())},
		// Who asks whether an address is free has none yet.
		{"guest_arp", `arp saddr ip 0.0.0.0 accept`, do(isARP(), eq(arpSaddrIP, 0, 0, 0, 0), accept())},
		{"guest_arp", `drop`, do(drop())},

		{"guest_ipv4", `iifname . ether saddr . ip saddr != @senders4 drop`, do(isIPv4(), notAmong("senders4", iifname, etherSaddr, ipSaddr), drop())},
		{"guest_ipv4", `icmp type redirect drop`, do(isIPv4(), eq(l4proto, unix.IPPROTO_ICMP), eq(icmpType, 5), drop())},
		{"guest_ipv4", `icmp type router-advertisement drop`, do(isIPv4(), eq(l4proto, unix.IPPROTO_ICMP), eq(icmpType, 9), drop())},
		{"guest_ipv4", `udp sport 67 drop`, do(eq(l4proto, unix.IPPROTO_UDP), eq(sport, 0, 67), drop())}, // answers of a DHCP server
		{"guest_ipv4", `goto onward`, do(toChain("onward"))},

		{"guest_ipv6", `ip6 saddr :: goto guest_nobody`, do(isIPv6(), eq(ip6Saddr, make([]byte, 16)...), toChain("guest_nobody"))},
		{"guest_ipv6", `iifname . ether saddr . ip6 saddr != @senders6 drop`, do(isIPv6(), notAmong("senders6", iifname, etherSaddr, ip6Saddr), drop())},
		{"guest_ipv6", `icmpv6 type nd-router-advert drop`, do(isICMPv6(), eq(icmpType, 134), drop())},
		{"guest_ipv6", `icmpv6 type nd-redirect drop`, do(isICMPv6(), eq(icmpType, 137), drop())},
		{"guest_ipv6", `icmpv6 type nd-neighbor-advert iifname . ether saddr . icmpv6 taddr != @senders6 drop`,
			do(isICMPv6(), eq(icmpType, 136), notAmong("senders6", iifname, etherSaddr, ndTarget), drop())},
		{"guest_ipv6", `udp sport 547 drop`, do(eq(l4proto, unix.IPPROTO_UDP), eq(sport, 547>>8, 547&0xff), drop())},
		{"guest_ipv6", `goto onward`, do(toChain("onward"))},

		// Before an address is one's own: whether another has it, and which groups to get.
		{"guest_nobody", `icmpv6 type nd-neighbor-solicit iifname . ether saddr . icmpv6 taddr @senders6 accept`,
			do(isICMPv6(), eq(icmpType, 135), among("senders6", iifname, etherSaddr, ndTarget), accept())},
		{"guest_nobody", `icmpv6 type mld2-listener-report accept`, do(isICMPv6(), eq(icmpType, 143), accept())},
		{"guest_nobody", `drop`, do(drop())},

		// What the bridge takes from one machine to another is not the host's to track, though br_netfilter would have it do so.
		{"onward", `meta pkttype host accept`, do(eq(pkttype, unix.PACKET_HOST), accept())},
		{"onward", `ether daddr @machines notrack`, do(among("machines", etherDaddr), notrack())},
		{"onward", `accept`, do(accept())},

		// Ports are hairpins, for a machine that asks itself by a published port. What it says to all is for all others.
		{"across", `ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 iifname . oifname @same drop`,
			do(isMulticast(), among("same", iifname, oifname), drop())},
	}
}

// part of a rule: it looks at something and the rule goes on if that is so, or it does something.
type part = []expr.Any

func do(parts ...part) []expr.Any { return slices.Concat(parts...) }

// field is something of a packet. It is loaded into the registers from reg on, which have four bytes each.
type field func(reg uint32) (load expr.Any, registers uint32)

func iifname(reg uint32) (expr.Any, uint32)  { return meta(expr.MetaKeyIIFNAME, reg), 4 }
func oifname(reg uint32) (expr.Any, uint32)  { return meta(expr.MetaKeyOIFNAME, reg), 4 }
func iifgroup(reg uint32) (expr.Any, uint32) { return meta(expr.MetaKeyIIFGROUP, reg), 1 }
func oifgroup(reg uint32) (expr.Any, uint32) { return meta(expr.MetaKeyOIFGROUP, reg), 1 }
func nfproto(reg uint32) (expr.Any, uint32)  { return meta(expr.MetaKeyNFPROTO, reg), 1 }
func l4proto(reg uint32) (expr.Any, uint32)  { return meta(expr.MetaKeyL4PROTO, reg), 1 }

func pkttype(reg uint32) (expr.Any, uint32) { return meta(expr.MetaKeyPKTTYPE, reg), 1 }

func etherDaddr(reg uint32) (expr.Any, uint32) { return payload(expr.PayloadBaseLLHeader, 0, 6, reg) }
func etherSaddr(reg uint32) (expr.Any, uint32) { return payload(expr.PayloadBaseLLHeader, 6, 6, reg) }
func etherType(reg uint32) (expr.Any, uint32)  { return payload(expr.PayloadBaseLLHeader, 12, 2, reg) }

func arpSaddrEther(reg uint32) (expr.Any, uint32) {
	return payload(expr.PayloadBaseNetworkHeader, 8, 6, reg)
}
func arpSaddrIP(reg uint32) (expr.Any, uint32) {
	return payload(expr.PayloadBaseNetworkHeader, 14, 4, reg)
}
func ipSaddr(reg uint32) (expr.Any, uint32) {
	return payload(expr.PayloadBaseNetworkHeader, 12, 4, reg)
}
func ipDaddr(reg uint32) (expr.Any, uint32) {
	return payload(expr.PayloadBaseNetworkHeader, 16, 4, reg)
}
func ip6Saddr(reg uint32) (expr.Any, uint32) {
	return payload(expr.PayloadBaseNetworkHeader, 8, 16, reg)
}
func ip6Daddr(reg uint32) (expr.Any, uint32) {
	return payload(expr.PayloadBaseNetworkHeader, 24, 16, reg)
}

func sport(reg uint32) (expr.Any, uint32) { return payload(expr.PayloadBaseTransportHeader, 0, 2, reg) }
func dport(reg uint32) (expr.Any, uint32) { return payload(expr.PayloadBaseTransportHeader, 2, 2, reg) }
func icmpType(reg uint32) (expr.Any, uint32) {
	return payload(expr.PayloadBaseTransportHeader, 0, 1, reg)
}
func ndTarget(reg uint32) (expr.Any, uint32) {
	return payload(expr.PayloadBaseTransportHeader, 8, 16, reg)
}

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

func payload(base expr.PayloadBase, offset, length, reg uint32) (expr.Any, uint32) {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length}, (length + 3) / 4
}

// first is the register where every part begins.
const first = unix.NFT_REG32_00

// load puts fields one after the other, as the keys of sets have them.
func load(fields ...field) (p part) {
	reg := uint32(first)
	for _, f := range fields {
		e, registers := f(reg)
		p, reg = append(p, e), reg+registers
	}
	return p
}

func among(set string, fields ...field) part {
	return append(load(fields...), &expr.Lookup{SourceRegister: first, SetName: set})
}

func notAmong(set string, fields ...field) part {
	return append(load(fields...), &expr.Lookup{SourceRegister: first, SetName: set, Invert: true})
}

// verdictOf does what a map says.
func verdictOf(set string, fields ...field) part {
	return append(load(fields...), &expr.Lookup{SourceRegister: first, SetName: set, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true})
}

func eq(f field, value ...byte) part {
	return append(load(f), &expr.Cmp{Op: expr.CmpOpEq, Register: first, Data: value})
}

func ne(f field, value ...byte) part {
	return append(load(f), &expr.Cmp{Op: expr.CmpOpNeq, Register: first, Data: value})
}

// The first two are for chains that see what the host has taken as such, the others look at the frame itself.
func viaIPv4() part  { return eq(nfproto, unix.NFPROTO_IPV4) }
func viaIPv6() part  { return eq(nfproto, unix.NFPROTO_IPV6) }
func isIPv4() part   { return eq(etherType, 0x08, 0x00) }
func isIPv6() part   { return eq(etherType, 0x86, 0xdd) }
func isARP() part    { return eq(etherType, 0x08, 0x06) }
func isICMPv6() part { return eq(l4proto, unix.IPPROTO_ICMPV6) }

// masked compares the bits of mask in a field with those of value, which is as long.
func masked(f field, mask []byte, op expr.CmpOp, value []byte) part {
	return append(load(f),
		&expr.Bitwise{SourceRegister: first, DestRegister: first, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: op, Register: first, Data: value})
}

// isMulticast is a frame to a group, or to all.
func isMulticast() part {
	return masked(etherDaddr, []byte{1, 0, 0, 0, 0, 0}, expr.CmpOpEq, []byte{1, 0, 0, 0, 0, 0})
}

// isBridgeGroup is a frame to one of the groups of bridges themselves (IEEE 802.1Q, table 8-1).
func isBridgeGroup() part {
	return masked(etherDaddr, []byte{255, 255, 255, 255, 255, 0xf0}, expr.CmpOpEq, []byte{0x01, 0x80, 0xc2, 0, 0, 0})
}

// isLoopback is an address in 127.0.0.0/8.
func isLoopback(f field) part {
	return masked(f, []byte{255, 0, 0, 0}, expr.CmpOpEq, []byte{127, 0, 0, 0})
}

// bits wants one of them at least.
func bits(key expr.CtKey, wanted uint32) part {
	of := func(reg uint32) (expr.Any, uint32) { return &expr.Ct{Key: key, Register: reg}, 1 }
	return masked(of, binaryutil.NativeEndian.PutUint32(wanted), expr.CmpOpNeq, make([]byte, 4))
}

func ctState(wanted uint32) part { return bits(expr.CtKeySTATE, wanted) }
func ctDNAT() part               { return bits(expr.CtKeySTATUS, ipsDstNAT) }

// ipsDstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ipsDstNAT = 1 << 5

// toHost is a packet to an address of the host's, notToHost one that is not.
func toHost() part    { return addressed(expr.CmpOpEq) }
func notToHost() part { return addressed(expr.CmpOpNeq) }

func addressed(op expr.CmpOp) part {
	return part{
		&expr.Fib{Register: first, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: first, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// dnat sends to the address and port that a map has.
func dnat(family uint32, ports string, fields ...field) part {
	port := uint32(first + 1)
	if family == unix.NFPROTO_IPV6 {
		port = first + 4
	}
	return append(load(fields...),
		&expr.Lookup{SourceRegister: first, SetName: ports, DestRegister: first, IsDestRegSet: true},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: first, RegProtoMin: port})
}

// loopback6 is ::1.
var loopback6 = []byte{15: 1}

// Where the checksum of a protocol is in its header.
const (
	tcpSum = 16
	udpSum = 6
)

// ask writes the addresses and the port that the maps have for a port of ::1. All of them have it, or none and nothing is done.
func ask(sum uint32) part {
	return slices.Concat(
		load(l4proto, dport), part{valueOf("self_as"), writeAddress(ip6SaddrAt)},
		load(l4proto, dport), part{valueOf("self_to"), writeAddress(ip6DaddrAt)},
		load(l4proto, dport), part{valueOf("self_at"), writePort(2, sum)})
}

// answer makes what came for the one as whom it was asked come from ::1.
func answer(sum uint32) part {
	return slices.Concat(viaIPv6(),
		load(ip6Daddr), part{valueOf("self_back"), writePort(0, sum)},
		part{&expr.Immediate{Register: first, Data: loopback6}, writeAddress(ip6SaddrAt)},
		part{&expr.Immediate{Register: first, Data: loopback6}, writeAddress(ip6DaddrAt)})
}

// Where the addresses are in an IPv6 header.
const (
	ip6SaddrAt = 8
	ip6DaddrAt = 24
)

func valueOf(set string) expr.Any {
	return &expr.Lookup{SourceRegister: first, SetName: set, DestRegister: first, IsDestRegSet: true}
}

func writeAddress(offset uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 16,
		CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR}
}

func writePort(offset, sum uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: first, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2,
		CsumType: expr.CsumTypeInet, CsumOffset: sum}
}

func masquerade() part { return part{&expr.Masq{}} }
func notrack() part    { return part{&expr.Notrack{}} }

func reject() part {
	return part{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

func accept() part              { return part{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() part                { return part{&expr.Verdict{Kind: expr.VerdictDrop}} }
func jump(chain string) part    { return part{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }
func toChain(chain string) part { return part{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

// name is one as the kernel compares it: as long as they can be.
func name(s string) []byte { return append([]byte(s), make([]byte, unix.IFNAMSIZ-len(s))...) }
