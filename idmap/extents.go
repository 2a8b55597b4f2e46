package idmap

import (
	"slices"

	"croft/state"
)

// Extent says that Count ids of files, from File on, are those of a machine, from Guest on.
type Extent struct{ File, Guest, Count uint32 }

// Whole are the extents of a volume that shows the users or groups of files, "uid" or "gid", to a machine with size ids
// as they are, but for those of raw.
func Whole(size uint32, raw []state.IDMap, kind string) []Extent {
	raw = of(kind, raw)
	cuts := []uint64{0, uint64(size)} // where one of raw begins or ends on either side
	for _, m := range raw {
		for _, r := range []state.Range{m.HostIDs(), m.GuestIDs()} {
			cuts = append(cuts, min(uint64(r.Base), uint64(size)), min(r.End(), uint64(size)))
		}
	}
	slices.Sort(cuts)
	all := extents(raw)
	for i, end := range cuts[1:] {
		if from := uint32(cuts[i]); end > cuts[i] && !spoken(raw, from, from) {
			all = append(all, Extent{from, from, uint32(end - cuts[i])})
		}
	}
	return all
}

// One are those of a volume that shows the files of one user or group as those of the machine's root, and nobody else's
// but raw's.
func One(owner uint32, raw []state.IDMap, kind string) []Extent {
	raw = of(kind, raw)
	all := extents(raw)
	if !spoken(raw, owner, 0) {
		all = append(all, Extent{owner, 0, 1})
	}
	return all
}

func of(kind string, all []state.IDMap) (some []state.IDMap) {
	for _, m := range all {
		if m.Of(kind) {
			some = append(some, m)
		}
	}
	return some
}

func extents(raw []state.IDMap) (all []Extent) {
	for _, m := range raw {
		all = append(all, Extent{m.Host, m.Guest, m.Count})
	}
	return all
}

// spoken says whether raw speaks of an id of files, or of one of the machine's.
func spoken(raw []state.IDMap, file, guest uint32) bool {
	return slices.ContainsFunc(raw, func(m state.IDMap) bool {
		return m.HostIDs().Overlaps(state.Range{Base: file, Size: 1}) || m.GuestIDs().Overlaps(state.Range{Base: guest, Size: 1})
	})
}
