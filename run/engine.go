package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"croft/idmap"
	"croft/image"
	"croft/rootfs"
	"croft/state"

	"golang.org/x/sys/unix"
)

// unpack is what the image store fills a layer's directory with.
func unpack(ctx context.Context, r io.Reader, dir string) (bytes, entries int64, err error) {
	used, err := rootfs.Unpack(ctx, r, dir, rootfs.Limits{})
	return used.Bytes, used.Entries, err
}

// Draft decides everything about a new instance but what only a made one can have: UUID and ids. Nothing is written.
func (e *Engine) Draft(spec state.Spec) (*state.Instance, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if err := errors.Join(checkVolumes(&spec), checkCredentials(&spec)); err != nil {
		return nil, err
	}
	if err := e.checkLimits(&spec.Limits); err != nil {
		return nil, err
	}
	if err := checkSecurity(&spec.Security); err != nil {
		return nil, err
	}
	if err := checkNetworks(&spec); err != nil {
		return nil, err
	}
	img, err := e.Images.Get(spec.Image)
	if err != nil {
		return nil, err
	}
	if !img.Runs(image.Host()) {
		return nil, fmt.Errorf("image %s is for %s and this host is %s: %w", spec.Image, img.Architecture, image.Host(), state.ErrUnsupported)
	}
	in := &state.Instance{Spec: spec}
	return in, unprivileged(e.decide(in, img))
}

// Create gives a draft its ids, addresses and ports and writes it down. The host is not touched otherwise.
func (e *Engine) Create(in *state.Instance) error {
	err := e.Dir.Create(in, func(in *state.Instance) (err error) {
		if in.Facts.Range, err = e.reserve(in); err != nil {
			return err
		}
		if in.Facts.ProjectID, err = e.pickProject(in); err != nil {
			return err
		}
		if err := e.relink(in); err != nil {
			return err
		}
		if _, err := e.hostNames(&in.Spec); err != nil {
			return err
		}
		return e.decidePorts(in)
	})
	if err != nil {
		return unprivileged(errors.Join(err, e.release(in)))
	}
	// The image may have been removed between the look at it and the record that counts as its user.
	if err := e.Images.Keep(in.Facts.Fingerprint); err != nil {
		return errors.Join(err, e.remove(in))
	}
	_ = e.Images.Use(in.Facts.Fingerprint) // that is for image prune alone
	return nil
}

// Replace creates a draft in the place of the instance that has its name. One that was not made to be removed stays
// without force.
func (e *Engine) Replace(ctx context.Context, in *state.Instance, force bool) error {
	const tries = 10 // others may be at the same
	name := in.Spec.Name
	for range tries {
		old, err := e.Dir.Get(name)
		var damaged *state.Damaged
		switch {
		case errors.Is(err, state.ErrNotExist):
		case errors.As(err, &damaged) && force:
		case err != nil:
			return err
		case !old.Spec.Remove && !force:
			return state.Hint(fmt.Errorf("%s: was not made with --rm, so that it stays: %w", name, state.ErrExist), "-f replaces it all the same")
		}
		if err := e.Delete(ctx, name, true); err != nil && !errors.Is(err, state.ErrNotExist) {
			return err
		}
		if err := e.Create(in); !errors.Is(err, state.ErrExist) {
			return err
		}
	}
	return fmt.Errorf("%s: others replace it, too: %w", name, state.ErrBusy)
}

// decide fills in the facts of an instance of img, but for its ids.
func (e *Engine) decide(in *state.Instance, img image.Image) (err error) {
	f := &in.Facts
	f.Fingerprint = img.Fingerprint
	for _, l := range img.Layers {
		f.Layers = append(f.Layers, l.Digest)
	}
	f.Trigger = e.trigger(in, image.TriggerCreate)
	if f.Driver = in.Spec.Root.Driver; f.Driver == "" {
		if f.Driver, err = rootfs.Pick(e.Dir.Roots()); err != nil {
			return err
		}
	}
	layers, err := e.layers(in)
	if err != nil {
		return err
	}
	view, err := rootfs.OpenView(layers)
	if err != nil {
		return fmt.Errorf("image %s: %w", in.Spec.Image, err)
	}
	defer view.Close()
	if img.Config != nil {
		if err := decideOCI(in, img.Config, view.Dirs); err != nil {
			return err
		}
		return needsCommand(in)
	}
	return decideInit(in, view.Dirs)
}

// decideOCI does what an OCI image says of itself, as far as the user has not said otherwise.
func decideOCI(in *state.Instance, c *image.Config, layers []string) (err error) {
	f, asked := &in.Facts, in.Spec.Init
	defer func() {
		if err != nil && !errors.Is(err, state.ErrNotExist) {
			err = fmt.Errorf("image %s: %w", in.Spec.Image, err)
		}
	}()
	if err := checkWishes(c); err != nil {
		return err
	}
	signal, err := stopSignal(c.StopSignal)
	if err != nil {
		return err
	}
	f.Env, in.Spec.Labels = environmentOf(c), labelsOf(c, in.Spec.Labels)
	found, err := rootfs.Detect(layers)
	if err != nil && !errors.Is(err, state.ErrNotExist) {
		return err
	}
	system := err == nil && runsInit(c, layers, found)
	if asked.Mode == state.InitBoot || asked.Mode == state.InitAuto && system {
		return decideInit(in, layers)
	}
	f.Init, f.StopSignal = payloadOf(c, asked, system), signal
	return nil
}

// needsCommand refuses a machine that boots nothing and has nothing to run.
func needsCommand(in *state.Instance) error {
	if len(in.Facts.Init.Args) > 0 {
		return nil
	}
	return state.Hint(fmt.Errorf("image %s names no command, and none was given", in.Spec.Image),
		"croft run --no-boot "+in.Spec.Image+" COMMAND")
}

// decideInit finds what PID 1 will be.
func decideInit(in *state.Instance, layers []string) error {
	f, asked := &in.Facts, in.Spec.Init
	found, err := rootfs.Detect(layers)
	none := errors.Is(err, state.ErrNotExist)
	switch {
	case asked.Mode == state.InitPayload, none && asked.Mode == state.InitAuto && len(asked.Args) > 0:
		f.Init, f.StopSignal = asked, int(unix.SIGTERM)
		f.Init.Mode = state.InitPayload
		return needsCommand(in)
	case none:
		return state.Hint(fmt.Errorf("image %s has no init: %w", in.Spec.Image, state.ErrUnsupported),
			"croft run --no-boot "+in.Spec.Image+" COMMAND")
	case err != nil:
		return err
	}
	in.Spec.Init.Args = nil // a command of this run, not of the machine
	f.Init = state.Init{Mode: state.InitBoot, Args: []string{found.Path}}
	f.InitKind, f.StopSignal, f.StopCommand, f.Notify = found.Kind, found.Signal, found.Stop, found.Notify
	return nil
}

// layers are the directories and files of the instance's image, lowest first. To look into them there is rootfs.OpenView.
func (e *Engine) layers(in *state.Instance) ([]string, error) {
	var paths []string
	for _, digest := range in.Facts.Layers {
		path := e.Images.LayerPath(image.Layer{Digest: digest})
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("image %.12s: layer is missing: %w", in.Facts.Fingerprint, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func (e *Engine) owner(in *state.Instance) state.Owner {
	return state.Owner{Root: e.Dir.Root, Name: in.Spec.Name, UUID: in.UUID}
}

// reserve makes sure that in has an id range that is nobody else's on this host: the one it had, if that is
// still free. What is on disk does not depend on it.
func (e *Engine) reserve(in *state.Instance) (state.Range, error) {
	if in.Spec.Security.Privileged {
		return allIDs()
	}
	host, err := state.OpenHost()
	if err != nil {
		return state.Range{}, err
	}
	defer host.Close()
	me, had, size := e.owner(in), in.Facts.Range, idsOf(&in.Spec)
	if who, ok := host.Owner(had); ok && who == me {
		if had.Size == size {
			return had, nil
		}
		if err := host.Free(had, me); err != nil {
			return state.Range{}, err
		}
	}
	taken, err := host.Ranges()
	if err != nil {
		return state.Range{}, err
	}
	taken = append(taken, idmap.Foreign()...)
	ids := had
	if had.Size != size || overlaps(had, taken) {
		if ids, err = idmap.Pick(e.Pool, size, taken); err != nil {
			return state.Range{}, idmap.Nesting(err)
		}
	}
	return ids, host.Take(ids, me)
}

func overlaps(r state.Range, taken []state.Range) bool {
	for _, t := range taken {
		if r.Overlaps(t) {
			return true
		}
	}
	return false
}

// release gives the instance's ids and addresses back: it does not run any more, though its record may say so until it is removed.
func (e *Engine) release(in *state.Instance) error {
	gone := *in
	gone.Applied = nil
	if err := e.endLeases(&gone, in.Facts.Links, nil); err != nil || in.Facts.Range.Size == 0 {
		return err
	}
	host, err := state.OpenHost()
	if err != nil {
		return err
	}
	defer host.Close()
	return host.Free(in.Facts.Range, e.owner(in))
}

// Delete removes a stopped instance, or with force one in any state, a damaged one too. ErrRunning without.
func (e *Engine) Delete(ctx context.Context, name string, force bool) error {
	in, err := e.Dir.Get(name)
	var damaged *state.Damaged
	if errors.As(err, &damaged) {
		return e.deleteDamaged(damaged, force)
	}
	if err != nil {
		return err
	}
	if err := protected(in); err != nil {
		return err
	}
	if force {
		if err := e.Kill(ctx, in, unix.SIGKILL); err != nil && !errors.Is(err, state.ErrNotRunning) {
			return err
		}
	}
	claim, err := e.Dir.Claim(name)
	if errors.Is(err, state.ErrRunning) && force {
		if claim, err = e.waitClaim(ctx, name); errors.Is(err, state.ErrNotExist) {
			return nil // it was made to be removed, and is
		}
	}
	if errors.Is(err, state.ErrRunning) {
		return state.Hint(err, "croft rm -f "+name)
	}
	if err != nil {
		return err
	}
	defer claim.Release()
	if in, err = e.Dir.Get(name); err != nil {
		return err
	}
	if err := errors.Join(protected(in), e.settleRename(in)); err != nil {
		return err
	}
	if in.Applied != nil {
		if in.Applied.Populated() && !force {
			return state.Hint(fmt.Errorf("%s: is orphaned: its processes live on: %w", name, state.ErrBusy), "croft rm -f "+name)
		}
		if err := e.down(in.Applied); err != nil {
			return err
		}
	}
	return e.remove(in)
}

// protected refuses the removal of a machine that somebody has protected from it.
func protected(in *state.Instance) error {
	if !in.Spec.Protect {
		return nil
	}
	return state.Hint(fmt.Errorf("%s: %w", in.Spec.Name, state.ErrProtected), "croft unset "+in.Spec.Name+" security.protection.delete")
}

// waitClaim takes the claim as soon as whoever holds it has gone.
func (e *Engine) waitClaim(ctx context.Context, name string) (*state.Claim, error) {
	for {
		claim, err := e.Dir.Claim(name)
		if !errors.Is(err, state.ErrRunning) {
			return claim, err
		}
		if err := Sleep(ctx, 2*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func (e *Engine) deleteDamaged(d *state.Damaged, force bool) error {
	if !force {
		return state.Hint(d, "croft rm -f "+d.Name)
	}
	if held, err := e.Dir.Claimed(d.Name); err != nil || held {
		return errors.Join(err, fmt.Errorf("%s: %w", d.Name, state.ErrRunning))
	}
	root := rootfs.Root{Dir: e.Dir.RootOf(d.Name)}
	if err := (rootfs.Overlay{}).Remove(root); err != nil {
		return err
	}
	if err := e.disown(d.Name); err != nil {
		return err
	}
	if err := os.RemoveAll(e.Dir.RunOf(d.Name)); err != nil {
		return err
	}
	if err := e.Dir.Remove(d.Name); err != nil {
		return err
	}
	host, err := state.OpenHost()
	if err != nil {
		return err
	}
	defer host.Close()
	return host.FreeAll(e.Dir.Root, d.Name)
}

// remove deletes what is kept of an instance that is down: its root first, its record last, so that after a
// crash between the two it can be removed again.
func (e *Engine) remove(in *state.Instance) error {
	driver, ok := rootfs.Drivers(in.Facts.Driver)
	if !ok {
		return fmt.Errorf("driver %q: %w", in.Facts.Driver, state.ErrUnsupported)
	}
	root := rootfs.Root{Dir: e.Dir.RootOf(in.Spec.Name)}
	if err := driver.Remove(root); err != nil {
		return err
	}
	_ = root.Forget(in.Facts.ProjectID) // a limit of nothing harms nobody
	if err := e.disown(in.Spec.Name); err != nil {
		return err
	}
	if err := os.RemoveAll(e.Dir.RunOf(in.Spec.Name)); err != nil { // there if a wait for a restart was killed
		return err
	}
	if err := e.Dir.Remove(in.Spec.Name); err != nil {
		return err
	}
	e.forget(in.Spec.Name)
	_ = e.Images.Use(in.Facts.Fingerprint) // until now
	return e.release(in)
}

// Repair brings records and world together after crashes, of the named machines or of all, and says what it did. It
// touches no machine that somebody holds.
func (e *Engine) Repair(ctx context.Context, names ...string) (did []string, err error) {
	if len(names) > 0 {
		for _, name := range names {
			what, err := e.repairInstance(ctx, name)
			if did = append(did, what...); err != nil {
				return did, fmt.Errorf("%s: %w", name, err)
			}
		}
		return did, nil
	}
	all, damaged, err := e.Dir.List()
	if err != nil {
		return nil, err
	}
	for _, d := range damaged {
		did = append(did, d.Error()+" (left alone; croft rm -f "+d.Name+" removes it)")
	}
	for _, in := range all {
		what, err := e.repairInstance(ctx, in.Spec.Name)
		if err != nil {
			return did, fmt.Errorf("%s: %w", in.Spec.Name, err)
		}
		did = append(did, what...)
	}
	for _, sweep := range []func() ([]string, error){e.sweep, e.sweepAllLeases, e.repairNetworks} {
		swept, err := sweep()
		if did = append(did, swept...); err != nil {
			return did, err
		}
	}
	swept, err := e.sweepTrial(ctx)
	return append(did, swept...), err
}

func (e *Engine) repairInstance(ctx context.Context, name string) ([]string, error) {
	did, err := e.repairOne(name)
	if err != nil {
		return did, err
	}
	in, err := e.Dir.Get(name)
	if errors.Is(err, state.ErrNotExist) {
		return did, nil
	}
	if err == nil {
		var settled bool
		if settled, err = e.settleShares(ctx, in); settled {
			did = append(did, name+": has the volumes and devices of its record again")
		}
	}
	return did, err
}

func (e *Engine) repairOne(name string) ([]string, error) {
	claim, err := e.Dir.Claim(name)
	if errors.Is(err, state.ErrRunning) || errors.Is(err, state.ErrBusy) || errors.Is(err, state.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer claim.Release()
	return e.repairHeld(name)
}

// repairHeld is repairOne of one whose claim the caller has.
func (e *Engine) repairHeld(name string) ([]string, error) {
	in, err := e.Dir.Get(name)
	if err != nil {
		return nil, err
	}
	if in.Rename != nil {
		err := e.settleRename(in)
		if errors.Is(err, state.ErrNotExist) {
			err = nil // it was the old name
		}
		return []string{fmt.Sprintf("%s: ended its rename to %s", in.Rename.From, in.Rename.To)}, err
	}
	if in.Applied == nil {
		return e.repairStopped(name)
	}
	what := name + ": cleared what a crash had left"
	if in.Applied.Populated() {
		what = name + ": was orphaned, killed"
	}
	err = e.finish(name, lost(in.Applied), 0)
	return []string{what}, err
}

// repairStopped clears what is left of one that was killed while it waited for its restart.
func (e *Engine) repairStopped(name string) ([]string, error) {
	dir := e.Dir.RunOf(name)
	if !exists(dir) {
		return nil, nil
	}
	return []string{name + ": removed " + dir}, os.RemoveAll(dir)
}

// sweep removes what belongs to no record: interrupted creations, roots and run directories without one.
func (e *Engine) sweep() (did []string, err error) {
	if did, err = e.sweepFiles(); err != nil {
		return did, err
	}
	return e.sweepIDs(did)
}

// sweepFiles removes the files among them. What cannot be removed does not keep the others.
func (e *Engine) sweepFiles() (did []string, err error) {
	var all []error
	halves, err := e.Dir.Sweep()
	all = append(all, err)
	for _, s := range halves {
		did = append(did, "removed the interrupted "+filepath.Join("instances", s))
	}
	for _, parent := range []string{e.Dir.Roots(), e.Dir.Run} {
		strays, err := e.sweepStrays(parent)
		did, all = append(did, strays...), append(all, err)
	}
	images, err := e.Images.Sweep()
	return append(did, images...), errors.Join(append(all, err)...)
}

// sweepStrays removes the strays in parent. It refuses what has a mount in it, as any removal of a root does.
func (e *Engine) sweepStrays(parent string) (did []string, err error) {
	names, err := e.strays(parent)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		path := filepath.Join(parent, name)
		if err := (rootfs.Overlay{}).Remove(rootfs.Root{Dir: path}); err != nil {
			return did, err
		}
		did = append(did, "removed "+path+", which belongs to no instance")
	}
	return did, nil
}

// strays are the directories in parent that no record accounts for. A damaged record accounts for its own.
func (e *Engine) strays(parent string) ([]string, error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		hidden := strings.HasPrefix(name, ".") && !strings.HasPrefix(name, ".gone-")
		if hidden || !entry.IsDir() {
			continue
		}
		_, err := e.Dir.Get(name)
		var damaged *state.Damaged
		if !errors.As(err, &damaged) && (errors.Is(err, state.ErrNotExist) || errors.Is(err, state.ErrInvalid)) {
			names = append(names, name)
		}
	}
	return names, nil
}

// sweepIDs frees the id ranges of instances that are gone. No instance is created meanwhile: its range is taken
// before its record is there.
func (e *Engine) sweepIDs(did []string) ([]string, error) {
	err := e.Dir.Still(func() error {
		host, err := state.OpenHost()
		if err != nil {
			return err
		}
		defer host.Close()
		freed, err := host.Sweep(e.Dir.Root)
		for _, r := range freed {
			did = append(did, fmt.Sprintf("freed the ids %d-%d, whose instance is gone", r.Base, r.End()-1))
		}
		return err
	})
	return did, err
}

// Users names the instances that are made of an image.
func (e *Engine) Users(fingerprint string) []string {
	all, _, err := e.Dir.List()
	if err != nil {
		return []string{"?"} // unknown is not none
	}
	var names []string
	for _, in := range all {
		if in.Facts.Fingerprint == fingerprint {
			names = append(names, in.Spec.Name)
		}
	}
	return names
}
