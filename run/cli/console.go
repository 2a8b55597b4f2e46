package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

func (a *app) console() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		return func(ctx context.Context, args []string) error {
			e, in, err := a.instance(args[0])
			if err != nil {
				return err
			}
			k, err := e.Connect(ctx, in)
			if err != nil {
				return err
			}
			defer k.Close()
			fmt.Fprintf(os.Stderr, "croft: console of %s; ctrl-a q detaches\n", in.Spec.Name)
			if err := run.Awake(in); err != nil {
				fmt.Fprintf(os.Stderr, "croft: %v; croft resume %s lets it go on\n", err, in.Spec.Name)
			}
			_, err = attach(ctx, k)
			return err
		}
	}
}

// attach joins our terminal to a machine's console until the machine ends, false, or ctrl-a q is typed, true.
func attach(ctx context.Context, k *run.Keeper) (detached bool, err error) {
	if isTerminal(os.Stdin) {
		saved, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return false, err
		}
		defer term.Restore(int(os.Stdin.Fd()), saved)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	resize(k)
	if err := k.Attach(); err != nil {
		return false, err
	}
	ended, left := make(chan error, 1), make(chan bool, 1)
	go func() { ended <- k.Show(os.Stdout) }()
	go func() { left <- run.CopyKeys(k, os.Stdin) }()
	for {
		select {
		case err := <-ended:
			return false, err
		case detach := <-left:
			if detach {
				return true, nil
			}
			left = nil // no more keys: stay and watch
		case sig := <-signals:
			if sig != syscall.SIGWINCH {
				return false, nil
			}
			resize(k)
		case <-ctx.Done():
			return false, nil
		}
	}
}

func resize(k *run.Keeper) {
	if cols, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil {
		k.Resize(uint16(rows), uint16(cols))
	}
}

func (a *app) logs() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var o logOptions
		fs.BoolVarP(&o.follow, "follow", "f", false, "go on until the machine stops")
		fs.IntVarP(&o.lines, "lines", "n", -1, "the last `N` lines only")
		fs.Var((*timeValue)(&o.since), "since", "what came since `TIME`, or this long ago")
		return func(ctx context.Context, args []string) error { return a.showLogs(ctx, args[0], o) }
	}
}

type logOptions struct {
	follow bool
	lines  int
	since  time.Time
}

func (a *app) showLogs(ctx context.Context, name string, o logOptions) error {
	e, in, err := a.instance(name)
	if err != nil {
		return err
	}
	var to io.Writer = os.Stdout
	if isTerminal(os.Stdout) {
		to = &calm{to: os.Stdout}
	}
	at, err := e.PrintLog(ctx, in, o.since, o.lines, to)
	if err != nil || !o.follow {
		return err
	}
	return e.Follow(name, at, to, func() bool {
		st, err := e.Dir.Status(in)
		return err != nil || !st.Held
	})
}
