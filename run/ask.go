package run

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// Ask asks the init of a machine for a clean end, from inside: the keeper executes us for an init that takes more
// than a known signal. It returns when the init has been told, or when the machine has ended.
func (e *Engine) Ask(ctx context.Context, name string) error {
	in, keeper, err := e.running(ctx, name)
	if err != nil {
		return err
	}
	defer keeper.Close()
	f := in.Applied.Facts
	if len(f.StopCommand) == 0 {
		return e.askUnknown(ctx, in, keeper)
	}
	for began := time.Now(); ; {
		if keeper.listens(f.InitKind) {
			if err = e.tell(ctx, in, f.StopCommand); err == nil {
				return nil
			}
		}
		if keeper.gone(pause(began)) {
			return err
		}
	}
}

// listens says whether an init would hear its stop command. Before it has made its fifo sysvinit makes the command
// fail, but that of OpenRC may not, the first stage of runit would wipe out the request, and the init of libcontainer
// is not the guest's.
func (k *Keeper) listens(kind string) bool {
	if kind == "openrc" {
		s, err := k.look(kind)
		return err == nil && s != booting
	}
	init, err := lookAt(k.PID)
	switch {
	case err != nil || init.ours():
		return false
	case kind == "runit":
		return slices.ContainsFunc(init.children, func(p process) bool {
			return p.runs("runsvdir") || slices.Contains(p.args, "/etc/runit/2")
		})
	}
	return true
}

// askUnknown does as LXC does, the signal for a halt where the init hears it and else that for a failure of power;
// and where that has no effect, or it hears neither, it has the guest's own program do what it does.
func (e *Engine) askUnknown(ctx context.Context, in *state.Instance, keeper *Keeper) error {
	const halt = unix.Signal(34 + 3) // SIGRTMIN+3
	for began := time.Now(); ; {
		init, err := lookAt(keeper.PID)
		for _, sig := range []unix.Signal{halt, unix.SIGPWR} {
			if err == nil && !init.ours() && init.catches(sig) {
				if err := unix.PidfdSendSignal(int(keeper.Init.Fd()), sig, nil, 0); err != nil {
					return fmt.Errorf("pidfd_send_signal: %w", err)
				}
				if keeper.gone(unknownStop) {
					return nil
				}
				return e.tell(ctx, in, []string{"poweroff"})
			}
		}
		// One that has just begun may come to hear it.
		if time.Since(in.Applied.Started) > time.Second && !init.ours() {
			return e.tell(ctx, in, []string{"poweroff"})
		}
		if keeper.gone(pause(began)) {
			return nil
		}
	}
}

// unknownStop is how long an unknown init may take for what it does at a signal.
const unknownStop = 10 * time.Second

// tell runs a command in the machine that must succeed.
func (e *Engine) tell(ctx context.Context, in *state.Instance, args []string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	status, err := e.Exec(ctx, in, Exec{Args: args, NoStdin: true, Stdin: null, Stdout: null, Stderr: null})
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: %w", args[0], status)
	}
	return err
}
