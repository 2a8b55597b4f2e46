package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"croft/idmap"
	"croft/rootfs"
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

// nodesOf finds the nodes of devices on this host.
func nodesOf(devices []state.Device) ([]Node, error) {
	var all []Node
	for i := range devices {
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
	if d.CDI != "" {
		return nil, fmt.Errorf("is a CDI name: %w", state.ErrUnsupported)
	}
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

// stageDir is where what a machine gets of the host's is prepared, in the starter's mount namespace.
func stageDir() string { return filepath.Join(state.HostDir, "mnt", "stage") }

// stage prepares the volumes, and behind them the nodes: Plan.given has them in this order.
func (p *Plan) stage(userns *os.File) error {
	volumes := p.Instance.Spec.Mounts
	if len(volumes)+len(p.Nodes) == 0 {
		return nil
	}
	if err := rootfs.Stage(stageDir()); err != nil {
		return err
	}
	for i, v := range volumes {
		if err := p.stageVolume(v, userns, rootfs.Staged(stageDir(), i)); err != nil {
			return err
		}
	}
	for i, n := range p.Nodes {
		if err := n.stage(p.Instance.Facts.Range, rootfs.Staged(stageDir(), len(volumes)+i)); err != nil {
			return fmt.Errorf("device %s: %w", n.Path, err)
		}
	}
	return nil
}

// bind is a volume as the machine gets it, but for its ids. The machine can take none of it back.
func (p *Plan) bind(v state.Mount) rootfs.Bind {
	b := rootfs.Bind{
		Source: v.Source, Below: p.Owners[v.Source].Nested,
		Attr: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE,
	}
	if v.ReadOnly {
		b.Attr |= unix.MOUNT_ATTR_RDONLY
	}
	return b
}

// stageVolume binds a directory of the host. One that root owns keeps its ids one to one with the guest's; one
// that a user owns belongs to the guest's root, and what is made in it to that user. Only that one id is
// mapped then: with more, the guest could leave files of other users, or of root, in the user's directory.
func (p *Plan) stageVolume(v state.Mount, userns *os.File, at string) error {
	b := p.bind(v)
	b.Userns = userns
	if owner := p.Owners[v.Source]; owner.UID != 0 {
		one, err := idmap.NamespaceOfOne(p.Instance.Facts.Range, owner.UID, owner.GID)
		if err != nil {
			return err
		}
		defer one.Close()
		b.Userns = one
	}
	err := b.Stage(at)
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("volume %s: ids cannot be mapped on its filesystem: %w", v.Source, state.ErrUnsupported)
		return state.Hint(err, "keep it on a disk or in memory: in a container, below a volume of that container")
	}
	return err
}

// stage makes a node that belongs to the machine. Who may not make one, in a container, has the host's own to give,
// with the owner that it has.
func (n Node) stage(ids state.Range, at string) error {
	err := rootfs.Node{Mode: n.Type | n.Mode, Device: n.Device, UID: int(ids.Base + n.UID), GID: int(ids.Base + n.GID)}.Stage(at)
	if errors.Is(err, os.ErrPermission) {
		err = rootfs.Bind{Source: n.Path}.Stage(at)
	}
	return err
}

// given are the mounts of what was staged.
func (p *Plan) given() (m []specs.Mount) {
	give := func(target, option string) {
		m = append(m, specs.Mount{Destination: target, Type: "bind", Source: rootfs.Staged(stageDir(), len(m)), Options: []string{option}})
	}
	for _, v := range p.Instance.Spec.Mounts {
		give(filepath.Clean(v.Target), "rbind")
	}
	for _, n := range p.Nodes {
		give(n.Target, "bind")
	}
	return m
}

// origin is what the staged thing of number i is on the host, and how the machine has it.
func (p *Plan) origin(i int) (source string, options []string) {
	volumes := p.Instance.Spec.Mounts
	if i >= len(volumes) {
		n := p.Nodes[i-len(volumes)]
		return n.Path, []string{n.Access}
	}
	v := volumes[i]
	options = []string{"rbind", "nosuid", "nodev", "idmap"}
	if v.ReadOnly {
		options = append(options, "ro")
	}
	return v.Source, options
}
