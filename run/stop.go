package run

import (
	"cmp"
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
	return e.end(ctx, in, connectLimit, func(k *Keeper) error { return k.Stop(limit) })
}

// Kill sends a signal to the machine's init; SIGKILL ends the machine, whatever its keeper does, and waits until all is
// undone.
func (e *Engine) Kill(ctx context.Context, in *state.Instance, sig unix.Signal) error {
	if sig == unix.SIGKILL {
		err := e.end(ctx, in, killPatience, (*Keeper).Kill)
		if errors.Is(err, errMute) {
			err = e.killKeeper(ctx, in)
		}
		return err
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

// killPatience is how long a keeper may take to answer who wants its machine dead.
const killPatience = 3 * time.Second

// killKeeper kills a keeper that does not answer, and with it what it keeps.
func (e *Engine) killKeeper(ctx context.Context, in *state.Instance) error {
	name := in.Spec.Name
	limited, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := dial(limited, e.Dir.RunOf(name), socketName, unix.SOCK_SEQPACKET)
	if err != nil {
		return mute(name)
	}
	defer conn.Close()
	keeper, err := listening(conn)
	if errors.Is(err, errNoKeeper) {
		return e.end(ctx, in, connectLimit, (*Keeper).Kill)
	}
	if err != nil {
		return fmt.Errorf("%s: its keeper: %w", name, err)
	}
	defer keeper.Close()
	if err := unix.PidfdSendSignal(int(keeper.Fd()), unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("%s: its keeper: pidfd_send_signal: %w", name, err)
	}
	claim, err := e.waitClaim(limited, name) // a guard, or systemd, may be before us
	switch {
	case errors.Is(err, state.ErrNotExist): // it was made to be removed
		return nil
	case err != nil:
		return cmp.Or(ctx.Err(), mute(name))
	}
	defer claim.Release()
	if _, err := e.repairHeld(name); err != nil {
		return err
	}
	return e.unitEnded(ctx, in)
}

func (e *Engine) end(ctx context.Context, in *state.Instance, patience time.Duration, ask func(*Keeper) error) error {
	k, err := e.reach(ctx, in, patience)
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
		if k, err = e.reach(ctx, now, patience); err == nil && k.process() != was {
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
