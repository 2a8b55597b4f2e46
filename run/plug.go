package run

// #include "plug.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"croft/idmap"
	"croft/rootfs"
	"croft/state"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sameShares says whether a and b have the same volumes and devices.
func sameShares(a, b *state.Spec) bool {
	return slices.Equal(a.Mounts, b.Mounts) && slices.Equal(a.Devices, b.Devices)
}

// settleShares has a machine that runs get the volumes and devices of its spec, and lose the others, and writes down that it
// has them. Where that cannot be, all is as it was, the spec too. What a killed croft has left in the middle is ended by the
// next: what the machine has is looked at, and not remembered.
func (e *Engine) settleShares(ctx context.Context, in *state.Instance) (settled bool, err error) {
	if in.Applied == nil || sameShares(&in.Applied.Spec, &in.Spec) {
		return false, nil
	}
	k, refused := e.Connect(ctx, in) // not under the lock: a start waits for that
	if errors.Is(refused, state.ErrNotRunning) {
		return false, nil // the next start makes them
	}
	if refused == nil {
		defer k.Close()
	}
	_, err = e.Dir.Edit(in.Spec.Name, func(in *state.Instance) error {
		if in.Applied == nil || sameShares(&in.Applied.Spec, &in.Spec) {
			return nil // it ended, or somebody else was here
		}
		now := *in.Applied
		in.Applied = &now
		if refused == nil {
			refused = k.replug(in)
		}
		if refused != nil {
			in.Spec.Mounts, in.Spec.Devices = now.Spec.Mounts, now.Spec.Devices
			return nil
		}
		now.Spec.Mounts, now.Spec.Devices = in.Spec.Mounts, in.Spec.Devices
		settled = true
		return nil
	})
	return settled, errors.Join(refused, err)
}

// replug takes a machine from the shares of its start to those of its spec, or leaves it as it is.
func (k *Keeper) replug(in *state.Instance) error {
	ids := in.Applied.Facts.Range
	old := sharesThere(&in.Applied.Spec, ids)
	as := state.Instance{Spec: in.Applied.Spec} // all else is as it was started
	as.Spec.Mounts, as.Spec.Devices = in.Spec.Mounts, in.Spec.Devices
	if err := sameCDI(&in.Applied.Spec, &as.Spec); err != nil {
		return err
	}
	var h host
	if err := h.lookShares(&as.Spec, ids); err != nil {
		return err
	}
	wanted := (&Plan{Instance: &as, Owners: h.owners, Nodes: h.nodes, cdi: h.cdi}).shares()
	p, err := k.plugs(in.Applied)
	if err != nil {
		return err
	}
	defer p.close()
	rules := func(of ...[]share) error { return setDeviceRules(in.Applied.Cgroups, slices.Concat(of...)) }
	if err := rules(old, wanted); err != nil {
		return err
	}
	err = p.change(old, wanted)
	if err != nil {
		return errors.Join(err, rules(old))
	}
	return rules(wanted)
}

// sharesThere are those of a spec that runs. What the host does not have any more is among them by its place.
func sharesThere(s *state.Spec, ids state.Range) []share {
	in := &state.Instance{Spec: state.Spec{Mounts: s.Mounts}}
	p := &Plan{Instance: in, Owners: map[string]Owner{}}
	for _, m := range s.Mounts {
		var h host
		if h.lookShares(&state.Spec{Mounts: []state.Mount{m}}, ids) == nil {
			p.Owners[m.Source] = h.owners[m.Source]
		}
	}
	var h host
	if h.lookShares(&state.Spec{Devices: cdiDevices(s)}, ids) == nil {
		maps.Copy(p.Owners, h.owners)
		p.cdi, p.Nodes = h.cdi, h.nodes
	}
	devices := slices.Concat(s.Devices, nestingDevices(s))
	for i := range devices {
		nodes, _ := nodesOf(devices[i : i+1])
		if d := &devices[i]; nodes == nil && d.Path != "" {
			nodes = []Node{{Path: d.Path, Target: d.At()}}
		}
		p.Nodes = append(p.Nodes, nodes...)
	}
	return p.shares()
}

// setDeviceRules has the cgroups of a machine allow the devices among shares, and no others.
func setDeviceRules(dirs []string, shares []share) error {
	var nodes []Node
	for _, s := range shares {
		if s.isNode() && s.node.Type != 0 {
			nodes = append(nodes, s.node)
		}
	}
	spec := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: deviceRules(nodes)}}}
	config, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{CgroupName: "croft", Spec: spec}, nil)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if exists(filepath.Join(dir, "devices.list")) {
			return cgroups.DevicesSetV1(dir, config.Resources)
		}
	}
	if len(dirs) == 1 { // v2 alone
		return cgroups.DevicesSetV2(dirs[0], config.Resources)
	}
	return nil
}

// plugs is a machine that runs, for whoever changes its shares.
type plugs struct {
	ids    state.Range
	maps   []state.IDMap
	root   *os.File // its root directory
	mounts *os.File // its mount namespace
	userns *os.File // its own; nil where it has the host's
}

func (k *Keeper) plugs(a *state.Applied) (p *plugs, err error) {
	p = &plugs{ids: a.Facts.Range, maps: a.Spec.Security.IDMap}
	if p.root, err = k.guestRoot(); err != nil {
		return nil, err
	}
	open := func(kind string) (f *os.File) {
		if err == nil {
			f, err = os.Open(fmt.Sprintf("/proc/%d/ns/%s", k.PID, kind))
		}
		return f
	}
	p.mounts, p.userns = open("mnt"), open("user")
	if err == nil { // the number may have been another's by then
		err = os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(int(k.Init.Fd()), 0, nil, 0))
	}
	if err != nil {
		p.close()
		return nil, err
	}
	if here, err := os.Stat("/proc/self/ns/user"); err == nil {
		if its, err := p.userns.Stat(); err == nil && os.SameFile(here, its) {
			p.userns.Close()
			p.userns = nil
		}
	}
	return p, nil
}

func (p *plugs) close() {
	for _, f := range []*os.File{p.root, p.mounts, p.userns} {
		f.Close() // nil is fine
	}
}

// change unmounts what is not wanted any more and mounts what is new. When something of that fails, the rest is taken back.
func (p *plugs) change(old, wanted []share) error {
	gone := slices.DeleteFunc(slices.Clone(old), func(s share) bool { return slices.Contains(wanted, s) })
	added := slices.DeleteFunc(slices.Clone(wanted), func(s share) bool { return slices.Contains(old, s) })
	depth := func(a, b share) int { return strings.Count(a.target, "/") - strings.Count(b.target, "/") }
	slices.SortStableFunc(added, depth)
	slices.SortStableFunc(gone, func(a, b share) int { return depth(b, a) })
	var unplugged, plugged []share
	for _, s := range gone {
		there, err := p.unplug(&s)
		if err != nil {
			return errors.Join(err, p.plug(unplugged))
		}
		if there {
			unplugged = append([]share{s}, unplugged...)
		}
	}
	for _, s := range added {
		if at, _ := p.find(&s); at != "" { // a croft that was killed has come so far; what else is mounted there is covered
			continue
		}
		err := p.plug([]share{s})
		if err == nil {
			plugged = append(plugged, s)
			continue
		}
		for _, s := range slices.Backward(plugged) {
			_, again := p.unplug(&s)
			err = errors.Join(err, again)
		}
		return errors.Join(err, p.plug(unplugged))
	}
	return nil
}

// find says where the machine has the share mounted, behind all links; "" is nowhere. An error says that something else is
// mounted in its place.
func (p *plugs) find(s *share) (at string, err error) {
	f, err := openIn(p.root, s.target, unix.O_PATH)
	if err != nil {
		return "", nil
	}
	defer f.Close()
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_TYPE, &st); err != nil {
		return "", os.NewSyscallError("statx", err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return "", nil // its root has unmounted it
	}
	if !s.is(&st) {
		return "", fmt.Errorf("%s: something else is mounted there in the machine: %w", s.target, state.ErrBusy)
	}
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())) // of a mount of another namespace: from its root on
}

// unplug unmounts a share where the machine has it.
func (p *plugs) unplug(s *share) (there bool, err error) {
	at, err := p.find(s)
	if err != nil || at == "" {
		return false, err
	}
	return true, p.fork(s, at, -1)
}

// is says whether what is at its target is the share. What the host has lost is taken for it.
func (s *share) is(st *unix.Statx_t) bool {
	kind := uint32(st.Mode) & unix.S_IFMT
	if s.isNode() {
		return s.node.Type == 0 || kind == s.node.Type && unix.Mkdev(st.Rdev_major, st.Rdev_minor) == s.node.Device
	}
	var host unix.Stat_t
	if unix.Stat(s.volume.Source, &host) != nil {
		return true
	}
	return host.Ino == st.Ino && host.Dev == unix.Mkdev(st.Dev_major, st.Dev_minor)
}

// plug mounts shares in the machine.
func (p *plugs) plug(shares []share) error {
	if len(shares) == 0 {
		return nil
	}
	return idmap.Thread(
		func() error { return os.NewSyscallError("unshare(CLONE_NEWNS)", unix.Unshare(unix.CLONE_NEWNS)) },
		func() error {
			return os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""))
		},
		func() error { return stageShares(shares, view{p.ids, p.userns, p.maps}) },
		func() error {
			for i := range shares {
				if err := p.fork(&shares[i], shares[i].target, i); err != nil {
					return err
				}
			}
			return nil
		},
	)
}

// fork has a process (plug.c) mount the share that is staged at a number, or with -1 unmount it.
func (p *plugs) fork(s *share, target string, staged int) error {
	errs, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer errs.Close()
	var mem memory
	defer mem.free()
	c := (*C.struct_plug)(mem.alloc(C.sizeof_struct_plug))
	c.mounts, c.userns, c.errors = C.int(p.mounts.Fd()), -1, C.int(theirs.Fd())
	if p.userns != nil {
		c.userns = C.int(p.userns.Fd())
	}
	if staged >= 0 {
		from := rootfs.Staged(stageDir(), staged)
		c.from = mem.text(from)
		if st, err := os.Stat(from); err == nil && st.IsDir() {
			c.is_dir = 1
		}
	}
	dir, name := path.Split(target)
	c.target, c.dir, c.name, c.is_node = mem.text(target), mem.text(path.Clean(dir)), mem.text(name), C.int(flag(s.isNode()))
	pid := int(C.croft_plug(c))
	theirs.Close()
	if pid < 0 {
		return os.NewSyscallError("fork", unix.Errno(-pid))
	}
	what, no := enterError(errs)
	switch ended := reap(pid); {
	case no == 0 && ended.Exited():
		return nil
	case no == 0:
		return fmt.Errorf("%v at %s: somebody has killed the process that was at it: %w", s, s.target, state.ErrBusy)
	case no == unix.EBUSY && what == "umount":
		err := fmt.Errorf("%v: the machine uses %s: %w", s, s.target, state.ErrBusy)
		return state.Hint(err, "fuser -vm "+s.target+", in the machine")
	case no == unix.EROFS:
		return fmt.Errorf("%v: the machine has no %s, and can make none: %w", s, s.target, no)
	}
	return fmt.Errorf("%v at %s: %w", s, s.target, os.NewSyscallError(what, no))
}
