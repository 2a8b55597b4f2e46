package netsetup

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Describe tells what the table has of a machine: a line for each element, with the table and the set that it is in, as nft
// writes it.
func (t Table) Describe(m Member) (lines []string) {
	sets := tableSets()
	for _, x := range memberElements(m) {
		s := sets[slices.IndexFunc(sets, func(s tableSet) bool { return s.name == x.set })]
		family := map[nftables.TableFamily]string{familyInet: "inet", familyBridge: "bridge"}[s.family]
		line := fmt.Sprintf("%s %s %s: %s", family, t.Name, x.set, elementText(s.key, x.key))
		switch {
		case x.verdict != nil:
			line += " : goto " + x.verdict.Chain
		case x.value != nil:
			line += " : " + elementText(s.data, x.value)
		}
		lines = append(lines, line)
	}
	return lines
}

// elementText writes a key or a value of several parts; each begins at a register of four bytes.
func elementText(types []nftables.SetDatatype, data []byte) string {
	var words []string
	for _, t := range types {
		part := data[:t.Bytes]
		data = data[(t.Bytes+3)/4*4:]
		words = append(words, partText(t, part))
	}
	return strings.Join(words, " . ")
}

func partText(t nftables.SetDatatype, part []byte) string {
	switch t {
	case nftables.TypeIFName:
		return string(bytes.TrimRight(part, "\x00"))
	case nftables.TypeEtherAddr:
		return net.HardwareAddr(part).String()
	case nftables.TypeInetProto:
		return map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[part[0]]
	case nftables.TypeInetService:
		return fmt.Sprint(int(part[0])<<8 | int(part[1]))
	}
	a, _ := netip.AddrFromSlice(part)
	return a.String()
}
