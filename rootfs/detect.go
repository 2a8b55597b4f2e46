package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"croft/state"

	"golang.org/x/sys/unix"
)

// Init is the init system of an image.
type Init struct {
	Path   string // in the machine, as to be executed
	Kind   string // systemd, busybox, or "" for one that is not known
	Signal int    // number of the signal that asks it for a clean poweroff
	Notify bool   // it tells the notify socket when it is up
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
		if info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return known(p, target), nil
		}
	}
	return Init{}, fmt.Errorf("init: %w", state.ErrNotExist)
}

// known tells an init by the name of the program that its links lead to.
func known(p, target string) Init {
	switch path.Base(target) {
	case "systemd":
		// SIGRTMIN+4 is poweroff.target; SIGRTMIN of the guest's C library is 34.
		return Init{Path: p, Kind: "systemd", Signal: 34 + 4, Notify: true}
	case "busybox":
		return Init{Path: p, Kind: "busybox", Signal: int(unix.SIGUSR2)}
	}
	return Init{Path: p, Signal: int(unix.SIGPWR)} // as LXC assumes
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
