package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"croft/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Node is a device node of the host that a machine gets.
type Node struct {
	Path     string // on the host
	Target   string // in the machine
	Type     uint32 // S_IFCHR or S_IFBLK
	Device   uint64 // its number
	Mode     uint32 // its permissions, in the machine
	UID, GID uint32 // its owner, in the machine
	Access   string // what the machine may do with it, of r, w and m
}

// nodesOf finds the nodes of devices on this host, but for those that CDI files name.
func nodesOf(devices []state.Device) ([]Node, error) {
	var all []Node
	for i := range devices {
		if devices[i].CDI != "" {
			continue
		}
		nodes, err := nodesFor(&devices[i])
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", devices[i].Entry(), err)
		}
		for _, n := range nodes {
			if !slices.ContainsFunc(all, func(other Node) bool { return other.Target == n.Target }) { // of a class and by itself
				all = append(all, n)
			}
		}
	}
	return all, nil
}

// nodesFor finds those of one device.
func nodesFor(d *state.Device) (all []Node, err error) {
	patterns, must := d.Wanted()
	for i, pattern := range patterns {
		paths := []string{pattern}
		if d.Class != "" {
			if paths, err = filepath.Glob(pattern); err != nil {
				return nil, err
			}
		}
		found := false
		for _, path := range paths {
			nodes, err := nodesAt(d, path)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // as of one that is unplugged just now
				return nil, err
			}
			found = found || len(nodes) > 0
			all = append(all, nodes...)
		}
		if !found && i < must {
			err := fmt.Errorf("this host has no %s: %w", pattern, state.ErrNotExist)
			return nil, state.Hint(err, "--device "+d.Entry()+",required=false, for a machine that can do without")
		}
	}
	return all, nil
}

// nodesAt is the node at a path of the host, or those in the directory there.
func nodesAt(d *state.Device, path string) (all []Node, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, err
	}
	target := path
	if d.Path != "" {
		target = d.At()
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		return []Node{node(d, path, target, &st)}, nil
	case unix.S_IFSOCK:
		return nil, state.Hint(fmt.Errorf("is a socket: %w", state.ErrInvalid), "-v "+path+":"+target)
	case unix.S_IFDIR:
	default:
		return nil, fmt.Errorf("is no device: %w", state.ErrInvalid)
	}
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeDevice == 0 {
			return err
		}
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		all = append(all, node(d, p, filepath.Join(target, p[len(path):]), &st))
		return nil
	})
	return all, err
}

func node(d *state.Device, path, target string, st *unix.Stat_t) Node {
	n := Node{
		Path: path, Target: target, Type: st.Mode & unix.S_IFMT, Device: st.Rdev,
		Mode: st.Mode & 0o777, UID: d.UID, GID: d.GID, Access: d.Access,
	}
	if mode, err := strconv.ParseUint(d.Mode, 8, 32); err == nil {
		n.Mode = uint32(mode)
	}
	if n.Access == "" {
		n.Access = "rwm"
	}
	return n
}

// deviceRules are what the machine's cgroup allows: nothing but this, whatever nodes somebody gets into the machine.
func deviceRules(nodes []Node) []specs.LinuxDeviceCgroup {
	allow := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
		if major >= 0 {
			r.Major = &major
		}
		if minor >= 0 {
			r.Minor = &minor
		}
		return r
	}
	const any = -1
	rules := []specs.LinuxDeviceCgroup{
		allow("c", any, any, "m"), allow("b", any, any, "m"), // a node that cannot be opened does no harm
		allow("c", 1, 3, "rwm"), allow("c", 1, 5, "rwm"), allow("c", 1, 7, "rwm"), // null, zero, full
		allow("c", 1, 8, "rwm"), allow("c", 1, 9, "rwm"), // random, urandom
		allow("c", 5, 0, "rwm"), allow("c", 5, 2, "rwm"), allow("c", 136, any, "rwm"), // tty, ptmx, pts
	}
	for _, n := range nodes {
		kind := "c"
		if n.Type == unix.S_IFBLK {
			kind = "b"
		}
		rules = append(rules, allow(kind, int64(unix.Major(n.Device)), int64(unix.Minor(n.Device)), n.Access))
	}
	return rules
}
