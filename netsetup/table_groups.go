package netsetup

import (
	"errors"
	"fmt"
	"hash/fnv"

	"croft/state"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

// What a bridge's interface group says of its network, beside whose it is.
const (
	groupInternal = 1 << iota // no way out, and none in
	groupNAT4                 // machines have the host's address outside
	groupNAT6
	groupBits = 1<<iota - 1
)

// groups are the interface groups that are group in the bits of mask; with CmpOpNeq, all others.
type groups struct {
	group, mask uint32
	op          expr.CmpOp
}

// group is that of the table's own bridges, those for which a bit is set or, with 0, all of them.
func (t Table) group(bit uint32) groups {
	h := fnv.New32a()
	h.Write([]byte(t.Name))
	return groups{h.Sum32()&^groupBits | bit, ^uint32(groupBits) | bit, expr.CmpOpEq}
}

func (g groups) not() groups { return groups{g.group, g.mask, expr.CmpOpNeq} }

func (g groups) nft() string {
	op := map[expr.CmpOp]string{expr.CmpOpEq: "==", expr.CmpOpNeq: "!="}[g.op]
	return fmt.Sprintf("& %#x %s %#x", g.mask, op, g.group)
}

func (g groups) among(f field) part {
	return masked(f, binaryutil.NativeEndian.PutUint32(g.mask), g.op, binaryutil.NativeEndian.PutUint32(g.group))
}

// mark puts the bridge of n into the interface group by which the rules know it, and says whether it was in another. One that is
// not there will be when it is made.
func (t Table) mark(n *state.Network) (marked bool, err error) {
	if !n.Managed {
		return false, nil
	}
	link, err := netlink.LinkByName(n.Bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	var bits uint32
	for bit, is := range map[uint32]bool{groupInternal: n.Internal, groupNAT4: n.NAT4, groupNAT6: n.NAT6} {
		if is {
			bits |= bit
		}
	}
	if group := t.group(bits).group; err == nil && link.Attrs().Group != group {
		marked, err = true, netlink.LinkSetGroup(link, int(group))
	}
	if err != nil {
		return false, fmt.Errorf("bridge %s: %w", n.Bridge, err)
	}
	return marked, nil
}
