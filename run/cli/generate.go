package cli

import (
	"context"
	"fmt"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// generateUnit prints a unit file of a machine.
func (a *app) generateUnit() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var sockets []string
		fs.StringArrayVar(&sockets, "socket", nil, "print the socket unit instead, listening at `ADDRESS`: PORT, IP:PORT, /PATH or @NAME")
		return func(_ context.Context, args []string) error {
			e, in, err := a.instance(args[0])
			if err != nil {
				return fmt.Errorf("generate unit %w", err)
			}
			if in.Spec.Remove {
				return state.Hint(fmt.Errorf("generate unit %s: it is removed when it stops, and a unit could start it once", in.Spec.Name), "croft set "+in.Spec.Name+" rm=false")
			}
			if len(sockets) > 0 {
				text, err := run.SocketFile(in, sockets)
				if err != nil {
					return man.Misused("%v", err)
				}
				fmt.Print(text)
				return nil
			}
			program, err := run.Program()
			if err != nil {
				return err
			}
			fmt.Print(e.UnitFile(in, program))
			return nil
		}
	}
}
