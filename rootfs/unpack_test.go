package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"croft/state"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, PROVES NOTHING: unpacking sets owners and makes devices, which takes root")
	}
}

// entry is one tar entry: a header and the content of a regular file.
type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func symlink(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}}
}

func hardlink(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}}
}

func device(name string, kind byte, major, minor int64) entry {
	return entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor}}
}

func pax(e entry, key, value string) entry {
	if e.PAXRecords == nil {
		e.PAXRecords = map[string]string{}
	}
	e.PAXRecords[key] = value
	e.Format = tar.FormatPAX
	return e
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.ModTime.IsZero() && e.Typeflag != tar.TypeXGlobalHeader {
			e.ModTime = time.Unix(1e9, 0)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// cage is a directory to unpack into with a neighbour that must stay as it is.
type cage struct {
	t     testing.TB
	outer string
	dir   string
}

func newCage(t testing.TB) *cage {
	t.Helper()
	needRoot(t)
	outer := t.TempDir()
	c := &cage{t, outer, filepath.Join(outer, "root")}
	for path, data := range map[string]string{"secret": "secret\n", "etc/passwd": "outside\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(outer, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outer, path), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cage) unpack(data []byte, limit Limits) error {
	_, err := Unpack(context.Background(), bytes.NewReader(data), c.dir, limit)
	c.intact()
	return err
}

// intact checks that nothing came to be, changed or got a second name outside the root.
func (c *cage) intact() {
	c.t.Helper()
	var found []string
	filepath.WalkDir(c.outer, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == c.dir {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			c.t.Fatal(err)
		}
		links := st.Nlink
		if d.IsDir() {
			links = 0
		}
		found = append(found, fmt.Sprintf("%s %o %d", strings.TrimPrefix(path, c.outer), st.Mode, links))
		return nil
	})
	want := []string{" 40755 0", "/etc 40755 0", "/etc/passwd 100644 1", "/secret 100644 1"}
	if !slices.Equal(found, want) {
		c.t.Fatalf("outside the root there is now\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}
	for path, want := range map[string]string{"secret": "secret\n", "etc/passwd": "outside\n"} {
		if got, err := os.ReadFile(filepath.Join(c.outer, path)); err != nil || string(got) != want {
			c.t.Fatalf("%s outside the root: %q, %v", path, got, err)
		}
	}
}

func (c *cage) stat(name string) (st unix.Stat_t) {
	c.t.Helper()
	if err := unix.Lstat(filepath.Join(c.dir, name), &st); err != nil {
		c.t.Fatalf("%s: %v", name, err)
	}
	return st
}

func (c *cage) read(name string) string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

func (c *cage) xattr(name, key string) string {
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(filepath.Join(c.dir, name), key, b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func TestUnpackRefusesHostileArchives(t *testing.T) {
	deep := strings.Repeat("d/", 3000) + "x"
	for _, c := range []struct {
		name    string
		entries []entry
		want    string // in the error
	}{
		{"climbing name", []entry{file("../secret", "x")}, "unpack ../secret: a name that leaves the root directory"},
		{"climbing in the middle", []entry{file("a/../../secret", "x")}, "leaves the root directory"},
		{"absolute climbing name", []entry{file("/../secret", "x")}, "leaves the root directory"},
		{"climbing directory", []entry{dir("..")}, "leaves the root directory"},
		{"climbing symlink name", []entry{symlink("../link", "x")}, "leaves the root directory"},
		{"hard link to outside", []entry{hardlink("a", "../secret")}, "hard link to ../secret: a name that leaves the root"},
		{"absolute hard link stays inside", []entry{hardlink("a", "/etc/hostname")}, "unpack a: hard link to /etc/hostname"},
		{"hard link through symlink", []entry{symlink("up", ".."), hardlink("a", "up/secret")}, "no such file or directory"},
		{"hard link to nothing", []entry{hardlink("a", "b")}, "hard link to b: no such file or directory"},
		{"hard link to directory", []entry{dir("d"), hardlink("a", "d")}, "directory d is not valid"},
		{"hard link over the root", []entry{file("f", "x"), hardlink(".", "f")}, "a root that is not a directory"},
		{"file over the root", []entry{file(".", "x")}, "a root that is not a directory"},
		{"symlink over the root", []entry{symlink(".", "/")}, "a root that is not a directory"},
		{"file as parent", []entry{file("f", "x"), file("f/x", "y")}, "not a directory"},
		{"dangling symlink as parent", []entry{symlink("l", "nowhere"), file("l/x", "y")}, "file exists"},
		{"symlink loop as parent", []entry{symlink("l", "l"), file("l/x", "y")}, "symbolic links"},
		{"proc link as parent", []entry{symlink("l", "/proc/self/root"), file("l/x", "y")}, "file exists"},
		{"bare overlay whiteout", []entry{device("gone", tar.TypeChar, 0, 0)}, "character device 0:0"},
		{"whiteout of nothing", []entry{file(".wh.", "")}, "a whiteout of nothing"},
		{"whiteout of dot", []entry{file("d/.wh..", "")}, "a whiteout of nothing"},
		{"whiteout of the parent", []entry{file("d/.wh...", "")}, "a whiteout of nothing"},
		{"whiteout with children", []entry{file(".wh.d/x", "")}, "a whiteout of nothing"},
		{"owner that is none", []entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 1<<32 - 1}}}, "owner 4294967295:0 is not valid"},
		{"negative owner", []entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f", Gid: -1, Format: tar.FormatGNU}}}, "owner 0:-1 is not valid"},
		{"too long", []entry{file(deep, "x")}, "file name too long"},
		{"control characters", []entry{file("../\x1b[2J", "x")}, `unpack "../\x1b[2J": `},
		{"unknown type", []entry{{Header: tar.Header{Typeflag: 'Q', Name: "q"}}}, `entry type 'Q' is not supported`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := newCage(t).unpack(archive(t, c.entries...), Limits{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// What looks like an attack and is harmless inside the root unpacks there.
func TestUnpackStaysInside(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []entry
		path    string
	}{
		{"absolute name", []entry{file("/etc/passwd", "mine")}, "etc/passwd"},
		{"dots that stay inside", []entry{file("a/../b", "mine")}, "b"},
		{"absolute symlink as parent", []entry{dir("etc"), symlink("l", "/etc"), file("l/passwd", "mine")}, "etc/passwd"},
		{"climbing symlink as parent", []entry{dir("etc"), symlink("l", "../../../etc"), file("l/passwd", "mine")}, "etc/passwd"},
		{"write through final symlink", []entry{symlink("f", "../secret"), file("f", "mine")}, "f"},
		{"chmod through final symlink", []entry{symlink("d", ".."), dir("d/"), file("d/f", "mine")}, "d/f"},
		{"write through hard link to symlink", []entry{symlink("s", "../secret"), hardlink("h", "s"), file("h", "mine")}, "h"},
		{"directory becomes symlink", []entry{dir("d"), file("d/a", "x"), symlink("d", ".."), file("d/secret", "mine")}, "secret"},
		{"remembered parent becomes symlink", []entry{file("d/e/a", "x"), symlink("d", "/"), file("d/e/a", "mine")}, "e/a"},
		{"hard link through inside symlink", []entry{file("d/f", "mine"), symlink("l", "/d"), hardlink("h", "l/f")}, "h"},
		{"hard link to itself", []entry{file("f", "mine"), hardlink("f", "f")}, "f"},
		{"hard link over its twin", []entry{file("f", "mine"), hardlink("g", "f"), hardlink("f", "g")}, "g"},
		{"file over full directory", []entry{file("d/a/b", "x"), file("d", "mine")}, "d"},
		{"usr merge", []entry{dir("usr/bin"), symlink("bin", "usr/bin"), file("bin/sh", "mine")}, "usr/bin/sh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cage := newCage(t)
			if err := cage.unpack(archive(t, c.entries...), Limits{}); err != nil {
				t.Fatal(err)
			}
			if got := cage.stat(c.path); got.Mode&unix.S_IFMT != unix.S_IFREG || cage.read(c.path) != "mine" {
				t.Errorf("%s: mode %o, %q", c.path, got.Mode, cage.read(c.path))
			}
		})
	}
}

func TestUnpackMetadata(t *testing.T) {
	c := newCage(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	when := time.Unix(1234567890, 123456789)
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	su := file("usr/bin/su", "su")
	su.Mode, su.Uid, su.Gid, su.ModTime, su.Format = 0o6755, 1000, 70000, when, tar.FormatPAX
	d := dir("var/tmp")
	d.Mode, d.ModTime, d.Format = 0o1777, when, tar.FormatPAX
	l := symlink("l", "/nowhere")
	l.Uid, l.ModTime, l.Format = 7, when, tar.FormatPAX
	root := dir("./")
	root.Mode = 0o750
	long := strings.Repeat("long/", 60) + strings.Repeat("n", 200)
	ping := pax(pax(pax(file("ping", "ping"), "SCHILY.xattr.security.capability", caps),
		"SCHILY.xattr.user.note", "hello"), "SCHILY.xattr.trusted.overlay.redirect", "/etc")
	gnu := file(long+"2", "gnu")
	gnu.Format = tar.FormatGNU
	err := c.unpack(archive(t, root, d, file("var/tmp/x", ""), su, l, ping, file(long, "long"), gnu,
		device("null", tar.TypeChar, 1, 3), device("loop", tar.TypeBlock, 7, 0), device("pipe", tar.TypeFifo, 0, 0),
		entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}),
		Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		".":          "40750 0:0 1000000000.000000000",
		"var/tmp":    "41777 0:0 1234567890.123456789",
		"usr/bin/su": "106755 1000:70000 1234567890.123456789",
		"l":          "120777 7:0 1234567890.123456789",
		"null":       "20600 0:0 1000000000.000000000",
		"loop":       "60600 0:0 1000000000.000000000",
		"pipe":       "10600 0:0 1000000000.000000000",
		long + "2":   "100644 0:0 1000000000.000000000",
	} {
		st := c.stat(name)
		if got := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec); got != want {
			t.Errorf("%.20s: %s, want %s", name, got, want)
		}
	}
	if st := c.stat("usr/bin"); st.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("a directory the archive did not bring has mode %o under umask 077", st.Mode)
	}
	if got := c.xattr("ping", "security.capability"); got != caps {
		t.Errorf("security.capability: %x", got)
	}
	if c.xattr("ping", "user.note") != "hello" || c.xattr("ping", "trusted.overlay.redirect") != "" {
		t.Error("user.note is missing or trusted.overlay.redirect was planted")
	}
	if made, _ := filepath.Glob(filepath.Join(c.dir, "*lobal*")); len(made) > 0 {
		t.Errorf("the global header became %v", made)
	}
}

func TestUnpackWhiteouts(t *testing.T) {
	c := newCage(t)
	err := c.unpack(archive(t,
		dir("d"), file("d/.wh.gone", ""), file("d/.wh..wh..opq", ""), file(".wh..wh.plnk/1.2", "aufs"),
		file("kept", "x"), file(".wh.kept", ""), // a whiteout is for the layers below
		file("late/x", "x"), file(".wh.late", ""),
		file(".wh.back", ""), dir("back"), file(".wh.again", ""), file("again", "x")), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if st := c.stat("d/gone"); !isWhiteout(&st) {
		t.Errorf("d/gone has mode %o, device %d", st.Mode, st.Rdev)
	}
	for name, want := range map[string]string{"d": "y", "late": "y", "back": "y"} {
		if got := c.xattr(name, opaqueXattr()); got != want {
			t.Errorf("%s: opaque %q", name, got)
		}
	}
	if c.read("kept") != "x" || c.read("again") != "x" || c.read("late/x") != "x" {
		t.Error("a whiteout took a file of its own layer")
	}
	names, _ := filepath.Glob(filepath.Join(c.dir, ".wh*"))
	if len(names) > 0 {
		t.Errorf("left over: %v", names)
	}
}

func TestUnpackSparse(t *testing.T) {
	c := newCage(t)
	data := strings.Repeat("\x00", 3<<20) + "middle" + strings.Repeat("\x00", 5<<20)
	if err := c.unpack(archive(t, file("sparse", data), file("zeros", strings.Repeat("\x00", 100))), Limits{}); err != nil {
		t.Fatal(err)
	}
	if c.read("sparse") != data || c.read("zeros") != data[:100] {
		t.Error("content differs")
	}
	if st := c.stat("sparse"); st.Blocks*512 > 256<<10 {
		t.Errorf("%d bytes are allocated", st.Blocks*512)
	}
}

// GNU tar's own sparse formats, with holes in front, between and behind.
func TestUnpackGNUSparse(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("SKIPPED: GNU tar is not installed")
	}
	for _, format := range []string{"gnu", "pax"} {
		c := newCage(t)
		src := t.TempDir()
		f, err := os.Create(filepath.Join(src, "f"))
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt([]byte("data"), 10<<20)
		f.Truncate(30 << 20)
		f.Close()
		data, err := exec.Command("tar", "-C", src, "--format="+format, "-S", "-c", "f").Output()
		if err != nil || len(data) > 1<<20 {
			t.Fatalf("tar -S made %d bytes: %v", len(data), err)
		}
		if err := c.unpack(data, Limits{}); err != nil {
			t.Fatal(err)
		}
		got := c.read("f")
		if len(got) != 30<<20 || strings.Trim(got, "\x00") != "data" || got[10<<20] != 'd' {
			t.Errorf("%s: %d bytes", format, len(got))
		}
	}
}

func TestUnpackLimits(t *testing.T) {
	many := []entry{dir("a"), dir("b"), dir("c")}
	for _, c := range []struct {
		entries []entry
		limit   Limits
		want    string
	}{
		{many, Limits{Entries: 3}, ""},
		{many, Limits{Entries: 2}, "unpack c/: an archive of more than 2 entries is not valid"},
		{[]entry{file("a", "12345"), file("b", "12345")}, Limits{Bytes: 10}, ""},
		{[]entry{file("a", "12345"), file("b", "123456")}, Limits{Bytes: 10}, "unpack b: an archive of more than 10 bytes"},
	} {
		for i := range c.entries {
			if c.entries[i].Typeflag == tar.TypeDir && !strings.HasSuffix(c.entries[i].Name, "/") {
				c.entries[i].Name += "/"
			}
		}
		err := newCage(t).unpack(archive(t, c.entries...), c.limit)
		if (err == nil) != (c.want == "") || err != nil && (!strings.HasPrefix(err.Error(), c.want) || !errors.Is(err, state.ErrInvalid)) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestUnpackTruncated(t *testing.T) {
	whole := archive(t, dir("d"), file("d/f", strings.Repeat("x", 2000)), symlink("l", "d"))
	for n := 0; n < len(whole)-512; n += 7 { // one block of the end mark is enough
		c := newCage(t)
		_, err := Unpack(context.Background(), bytes.NewReader(whole[:n]), c.dir, Limits{})
		if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasSuffix(err.Error(), "archive is truncated") {
			t.Fatalf("cut at %d of %d: %v", n, len(whole), err)
		}
		os.RemoveAll(c.outer)
	}
}

func TestUnpackCancelled(t *testing.T) {
	c := newCage(t)
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	go func() {
		w.Write(archive(t, file("a", strings.Repeat("x", 1<<20)))[:4096])
		cancel()
		w.Write(bytes.Repeat([]byte("x"), 1<<20))
	}()
	if _, err := Unpack(ctx, r, c.dir, Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r.Close()
}

func TestUnpackFullDisk(t *testing.T) {
	c := newCage(t)
	if err := unix.Mount("croft-test", c.dir, "tmpfs", 0, "size=64k,mode=755"); err != nil {
		t.Skipf("SKIPPED, PROVES NOTHING: no tmpfs can be mounted: %v", err)
	}
	defer unix.Unmount(c.dir, unix.MNT_DETACH)
	err := c.unpack(archive(t, file("usr/lib/x", strings.Repeat("x", 1<<20))), Limits{})
	if err == nil || err.Error() != "unpack usr/lib/x: no space left on device" {
		t.Errorf("got %v", err)
	}
}

// scripted builds an archive from lines "TYPE NAME LINK": checksums of tar headers would stop a fuzzer of bytes.
func scripted(t testing.TB, script string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for line := range strings.Lines(script) {
		f := append(strings.Fields(line), "", "", "")
		h := tar.Header{Typeflag: (f[0] + "0")[0], Name: f[1], Linkname: f[2], Mode: 0o755}
		if h.Typeflag == tar.TypeReg {
			h.Linkname, h.Size = "", int64(len(f[1]))
		}
		if w.WriteHeader(&h) == nil && h.Size > 0 {
			io.WriteString(w, f[1])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Archives of few names in many roles: every order of directory, symlink, hard link and file over each other.
func TestUnpackRandomArchives(t *testing.T) {
	needRoot(t)
	names := []string{"a", "b", "a/b", "b/a", "a/b/c", "b/secret", "a/etc/passwd", "/a/..", "a/../b", ".", "secret", "a/.wh.b", ".wh.a", "a/.wh..wh..opq"}
	links := []string{"a", "b", "..", "../..", "/", "../secret", "../../secret", "/a", "a/b", "b/../..", ".", "../etc", "/proc/self/cwd", "a/secret"}
	kinds := []string{"0", "0", "5", "2", "2", "1"}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	c := newCage(t)
	for range 600 {
		var script strings.Builder
		for range 2 + rnd.IntN(8) {
			fmt.Fprintln(&script, kinds[rnd.IntN(len(kinds))], names[rnd.IntN(len(names))], links[rnd.IntN(len(links))])
		}
		c.unpack(scripted(t, script.String()), Limits{}) // into what the ones before left
		if rnd.IntN(4) == 0 {
			if err := os.RemoveAll(c.dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(c.dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// FuzzUnpackBytes feeds archives of any bytes, whose checksums are made right: what else is in a header, in PAX records
// and in sparse maps is the fuzzer's.
func FuzzUnpackBytes(f *testing.F) {
	t := &testing.T{}
	f.Add(archive(t, dir("d"), file("d/f", "text"), symlink("l", ".."), hardlink("h", "d/f"), device("n", tar.TypeChar, 0, 0)))
	f.Add(archive(t, pax(file("x", "y"), "SCHILY.xattr.user.a", "b"), pax(file("s", ""), "LIBARCHIVE.xattr.security.capability", "AA==")))
	f.Add(archive(t, pax(file("p", "q"), "path", "../p"), file(strings.Repeat("long/", 60)+"name", "z")))
	f.Fuzz(func(t *testing.T, data []byte) {
		newCage(t).unpack(checksummed(data), Limits{Bytes: 1 << 20, Entries: 100})
	})
}

// checksummed writes the right checksum into each header of what may be an archive.
func checksummed(data []byte) []byte {
	data = bytes.Clone(data)
	for rest := data; len(rest) >= 512; {
		header := rest[:512]
		copy(header[148:156], "        ")
		sum := 0
		for _, b := range header {
			sum += int(b)
		}
		copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
		size, _ := strconv.ParseInt(strings.Trim(string(header[124:136]), " \x00"), 8, 64)
		next := 512 + (max(size, 0)+511)/512*512
		if next < 512 || next > int64(len(rest)) {
			break
		}
		rest = rest[next:]
	}
	return data
}

func FuzzUnpack(f *testing.F) {
	f.Add("5 d\n0 d/f\n2 l ..\n0 l/secret\n1 h d/f")
	f.Add("2 d /etc\n0 d/passwd\n0 .wh.d\n0 .wh..wh..opq\n3 null")
	f.Add("2 l ../\n5 l\n0 l/secret\n1 l/s secret\n6 pipe\n4 dev\n5 ./")
	f.Fuzz(func(t *testing.T, script string) {
		newCage(t).unpack(scripted(t, script), Limits{Bytes: 1 << 20, Entries: 100})
	})
}
