package state

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
)

func host(t *testing.T, dir string) *Host {
	t.Helper()
	h, err := openHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestHostReservations(t *testing.T) {
	d := open(t)
	in := make1(t, d, "web")
	me, other := Owner{d.Root, "web", in.UUID}, Owner{d.Root, "web", "another"}
	h := host(t, t.TempDir())
	r := Range{1 << 20, 1 << 16}
	if _, ok := h.Owner(r); ok {
		t.Error("a free range has an owner")
	}
	if err := h.Take(r, me); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Ranges(); err != nil || !reflect.DeepEqual(got, []Range{r}) {
		t.Errorf("%v, %v", got, err)
	}
	if o, ok := h.Owner(r); !ok || o != me {
		t.Errorf("owner %v, %v", o, ok)
	}
	if _, ok := h.Owner(Range{r.Base, 1}); ok {
		t.Error("a part of it is taken for it")
	}
	if err := h.Free(r, other); err != nil {
		t.Error(err)
	}
	if _, ok := h.Owner(r); !ok {
		t.Error("somebody else freed it")
	}
	for range 2 {
		if err := h.Free(r, me); err != nil {
			t.Error(err)
		}
	}
	if got, _ := h.Ranges(); got != nil {
		t.Errorf("still taken: %v", got)
	}
}

// Swept is what no record of any root asks for any more; what cannot be judged stays.
func TestHostSweep(t *testing.T) {
	a, b := open(t), open(t)
	kept, gone, remade := make1(t, a, "kept"), make1(t, b, "gone"), make1(t, b, "remade")
	make1(t, a, "damaged")
	dir := t.TempDir()
	h := host(t, dir)
	owners := []Owner{
		{a.Root, "kept", kept.UUID}, {a.Root, "damaged", "x"},
		{b.Root, "gone", gone.UUID}, {b.Root, "remade", remade.UUID}, {b.Root + "/no", "such", "root"},
	}
	for i, o := range owners {
		if err := h.Take(Range{uint32(i+1) << 16, 1 << 16}, o); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "ids", "393216-65536"), nil, 0o600) // of a croft killed while it wrote
	os.WriteFile(filepath.Join(dir, "ids", "README"), nil, 0o600)
	put(t, a, "damaged", "{")
	b.Remove("gone")
	b.Remove("remade")
	make1(t, b, "remade")
	swept, err := h.Sweep(b.Root) // which leaves another root's, however dead it looks
	if err != nil || len(swept) != 3 {
		t.Errorf("swept %v, %v", swept, err)
	}
	got, _ := h.Ranges()
	slices.SortFunc(got, func(a, b Range) int { return int(a.Base) - int(b.Base) })
	if want := []Range{{1 << 16, 1 << 16}, {2 << 16, 1 << 16}, {5 << 16, 1 << 16}}; !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
}

// The table is one process's at a time: what is seen free is still free when it is taken.
func TestHostIsExclusive(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			h, err := openHost(dir)
			if err != nil {
				t.Error(err)
				return
			}
			defer h.Close()
			taken, _ := h.Ranges()
			if err := h.Take(Range{uint32(len(taken)+1) << 16, 1 << 16}, Owner{"/r", "i", string(rune('a' + i))}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, _ := host(t, dir).Ranges(); len(got) != 30 {
		t.Errorf("%d ranges are taken, want 30", len(got))
	}
}

func TestRangeOverlaps(t *testing.T) {
	const top = 1<<32 - 1<<16
	for _, c := range []struct {
		a, b Range
		want bool
	}{
		{Range{0, 10}, Range{10, 10}, false}, {Range{0, 11}, Range{10, 10}, true}, {Range{5, 1}, Range{0, 100}, true},
		{Range{top, 1 << 16}, Range{0, 1}, false}, {Range{top, 1 << 16}, Range{1<<32 - 1, 1}, true},
	} {
		if c.a.Overlaps(c.b) != c.want || c.b.Overlaps(c.a) != c.want {
			t.Errorf("%v and %v: want %v", c.a, c.b, c.want)
		}
	}
}
