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
	todo := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		next := path.Join(at, part)
		dir, info, err := find(layers, next)
		if err != nil {
			return "", nil, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if at = next; len(todo) == 0 {
				return at, info, nil
			}
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
		todo = append(strings.Split(strings.Trim(path.Clean(to), "/"), "/"), todo...)
	}
	return at, nil, nil
}

// find gives the topmost layer that has name, whose directories are no links, without following it.
func find(layers []string, name string) (dir string, info fs.FileInfo, err error) {
	for i := len(layers) - 1; i >= 0; i-- {
		info, err := os.Lstat(filepath.Join(layers[i], name))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if whiteout(info) {
			break
		}
		return layers[i], info, nil
	}
	return "", nil, &os.PathError{Op: "lookup", Path: name, Err: fs.ErrNotExist}
}

// whiteout: overlayfs marks a deleted name with a character device 0/0.
func whiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}
