package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pack(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Pack(context.Background(), dir, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A tree with everything in it packs, unpacks and packs again to the same bytes.
func TestPackRoundTrip(t *testing.T) {
	a, b := newCage(t), newCage(t)
	su := file("bin/su", "su")
	su.Mode, su.Uid, su.Gid = 0o4755, 1, 2
	su.ModTime, su.Format = time.Unix(1234567890, 987654321), tar.FormatPAX
	odd := symlink("odd \n\xff", strings.Repeat("t", 300))
	odd.Uid = 100000
	err := a.unpack(archive(t, dir("./"), su, odd, hardlink("bin/zu", "bin/su"), hardlink("odd2", "odd \n\xff"),
		pax(dir("acl"), "SCHILY.xattr.user.x", "a\x00b"), file("acl/.wh.gone", ""), file("acl/.wh..wh..opq", ""),
		file("empty", ""), file("big", strings.Repeat("0123456789", 100000)),
		device("null", tar.TypeChar, 1, 3), device("loop", tar.TypeBlock, 7, 300), device("pipe", tar.TypeFifo, 0, 0)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	first := pack(t, a.dir)
	if err := b.unpack(first, Limits{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, pack(t, b.dir)) {
		t.Error("the second generation differs")
	}
	if x, y := b.stat("bin/su"), b.stat("bin/zu"); x.Ino != y.Ino {
		t.Error("a hard link became a copy")
	}
	if st := b.stat("acl/gone"); !isWhiteout(&st) || b.xattr("acl", opaqueXattr()) != "y" {
		t.Error("whiteouts are lost")
	}
}

func TestPackLeavesOut(t *testing.T) {
	c := newCage(t)
	if err := c.unpack(archive(t, file("f", "x"), dir("mnt"), symlink("out", "../secret")), Limits{}); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(c.dir, "sock")}); err != nil {
		t.Fatal(err)
	}
	// A bind mount of the same filesystem: the device number does not give it away.
	if err := unix.Mount(filepath.Join(c.outer, "etc"), filepath.Join(c.dir, "mnt"), "", unix.MS_BIND, ""); err != nil {
		t.Skipf("SKIPPED, PROVES NOTHING: no bind mount can be made: %v", err)
	}
	defer unix.Unmount(filepath.Join(c.dir, "mnt"), unix.MNT_DETACH)
	r := tar.NewReader(bytes.NewReader(pack(t, c.dir)))
	var names []string
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		names = append(names, h.Name)
	}
	if want := []string{"./", "f", "mnt/", "out"}; !slices.Equal(names, want) {
		t.Errorf("packed %v, want %v", names, want)
	}
}

func TestPackRefusesWhiteoutNames(t *testing.T) {
	c := newCage(t)
	if err := os.WriteFile(filepath.Join(c.dir, ".wh.f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := Pack(context.Background(), c.dir, &bytes.Buffer{})
	if err == nil || !strings.HasPrefix(err.Error(), "pack .wh.f: the name stands for a removed file") {
		t.Errorf("got %v", err)
	}
}
