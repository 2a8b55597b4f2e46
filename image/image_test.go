package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"croft/state"
)

// testStore is a store with a small Unpack that makes directories and files: what a real one does with hostile
// archives is tested where it lives.
func testStore(t *testing.T) *Store {
	t.Helper()
	return &Store{Dir: filepath.Join(t.TempDir(), "images"), Unpack: unpackSmall, Pack: packSmall}
}

func unpackSmall(ctx context.Context, r io.Reader, dir string) (size, entries int64, err error) {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return size, entries, ctx.Err()
		}
		if err != nil {
			return 0, 0, fmt.Errorf("unpack: %w", err)
		}
		path := filepath.Join(dir, h.Name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		data, err := io.ReadAll(tr)
		if err == nil && h.Typeflag == tar.TypeReg {
			err = os.WriteFile(path, data, 0o755)
		}
		if err == nil && h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		}
		if err == nil && h.Typeflag == tar.TypeSymlink {
			err = os.Symlink(h.Linkname, path)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("unpack %s: %w", h.Name, err)
		}
		size, entries = size+int64(len(data)), entries+1
	}
}

func packSmall(_ context.Context, dir string, w io.Writer) error {
	tw := tar.NewWriter(w)
	if err := tw.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return tw.Close()
}

// rootfsTar is a small root filesystem; salt makes it another one.
func rootfsTar(t *testing.T, salt string) []byte {
	t.Helper()
	return tarOf(t, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian \\\"GNU\\\"\x1b[31m 13\"\n",
		"usr/bin/env", elf(62), "etc/salt", salt+strings.Repeat("some text ", 3000))
}

func tarOf(t *testing.T, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Mode: 0o755, Size: int64(len(pairs[i+1])), ModTime: time.Unix(1e9, 0)}
		if target, ok := strings.CutPrefix(pairs[i+1], "->"); ok {
			h.Typeflag, h.Linkname, h.Size, pairs[i+1] = tar.TypeSymlink, target, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, pairs[i+1])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func elf(machine byte) string {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	h[18] = machine
	return string(h)
}

// compressed is data in every compression that there is a compressor for.
func compressed(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"plain": data}
	write := func(name string, make func(w io.Writer) (io.WriteCloser, error)) {
		var b bytes.Buffer
		w, err := make(&b)
		if err == nil {
			_, err = w.Write(data)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b.Bytes()
	}
	write("gzip", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	write("xz", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
	write("zstd", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	cmd := exec.Command("bzip2", "-c")
	cmd.Stdin = bytes.NewReader(data)
	if b, err := cmd.Output(); err == nil {
		out["bzip2"] = b
	} else {
		t.Logf("SKIPPED for bzip2, which only its own program writes: %v", err)
	}
	return out
}

func imported(t *testing.T, s *Store, data []byte, aliases ...string) (Image, error) {
	t.Helper()
	return s.Import(context.Background(), ImportOptions{Source: "-", Stdin: bytes.NewReader(data), Aliases: aliases})
}

func mustImport(t *testing.T, s *Store, data []byte, aliases ...string) Image {
	t.Helper()
	img, err := imported(t, s, data, aliases...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// clean checks that the store holds so many images and layers, and nothing unfinished.
func clean(t *testing.T, s *Store, images, layers int) {
	t.Helper()
	got, err := digests(s.Dir)
	if err != nil || len(got) != images {
		t.Errorf("images: %v, %v; want %d", got, err, images)
	}
	got, err = digests(filepath.Join(s.Dir, layersName))
	if err != nil || len(got) != layers {
		t.Errorf("layers: %v, %v; want %d", got, err, layers)
	}
	for _, pattern := range []string{"*/.new-*", ".new-*", "*/.gone-*", ".gone-*"} {
		if left, _ := filepath.Glob(filepath.Join(s.Dir, pattern)); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}
}

func TestImportOneContentOneImage(t *testing.T) {
	s := testStore(t)
	data := rootfsTar(t, "")
	var first Image
	for name, archive := range compressed(t, data) {
		path := filepath.Join(t.TempDir(), "misleading.zip")
		if err := os.WriteFile(path, archive, 0o644); err != nil {
			t.Fatal(err)
		}
		var done, total int64
		img, err := s.Import(context.Background(), ImportOptions{Source: path, Aliases: []string{"debian/" + name},
			Progress: func(d, n int64) { done, total = d, n }})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if done != int64(len(archive)) || total != done {
			t.Errorf("%s: progress ended at %d of %d, the file has %d", name, done, total, len(archive))
		}
		if first.Fingerprint == "" {
			first = img
		}
		if img.Fingerprint != first.Fingerprint || !img.Imported.Equal(first.Imported) {
			t.Errorf("%s: another image: %+v", name, img)
		}
	}
	clean(t, s, 1, 1)
	img, err := s.Get("debian/xz")
	if err != nil {
		t.Fatal(err)
	}
	if img.OS != "debian" || img.Release != "13" || img.Description != `Debian "GNU"[31m 13` || img.Architecture != "x86_64" || img.Kind != KindRootfs {
		t.Errorf("described as %+v", img)
	}
	if _, err := os.Stat(filepath.Join(s.LayerPath(img.Layers[0]), "usr/bin/env")); err != nil {
		t.Error(err)
	}
}

func TestImportDirectory(t *testing.T) {
	s := testStore(t)
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "etc"), 0o755)
	os.WriteFile(filepath.Join(dir, "etc/hostname"), []byte("x"), 0o644)
	if _, err := s.Import(context.Background(), ImportOptions{Source: dir}); err != nil {
		t.Fatal(err)
	}
	clean(t, s, 1, 1)
	_, err := s.Import(context.Background(), ImportOptions{Source: filepath.Dir(s.Dir)})
	if err == nil || !strings.Contains(err.Error(), "holds croft's own images") {
		t.Errorf("the store was to be imported into itself: %v", err)
	}
}

func TestImportRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want string
		kind error
	}{
		{"nothing", nil, "is empty", state.ErrInvalid},
		{"text", bytes.Repeat([]byte("hello\n"), 1000), "is no root filesystem: neither a tar, compressed or not, nor a squashfs", state.ErrInvalid},
		{"gzipped text", compressed(t, []byte("hello"))["gzip"], "is no root filesystem: neither a tar, compressed or not, nor a squashfs", state.ErrInvalid},
		{"qcow2", append([]byte("QFI\xfb"), make([]byte, 5000)...), "a virtual machine, is not supported", state.ErrUnsupported},
		{"no root", tarOf(t, "README", "x"), "import standard input: holds no root filesystem", state.ErrInvalid},
		{"end only", make([]byte, 10240), "holds no root filesystem", state.ErrInvalid},
		{"squashfs", append([]byte("hsqs"), make([]byte, 5000)...), "squashfs is damaged: it says that it has no bytes", state.ErrInvalid},
		{"short squashfs", []byte("hsqs and no more"), "squashfs is truncated", state.ErrInvalid},
		{"lying squashfs", squashfsHead(5001), "squashfs is truncated: it says that it has 5001 bytes, and has 5000", state.ErrInvalid},
		{"erofs", append(append(make([]byte, 1024), "\xe2\xe1\xf5\xe0"...), make([]byte, 5000)...), "erofs is damaged: it says that it has no bytes", state.ErrInvalid},
		{"lying erofs", erofsHead(12, 2), "erofs is truncated: it says that it has 8192 bytes, and has 5000", state.ErrInvalid},
		{"boundless erofs", erofsHead(255, 1), "erofs is truncated", state.ErrInvalid},
		{"oci", tarOf(t, "oci-layout", "x", "index.json", "x"), "import standard input: OCI layout is damaged: ", state.ErrInvalid},
		{"docker", tarOf(t, "manifest.json", "x", "blobs/x", "x"), "import standard input: manifest.json is damaged: ", state.ErrInvalid},
		{"trailing garbage", append(rootfsTar(t, ""), "garbage"...), "archive is corrupt: data after its end", state.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := testStore(t)
			_, err := imported(t, s, c.data, "a")
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.kind) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			clean(t, s, 0, 0)
		})
	}
}

// squashfsHead is 5000 bytes that begin as a squashfs does, and say that they are so many.
func squashfsHead(claimed uint64) []byte {
	b := append([]byte("hsqs"), make([]byte, 4996)...)
	binary.LittleEndian.PutUint64(b[40:], claimed)
	return b
}

// erofsHead is 5000 bytes that begin as an EROFS does, of so many blocks.
func erofsHead(blockBits byte, blocks uint32) []byte {
	b := make([]byte, 5000)
	copy(b[1024:], "\xe2\xe1\xf5\xe0")
	b[1024+12] = blockBits
	binary.LittleEndian.PutUint32(b[1024+36:], blocks)
	return b
}

func TestImportTruncated(t *testing.T) {
	for name, data := range compressed(t, rootfsTar(t, "")) {
		first := 8 // any compression's magic
		if name == "plain" {
			first = 512
			data = data[:len(data)-512]
		}
		s := testStore(t)
		step := max(1, len(data)/400)
		for n := first; n < len(data); n += step {
			_, err := imported(t, s, data[:n])
			if err == nil && name == "plain" {
				continue // the small Unpack of this test takes a tar without its end
			}
			if err == nil || err.Error() != "import standard input: archive is truncated" {
				t.Errorf("%s cut at %d of %d: %v", name, n, len(data), err)
			}
		}
		if name != "plain" {
			clean(t, s, 0, 0)
		}
	}
}

func TestImportCorrupt(t *testing.T) {
	for name, data := range compressed(t, rootfsTar(t, "")) {
		if name == "plain" {
			continue // nothing tells
		}
		s := testStore(t)
		for n := len(data) / 4; n < len(data); n += len(data) / 4 {
			bad := bytes.Clone(data)
			bad[n] ^= 0x55
			_, err := imported(t, s, bad)
			if err == nil || !strings.HasPrefix(err.Error(), "import standard input: archive is ") || !errors.Is(err, state.ErrInvalid) {
				t.Errorf("%s with byte %d of %d changed: %v", name, n, len(data), err)
			}
		}
		clean(t, s, 0, 0)
	}
}

func TestImportLimits(t *testing.T) {
	s := testStore(t)
	bomb := compressed(t, append(rootfsTar(t, ""), make([]byte, 8<<20)...))["gzip"]
	_, err := s.Import(context.Background(), ImportOptions{Source: "-", Stdin: bytes.NewReader(bomb), MaxBytes: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "an image of more than 1048576 bytes is not valid") {
		t.Errorf("got %v", err)
	}
	_, err = s.Import(context.Background(), ImportOptions{Source: "-", Stdin: bytes.NewReader(rootfsTar(t, "")), MaxEntries: 2})
	if err == nil || !strings.Contains(err.Error(), "more than 2 entries") {
		t.Errorf("got %v", err)
	}
	clean(t, s, 0, 0)
}

// ^C ends an import that waits for bytes from a pipe that brings none.
func TestImportCancelled(t *testing.T) {
	for name, beginning := range map[string][]byte{"archive": rootfsTar(t, "")[:20480], "squashfs": squashfsHead(20480)} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			ctx, cancel := context.WithCancel(context.Background())
			r, w := io.Pipe()
			defer w.Close()
			go func() {
				w.Write(beginning)
				cancel()
			}()
			_, err := s.Import(ctx, ImportOptions{Source: "-", Stdin: r})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			clean(t, s, 0, 0)
		})
	}
}

func TestImportConcurrently(t *testing.T) {
	s := testStore(t)
	data := rootfsTar(t, "")
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = s.Import(context.Background(), ImportOptions{Source: "-", Stdin: bytes.NewReader(data), Aliases: []string{fmt.Sprint("a", i)}})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	clean(t, s, 1, 1)
	if list, err := s.List(); err != nil || len(list) != 1 || len(list[0].Aliases) != len(errs) {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestImportAliasTaken(t *testing.T) {
	s := testStore(t)
	one := mustImport(t, s, rootfsTar(t, "1"), "debian")
	mustImport(t, s, rootfsTar(t, "1"), "debian") // the same again is no conflict
	if _, err := imported(t, s, rootfsTar(t, "2"), "debian"); !errors.Is(err, state.ErrExist) {
		t.Errorf("got %v", err)
	}
	clean(t, s, 1, 1)
	two, err := s.Import(context.Background(), ImportOptions{Source: "-", Stdin: bytes.NewReader(rootfsTar(t, "2")), Aliases: []string{"debian"}, Reuse: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get("debian"); err != nil || got.Fingerprint != two.Fingerprint {
		t.Errorf("the alias was not moved: %v", err)
	}
	if got, err := s.Get(one.Fingerprint); err != nil || len(got.Aliases) != 0 {
		t.Errorf("the first image: %+v, %v", got, err)
	}
}

// The links of a hostile image lead the description nowhere.
func TestDescribeStaysInside(t *testing.T) {
	s := testStore(t)
	img := mustImport(t, s, tarOf(t, "etc/os-release", "->../../../../../../../../etc/os-release", "sbin/init", "->/bin/true", "etc/x", "x"))
	if img.OS != "" || img.Architecture != "" {
		t.Errorf("the host was read: %+v", img)
	}
	img = mustImport(t, s, tarOf(t, "etc/os-release", "->/usr/lib/os-release", "usr/lib/os-release", "ID=alpine", "sbin/init", "->/bin/true", "bin/true", elf(183)))
	if img.OS != "alpine" || img.Architecture != "aarch64" {
		t.Errorf("links inside were not followed: %+v", img)
	}
}

func TestGet(t *testing.T) {
	s := testStore(t)
	_, err := s.Get("debian:12")
	if want := "use docker:debian:12 or debian/12"; hint(err) != want {
		t.Errorf("%v, hint %q, want %q", err, hint(err), want)
	}
	img := mustImport(t, s, rootfsTar(t, ""), "debian/13", "trixie")
	for _, ref := range []string{"debian/13", "trixie", img.Fingerprint, img.Fingerprint[:6]} {
		if got, err := s.Get(ref); err != nil || got.Fingerprint != img.Fingerprint || !slices.Equal(got.Aliases, []string{"debian/13", "trixie"}) {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	for ref, want := range map[string]string{
		"debian:13": "use debian/13", "Debian-13": "use debian/13", "trixi": "use trixie",
		"debian:12": "use docker:debian:12 or debian/12", img.Fingerprint[:5]: "croft image list", "": "croft image list",
		"../../etc": "croft image list",
	} {
		_, err := s.Get(ref)
		if !errors.Is(err, state.ErrNotExist) || hint(err) != want {
			t.Errorf("%q: %v, hint %q, want %q", ref, err, hint(err), want)
		}
	}
}

func hint(err error) string {
	var h *state.Hinted
	if errors.As(err, &h) {
		return h.Hint
	}
	return ""
}

func TestRemove(t *testing.T) {
	s := testStore(t)
	one := mustImport(t, s, rootfsTar(t, "1"), "a", "b")
	mustImport(t, s, rootfsTar(t, "2"), "c")
	if err := s.Remove("a", func(string) []string { return []string{"web"} }); err != nil {
		t.Errorf("one of two aliases, used or not: %v", err)
	}
	clean(t, s, 2, 2)
	err := s.Remove("b", func(string) []string { return []string{"db", "web"} })
	if !errors.Is(err, state.ErrBusy) || err.Error() != "image b is in use by db, web" {
		t.Errorf("got %v", err)
	}
	if err := s.Remove("b", nil); err != nil {
		t.Error(err)
	}
	clean(t, s, 1, 1)
	if _, err := s.Get(one.Fingerprint); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := s.Remove("b", nil); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := s.Remove("c", nil); err != nil {
		t.Error(err)
	}
	clean(t, s, 0, 0)
}

func TestDamaged(t *testing.T) {
	s := testStore(t)
	bad := mustImport(t, s, rootfsTar(t, "1"), "bad")
	mustImport(t, s, rootfsTar(t, "2"), "good")
	record := filepath.Join(s.Dir, bad.Fingerprint, recordName)
	os.WriteFile(record, []byte(`{"schema": 99}`), 0o644)
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Damaged == "" || list[1].Damaged != "" || list[0].Name() != "bad" {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, err := s.Get("bad"); !errors.Is(err, state.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if said, err := s.Sweep(); err != nil || len(said) > 0 {
		t.Errorf("a layer that may be used was swept: %v, %v", said, err)
	}
	mustImport(t, s, rootfsTar(t, "1")) // mends it
	if got, err := s.Get("bad"); err != nil || got.Fingerprint != bad.Fingerprint {
		t.Errorf("%+v, %v", got, err)
	}
	os.WriteFile(record, nil, 0o644)
	if err := s.Remove("bad", nil); err != nil {
		t.Errorf("a damaged image cannot be removed: %v", err)
	}
	clean(t, s, 1, 1)
}

func TestAliases(t *testing.T) {
	s := testStore(t)
	one := mustImport(t, s, rootfsTar(t, "1"), "one")
	two := mustImport(t, s, rootfsTar(t, "2"), "two")
	if err := s.SetAlias("one", "two", false); !errors.Is(err, state.ErrExist) {
		t.Errorf("got %v", err)
	}
	if err := s.SetAlias("one", "two", true); err != nil {
		t.Error(err)
	}
	if got, err := s.Aliases(); err != nil || got["one"] != two.Fingerprint {
		t.Errorf("%v, %v", got, err)
	}
	if err := s.RemoveAlias("one"); err != nil {
		t.Error(err)
	}
	if err := s.RemoveAlias("one"); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for alias, ok := range map[string]bool{
		"debian/13": true, "a": true, "my_image-1.0": true, "A/b/c": true,
		"": false, "/a": false, "a/": false, "a//b": false, "..": false, "a/../b": false, "a/.b": false, "-a": false,
		"a b": false, "a:b": false, "ü": false, "a\n": false, one.Fingerprint: false, strings.Repeat("a", 129): false,
	} {
		if err := CheckAlias(alias); (err == nil) != ok || err != nil && !errors.Is(err, state.ErrInvalid) {
			t.Errorf("%q: %v", alias, err)
		}
	}
}

func TestRuns(t *testing.T) {
	for _, c := range []struct {
		image, host string
		want        bool
	}{
		{"x86_64", "x86_64", true}, {"i686", "x86_64", true}, {"armv7l", "aarch64", true}, {"", "riscv64", true},
		{"aarch64", "x86_64", false}, {"x86_64", "i686", false}, {"aarch64", "armv7l", false},
	} {
		if got := (Image{Architecture: c.image}).Runs(c.host); got != c.want {
			t.Errorf("%q on %s: %v", c.image, c.host, got)
		}
	}
	if Host() == "" {
		t.Error("no host architecture")
	}
}

// TestSpelled calls images of registries as people do, and images of one's own by nothing but their aliases.
func TestSpelled(t *testing.T) {
	aliases := map[string]string{
		"quay.io/team/app:latest": "a", "docker:nginx:latest": "b", "docker:grafana/loki:3": "c", "corp:app:latest": "d", "images:debian/13": "e",
		"own": "f", "localhost:5000/app:1": "g", "oci:/srv/lay:v1": "h",
	}
	for ref, want := range map[string]string{
		"quay.io/team/app": "a", "quay.io/team/app:latest": "a", "quay.io/team/app:2": "", "docker:nginx": "b", "docker:library/nginx": "b",
		"docker.io/library/nginx": "b", "docker:grafana/loki": "", "docker.io/grafana/loki:3": "c", "corp:app": "d", "corp:other": "",
		"images:debian/13": "e", "images:debian": "", "own": "f", "own:latest": "", "localhost:5000/app:1": "g", "localhost:5000/app": "",
		"oci:/srv/../srv/lay:v1": "h", "nginx": "", "": "", ":": "", "docker:": "", "quay.io/UPPER": "",
	} {
		if got := aliases[spelled(aliases, ref)]; got != want {
			t.Errorf("%q calls %q, and not %q", ref, got, want)
		}
	}
}

// TestRemoveSpelled takes one of two names away by another spelling, and then the image by the other name.
func TestRemoveSpelled(t *testing.T) {
	s := testStore(t)
	img := mustImport(t, s, rootfsTar(t, ""), "own")
	if err := s.locked(func() error { return s.call("quay.io/team/app:latest", img.Fingerprint) }); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get("quay.io/team/app")
	if err != nil || got.Fingerprint != img.Fingerprint || got.Alias != "quay.io/team/app:latest" {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := s.Remove("quay.io/team/app", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("quay.io/team/app"); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("the name is still there: %v", err)
	}
	if got, err := s.Get("own"); err != nil || got.Alias != "own" {
		t.Errorf("the image went with one of its names: %+v, %v", got, err)
	}
	if err := s.Remove("own", nil); err != nil {
		t.Error(err)
	}
	clean(t, s, 0, 0)
}
