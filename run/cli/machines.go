package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// naming is what to do when the name of a new machine is taken.
type naming struct {
	exists string
	force  bool
}

func (n *naming) bind(fs *pflag.FlagSet, words ...string) {
	n.exists = words[0]
	fs.Var(oneOf(&n.exists, words...), "exists", "when there is a machine of that --name: `"+strings.Join(words, "|")+"`; what was made without --rm is replaced only with -f")
	fs.BoolVarP(&n.force, "force", "f", false, "with --exists replace: one that was made to stay, too; and "+forceText)
}

// What --exists can be.
const (
	existsFail    = "fail"
	existsStart   = "start"
	existsReplace = "replace"
)

// createMachine makes the record of a new machine; a made-up name that is taken is made up anew. What fits refuses of
// the draft is not made. With --exists start it may be one that was there: found.
func (a *app) createMachine(ctx context.Context, flags *specFlags, names naming, image string, cmd []string, fits func(*state.Instance) error) (in *state.Instance, found bool, err error) {
	e, err := a.engine()
	if err == nil {
		err = e.Room(names.force)
	}
	if err != nil {
		return nil, false, err
	}
	sources, err := a.beneath(flags)
	if err != nil {
		return nil, false, err
	}
	if names.exists != existsFail && flags.Name == "" {
		return nil, false, man.Misused("--exists needs a --name")
	}
	for try := 0; ; try++ {
		spec, err := flags.spec(image, cmd)
		if err != nil {
			return nil, false, err
		}
		if names.exists == existsStart {
			if in, err := e.Dir.Get(spec.Name); !errors.Is(err, state.ErrNotExist) {
				if err == nil && in.Spec.Image != spec.Image && !strings.HasSuffix(in.Spec.Image, ":"+spec.Image) {
					flags.note("croft: %s is made of %s, and stays so\n", spec.Name, in.Spec.Image)
				}
				return in, true, err
			}
		}
		if err := expand(&spec, sources); err != nil {
			return nil, false, err
		}
		if spec.Image, err = a.obtain(ctx, flags, spec.Image); err != nil {
			return nil, false, err
		}
		if spec.Security.Privileged {
			flags.note("croft: %s is privileged: its root is this host's root\n", spec.Name)
		}
		in, err := e.Draft(spec)
		if err == nil {
			err = fits(in)
		}
		if err == nil && names.exists == existsReplace {
			err = e.Replace(ctx, in, names.force)
		} else if err == nil {
			err = e.Create(in)
		}
		var misuse *man.Misuse
		again := (flags.Name == "" || names.exists == existsStart) && try < 100
		switch {
		case err == nil:
			if in.Facts.Driver != "overlay" && spec.Root.Driver == "" {
				flags.note("croft: %s gets a copy of the whole image: %s carries no overlay\n", in.Spec.Name, e.Dir.Root)
			}
			return in, false, flags.noteUnread(e, in)
		case errors.As(err, &misuse):
			return nil, false, err
		case errors.Is(err, state.ErrExist) && again:
			continue
		case errors.Is(err, state.ErrExist) && names.exists == existsFail:
			return nil, false, state.Hint(fmt.Errorf("create %w", err), "croft start "+spec.Name+", or croft rm -f "+spec.Name)
		case errors.Is(err, state.ErrExist), flags.Name == "": // a made-up name says nothing to anybody
			return nil, false, err
		}
		return nil, false, fmt.Errorf("create %s: %w", spec.Name, err)
	}
}

// beneath is what a new machine gets where the flags say nothing: by the settings of the host, and by its profiles. The
// network is a flag by that: what --ip says is about it, wherever it comes from.
func (a *app) beneath(flags *specFlags) ([]source, error) {
	if len(flags.profiles) == 0 {
		flags.profiles = []string{state.DefaultProfile}
	}
	var of state.Spec
	if err := flags.profiled(&of); err != nil {
		return nil, err
	}
	sources, err := a.sources(of.Profiles)
	if err != nil || len(flags.networks) > 0 {
		return sources, err
	}
	network, err := settingOf("network")
	if err != nil {
		return nil, err
	}
	for i := range sources {
		if said := sources[i].values(network.setting); said != nil {
			flags.networks, flags.Origins = said, map[string]string{network.name: sources[i].origin}
		}
	}
	return sources, nil
}

func (a *app) create() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var flags specFlags
		var names naming
		flags.bind(fs)
		flags.bindPull(fs)
		names.bind(fs, existsFail, existsReplace)
		fs.BoolVar(&flags.Remove, "rm", false, "remove it when it stops")
		fs.StringVarP(&flags.Init.User, "user", "u", "", "run CMD of --no-boot as `USER`")
		fs.StringVarP(&flags.Init.Dir, "workdir", "w", "", "run it in `DIR`")
		return func(ctx context.Context, args []string) error {
			any := func(*state.Instance) error { return nil }
			in, _, err := a.createMachine(ctx, &flags, names, args[0], args[1:], any)
			if err != nil {
				return err
			}
			fmt.Println(in.Spec.Name)
			return nil
		}
	}
}

// instance reads one record.
func (a *app) instance(name string) (*run.Engine, *state.Instance, error) {
	e, err := a.engine()
	if err != nil {
		return nil, nil, err
	}
	in, err := e.Dir.Get(name)
	return e, in, err
}

func (a *app) start() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		timings := fs.Bool("timings", false, "tell on stderr how long each step took")
		boot := fs.Bool(bootFlag, false, "instead of NAME: all that shall start with the host and no unit starts, see croft help enable")
		front := fs.BoolP("foreground", "F", false, "stay until it stops, with its console on stdout: for unit files")
		a.forced(fs)
		named := a.filters(fs)
		return func(ctx context.Context, args []string) error {
			if *boot && *front {
				return man.Misused("--%s starts them in the background", bootFlag)
			}
			if *boot {
				return a.startReturning(ctx)
			}
			names, err := named(args)
			switch {
			case err != nil:
				return err
			case *front && len(names) == 0 && len(args) == 0: // as any verb over nothing
				return nil
			case *front && len(names) != 1:
				return man.Misused("--foreground starts one machine, not %d", len(names))
			case *front:
				return a.startHere(ctx, names[0], *timings)
			}
			return a.each(names, func(name string) error { return a.startOne(ctx, name, *timings) })
		}
	}
}

func (a *app) startOne(ctx context.Context, name string, timings bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	var s *run.Started
	var in *state.Instance
	var began time.Time
	for s == nil {
		var runs bool
		if in, runs, err = e.Runs(ctx, name); err != nil {
			return err
		}
		if runs {
			return run.Awake(in) // running already is success
		}
		if err := e.Room(a.force); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		run.Hurry()
		began = time.Now()
		if in, err = a.fresh(e, in); err != nil {
			return err
		}
		if s, err = e.Start(ctx, in); err != nil && !errors.Is(err, state.ErrRunning) { // else somebody was faster
			return err
		}
	}
	defer s.Close()
	if err := s.Ready(ctx, e, in.Spec.Timeouts.ReadyAfter()); err != nil {
		return err
	}
	if timings {
		printTimings(s.Timings, time.Since(began))
	}
	hintPorts(e, name)
	return nil
}

// startHere starts a machine in this process, which stays as its keeper.
func (a *app) startHere(ctx context.Context, name string, timings bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	in, runs, err := e.Runs(ctx, name)
	if err != nil {
		return err
	}
	if runs {
		return fmt.Errorf("start %s: %w", name, state.ErrRunning)
	}
	if err := e.Room(a.force); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	if in, err = a.fresh(e, in); err != nil {
		return err
	}
	if timings {
		os.Setenv(run.EnvTimings, "1")
	}
	return e.Foreground(ctx, in)
}

// filters binds --filter, which stands in the place of names, and gives the function that finds out which are meant.
func (a *app) filters(fs *pflag.FlagSet) func(args []string) ([]string, error) {
	var filters []string
	fs.StringArrayVar(&filters, filterFlag, nil, "instead of NAME: all with `KEY=VALUE`, see croft help list; none is success")
	return func(args []string) ([]string, error) {
		if len(filters) == 0 {
			return args, nil
		}
		return a.chosen(filters)
	}
}

const filterFlag = "filter"

// chosen names the machines that pass the filters.
func (a *app) chosen(filters []string) ([]string, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	rows, err := listed(e)
	if err != nil {
		return nil, err
	}
	if rows, err = filtered(rows, filters); err != nil {
		return nil, err
	}
	var names []string
	for _, m := range rows {
		names = append(names, m.Name)
	}
	return names, nil
}

// printTimings tells where the time of a start went, and last the guest's own: from the exec of its init to its
// word that it is up.
func printTimings(steps []run.Timing, total time.Duration) {
	var sum time.Duration
	for _, t := range steps {
		fmt.Fprintf(os.Stderr, "%-10s %8.1f ms\n", t.Step, ms(t.Took))
		sum += t.Took
	}
	fmt.Fprintf(os.Stderr, "%-10s %8.1f ms   from there to ready\n", "the guest", ms(total-sum))
	fmt.Fprintf(os.Stderr, "%-10s %8.1f ms\n", "total", ms(total))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (a *app) stop() func(*pflag.FlagSet) man.Run { return a.stopping(a.stopOne) }

// stopping is a verb that begins by stopping each machine it names, within a limit that can be given.
func (a *app) stopping(do func(ctx context.Context, name string, limit time.Duration) error) func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		limit := time.Duration(-1)
		fs.VarP((*durationValue)(&limit), "time", "t", "kill what has not stopped after `DURATION`; default: the machine's --stop-timeout")
		named := a.filters(fs)
		return func(ctx context.Context, args []string) error {
			names, err := named(args)
			if err != nil {
				return err
			}
			return a.each(names, func(name string) error { return do(ctx, name, limit) })
		}
	}
}

// stopOne stops one machine; stopped already is success. A negative limit is the machine's own.
func (a *app) stopOne(ctx context.Context, name string, limit time.Duration) error {
	e, in, err := a.instance(name)
	if err != nil {
		return err
	}
	if limit < 0 {
		limit = in.Spec.Timeouts.StopAfter()
	}
	if err := e.Stop(ctx, in, limit); err != nil && !errors.Is(err, state.ErrNotRunning) {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	return nil
}

func (a *app) restart() func(*pflag.FlagSet) man.Run {
	again := a.stopping(func(ctx context.Context, name string, limit time.Duration) error {
		e, _, err := a.instance(name)
		if err != nil {
			return err
		}
		if err := e.Room(a.force); err != nil { // before it is stopped, and cannot be started again
			return fmt.Errorf("restart %s: %w", name, err)
		}
		if err := a.stopOne(ctx, name, limit); err != nil {
			return err
		}
		return a.startOne(ctx, name, false)
	})
	return func(fs *pflag.FlagSet) man.Run {
		a.forced(fs)
		return again(fs)
	}
}

func (a *app) kill() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		name := fs.StringP("signal", "s", "KILL", "send `SIGNAL`, a name or a number")
		named := a.filters(fs)
		return func(ctx context.Context, args []string) error {
			sig, err := parseSignal(*name)
			if err != nil {
				return err
			}
			names, err := named(args)
			if err != nil {
				return err
			}
			return a.each(names, func(name string) error {
				e, in, err := a.instance(name)
				if err == nil {
					err = e.Kill(ctx, in, sig)
				}
				return err
			})
		}
	}
}

// rtmin is SIGRTMIN of the C libraries; the kernel's two below serve their threads.
const rtmin = 34

// parseSignal reads TERM, SIGTERM, 15, RTMIN+3 and SIGRTMIN+3.
func parseSignal(text string) (unix.Signal, error) {
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n < 65 {
		return unix.Signal(n), nil
	}
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok {
		n, err := strconv.Atoi(strings.TrimPrefix("0"+rest, "0+"))
		if err == nil && n >= 0 && rtmin+n < 65 {
			return unix.Signal(rtmin + n), nil
		}
	}
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	return 0, man.Misused("%q is no signal", text)
}

// changing is a verb that does one thing to each machine it names, without flags.
func (a *app) changing(do func(e *run.Engine, ctx context.Context, in *state.Instance) error) func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		named := a.filters(fs)
		return func(ctx context.Context, args []string) error {
			names, err := named(args)
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(ctx)
			defer cancel() // half of a change is taken back
			return a.each(names, func(name string) error {
				e, in, err := a.instance(name)
				if err == nil {
					err = do(e, ctx, in)
				}
				return err
			})
		}
	}
}

func (a *app) pause() func(*pflag.FlagSet) man.Run { return a.changing((*run.Engine).Pause) }

func (a *app) resume() func(*pflag.FlagSet) man.Run { return a.changing((*run.Engine).Resume) }

func (a *app) rename() func(*pflag.FlagSet) man.Run {
	return func(*pflag.FlagSet) man.Run {
		return func(_ context.Context, args []string) error {
			e, err := a.engine()
			if err == nil {
				err = e.Rename(args[0], args[1])
			}
			if err != nil && !errors.Is(err, state.ErrNotExist) {
				return fmt.Errorf("rename %w", err)
			}
			return err
		}
	}
}

func (a *app) remove() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		force := fs.BoolP("force", "f", false, "in any state: kill it first; one that is not there is success")
		named := a.filters(fs)
		return func(ctx context.Context, args []string) error {
			names, err := named(args)
			if err != nil {
				return err
			}
			return a.each(names, func(name string) error {
				e, err := a.engine()
				if err != nil {
					return err
				}
				err = e.Delete(ctx, name, *force)
				if *force && errors.Is(err, state.ErrNotExist) {
					return nil
				}
				if err != nil && !errors.Is(err, state.ErrNotExist) {
					return fmt.Errorf("rm %w", err)
				}
				return err
			})
		}
	}
}

func (a *app) repair() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		return func(ctx context.Context, names []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			did, err := e.Repair(ctx, names...)
			for _, line := range did {
				fmt.Println(line)
			}
			return err
		}
	}
}

func (a *app) wait() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		what := "stopped"
		var limit time.Duration
		fs.Var(oneOf(&what, "running", "ready", "ip", "cloud-init", "paused", "stopped"), "for", "wait for `running|ready|ip|cloud-init|paused|stopped`")
		fs.Var((*durationValue)(&limit), "timeout", "give up after `DURATION`, with status 124")
		named := a.filters(fs)
		return func(ctx context.Context, args []string) error {
			names, err := named(args)
			if err != nil {
				return err
			}
			if limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limit)
				defer cancel()
			}
			return a.each(names, func(name string) error { return a.waitOne(ctx, name, what) })
		}
	}
}

func (a *app) waitOne(ctx context.Context, name, what string) error {
	for {
		e, in, err := a.instance(name)
		if err != nil {
			return err
		}
		st, err := e.Dir.Status(in)
		if err != nil {
			return err
		}
		switch {
		case what == state.Stopped && (st.State != state.Stopped || st.Held): // rm or start may follow
		case what == state.Stopped:
			code := 0
			if in.Exit != nil {
				code = in.Exit.Code
			}
			fmt.Println(code)
			return nil
		case what == st.State, what == "ready" && st.Ready && st.State == state.Running:
			return nil
		case what == "ip":
			if has, err := addressed(ctx, e, in); has || err != nil {
				return err
			}
		case what == "cloud-init":
			if done, err := cloudInitDone(ctx, e, in, st.Ready); done || err != nil {
				return err
			}
		}
		if run.Sleep(ctx, 20*time.Millisecond) != nil {
			return said{a.say(fmt.Errorf("wait %s: %s in time", name, missing(what))), run.StatusTimeout}
		}
	}
}

// missing is what a wait that was given up tells of a machine.
func missing(what string) string {
	switch what {
	case "ip":
		return "no address"
	case "cloud-init":
		return "cloud-init is not done"
	}
	return "not " + what
}

// addressed says whether a machine has an address. One that has no network of its spec gets none by waiting; somebody may
// have put an interface there all the same.
func addressed(ctx context.Context, e *run.Engine, in *state.Instance) (bool, error) {
	name, spec := in.Spec.Name, &in.Spec
	if in.Applied != nil {
		spec = &in.Applied.Spec
	}
	addrs, err := e.Addresses(ctx, in)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("wait %s: %w", name, err)
	case len(addrs) == 0 && len(spec.NICs) == 0:
		return false, state.Hint(fmt.Errorf("wait %s: it has no network: no address will come", name), "croft set --network NET "+name)
	}
	return len(addrs) > 0, nil
}

// say prints an error now, for one whose exit code is its own.
func (a *app) say(err error) error {
	fmt.Fprintln(os.Stderr, "croft: "+a.text(err))
	return err
}
