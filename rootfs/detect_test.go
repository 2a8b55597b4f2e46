package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"croft/state"

	"golang.org/x/sys/unix"
)

// image makes layers out of words, lowest first: "path" is a program, "path/" a directory, "path->to" a link,
// "!path" a whiteout, "path=" a file that is no program, "path:text" a program with that in it, "path/*" an opaque directory.
func layersOf(t *testing.T, layers ...string) (dirs []string) {
	t.Helper()
	for _, words := range layers {
		dir := t.TempDir()
		for _, w := range strings.Fields(words) {
			makeEntry(t, dir, w)
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

func makeEntry(t *testing.T, dir, word string) {
	t.Helper()
	name, to, link := strings.Cut(word, "->")
	name, text, _ := strings.Cut(name, ":")
	path := filepath.Join(dir, strings.TrimRight(strings.TrimPrefix(name, "!"), "/=*"))
	try(t, os.MkdirAll(filepath.Dir(path), 0o755))
	switch {
	case link:
		try(t, os.Symlink(to, path))
	case name[0] == '!':
		needRoot(t)
		try(t, unix.Mknod(path, unix.S_IFCHR, 0))
	case strings.HasSuffix(name, "/*"):
		needRoot(t)
		try(t, os.MkdirAll(path, 0o755))
		try(t, unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0))
	case strings.HasSuffix(name, "/"):
		try(t, os.MkdirAll(path, 0o755))
	case strings.HasSuffix(name, "="):
		try(t, os.WriteFile(path, nil, 0o644))
	default:
		try(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "_", " ")), 0o755))
	}
}

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		name   string
		path   string
		layers []string
		want   string // "": does not exist
	}{
		{"plain", "/sbin/init", []string{"sbin/init"}, "/sbin/init"},
		{"not absolute", "sbin/init", []string{"sbin/init"}, "/sbin/init"},
		{"dots", "/x/../sbin/./init", []string{"sbin/init"}, "/sbin/init"},
		{"the root", "/", []string{"a"}, "/"},
		{"missing", "/sbin/init", []string{"sbin/"}, ""},
		{"below a file", "/sbin/init/x", []string{"sbin/init"}, ""},
		{"relative link", "/sbin/init", []string{"sbin/init->../lib/systemd lib/systemd"}, "/lib/systemd"},
		{"absolute link", "/sbin/init", []string{"sbin/init->/lib/systemd lib/systemd"}, "/lib/systemd"},
		{"merged usr", "/sbin/init", []string{"sbin->usr/sbin usr/sbin/init->../lib/systemd/systemd usr/lib/systemd/systemd"}, "/usr/lib/systemd/systemd"},
		{"merged usr, absolute", "/sbin/init", []string{"sbin->/usr/sbin usr/sbin/init->/lib/systemd/systemd lib->usr/lib usr/lib/systemd/systemd"}, "/usr/lib/systemd/systemd"},
		{"a link through a link and back", "/i", []string{"i->a/../x a->b/c b/c/ b/x x/"}, "/b/x"},
		{"a link with slashes and dots", "/i", []string{"i->.//a///./b a/b"}, "/a/b"},
		{"a link to the root", "/i/x", []string{"i->/ x"}, "/x"},
		{"escape by dots", "/sbin/init", []string{"sbin/init->../../../../../../../../etc/passwd etc/passwd"}, "/etc/passwd"},
		{"escape that leads nowhere", "/sbin/init", []string{"sbin/init->../../../../../../../../../../etc/passwd sbin/"}, ""},
		{"absolute escape that leads nowhere", "/sbin/init", []string{"sbin/init->/etc/passwd sbin/"}, ""},
		{"dangling", "/sbin/init", []string{"sbin/init->nowhere"}, ""},
		{"upper hides lower", "/sbin/init", []string{"sbin/init", "sbin/init->real sbin/real"}, "/sbin/real"},
		{"from the lower through the upper", "/sbin/init", []string{"sbin/init->/lib/a", "lib/a"}, "/lib/a"},
		{"three layers", "/a/b/c", []string{"a/b/c", "a/b/", "a/x"}, "/a/b/c"},
		{"whiteout", "/sbin/init", []string{"sbin/init", "!sbin/init"}, ""},
		{"whiteout of the directory", "/sbin/init", []string{"sbin/init", "!sbin"}, ""},
		{"whiteout and made anew", "/sbin/init", []string{"sbin/init", "!sbin/init", "sbin/init->x sbin/x"}, "/sbin/x"},
		{"directory deleted and made anew", "/sbin/init", []string{"sbin/init", "!sbin", "sbin/"}, ""},
		{"a file between two directories", "/sbin/init", []string{"sbin/init", "sbin=", "sbin/"}, ""},
		{"opaque directory", "/sbin/init", []string{"sbin/init", "sbin/*"}, ""},
		{"opaque directory that has it", "/sbin/init", []string{"sbin/x", "sbin/* sbin/init"}, "/sbin/init"},
		{"opaque directory above", "/a/b/c", []string{"a/b/c", "a/*", "a/b/"}, ""},
		{"directory over a link to the host", "/x/passwd", []string{"x->/etc", "x/"}, ""},
		{"directory over a relative link", "/x/f", []string{"x->y y/f", "x/"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, info, err := Lookup(layersOf(t, c.layers...), c.path)
			if c.want == "" {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%q, %v; want that it does not exist", got, err)
				}
				return
			}
			if err != nil || got != c.want || info == nil {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestLookupLoops(t *testing.T) {
	for _, words := range []string{"i->i", "i->/i", "i->j j->i", "i->./i", "i->i/i", "i->a/i a->."} {
		if got, _, err := Lookup(layersOf(t, words), "/i"); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %q, %v; want ELOOP", words, got, err)
		}
	}
}

func TestDetect(t *testing.T) {
	const systemd = "usr/lib/systemd/systemd"
	running := Init{Path: "/sbin/init", Kind: "systemd", Signal: 38, Notify: true}
	runlevel := func(kind string) Init { return Init{Path: "/sbin/init", Kind: kind, Stop: []string{"/sbin/init", "0"}} }
	for _, c := range []struct {
		name   string
		layers []string
		want   Init // Path "": none
	}{
		{"debian", []string{"sbin->usr/sbin lib->usr/lib usr/sbin/init->/lib/systemd/systemd " + systemd}, running},
		{"systemd without a link", []string{systemd}, Init{Path: "/usr/lib/systemd/systemd", Kind: "systemd", Signal: 38, Notify: true}},
		{"alpine", []string{"sbin/init->/bin/busybox bin/busybox"}, Init{Path: "/sbin/init", Kind: "busybox", Signal: int(unix.SIGUSR2)}},
		{"busybox by a hard link", []string{"sbin/init:BusyBox_v1.37.0"}, Init{Path: "/sbin/init", Kind: "busybox", Signal: int(unix.SIGUSR2)}},
		{"sysvinit", []string{"sbin/init:/run/initctl\x00/etc/inittab\x00"}, runlevel("sysvinit")},
		{"sysvinit of a layer", []string{"sbin->usr/sbin", "usr/sbin/init:/etc/inittab\x00/dev/initctl\x00"}, runlevel("sysvinit")},
		{"a manual of sysvinit", []string{"sbin/init:/run/initctl_/etc/inittab"}, Init{Path: "/sbin/init"}},
		{"runit", []string{"sbin/init->runit-init sbin/runit-init"}, runlevel("runit")},
		{"openrc", []string{"sbin/init->openrc-init sbin/openrc-init"}, Init{Path: "/sbin/init", Kind: "openrc", Stop: []string{"openrc-shutdown", "--poweroff", "now"}}},
		{"unknown", []string{"sbin/init"}, Init{Path: "/sbin/init"}},
		{"unknown by another name", []string{"sbin/init->dinit sbin/dinit"}, Init{Path: "/sbin/init"}},
		{"order", []string{"init bin/init etc/init"}, Init{Path: "/etc/init"}},
		{"not executable", []string{"sbin/init= init"}, Init{Path: "/init"}},
		{"a directory", []string{"sbin/init/ init"}, Init{Path: "/init"}},
		{"dangling", []string{"sbin/init->/lib/systemd/systemd"}, Init{}},
		{"deleted by a layer", []string{"sbin/init " + systemd, "!sbin/init !" + systemd}, Init{}},
		{"none", []string{"bin/sh"}, Init{}},
		{"replaced by a layer", []string{"sbin/init->/bin/busybox bin/busybox", "sbin/init->../" + systemd + " " + systemd}, running},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Detect(layersOf(t, c.layers...))
			if !reflect.DeepEqual(got, c.want) || (c.want.Path == "") != errors.Is(err, state.ErrNotExist) || c.want.Path != "" && err != nil {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
	if _, err := Detect(nil); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("no layers: %v", err)
	}
}

func TestReadFile(t *testing.T) {
	dirs := layersOf(t, "a/x:one b->a p/ q/r:low", "a/y:two", "c->/b/x p/x->/dev/null d->/etc/passwd q/* q/s")
	for name, want := range map[string]string{"/a/x": "one", "b/y": "two", "/c": "one"} {
		if got, err := ReadFile(dirs, name); string(got) != want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"/p/x", "/d", "/q/r"} {
		if got, err := ReadFile(dirs, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := ReadFile(dirs, "/a"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a directory: %q, %v", got, err)
	}
}

func TestReadDir(t *testing.T) {
	dirs := layersOf(t, "a/x a/y b/x c/x d->a", "a/z !a/y b/* b/y !c e/x", "f->/a")
	for name, want := range map[string][]string{
		"/a": {"x", "z"}, "/b": {"y"}, "/c": nil, "/d": {"x", "z"}, "/e": {"x"}, "/f/": {"x", "z"}, "/none": nil,
	} {
		if got, err := ReadDir(dirs, name); !slices.Equal(got, want) || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// Lookup sees exactly what overlayfs shows of the same layers.
func TestLookupIsOverlay(t *testing.T) {
	if !private(t) {
		return
	}
	words := []string{"a/x a/y b/x c->a d/e/f g", "a/* a/y !b c/ d/e/g g/h", "b/z d/* d/e/ !g", "g/ c/x !a/y"}
	dirs := layersOf(t, words...)
	at := t.TempDir()
	var order []string
	for _, d := range dirs {
		order = append([]string{d}, order...)
	}
	try(t, unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(order, ":")))
	defer unix.Unmount(at, unix.MNT_DETACH)
	for _, path := range []string{
		"/", "/a", "/a/x", "/a/y", "/b", "/b/x", "/b/z", "/c", "/c/x", "/c/y", "/d", "/d/e", "/d/e/f", "/d/e/g", "/g", "/g/h",
	} {
		want, werr := os.Lstat(filepath.Join(at, path))
		_, got, err := Lookup(dirs, path)
		if (werr == nil) != (err == nil) {
			t.Errorf("%s: overlayfs says %v, Lookup says %v", path, werr, err)
		} else if err == nil && got.Mode().Type() != want.Mode().Type() {
			t.Errorf("%s: overlayfs says %v, Lookup says %v", path, want.Mode(), got.Mode())
		}
	}
}
