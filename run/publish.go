package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"croft/image"
	"croft/rootfs"
	"croft/state"
)

// Publishing says what an image of a machine is called, and what is said of it.
type Publishing struct {
	Aliases    []string
	Reuse      bool // take aliases away from the images that have them
	Properties map[string]string

	Frozen func() // called before a running machine is frozen; nil: nobody wants to know
}

// Publish makes an image of a machine. One that runs is frozen while its files are read: what its programs had not
// written yet is not in the image. A paused one stays paused.
func (e *Engine) Publish(ctx context.Context, name string, p Publishing) (image.Image, error) {
	in, err := e.Dir.Get(name)
	if err != nil {
		return image.Image{}, err
	}
	held, err := e.holdFiles(ctx, in)
	if err != nil {
		return image.Image{}, err
	}
	defer held.hold.Release()
	in = held.in
	layers, err := e.layers(in)
	if err != nil {
		return image.Image{}, err
	}
	h, err := e.lookInside(in, layers)
	if err != nil {
		return image.Image{}, err
	}
	generated := guestFiles(in, h)
	root := rootfs.Root{Dir: e.Dir.RootOf(name), Layers: layers}
	return e.Images.Publish(ctx, image.PublishOptions{
		Base: in.Facts.Fingerprint, Properties: p.Properties, Aliases: p.Aliases, Reuse: p.Reuse,
		Pack: func(ctx context.Context, w io.Writer) (whole bool, err error) {
			pack := func() error {
				whole, err = rootfs.PackRoot(ctx, root, in.Facts.Driver, in.Facts.Range, generated, w)
				return err
			}
			if held.running && !in.Applied.Frozen() {
				return whole, e.frozen(ctx, in, p.Frozen, pack)
			}
			return whole, pack()
		},
	})
}

// heldFiles are the files of an instance that are not mounted anew, nor removed, until the hold is released.
type heldFiles struct {
	in      *state.Instance // as it is with the hold
	running bool
	hold    *state.Hold
}

func (e *Engine) holdFiles(ctx context.Context, in *state.Instance) (h heldFiles, err error) {
	name := in.Spec.Name
	keeper, err := e.Connect(ctx, in)
	stopped := err
	switch {
	case errors.Is(err, state.ErrNotRunning):
		h.hold, err = e.Dir.HoldStopped(name)
	case err == nil:
		defer keeper.Close()
		h.running = true
		h.hold, err = e.Dir.HoldRunning(name)
	}
	if err != nil {
		return h, err
	}
	if h.running {
		// With the hold taken, and the init alive after that: the files are not those that a reboot has replaced.
		if h.in, err = e.Dir.Get(name); err == nil && (keeper.gone(0) || h.in.Applied == nil) {
			err = e.notRunning(in)
		}
	} else {
		h.in, err = e.stoppedRecord(name, stopped)
	}
	if err != nil {
		h.hold.Release()
	}
	return h, err
}

// frozen calls do while the running machine in is frozen, and tell before. Should this process be killed meanwhile, the machine
// goes on nevertheless.
func (e *Engine) frozen(ctx context.Context, in *state.Instance, tell func(), do func() error) (err error) {
	if tell != nil {
		tell()
	}
	release, err := e.releaser(in)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := e.Pause(ctx, in); err != nil {
		return err
	}
	return do()
}

// releaser starts a process that resumes the machine in as soon as release is called, or this process is no more.
func (e *Engine) releaser(in *state.Instance) (release func() error, err error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := e.another("release", in.Spec.Name)
	cmd.Stdin = theirs
	err = startOnHost(cmd)
	theirs.Close()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("release: %w", err)
	}
	return func() error {
		ours.Close()
		if err := cmd.Wait(); err != nil { // it said nothing: here somebody listens
			return unlessEnded(e.Resume(context.Background(), in))
		}
		return nil
	}, nil
}

// Release resumes a machine when from has come to its end.
func (e *Engine) Release(ctx context.Context, name string, from io.Reader) error {
	if _, err := io.Copy(io.Discard, from); err != nil {
		return err
	}
	in, err := e.Dir.Get(name)
	if err != nil {
		return err
	}
	return unlessEnded(e.Resume(ctx, in))
}

// unlessEnded is err, but nil for a machine that was killed meanwhile: what was read counts.
func unlessEnded(err error) error {
	if errors.Is(err, state.ErrNotRunning) {
		return nil
	}
	return err
}
