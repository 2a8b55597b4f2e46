package run

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"croft/state"

	"golang.org/x/sys/unix"
)

func testEngine(t *testing.T) *Engine {
	t.Helper()
	e, err := Open(filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// record makes an instance with no more than a name, and its root.
func record(t *testing.T, e *Engine, name string) {
	t.Helper()
	if err := e.Dir.Create(&state.Instance{Spec: state.Spec{Name: name}}, func(*state.Instance) error { return nil }); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(e.Dir.RootOf(name), "upper/fs/data"), "precious")
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A damaged record is still a record: repair deletes the root of no instance.
func TestRepairSparesTheDamaged(t *testing.T) {
	for _, data := range []string{"", "{", "{}", "null", `{"schema": 0}`, `{"schema": 2, "uuid": "x"}`, `{"schema": 1, "uuid": "x"}`} {
		e := testEngine(t)
		record(t, e, "web")
		record(t, e, "good")
		put(t, filepath.Join(e.Dir.RootOf("stray"), "x"), "x")
		put(t, filepath.Join(e.Dir.RootOf(".gone-old"), "x"), "x")
		put(t, filepath.Join(e.Dir.Of("web"), "instance.json"), data)
		did, err := e.sweepStrays(e.Dir.Roots())
		if err != nil || len(did) != 2 {
			t.Errorf("%q: %q, %v", data, did, err)
		}
		entries, _ := os.ReadDir(e.Dir.Roots())
		var left []string
		for _, x := range entries {
			left = append(left, x.Name())
		}
		if !slices.Equal(left, []string{"good", "web"}) {
			t.Errorf("%q: roots left: %v", data, left)
		}
	}
}

func TestRepairSparesMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, PROVES NOTHING: it takes root to mount")
	}
	for _, name := range []string{"stray", ".gone-web"} {
		e := testEngine(t)
		precious := t.TempDir()
		put(t, filepath.Join(precious, "data"), "precious")
		point := filepath.Join(e.Dir.RootOf(name), "point")
		put(t, filepath.Join(point, "under"), "")
		if err := unix.Mount(precious, point, "", unix.MS_BIND, ""); err != nil {
			t.Skip("SKIPPED, PROVES NOTHING: ", err)
		}
		for range 2 {
			if did, err := e.sweepStrays(e.Dir.Roots()); !errors.Is(err, state.ErrBusy) {
				t.Errorf("%s: %q, %v; want ErrBusy", name, did, err)
			}
		}
		if _, err := os.Stat(filepath.Join(precious, "data")); err != nil {
			t.Error("what was mounted has been deleted: ", err)
		}
		unix.Unmount(point, unix.MNT_DETACH)
		unix.Unmount(filepath.Join(e.Dir.Roots(), ".gone-"+name, "point"), unix.MNT_DETACH)
		if did, err := e.sweepStrays(e.Dir.Roots()); err != nil || len(did) != 1 {
			t.Errorf("%s, unmounted: %q, %v", name, did, err)
		}
	}
}

// A rename that was killed at its last write has freed the old name, and another machine may have it by now: ending the
// rename takes nothing from that one.
func TestRenameSparesTheNextOfThatName(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, PROVES NOTHING: only root reserves ids")
	}
	for _, taken := range []bool{false, true} {
		e := testEngine(t)
		names := []string{"new"}
		if taken {
			names = append(names, "old")
		}
		for _, name := range names {
			record(t, e, name)
		}
		under := &state.Rename{From: "old", To: "new"}
		in, err := e.Dir.Edit("new", func(in *state.Instance) error {
			in.Rename = under
			return nil
		})
		if err == nil {
			err = e.settleRename(in)
		}
		if err != nil {
			t.Fatalf("taken %v: %v", taken, err)
		}
		if now, err := e.Dir.Get("new"); err != nil || now.UUID != in.UUID || now.Rename != nil {
			t.Errorf("taken %v: %+v, %v", taken, now, err)
		}
		for _, name := range names {
			if _, err := e.Dir.Get(name); err != nil {
				t.Errorf("taken %v: %v", taken, err)
			}
			if data, err := os.ReadFile(filepath.Join(e.Dir.RootOf(name), "upper/fs/data")); string(data) != "precious" {
				t.Errorf("taken %v: %s: %q, %v", taken, name, data, err)
			}
		}
	}
}
