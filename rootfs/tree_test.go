package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"croft/state"
)

func TestLanding(t *testing.T) {
	for _, c := range []struct {
		src     string
		srcDir  bool
		dst     string
		is      kind
		several bool
		want    string
		err     error
	}{
		{"/etc/motd", false, "dir", directory, false, "motd", nil},
		{"/etc", true, "dir", directory, false, "etc", nil},
		{"/etc/", true, "dir/", directory, false, "etc", nil},
		{"/etc/.", true, "dir", directory, false, ".", nil},
		{"/etc/./", true, "dir", directory, false, ".", nil},
		{"/", true, "dir", directory, false, ".", nil},
		{"..", true, "dir", directory, false, ".", nil},
		{"a/..", true, "dir", directory, false, ".", nil},
		{"a", false, "dir/new", absent, false, "new", nil},
		{"a", true, "dir/new", absent, false, "new", nil},
		{"a", true, "dir/new/", absent, false, "new", nil},
		{"a/.", true, "new", absent, false, "new", nil},
		{"a", false, "old", regularFile, false, "old", nil},
		{"a", false, "new/", absent, false, "", state.ErrNotExist},
		{"a", true, "old", regularFile, false, "", state.ErrInvalid},
		{"a", false, "new", absent, true, "", state.ErrInvalid},
		{"a", false, "old", regularFile, true, "", state.ErrInvalid},
		{"a", false, "dir", directory, true, "a", nil},
	} {
		got, err := landing(c.src, c.srcDir, c.dst, c.is, c.several)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s (dir %v) to %s (%v): %q, %v", c.src, c.srcDir, c.dst, c.is, got, err)
		}
	}
}

// treeOf makes a machine's tree of a directory with these files; the ids are the host's.
func treeOf(t *testing.T, names ...string) (*Tree, string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	tree := MachineTree("web", root, state.Range{Base: 0, Size: 1 << 16})
	t.Cleanup(func() { tree.Close() })
	return tree, dir
}

func TestGlob(t *testing.T) {
	tree, dir := treeOf(t, "a/x.deb", "a/y.deb", "a/.z.deb", "b/x.deb", "[x].deb", "file", "a/sub/f")
	if err := os.Symlink("/a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]string{
		"/a/*.deb":     "/a/x.deb /a/y.deb",
		"a/*.deb":      "a/x.deb a/y.deb",
		"/*/x.deb":     "/a/x.deb /b/x.deb /link/x.deb",
		"/a/.*":        "/a/.z.deb",
		"/[x].deb":     "/[x].deb", // it is there
		"/?":           "/a /b",
		"/[ab]/?.deb":  "/a/x.deb /a/y.deb /b/x.deb",
		"/*/sub/":      "/a/sub/ /link/sub/",
		`/\[x\].deb`:   "/[x].deb",
		"/plain/not":   "/plain/not", // opening it will tell
		"/bad[pattern": "/bad[pattern",
		"/../../a/x*":  "/a/x.deb",
	} {
		got, err := tree.Glob(pattern)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v, want %s", pattern, got, err, want)
		}
	}
	for _, pattern := range []string{"/*.rpm", "/file/*", "/none/*", "/a/*/*/*"} {
		if got, err := tree.Glob(pattern); !errors.Is(err, state.ErrNotExist) {
			t.Errorf("%s: %v, %v", pattern, got, err)
		}
	}
}

func TestOwnersOfTrees(t *testing.T) {
	machine := MachineTree("web", os.Stdin, state.Range{Base: 1000000, Size: 65536})
	for host, want := range map[uint32]int{1000000: 0, 1001000: 1000, 1065535: 65535, 1065536: 65534, 0: 65534, 1000: 65534} {
		if got := machine.id(host); got != want {
			t.Errorf("%d is %d in the machine, not %d", host, got, want)
		}
	}
	if got := HostTree().id(1000); got != 1000 {
		t.Errorf("1000 is %d on the host", got)
	}
	w := &writer{tree: machine, how: Copying{Archive: true}}
	h := &tar.Header{Typeflag: tar.TypeReg, Uid: 1000, Gid: 1001, Mode: 0o4755}
	if err := w.settle(h); err != nil || h.Uid != 1001000 || h.Gid != 1001001 || h.Mode != 0o4755 {
		t.Errorf("%+v, %v", h, err)
	}
	if err := w.settle(&tar.Header{Typeflag: tar.TypeReg, Uid: 65536}); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("an owner that no machine has: %v", err)
	}
	w.how.Archive = false
	h = &tar.Header{Typeflag: tar.TypeReg, Uid: 70000, Gid: 1, Mode: 0o6755}
	if err := w.settle(h); err != nil || h.Uid != 1000000 || h.Gid != 1000000 || h.Mode != 0o755 {
		t.Errorf("%+v, %v", h, err)
	}
}

// Capabilities count for a root: in a copy for that of the place it is in.
func TestCapabilities(t *testing.T) {
	plain := "\x01\x00\x00\x02" + strings.Repeat("c", 16)
	rooted := "\x01\x00\x00\x03" + strings.Repeat("c", 16) + "\x40\x42\x0f\x00" // 1000000
	w := &writer{tree: MachineTree("web", os.Stdin, state.Range{Base: 1000000, Size: 65536}), how: Copying{Archive: true}}
	for _, value := range []string{plain, rooted} {
		h := &tar.Header{Typeflag: tar.TypeReg, PAXRecords: map[string]string{xattrRecord + capability: value}}
		if err := w.settle(h); err != nil || h.PAXRecords[xattrRecord+capability] != rooted {
			t.Errorf("%q became %q, %v", value, h.PAXRecords[xattrRecord+capability], err)
		}
		if got := plainCapability(value); got != plain {
			t.Errorf("%q became %q", value, got)
		}
	}
	if got := plainCapability("odd"); got != "odd" {
		t.Errorf("what is no capability of that form became %q", got)
	}
}

// Of extended attributes the users' go along, and capabilities with Archive.
func TestAttributesOfCopies(t *testing.T) {
	needRoot(t)
	tree, dir := treeOf(t, "file")
	capable := "\x01\x00\x00\x02" + strings.Repeat("\x00", 16)
	for name, value := range map[string]string{"user.note": "kept", "trusted.note": "dropped", capability: capable} {
		if err := unix.Setxattr(filepath.Join(dir, "file"), name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, archive := range []bool{false, true} {
		out := filepath.Join(t.TempDir(), "out")
		how := Copying{Archive: archive, Note: func(s string) { t.Error(s) }, Progress: func(int64) {}}
		if err := Copy(context.Background(), []Source{{Tree: tree, Path: "/file"}}, HostTree(), out, how); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, name := range []string{"user.note", "trusted.note", capability} {
			if n, err := unix.Getxattr(out, name, nil); err == nil && n > 0 {
				names = append(names, name)
			}
		}
		want := []string{"user.note"}
		if archive {
			want = append(want, capability)
		}
		if !slices.Equal(names, want) {
			t.Errorf("with archive %v: %v, not %v", archive, names, want)
		}
	}
}

// A directory that holds holes and data: both stay what they are, by either way of copying.
func TestHoles(t *testing.T) {
	tree, dir := treeOf(t, "sparse")
	const size = 64 << 20
	f, err := os.OpenFile(filepath.Join(dir, "sparse"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := strings.Repeat("data", 1<<18)
	_, err = f.WriteAt([]byte(data), 20<<20)
	if err := errors.Join(err, f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	how := Copying{Note: func(string) {}, Progress: func(int64) {}}
	archive, err := os.Create(filepath.Join(t.TempDir(), "tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	ctx, out := context.Background(), t.TempDir()
	if err := Copy(ctx, []Source{{Tree: tree, Path: "sparse"}}, HostTree(), filepath.Join(out, "copy"), how); err != nil {
		t.Fatal(err)
	}
	if err := CopyOut(ctx, []Source{{Tree: tree, Path: "sparse"}}, archive, how); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	if err := CopyIn(ctx, archive, HostTree(), out, how); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"copy", "sparse"} {
		got, err := os.ReadFile(filepath.Join(out, name))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(out, name), &st); err != nil || st.Blocks*512 > 8<<20 {
			t.Errorf("%s: %d bytes on disk, %v", name, st.Blocks*512, err)
		}
	}
}
