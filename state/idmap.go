package state

import (
	"fmt"
	"strconv"
	"strings"
)

// IDMap has users or groups of the host be others of the machine's on its volumes.
type IDMap struct {
	Kind  string `json:"kind"` // one of IDMapKinds
	Host  uint32 `json:"host"` // the first one
	Guest uint32 `json:"guest"`
	Count uint32 `json:"count"`
}

// IDMapKinds are what an IDMap speaks of.
var IDMapKinds = [...]string{"both", "uid", "gid"}

// MaxIDMaps is how many of them a machine has at most: the kernel takes 340 lines for a user namespace.
const MaxIDMaps = 100

// Of says whether m speaks of that kind, "uid" or "gid".
func (m IDMap) Of(kind string) bool { return m.Kind == kind || m.Kind == IDMapKinds[0] }

// HostIDs and GuestIDs are its two sides.
func (m IDMap) HostIDs() Range  { return Range{Base: m.Host, Size: m.Count} }
func (m IDMap) GuestIDs() Range { return Range{Base: m.Guest, Size: m.Count} }

// String writes it as ParseIDMap reads it.
func (m IDMap) String() string {
	side := func(r Range) string {
		if r.Size == 1 {
			return strconv.FormatUint(uint64(r.Base), 10)
		}
		return fmt.Sprintf("%d-%d", r.Base, r.End()-1)
	}
	return m.Kind + " " + side(m.HostIDs()) + " " + side(m.GuestIDs())
}

// ParseIDMap reads "KIND HOST[-HOST] GUEST[-GUEST]".
func ParseIDMap(text string) (IDMap, error) {
	wrong := fmt.Errorf("%q is not both|uid|gid HOST[-HOST] GUEST[-GUEST]", text)
	words := strings.Fields(text)
	if len(words) != 3 || words[0] != IDMapKinds[0] && words[0] != IDMapKinds[1] && words[0] != IDMapKinds[2] {
		return IDMap{}, wrong
	}
	host, err1 := parseIDs(words[1])
	guest, err2 := parseIDs(words[2])
	if err1 != nil || err2 != nil {
		return IDMap{}, wrong
	}
	if host.Size != guest.Size {
		return IDMap{}, fmt.Errorf("%q: %d ids of the host are not %d of the machine", text, host.Size, guest.Size)
	}
	return IDMap{words[0], host.Base, guest.Base, host.Size}, nil
}

func parseIDs(text string) (Range, error) {
	first, last, several := strings.Cut(text, "-")
	if !several {
		last = first
	}
	from, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return Range{}, err
	}
	to, err := strconv.ParseUint(last, 10, 32)
	if err == nil && (to < from || to == 1<<32-1) { // the last id is nobody's anywhere
		err = ErrInvalid
	}
	return Range{Base: uint32(from), Size: uint32(to - from + 1)}, err
}

// checkIDMaps wants no id to be two others, and none to be the host's root.
func (s *Spec) checkIDMaps(say func(field, format string, a ...any)) {
	const field, ids = "security.idmap", 1 << 16 // that every machine has
	all := s.Security.IDMap
	if len(all) > 0 && s.Security.Privileged {
		say(field, "a privileged machine has the host's ids, and shows them as they are")
	}
	if len(all) > MaxIDMaps {
		say(field, "%d are more than %d", len(all), MaxIDMaps)
		return
	}
	for i, m := range all {
		parsed, err := ParseIDMap(m.String())
		switch {
		case err != nil || parsed != m:
			say(field, "number %d is not valid", i+1)
		case m.Host == 0:
			say(field, "%s: 0 is the host's root, whose directories show their ids as they are", m)
		case m.GuestIDs().End() > ids:
			say(field, "%s: a machine has the ids 0-%d", m, ids-1)
		}
		for _, other := range all[:i] {
			if (m.Of("uid") && other.Of("uid") || m.Of("gid") && other.Of("gid")) &&
				(m.HostIDs().Overlaps(other.HostIDs()) || m.GuestIDs().Overlaps(other.GuestIDs())) {
				say(field, "%s: some of its ids are in %s as well", m, other)
				break
			}
		}
	}
}
