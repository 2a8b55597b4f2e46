package netsetup

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"

	"croft/state"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// tablePrefix begins the names of the tables of all roots.
const tablePrefix = "croft"

// Owner is a machine in the table of some root.
type Owner struct{ Table, Machine string }

// Others are the ports that tables of other roots publish. The kernel refuses a port twice in one table only: of two tables
// the one that was made first would have it, and the other's machine would never be asked.
func (t Table) Others() (map[Owner][]state.Port, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	others, err := t.others(c)
	if err != nil {
		return nil, err
	}
	all := map[Owner][]state.Port{}
	for _, o := range others {
		if err := o.published(all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// others are the tables of other roots.
func (t Table) others(c *nftables.Conn) (others []Table, err error) {
	tables, err := c.ListTablesOfFamily(familyInet)
	for _, o := range tables {
		if o.Name != t.Name && strings.HasPrefix(o.Name, tablePrefix) {
			others = append(others, Table{o.Name})
		}
	}
	return others, wrap(err)
}

// published adds what t publishes. A table or set that goes meanwhile, or that another build's table is without, has nothing.
func (t Table) published(all map[Owner][]state.Port) error {
	for _, s := range tableSets() {
		if !strings.HasPrefix(s.name, "ports") {
			continue
		}
		c, err := connect() // one that has had an error has more answers to come
		if err != nil {
			return err
		}
		elements, err := c.GetSetElements(t.set(s))
		c.CloseLasting()
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return wrap(err)
		}
		for _, e := range elements {
			owner := Owner{t.Name, e.Comment}
			all[owner] = append(all[owner], publishedBy(e))
		}
	}
	return nil
}

// publishedBy reads what portElements has written.
func publishedBy(e nftables.SetElement) (p state.Port) {
	if a, ok := netip.AddrFromSlice(e.Key[:len(e.Key)-8]); ok {
		p.IP = a.String()
	}
	p.Proto, p.Host = serviceOf(e.Key)
	p.Guest = binary.BigEndian.Uint16(e.Val[len(e.Val)-4:])
	return p
}
