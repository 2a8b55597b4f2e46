package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"croft/state"

	"golang.org/x/sys/unix"
)

// Init is the init system of an image.
type Init struct {
	Path   string   // in the machine, as to be executed
	Kind   string   // systemd, busybox, sysvinit, runit, openrc, or "" for one that is not known
	Signal int      // number of the signal that asks it for a clean poweroff; 0: see Stop
	Stop   []string // the command in the machine that asks it instead; none: what it hears must be found out
	Notify bool     // it tells the notify socket when it is up
}

// inits are the places where the kernel and LXC look for one, in that order.
var inits = [...]string{"/sbin/init", "/etc/init", "/bin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/init"}

// Detect finds the init of the image made of layers (lowest first). ErrNotExist when there is none.
func Detect(layers []string) (Init, error) {
	for _, p := range inits {
		target, info, err := Lookup(layers, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Init{}, err
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		kind, err := initKind(layers, target)
		if err != nil {
			return Init{}, err
		}
		return known(p, kind), nil
	}
	return Init{}, fmt.Errorf("init: %w", state.ErrNotExist)
}

// initKind tells an init by the name of the program that its links lead to, or where that is but "init" by what
// stands in it.
func initKind(layers []string, program string) (string, error) {
	switch name := path.Base(program); name {
	case "systemd", "busybox":
		return name, nil
	case "runit", "runit-init":
		return "runit", nil
	case "openrc-init":
		return "openrc", nil
	case "init":
		text, err := ReadFile(layers, program)
		switch {
		case err != nil:
			return "", err
		case bytes.Contains(text, []byte("BusyBox v")): // a hard link, or a copy
			return "busybox", nil
		case bytes.Contains(text, []byte("/initctl\x00")) && bytes.Contains(text, []byte("/inittab\x00")):
			return "sysvinit", nil
		}
	}
	return "", nil
}

// known says how an init of this kind is asked for a clean poweroff.
func known(program, kind string) Init {
	found := Init{Path: program, Kind: kind}
	switch kind {
	case "systemd":
		// SIGRTMIN+4 is poweroff.target; SIGRTMIN of the guest's C library is 34.
		found.Signal, found.Notify = 34+4, true
	case "busybox":
		found.Signal = int(unix.SIGUSR2)
	case "openrc":
		// It heeds SIGTERM too, but while it boots that makes it wait for ever.
		found.Stop = []string{"openrc-shutdown", "--poweroff", "now"}
	case "sysvinit", "runit":
		// Runlevel 0 is the one way that all releases have. What sysvinit does at SIGPWR stands in inittab, and in
		// Debian's it is a script that is not there; SIGRTMIN+4 came with 3.10. runit looks at SIGCONT only when
		// its file stopit is executable, and where that is is known to this program alone.
		found.Stop = []string{program, "0"}
	}
	return found
}

// ReadFile gives the content of a file of the image made of layers (lowest first).
func ReadFile(layers []string, name string) ([]byte, error) {
	const most = 4 << 20 // it is the image's, and may be anything
	target, info, err := Lookup(layers, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: name, Err: unix.EINVAL}
	}
	dir, _, err := find(layers, target)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, target)) // find saw no link on the way
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// ReadDir gives the names in a directory of the image made of layers (lowest first), sorted; none when there is no such
// directory.
func ReadDir(layers []string, name string) ([]string, error) {
	target, _, err := Lookup(layers, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, layer := range layers {
		info, _, err := inLayer(layer, target)
		if err != nil {
			return nil, err
		}
		if info == nil || !info.IsDir() {
			continue
		}
		all, err := os.ReadDir(filepath.Join(layer, target)) // inLayer saw no link on the way
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			if _, _, err := find(layers, path.Join(target, e.Name())); err == nil {
				names[e.Name()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// Lookup resolves a path of the image made of layers (lowest first) as the machine would see it: upper layers
// hide lower ones, links are followed inside the image. It gives the path that the links lead to.
func Lookup(layers []string, name string) (string, fs.FileInfo, error) {
	todo := strings.Split(path.Clean("/"+name), "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		part := todo[0]
		if todo = todo[1:]; part == "" || part == "." {
			continue
		}
		next := path.Join(at, part)
		dir, info, err := find(layers, next)
		if err != nil {
			return "", nil, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > 40 { // ELOOP of the kernel
			return "", nil, &os.PathError{Op: "lookup", Path: name, Err: unix.ELOOP}
		}
		to, err := os.Readlink(filepath.Join(dir, next))
		if err != nil {
			return "", nil, err
		}
		if path.IsAbs(to) {
			at = "/"
		}
		// Part by part and not cleaned: x/.. leads elsewhere when x is a link.
		todo = append(strings.Split(to, "/"), todo...)
	}
	_, info, err := find(layers, at)
	return at, info, err
}

// find gives the topmost layer that has name, without following it.
func find(layers []string, name string) (dir string, info fs.FileInfo, err error) {
	for i := len(layers) - 1; i >= 0; i-- {
		info, covers, err := inLayer(layers[i], name)
		if err != nil {
			return "", nil, err
		}
		if info != nil && !whiteout(info) {
			return layers[i], info, nil
		}
		if info != nil || covers {
			break
		}
	}
	return "", nil, &os.PathError{Op: "lookup", Path: name, Err: fs.ErrNotExist}
}

// inLayer looks name up in one layer, nil when it is not there, and follows no link: a link of this layer may be
// covered by a directory of one above, and would lead out of the image. covers says that nothing of the layers
// below is seen there either: overlayfs merges a directory with directories only, and not past an opaque one.
func inLayer(layer, name string) (info fs.FileInfo, covers bool, err error) {
	at := layer
	for parts := strings.Split(strings.Trim(name, "/"), "/"); ; parts = parts[1:] {
		info, err = os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, covers, nil
		}
		if err != nil || len(parts) == 0 || parts[0] == "" {
			return info, covers, err
		}
		if !info.IsDir() {
			return nil, true, nil
		}
		covers = covers || opaque(at)
		at = filepath.Join(at, parts[0])
	}
}

// whiteout: overlayfs marks a deleted name with a character device 0/0.
func whiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}
