package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"croft/idmap"
	"croft/rootfs"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Place is where files are: a path of the host, or of a machine.
type Place struct{ Machine, Path string }

// Copying says how files are copied.
type Copying = rootfs.Copying

// Copy copies files out of machines, into one, or between them. Nothing of a machine's runs for it: this process
// walks the files of a running one as its init sees them, and mounts those of a stopped one for itself alone.
func (e *Engine) Copy(ctx context.Context, from []Place, to Place, how Copying) error {
	return e.withTrees(ctx, append([]Place{to}, from...), func(ctx context.Context, trees opened) error {
		sources, err := trees.sources(from)
		if err == nil {
			err = trees[to.Machine].lasts()
		}
		if err != nil {
			return err
		}
		return rootfs.Copy(ctx, sources, trees.of(to), to.Path, how)
	})
}

// CopyOut writes files to w as a tar.
func (e *Engine) CopyOut(ctx context.Context, from []Place, w io.Writer, how Copying) error {
	return e.withTrees(ctx, from, func(ctx context.Context, trees opened) error {
		sources, err := trees.sources(from)
		if err != nil {
			return err
		}
		return rootfs.CopyOut(ctx, sources, w, how)
	})
}

// CopyIn unpacks the tar r into a directory.
func (e *Engine) CopyIn(ctx context.Context, r io.Reader, to Place, how Copying) error {
	return e.withTrees(ctx, []Place{to}, func(ctx context.Context, trees opened) error {
		if err := trees[to.Machine].lasts(); err != nil {
			return err
		}
		return rootfs.CopyIn(ctx, r, trees.of(to), to.Path, how)
	})
}

// opened are the files of machines by their names, and the host's.
type opened map[string]*openTree

type openTree struct {
	*rootfs.Tree
	keeper  *Keeper         // nil unless it runs
	stopped *state.Instance // nil when it does
	hold    *state.Hold
}

// lasts refuses to write to a stopped machine what it may not have, or will not.
func (t *openTree) lasts() error {
	switch in := t.stopped; {
	case in == nil: // the host, or the kernel knows
	case in.Spec.Root.ReadOnly:
		return fmt.Errorf("%s: the root of the machine: %w", in.Spec.Name, unix.EROFS)
	case in.Spec.Root.Ephemeral:
		err := fmt.Errorf("%s: it begins anew at every start, without what is copied into it before: %w", in.Spec.Name, state.ErrNotRunning)
		return state.Hint(err, "croft start "+in.Spec.Name)
	}
	return nil
}

func (t *openTree) close() {
	t.Tree.Close()
	if t.hold != nil {
		t.hold.Release()
	}
	if t.keeper != nil {
		t.keeper.Close()
	}
}

func (o opened) close() {
	for _, t := range o {
		t.close()
	}
}

func (o opened) of(p Place) *rootfs.Tree { return o[p.Machine].Tree }

// sources are the places with the patterns of machines expanded.
func (o opened) sources(from []Place) (all []rootfs.Source, err error) {
	for _, p := range from {
		paths := []string{p.Path}
		if p.Machine != "" {
			if paths, err = o.of(p).Glob(p.Path); err != nil {
				return nil, err
			}
		}
		for _, path := range paths {
			all = append(all, rootfs.Source{Tree: o.of(p), Path: path, Matched: path != p.Path})
		}
	}
	return all, nil
}

// withTrees opens the files at the places for do. Its context ends when one of the machines does: what is mounted
// must not be written to when it is mounted once more.
func (e *Engine) withTrees(ctx context.Context, places []Place, do func(context.Context, opened) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	trees := opened{}
	for _, p := range places {
		if trees[p.Machine] != nil {
			continue
		}
		t, err := e.openTree(ctx, p.Machine)
		if err != nil {
			trees.close()
			return err
		}
		trees[p.Machine] = t
		if t.keeper != nil {
			go watch(ctx, p.Machine, t.keeper, cancel)
		}
	}
	done := make(chan error, 1)
	go func() {
		err := do(ctx, trees)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		trees.close() // what watch sees from now on may be of another descriptor
		done <- err
	}()
	var late <-chan time.Time
	ended := ctx.Done()
	for {
		select {
		case err := <-done:
			return err
		case <-ended:
			ended, late = nil, time.After(copyGrace)
		case <-late:
			return context.Cause(ctx)
		}
	}
}

// copyGrace is for a copy that is to end: one that waits for whoever writes or reads its tar does not notice, and
// ends with this process.
const copyGrace = 300 * time.Millisecond

// watch calls cancel when the init of the machine ends.
func watch(ctx context.Context, name string, keeper *Keeper, cancel context.CancelCauseFunc) {
	for ctx.Err() == nil {
		const pause = 50 * time.Millisecond // until the end of the copy is noticed
		if keeper.gone(pause) {
			cancel(fmt.Errorf("%s: has ended while its files were copied: %w", name, state.ErrNotRunning))
		}
	}
}

func (e *Engine) openTree(ctx context.Context, machine string) (*openTree, error) {
	if machine == "" {
		return &openTree{Tree: rootfs.HostTree()}, nil
	}
	in, err := e.Dir.Get(machine)
	if err != nil {
		return nil, err
	}
	keeper, err := e.Connect(ctx, in)
	if errors.Is(err, state.ErrNotRunning) {
		return e.openStopped(in, err)
	}
	if err != nil {
		return nil, err
	}
	t, err := e.openRunning(in, keeper)
	if err != nil {
		keeper.Close()
	}
	return t, err
}

func (e *Engine) openRunning(in *state.Instance, keeper *Keeper) (*openTree, error) {
	name := in.Spec.Name
	hold, err := e.Dir.HoldRunning(name)
	if err != nil {
		return nil, err
	}
	t := &openTree{keeper: keeper, hold: hold}
	// With the hold taken, and the init alive after that: the root is not one that a reboot has replaced.
	root, err := keeper.guestRoot()
	if err == nil {
		if in, err = e.Dir.Get(name); err != nil {
			root.Close()
		}
	}
	if err == nil && in.Applied == nil {
		root.Close()
		err = e.notRunning(in)
	}
	if err != nil {
		hold.Release()
		return nil, err
	}
	t.Tree = rootfs.MachineTree(name, root, in.Applied.Facts.Range)
	return t, nil
}

// openStopped mounts the root of a stopped machine; notRunning says why it has no keeper.
func (e *Engine) openStopped(in *state.Instance, notRunning error) (*openTree, error) {
	name := in.Spec.Name
	hold, err := e.Dir.HoldStopped(name)
	if err != nil {
		return nil, err
	}
	in, root, err := e.mountStopped(name, notRunning)
	if err != nil {
		hold.Release()
		return nil, err
	}
	t := &openTree{Tree: rootfs.MachineTree(name, root, in.Facts.Range), stopped: in, hold: hold}
	if err := t.Cover(covered(in)); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// covered are the places of a machine where something is mounted when it runs.
func covered(in *state.Instance) (all []string) {
	p := &Plan{Instance: in, Boot: in.Facts.Init.Mode == state.InitBoot, Notify: in.Facts.Notify}
	for _, m := range p.mounts() {
		all = append(all, m.Destination)
	}
	return all
}

// mountStopped gives the record of a stopped machine whose files are held, and its root directory (O_PATH), mounted
// where nobody else sees it. The mount ends with the handle.
func (e *Engine) mountStopped(name string, notRunning error) (*state.Instance, *os.File, error) {
	in, err := e.stoppedRecord(name, notRunning)
	if err != nil {
		return nil, nil, err
	}
	root, err := e.mountFiles(in)
	return in, root, err
}

// stoppedRecord gives the record of a stopped machine whose files are held, unless they are not what they seem.
func (e *Engine) stoppedRecord(name string, notRunning error) (*state.Instance, error) {
	in, err := e.Dir.Get(name)
	if err != nil {
		return nil, err
	}
	if in.Applied != nil && in.Applied.Populated() {
		return nil, notRunning // orphaned: its mounts are still there
	}
	if in.Rename != nil { // its root may lie under either name, and would be replaced by the other's
		return nil, state.Hint(fmt.Errorf("%s: its rename has not ended: %w", name, state.ErrBusy), "croft repair")
	}
	return in, nil
}

func (e *Engine) mountFiles(in *state.Instance) (*os.File, error) {
	driver, ok := rootfs.Drivers(in.Facts.Driver)
	if !ok {
		return nil, fmt.Errorf("driver %q: %w", in.Facts.Driver, state.ErrUnsupported)
	}
	layers, err := e.layers(in)
	if err != nil {
		return nil, err
	}
	userns, err := idmap.Namespace(in.Facts.Range)
	if err != nil {
		return nil, err
	}
	defer userns.Close()
	files := rootfs.Root{Dir: e.Dir.RootOf(in.Spec.Name), Layers: layers}
	if err := e.makeRoot(in, driver, files); err != nil { // it may never have been started
		return nil, err
	}
	h, err := e.lookInside(in, layers)
	if err != nil {
		return nil, err
	}
	if err := rootfs.WriteGuest(files, guestFiles(in, h)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(RootMount(), 0o711); err != nil {
		return nil, err
	}
	var root *os.File
	err = privately(func() error {
		if err := driver.Mount(files, userns, RootMount()); err != nil {
			return err
		}
		if root, err = os.OpenFile(RootMount(), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
		return driver.Unmount(RootMount()) // the handle keeps it, and paths in it begin at its root from here on
	})
	return root, err
}

// privately calls do on a thread with a mount namespace of its own, which ends with it. What was opened in there
// stays.
func privately(do func() error) error {
	return idmap.Thread(
		func() error { return os.NewSyscallError("unshare(CLONE_NEWNS)", unix.Unshare(unix.CLONE_NEWNS)) },
		func() error {
			return os.NewSyscallError("mount(/, rslave)", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""))
		},
		do,
	)
}
