package cli

import (
	"context"
	"errors"
	"fmt"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// bootFlag is the flag of start that takes the place of names.
const bootFlag = "boot"

// enabling is enable or disable: they set boot.autostart, and without a name install or remove what brings back the
// machines that ran.
func (a *app) enabling(on bool) func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		named := a.filters(fs)
		return func(ctx context.Context, args []string) error {
			e, err := a.engine()
			if err == nil && on {
				err = withSystemd(ctx, e, args)
			}
			if err != nil {
				return err
			}
			names, err := named(args)
			switch {
			case err != nil:
				return err
			case len(args) == 0 && !fs.Changed(filterFlag) && on:
				return e.EnableReturn(ctx)
			case len(args) == 0 && !fs.Changed(filterFlag):
				return e.DisableReturn(ctx)
			}
			var set []string
			err = a.each(names, func(name string) error {
				err := e.Autostart(name, on)
				switch {
				case err == nil:
					set = append(set, name)
				case !errors.Is(err, state.ErrNotExist):
					err = fmt.Errorf("%s %s: %w", a.verb, name, err)
				}
				return err
			})
			if len(set) > 0 {
				if err := e.Enable(ctx, set...); err != nil {
					return err
				}
			}
			return err
		}
	}
}

// withSystemd says what helps where there is nothing to enable a machine with.
func withSystemd(ctx context.Context, e *run.Engine, names []string) error {
	bus, err := e.Bus(ctx)
	if err == nil {
		bus.Close()
		return nil
	}
	if !errors.Is(err, state.ErrUnsupported) {
		return err
	}
	hint := "have the boot scripts of this host run: croft start --boot"
	if len(names) > 0 {
		hint = "croft set " + names[0] + " boot.autostart=true, and " + hint
	}
	return state.Hint(fmt.Errorf("enable: %w", err), hint)
}

// startReturning starts what the host's start is to start.
func (a *app) startReturning(ctx context.Context) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	var first error
	e.BringBack(func(name string) error { return a.startOne(ctx, name, false) }, func(err error) {
		if status := a.fail(err, false); first == nil {
			first = said{err, status}
		}
	})
	return first
}
