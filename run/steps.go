package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"croft/idmap"
	"croft/netsetup"
	"croft/rootfs"
	"croft/state"

	godbus "github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// step is one row of a start. do may use what earlier rows left in the launch. undo needs the record alone,
// tolerates what is already gone, and may run twice: after a crash it is called for every row.
type step struct {
	name string
	do   func(ctx context.Context, l *launch) error
	undo func(e *Engine, a *state.Applied) error
}

// steps is the order of a start; an end takes it backwards.
func steps() []step {
	return []step{
		{"namespace", makeNamespace, nothing}, // first: every mount is shifted through it
		{"rootfs", mountRoot, clearRoot},
		{"apparmor", confine, unconfine},
		{"container", createContainer, destroyContainer}, // its init exists and waits
		{"limits", holdLimits, nothing},                  // before anything of the guest's runs
		{"network", connect, disconnect},                 // while it waits: the guest finds its links made
		{"guard", guarded, nothing},                      // before there is a guest that could be left alone
		{"names", namesTold, withdrawNames},              // before the guest asks for one; begun with the root
		{"exec", becomeGuest, nothing},                   // the init becomes the guest's
		{"machined", register, deregister},               // while it boots
	}
}

// launch is a start under way: the plan, and the handles that each step leaves to the next.
type launch struct {
	*Plan
	engine    *Engine
	report    *report
	userns    *os.File
	container *container
	listener  *os.File          // the keeper's socket
	client    *os.File          // a connection to it of whoever asked for the start; nil when there is none
	host      *os.File          // where the host's systemd hears of it; nil when it is in no unit that wants to
	told      chan error        // gets what came of telling its name; nil before, and when there is nobody to tell
	notify    *os.File          // the guest's notify socket; nil when its init does not speak that
	machined  chan *godbus.Conn // gets one connection to machined, or nil where there is none; nil when the machine is not for it
}

// up carries out the steps. When one fails the ones done are undone, and the error names the step.
func (l *launch) up(ctx context.Context) error {
	l.meetMachined(ctx)
	for _, s := range steps() {
		began := time.Now()
		err := ctx.Err()
		if err == nil {
			err = s.do(ctx, l)
		}
		if err != nil {
			l.awaitNames() // or they would be told after the undo has taken them back
			return fmt.Errorf("%s: %w", s.name, err)
		}
		l.report.timing(s.name, time.Since(began))
	}
	return nil
}

// down undoes whatever is left of a start, from its record.
func (e *Engine) down(a *state.Applied) error {
	var all []error
	table := steps()
	for i := len(table) - 1; i >= 0; i-- {
		if err := table[i].undo(e, a); err != nil {
			all = append(all, fmt.Errorf("undo %s: %w", table[i].name, err))
		}
	}
	return errors.Join(all...)
}

func nothing(*Engine, *state.Applied) error { return nil }

func makeNamespace(_ context.Context, l *launch) (err error) {
	l.userns, err = idmap.Namespace(l.Instance.Facts.Range)
	return err
}

func mountRoot(_ context.Context, l *launch) error {
	driver, ok := rootfs.Drivers(l.Instance.Facts.Driver)
	if !ok {
		return fmt.Errorf("driver %q: %w", l.Instance.Facts.Driver, state.ErrUnsupported)
	}
	for _, dir := range []string{l.RunDir, RootMount(), netMount(), nestedMount()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	spec := l.Instance.Spec.Root
	if spec.Ephemeral {
		if err := driver.Remove(l.Root); err != nil {
			return err
		}
	}
	if err := l.engine.makeRoot(l.Instance, driver, l.Root); err != nil {
		return err
	}
	if err := rootfs.WriteGuest(l.Root, l.Files); err != nil {
		return err
	}
	if err := rootfs.MountNet(l.Root, l.Instance.Facts.Driver, l.userns, netMount()); err != nil {
		return err
	}
	if err := l.mountNested(); err != nil {
		return err
	}
	if err := l.layHosts(); err != nil {
		return err
	}
	l.tellNames()
	if err := driver.Mount(l.Root, l.userns, RootMount()); err != nil {
		return err
	}
	if err := l.runTemplates(); err != nil {
		return err
	}
	if err := rootfs.NoDevices(RootMount()); err != nil {
		return err
	}
	if err := stageShares(l.shares(), view{l.Instance.Facts.Range, l.userns, l.Instance.Spec.Security.IDMap}); err != nil {
		return err
	}
	if spec.ReadOnly {
		return rootfs.Seal(RootMount(), l.userns, l.mountPoints())
	}
	return nil
}

// mountPoints are those in the root itself, and not in what is mounted there.
func (l *launch) mountPoints() []rootfs.Point {
	all := l.mounts()
	var points []rootfs.Point
	for _, m := range all {
		if slices.ContainsFunc(all, func(other specs.Mount) bool { return strings.HasPrefix(m.Destination, other.Destination+"/") }) {
			continue
		}
		st, err := os.Stat(m.Source)
		file := m.Type == "bind" && err == nil && !st.IsDir()
		points = append(points, rootfs.Point{Path: m.Destination, File: file})
	}
	return points
}

// clearRoot finds mounts only after a start that failed: otherwise they went with the namespaces.
func clearRoot(e *Engine, a *state.Applied) error {
	driver, ok := rootfs.Drivers(a.Facts.Driver)
	if _, err := hostMounts(); ok && err == nil { // never in the host's own namespace
		if err := errors.Join(driver.Unmount(RootMount()), rootfs.UnmountNet(netMount()), rootfs.UnmountNested(nestedMount())); err != nil {
			return err
		}
	}
	root := rootfs.Root{Dir: e.Dir.RootOf(a.Spec.Name)}
	if err := errors.Join(rootfs.RemoveGuest(root), os.RemoveAll(hostsIn(root.Dir).aside)); err != nil {
		return err
	}
	return rootfs.Clear(a.Run)
}

func createContainer(_ context.Context, l *launch) (err error) {
	if l.NoLXCFS != "" {
		l.report.warn(l.Instance.Spec.Name + " sees the host's memory and load, not its limits: " + l.NoLXCFS)
	}
	if l.Boot {
		if err := l.hostFiles(); err != nil {
			return err
		}
	}
	if path := l.Instance.Spec.NetworkNamespace(); path != "" {
		if err := mountSys(path); err != nil {
			return fmt.Errorf("sysfs of %s: %w", path, err)
		}
	}
	if l.Aside != "" {
		if err := stepAside(l.Aside); err != nil {
			return err
		}
	}
	if l.listener, err = listen(l.RunDir, socketName, unix.SOCK_SEQPACKET, 0o600); err != nil {
		return err
	}
	l.container, err = newContainer(l)
	return err
}

// mountSys mounts, in the starter's namespace, a sysfs that shows the links of a network namespace: it is of the one that the
// thread is in which mounts it.
func mountSys(netns string) error {
	ns, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := os.MkdirAll(sysMount(), 0o711); err != nil {
		return err
	}
	return netsetup.Within(ns, func() error {
		return unix.Mount("sysfs", sysMount(), "sysfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "")
	})
}

// stepAside makes a cgroup and moves this process there.
func stepAside(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// hostFiles makes what the guest finds in /run/host.
func (l *launch) hostFiles() error {
	dir := l.HostFiles()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]string{"container-manager": "croft\n", "container-uuid": uuidOf(l.Instance.UUID) + "\n"}
	if release, err := os.ReadFile("/etc/os-release"); err == nil {
		files["os-release"] = string(release)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	points := []string{filepath.Base(guestNet)} // in what is read-only for the guest
	if l.hasCredentials() {
		points = append(points, filepath.Base(guestCredentials))
	}
	for _, name := range points {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	if !l.Notify {
		return nil
	}
	var err error
	if l.notify, err = listen(dir, "notify", unix.SOCK_DGRAM, 0o666); err != nil {
		return err
	}
	return unix.SetsockoptInt(int(l.notify.Fd()), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
}

func destroyContainer(e *Engine, a *state.Applied) error {
	if a.BootID != state.BootID() {
		return nil // cgroups do not survive the host
	}
	if err := killCgroups(a.Cgroups); err != nil {
		return err
	}
	e.poststop(a)
	return errors.Join(removeCgroups(a.Cgroups), arrived(a))
}

// connect hands the machine its own part of the cgroup tree, and gives it its links. Loopback comes up with the network
// namespace, and a stack that is somebody else's needs nothing.
func connect(_ context.Context, l *launch) error {
	if err := delegate(l.Cgroups[0], int(l.Instance.Facts.Range.Base)); err != nil {
		return err
	}
	m := member(l.Instance.Applied)
	lacks, err := l.engine.connect(m, l.container.pid, l.container.pidfd)
	if lacks != nil {
		l.report.warn(m.Name + ": " + strings.ReplaceAll(lacks.Error(), "\n", "; ")) // of several
	}
	if err != nil {
		return explainNetwork(err)
	}
	return nil
}

func disconnect(e *Engine, a *state.Applied) error { return e.disconnect(a) }

// tellNames begins to tell the machines of its networks of the new one, and it of them: that is much work for the disk where
// there are many, and little for anybody else.
func (l *launch) tellNames() {
	links := l.Instance.Applied.Facts.Links
	if len(links) == 0 {
		return
	}
	l.told = make(chan error, 1)
	go func() { l.told <- l.engine.announce(l.Instance, links) }()
}

func (l *launch) awaitNames() (err error) {
	if l.told != nil {
		err, l.told = <-l.told, nil
	}
	return err
}

func namesTold(_ context.Context, l *launch) error { return l.awaitNames() }

func withdrawNames(e *Engine, a *state.Applied) error { return e.withdraw(a) }

// delegate lets the guest's root make cgroups below dir (cgroup-v2.rst, "Delegation"): the directory and the
// files that move processes, and none of those that set limits.
func delegate(dir string, base int) error {
	if err := os.Chown(dir, base, base); err != nil {
		return err
	}
	for _, f := range []string{"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		if err := os.Chown(filepath.Join(dir, f), base, base); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

func becomeGuest(_ context.Context, l *launch) error { return l.container.Exec() }
