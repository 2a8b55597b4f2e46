package idmap

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"croft/state"
)

const block = 1 << 16

func TestPick(t *testing.T) {
	pool := state.Range{Base: 8 * block, Size: 4 * block}
	at := func(base, size uint32) state.Range { return state.Range{Base: base, Size: size} }
	for _, c := range []struct {
		name  string
		pool  state.Range
		size  uint32
		taken []state.Range
		want  uint32 // 0: exhausted
	}{
		{"empty", pool, block, nil, 8 * block},
		{"first taken", pool, block, []state.Range{at(8*block, block)}, 9 * block},
		{"one id in the way", pool, block, []state.Range{at(8*block+77, 1)}, 9 * block},
		{"a hole", pool, block, []state.Range{at(10*block, block), at(8*block, block)}, 9 * block},
		{"a hole too small", pool, 2 * block, []state.Range{at(9*block, block)}, 10 * block},
		{"one inside another", pool, block, []state.Range{at(8*block, 3*block), at(9*block, 1)}, 11 * block},
		{"reaches in from below", pool, block, []state.Range{at(7*block, block+1)}, 9 * block},
		{"outside", pool, block, []state.Range{at(0, 8*block), at(12*block, block)}, 8 * block},
		{"unaligned pool", at(8*block+1, 4*block), block, nil, 9 * block},
		{"the whole pool", pool, 4 * block, nil, 8 * block},
		{"larger than the pool", pool, 4*block + 1, nil, 0},
		{"full", pool, block, []state.Range{pool}, 0},
		{"last one taken by a single id", at(8*block, block), block, []state.Range{at(9*block-1, 1)}, 0},
		{"the end of all ids", at(1<<32-2*block, 2*block-1), block, []state.Range{at(1<<32-2*block, 1)}, 0},
		{"taken to the end of all ids", pool, block, []state.Range{at(0, 1<<32-1)}, 0},
	} {
		got, err := Pick(c.pool, c.size, c.taken)
		if c.want == 0 {
			if !errors.Is(err, state.ErrBusy) {
				t.Errorf("%s: %v, %v; want ErrBusy", c.name, got, err)
			}
		} else if err != nil || got != at(c.want, c.size) {
			t.Errorf("%s: %v, %v; want %d", c.name, got, err, c.want)
		}
	}
}

// lowest finds by trying what Pick has to find; false when there is none.
func lowest(pool state.Range, size uint32, taken []state.Range) (state.Range, bool) {
	for at := uint64(0); at+uint64(size) <= pool.End(); at += block {
		r := state.Range{Base: uint32(at), Size: size}
		free := at >= uint64(pool.Base)
		for _, t := range taken {
			free = free && !r.Overlaps(t)
		}
		if free {
			return r, true
		}
	}
	return state.Range{}, false
}

func TestPickIsTheLowestFree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 20000 {
		pool := state.Range{Base: rng.Uint32N(4 * block), Size: 1 + rng.Uint32N(24*block)}
		size := 1 + rng.Uint32N(3*block)
		var taken []state.Range
		for range rng.IntN(12) {
			taken = append(taken, state.Range{Base: rng.Uint32N(28 * block), Size: 1 + rng.Uint32N(3*block)})
		}
		before := append([]state.Range(nil), taken...)
		got, err := Pick(pool, size, taken)
		want, ok := lowest(pool, size, taken)
		if ok != (err == nil) || got != want {
			t.Fatalf("Pick(%v, %d, %v) = %v, %v; want %v, %v", pool, size, taken, got, err, want, ok)
		}
		if !reflect.DeepEqual(before, taken) {
			t.Fatal("the caller's list was changed")
		}
		if ok {
			found++
		}
	}
	if found < 2000 || found > 18000 {
		t.Errorf("%d of 20000 found one: the test asks one kind of question only", found)
	}
}

func TestPoolHoldsNobody(t *testing.T) {
	if Size <= 65534 {
		t.Error("a machine has no nobody")
	}
	first, err := Pick(Pool, Size, nil)
	if err != nil || first.Base != 524288 || Pool.End() != 1879048192 {
		t.Errorf("%v, %v; the pool ends at %d", first, err, Pool.End())
	}
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDelegated(t *testing.T) {
	good := state.Range{Base: 100000, Size: 65536}
	for _, c := range []struct {
		name, content string
		want          []state.Range
	}{
		{"usual", "joe:100000:65536\n", []state.Range{good}},
		{"by number, no newline at the end", "1000:100000:65536", []state.Range{good}},
		{"blank and comment", "\n# joe:1:2:3\n\njoe:100000:65536\n", []state.Range{good}},
		{"too few and too many fields", "joe\njoe:1\njoe:1:2:3\njoe:100000:65536\n", []state.Range{good}},
		{"no numbers", "joe:x:65536\njoe:1:\njoe::\njoe:-1:5\njoe:100000:65536\n", []state.Range{good}},
		{"more than 32 bits", "joe:4294967296:1\njoe:1:4294967296\njoe:100000:65536\n", []state.Range{good}},
		{"none at all", "joe:100000:0\n", nil},
		{"binary", "\x00\xff:\xfe\n\x00", nil},
		{"a long line before", strings.Repeat("x", 1<<17) + "\njoe:100000:65536\n", []state.Range{good}},
		{"empty", "", nil},
	} {
		if got := Delegated(write(t, c.content)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := Delegated("/no/such/file"); got != nil {
		t.Errorf("missing: %v", got)
	}
	if got := Delegated(t.TempDir()); got != nil {
		t.Errorf("a directory: %v", got)
	}
}

func TestUnmapped(t *testing.T) {
	last := state.Range{Base: 1 << 20, Size: 1<<32 - 1 - 1<<20}
	for _, c := range []struct {
		name, content string
		want          []state.Range
	}{
		{"the host", "         0          0 4294967295\n", nil},
		{"a machine", "0 524288 65536\n", []state.Range{{Base: 65536, Size: 1<<32 - 1 - 65536}}},
		{"one with a hole", "65536 1 983040\n0 900000 1000\n2000 5 63536\n", []state.Range{{Base: 1000, Size: 1000}, last}},
		{"nothing", "", []state.Range{{Base: 0, Size: 1<<32 - 1}}},
	} {
		if got := unmapped(write(t, c.content)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := unmapped("/no/such/file"); got != nil {
		t.Errorf("without user namespaces: %v", got)
	}
}

func TestAccounts(t *testing.T) {
	many := "big:x:99:" + strings.Repeat("member,", 20000) + "\n" // a group may have that many
	path := write(t, "root:x:0:0::/root:/bin/sh\n"+many+"dyn:x:600000:600000::/:\nbad:x:y:\nshort:x\n")
	if got, want := accounts(path), []state.Range{{Base: 600000, Size: 1}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestNspawn(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"65536", "1048576", "1.5", "99999999999", "x", ".lck", "12x"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := map[state.Range]bool{{Base: 65536, Size: Size}: true, {Base: 1048576, Size: Size}: true}
	got := nspawn(dir)
	for _, r := range got {
		if !want[r] {
			t.Errorf("%v is of no lock file", r)
		}
	}
	if len(got) != 2 {
		t.Errorf("%v, want 2", got)
	}
	if got := nspawn(filepath.Join(dir, "no")); got != nil {
		t.Errorf("missing: %v", got)
	}
}

func TestRoomIsWhatPickCanGive(t *testing.T) {
	pool := state.Range{Base: 100000, Size: 10 * Size}
	for _, taken := range [][]state.Range{
		nil,
		{{Base: 1000, Size: 50}},
		{{Base: 131072, Size: 1}},
		{{Base: 200000, Size: 3 * Size}, {Base: 150000, Size: 60000}},
		{{Base: 0, Size: 1 << 31}},
		{{Base: uint32(pool.End()) - 1, Size: Size}},
	} {
		want := 0
		for given := taken; ; want++ {
			r, err := Pick(pool, Size, given)
			if err != nil {
				break
			}
			given = append(given[:len(given):len(given)], r)
		}
		if got := Room(pool, Size, taken); got != want {
			t.Errorf("%v: room for %d, and %d could be picked", taken, got, want)
		}
	}
}
