package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// Stop ends a machine by its own rules within limit, then by force, and returns when all is undone. A paused one is
// resumed for that. ErrNotRunning when it does not run. An orphan can only be killed.
func (e *Engine) Stop(ctx context.Context, in *state.Instance, limit time.Duration) error {
	if in.Applied != nil && in.Applied.Frozen() {
		if err := e.Resume(ctx, in); err != nil && !errors.Is(err, state.ErrNotRunning) {
			return err
		}
	}
	return e.end(ctx, in, func(k *Keeper) error { return k.Stop(limit) })
}

// Kill sends a signal to the machine's init; SIGKILL ends the machine and waits until all is undone.
func (e *Engine) Kill(ctx context.Context, in *state.Instance, sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return e.end(ctx, in, (*Keeper).Kill)
	}
	k, err := e.Connect(ctx, in)
	if err != nil {
		return err
	}
	defer k.Close()
	if err := unix.PidfdSendSignal(int(k.Init.Fd()), sig, nil, 0); err != nil {
		return fmt.Errorf("%s: pidfd_send_signal: %w", in.Spec.Name, err)
	}
	return nil
}

func (e *Engine) end(ctx context.Context, in *state.Instance, ask func(*Keeper) error) error {
	k, err := e.reach(ctx, in)
	if errors.Is(err, state.ErrNotRunning) {
		return e.endOrphan(in, err)
	}
	for err == nil {
		if err = ask(k); err == nil || errors.Is(err, unix.EPIPE) {
			err = k.Wait(ctx)
		}
		was := k.process()
		k.Close()
		now, _ := e.Dir.Get(in.Spec.Name)
		if err != nil || now == nil || now.UUID != in.UUID || now.Restarts == 0 && now.Applied == nil {
			return errors.Join(err, e.unitEnded(ctx, in))
		}
		// A machine that ended by itself at that moment has not heard us, and may reboot, or be started again by its
		// policy. What another process has started since is not what was to end.
		if k, err = e.reach(ctx, now); err == nil && k.process() != was {
			return k.Close()
		}
	}
	if errors.Is(err, state.ErrNotRunning) {
		return nil
	}
	return err
}

// endOrphan kills what is left of a machine whose keeper is dead; notRunning when nothing is.
func (e *Engine) endOrphan(in *state.Instance, notRunning error) error {
	if in.Applied == nil {
		return notRunning
	}
	did, err := e.repairOne(in.Spec.Name)
	if err == nil && did == nil {
		return notRunning
	}
	return err
}
