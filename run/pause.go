package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"croft/state"
)

// Pause freezes all processes of a machine; paused already is success. What its keeper does goes on: its console is
// read, and a stop that takes too long kills, since a frozen process can be killed.
func (e *Engine) Pause(ctx context.Context, in *state.Instance) error {
	events, err := e.freezer(ctx, in, "1")
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	for !events.Frozen() {
		if Sleep(limited, time.Millisecond) != nil {
			why := fmt.Errorf("%s: a process that waits for the kernel does not freeze: %w", in.Spec.Name, state.ErrBusy)
			if ctx.Err() != nil {
				why = fmt.Errorf("%s: interrupted, and not paused", in.Spec.Name)
			}
			_, thawErr := e.freezer(context.Background(), in, "0")
			return errors.Join(why, thawErr)
		}
		if !events.Populated() {
			return e.notRunning(in)
		}
	}
	return nil
}

// freezeLimit is how long processes may take to come to where the kernel can freeze them.
const freezeLimit = 10 * time.Second

// Resume lets the processes of a machine run again; running already is success.
func (e *Engine) Resume(ctx context.Context, in *state.Instance) error {
	_, err := e.freezer(ctx, in, "0")
	return err
}

// Wake resumes the machine for a stop that nobody but its keeper knows of: a frozen init would not hear it.
func (e *Engine) Wake(ctx context.Context, name string) error {
	in, err := e.Dir.Get(name)
	if err != nil {
		return err
	}
	return e.Resume(ctx, in)
}

// freezer writes to cgroup.freeze of a running machine (cgroup-v2.rst; it needs no controller). The machine has no
// right to that file.
func (e *Engine) freezer(ctx context.Context, in *state.Instance, value string) (*state.Applied, error) {
	k, err := e.Connect(ctx, in)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	if in, err = e.Dir.Get(in.Spec.Name); err != nil { // as it runs now
		return nil, err
	}
	if in.Applied == nil {
		return nil, e.notRunning(in)
	}
	file := filepath.Join(in.Applied.Cgroups[0], "cgroup.freeze")
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) && exists(in.Applied.Cgroups[0]) {
		return nil, fmt.Errorf("%s: its cgroup cannot be frozen: no v2 hierarchy: %w", in.Spec.Name, state.ErrUnsupported)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, e.notRunning(in)
	}
	if err != nil {
		return nil, err
	}
	if k.gone(0) { // what the name leads to may be the next run's by now, which has no keeper yet to thaw it
		f.Close()
		return nil, e.notRunning(in)
	}
	_, err = f.WriteString(value)
	return in.Applied, errors.Join(err, f.Close())
}

// Awake refuses a paused machine: what is started in one, or asked of one, would wait without a word.
func Awake(in *state.Instance) error {
	if in.Applied == nil || !in.Applied.Frozen() {
		return nil
	}
	name := in.Spec.Name
	return state.Hint(fmt.Errorf("%s: %w", name, state.ErrPaused), "croft resume "+name)
}
