package idmap

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"croft/state"
)

func TestExtents(t *testing.T) {
	raw := []state.IDMap{{Kind: "both", Host: 1000, Guest: 500, Count: 2}, {Kind: "gid", Host: 70000, Guest: 27, Count: 1}}
	for _, c := range []struct {
		name      string
		got, want []Extent
	}{
		{"root's", Whole(Size, nil, "uid"), []Extent{{0, 0, Size}}},
		{"a user's", One(1000, nil, "uid"), []Extent{{1000, 0, 1}}},
		{"root's, with others", Whole(Size, raw, "uid"), []Extent{{1000, 500, 2}, {0, 0, 500}, {502, 502, 498}, {1002, 1002, Size - 1002}}},
		{"root's, groups", Whole(Size, raw[1:], "gid"), []Extent{{70000, 27, 1}, {0, 0, 27}, {28, 28, Size - 28}}},
		{"of one that is spoken of", One(1001, raw, "uid"), []Extent{{1000, 500, 2}}},
		{"of one that is not", One(999, raw, "uid"), []Extent{{1000, 500, 2}, {999, 0, 1}}},
		{"of one, where the root is another", One(999, []state.IDMap{{Kind: "uid", Host: 7, Guest: 0, Count: 1}}, "uid"), []Extent{{7, 0, 1}}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
}

// Whatever is asked for, no id is two others: the kernel would refuse the whole.
func TestExtentsAreOneToOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var raw []state.IDMap
		for range rng.IntN(6) {
			m := state.IDMap{Kind: "uid", Host: 1 + rng.Uint32N(200), Guest: rng.Uint32N(90), Count: 1 + rng.Uint32N(9)}
			free := true
			for _, o := range raw {
				free = free && !m.HostIDs().Overlaps(o.HostIDs()) && !m.GuestIDs().Overlaps(o.GuestIDs())
			}
			if free {
				raw = append(raw, m)
			}
		}
		const size = 100
		files, guests := map[uint32]bool{}, map[uint32]bool{}
		for _, x := range Whole(size, raw, "uid") {
			for i := range x.Count {
				if files[x.File+i] || guests[x.Guest+i] || x.Guest+i >= size {
					t.Fatalf("%v: %v", raw, x)
				}
				files[x.File+i], guests[x.Guest+i] = true, true
			}
		}
		for _, m := range raw {
			for i := range m.Count {
				if !files[m.Host+i] || !guests[m.Guest+i] {
					t.Fatalf("%v has no %v", raw, m)
				}
			}
		}
	}
}
