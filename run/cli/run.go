package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// runOptions are those of one run beside the machine's own.
type runOptions struct {
	specFlags
	naming
	user, dir string
	detach    bool
	console   bool
	timings   bool
}

func (a *app) runVerb() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var o runOptions
		o.specFlags.bind(fs)
		o.specFlags.bindPull(fs)
		o.naming.bind(fs, existsFail, existsStart, existsReplace)
		fs.BoolVar(&o.Remove, "rm", false, "remove it when it stops")
		fs.BoolVarP(&o.detach, "detach", "d", false, "return once it is up, printing its name")
		fs.BoolVar(&o.console, "console", false, "show its console instead of a shell")
		fs.BoolVar(&o.timings, "timings", false, "tell on stderr how long each step took")
		fs.StringVarP(&o.user, "user", "u", "", "run CMD as `USER` of the machine, NAME|UID[:GROUP|GID]")
		fs.StringVarP(&o.dir, "workdir", "w", "", "run CMD in `DIR` of the machine")
		fs.BoolP("interactive", "i", false, "accepted and always so")
		fs.BoolP("tty", "t", false, "accepted: a terminal is made when stdin and stdout are terminals")
		return func(ctx context.Context, args []string) error {
			o.Init.User, o.Init.Dir = o.user, o.dir
			return a.runMachine(ctx, &o, args[0], args[1:])
		}
	}
}

// runMachine creates a machine and runs it in the way that the caller's files and flags ask for.
func (a *app) runMachine(ctx context.Context, o *runOptions, image string, cmd []string) error {
	run.Hurry()
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	terminal := isTerminal(os.Stdin) && isTerminal(os.Stdout)
	in, found, err := a.createMachine(ctx, &o.specFlags, o.naming, image, cmd, func(in *state.Instance) error {
		return o.fits(in, cmd, terminal)
	})
	if err != nil {
		return err
	}
	e := a.opened
	if found {
		var runs bool
		in, runs, err = e.Runs(ctx, in.Spec.Name)
		if err == nil && (o.detach || !runs) {
			err = o.fits(in, cmd, terminal)
		}
		if err != nil {
			return err
		}
		if runs {
			return a.runIn(ctx, in, o, cmd, terminal)
		}
		if in, err = a.fresh(e, in); err != nil {
			return err
		}
		if !boots(in) && len(cmd) > 0 && !slices.Equal(cmd, in.Spec.Init.Args) {
			return man.Misused("%s boots nothing and is there for another command: %s", in.Spec.Name, strings.Join(in.Facts.Init.Args, " "))
		}
	}
	if ctx.Err() != nil && !found { // what has only been made is of no use to anybody
		return errors.Join(run.ExitStatus(128+int(syscall.SIGTERM)), e.Delete(context.Background(), in.Spec.Name, true))
	}
	switch {
	case o.detach:
		cancel() // from here it goes on without us
		ctx = context.WithoutCancel(ctx)
		err = a.runDetached(ctx, e, in, o)
	case o.bound(in, cmd, terminal):
		err = a.runHere(ctx, e, in, o, cmd)
	default:
		if o.timings {
			os.Setenv(run.EnvTimings, "1")
		}
		if run.BareShell(in) && isNull(os.Stdin) { // said before, for this process becomes the machine's
			o.note("croft: %s has nothing to do and ends at once: %s is all that it runs, without a terminal and with nothing to read\n"+
				"hint: croft run %s sleep infinity, or --boot for the image's init, or -it on a terminal, or -d to keep the shell on its console\n",
				in.Spec.Name, in.Facts.Init.Args[0], image)
		}
		err = e.Foreground(ctx, in)
	}
	if o.exists == existsStart && errors.Is(err, state.ErrRunning) { // somebody else was faster
		return a.runIn(ctx, in, o, cmd, terminal)
	}
	return err
}

func boots(in *state.Instance) bool { return in.Facts.Init.Mode == state.InitBoot }

// bound says whether the machine lives as long as this run: for a command in it, or on a terminal.
func (o *runOptions) bound(in *state.Instance, cmd []string, terminal bool) bool {
	return !o.detach && (terminal || boots(in) && len(cmd) > 0)
}

// fits says what of the command line does not go together for this machine.
func (o *runOptions) fits(in *state.Instance, cmd []string, terminal bool) error {
	switch {
	case boots(in) && o.detach && len(cmd) > 0:
		return man.Misused("-d boots the machine and takes no CMD: croft exec runs one in it")
	case in.Spec.Restart.Policy != state.RestartNo && o.bound(in, cmd, terminal):
		return man.Misused("--restart is for a machine that is not bound to a command or a terminal: add -d")
	}
	return nil
}

// runIn is a run with --exists start of a machine that runs already: it goes on afterwards.
func (a *app) runIn(ctx context.Context, in *state.Instance, o *runOptions, cmd []string, terminal bool) error {
	switch {
	case o.detach:
		return a.tellUp(ctx, in)
	case len(cmd) == 0 && !terminal:
		return state.Hint(fmt.Errorf("%s: %w", in.Spec.Name, state.ErrRunning), "croft console "+in.Spec.Name)
	}
	x := run.Exec{Args: cmd, User: o.user, Dir: o.dir, Terminal: terminal}
	return a.execute(ctx, in.Spec.Name, x)
}

// tellUp prints the name of a machine that somebody else starts once it is up.
func (a *app) tellUp(ctx context.Context, in *state.Instance) error {
	if err := run.Awake(in); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, in.Spec.Timeouts.ReadyAfter())
	defer cancel()
	if err := a.waitOne(ctx, in.Spec.Name, "ready"); err != nil {
		return err
	}
	fmt.Println(in.Spec.Name)
	return nil
}

// abandon removes a machine that did not come up as far as being of use to anybody.
func abandon(e *run.Engine, in *state.Instance, cause error) error {
	if _, err := e.Dir.Get(in.Spec.Name); errors.Is(err, state.ErrNotExist) || hintOf(cause) != "" {
		return cause
	}
	return state.Hint(cause, "croft rm -f "+in.Spec.Name)
}

func (a *app) runDetached(ctx context.Context, e *run.Engine, in *state.Instance, o *runOptions) error {
	began := time.Now()
	s, err := e.Start(ctx, in)
	if err != nil {
		return abandon(e, in, err)
	}
	defer s.Close()
	err = s.Ready(ctx, e, in.Spec.Timeouts.ReadyAfter())
	switch {
	case s.Expired():
		return a.expired(in)
	case err != nil:
		return abandon(e, in, err)
	}
	if o.timings {
		printTimings(s.Timings, time.Since(began))
	}
	if !o.quiet {
		hintPorts(e, in.Spec.Name)
	}
	fmt.Println(in.Spec.Name)
	return nil
}

// runHere boots the machine for the length of one command, shell or view of the console, and stops it after.
// The machine is bound to this process: when it dies, the machine stops.
func (a *app) runHere(ctx context.Context, e *run.Engine, in *state.Instance, o *runOptions, cmd []string) error {
	ctx, cancel := interruptible(ctx)
	defer cancel()
	began := time.Now()
	s, k, err := e.StartBound(ctx, in, o.console || !boots(in))
	if err != nil {
		return abandon(e, in, err)
	}
	defer s.Close()
	defer k.Close()
	if o.console || !boots(in) {
		return a.runOnConsole(ctx, e, in, o, s, k)
	}
	err = s.Ready(ctx, e, in.Spec.Timeouts.ReadyAfter())
	if o.timings {
		printTimings(s.Timings, time.Since(began))
	}
	status := run.ExitStatus(0)
	if err == nil {
		cancel() // from here the command gets the signals
		status, err = a.execIn(context.Background(), e, in, o, cmd)
	}
	if errors.Is(err, run.ErrDetached) {
		return a.leave(e, k, in)
	}
	if stopErr := k.Stop(in.Spec.Timeouts.StopAfter()); stopErr == nil || errors.Is(stopErr, syscall.EPIPE) {
		s.Wait(context.Background())
	}
	o.tellKept(in)
	switch {
	case s.Expired():
		return a.expired(in)
	case errors.Is(err, context.Canceled):
		return run.ExitStatus(128 + int(syscall.SIGTERM))
	case status != 0:
		if err != nil {
			a.say(err)
		}
		return status
	}
	return err
}

func (a *app) execIn(ctx context.Context, e *run.Engine, in *state.Instance, o *runOptions, cmd []string) (run.ExitStatus, error) {
	x := run.Exec{
		Args: cmd, User: o.user, Dir: o.dir, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Terminal: isTerminal(os.Stdin) && isTerminal(os.Stdout),
	}
	if len(cmd) == 0 {
		x.Detach = true
		o.note("croft: %s is up; leaving the shell stops it; ctrl-a q detaches, croft shell %[1]s comes back\n", in.Spec.Name)
	}
	return e.Exec(ctx, in, x)
}

// runOnConsole shows the console until the machine ends, and gives its status.
func (a *app) runOnConsole(ctx context.Context, e *run.Engine, in *state.Instance, o *runOptions, s *run.Started, k *run.Keeper) error {
	o.note("croft: console of %s; ctrl-a q detaches, croft console %[1]s comes back\n", in.Spec.Name)
	detached, err := attach(ctx, k)
	if err != nil {
		return err
	}
	if detached {
		return a.leave(e, k, in)
	}
	k.Stop(in.Spec.Timeouts.StopAfter())
	code, err := s.Wait(context.Background())
	o.tellKept(in)
	if err == nil && code > 0 {
		return run.ExitStatus(code)
	}
	return err
}

// expired tells that the machine's time was up before it was done.
func (a *app) expired(in *state.Instance) error {
	return said{a.say(fmt.Errorf("%s: stopped: its time of %v was up", in.Spec.Name, time.Duration(in.Spec.Timeouts.Life)*time.Second)), run.StatusTimeout}
}

// leave lets the machine go on without us.
func (a *app) leave(e *run.Engine, k *run.Keeper, in *state.Instance) error {
	if err := e.LetGo(in, k); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "\ncroft: detached; %s goes on\nhint: croft shell %[1]s\n", in.Spec.Name)
	return nil
}

func (o *runOptions) tellKept(in *state.Instance) {
	if !in.Spec.Remove {
		o.note("croft: kept %s (croft start %[1]s, or croft rm %[1]s; --rm would not keep it)\n", in.Spec.Name)
	}
}

// note tells the user something that is no result, unless it shall be quiet.
func (s *specFlags) note(format string, args ...any) {
	if !s.quiet {
		fmt.Fprintf(os.Stderr, format, args...)
	}
}

// execVerb runs a command in a running machine.
func (a *app) execVerb() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var x run.Exec
		var env, envFiles []string
		var noTerminal bool
		var filters []string
		fs.StringArrayVar(&filters, filterFlag, nil, "instead of NAME: in all with `KEY=VALUE`, one after the other, with nothing to read; none is success")
		fs.BoolVarP(&x.NoStdin, "no-stdin", "n", false, "nothing to read for CMD")
		fs.BoolVarP(&noTerminal, "no-tty", "T", false, "no terminal for CMD")
		fs.StringVarP(&x.User, "user", "u", "", "run CMD as `USER` of the machine, NAME|UID[:GROUP|GID]")
		fs.StringVarP(&x.Dir, "workdir", "w", "", "run CMD in `DIR`; default: the user's home")
		fs.StringArrayVarP(&env, "env", "e", nil, "set `KEY=VALUE`; KEY alone takes the caller's")
		fs.StringArrayVar(&envFiles, "env-file", nil, "read such lines from `FILE`")
		fs.BoolP("interactive", "i", false, "accepted and always so")
		fs.BoolP("tty", "t", false, "accepted: a terminal is made when stdin and stdout are terminals")
		return func(ctx context.Context, args []string) (err error) {
			names, cmd := args[:1], args[1:]
			if len(filters) > 0 {
				x.NoStdin, cmd = true, args // they could not all have what there is to read
				if names, err = a.chosen(filters); err != nil {
					return err
				}
			}
			x.Args = cmd
			x.Terminal = !noTerminal && !x.NoStdin && isTerminal(os.Stdin) && isTerminal(os.Stdout)
			if x.Env, err = environment(envFiles, env); err != nil {
				return err
			}
			return a.each(names, func(name string) error { return a.execute(ctx, name, x) })
		}
	}
}

func (a *app) execute(ctx context.Context, name string, x run.Exec) error {
	e, in, err := a.instance(name)
	if err != nil {
		return err
	}
	x.Stdin, x.Stdout, x.Stderr = os.Stdin, os.Stdout, os.Stderr
	status, err := e.Exec(ctx, in, x)
	if err != nil && status != 0 {
		return said{a.say(err), int(status)}
	}
	if err == nil && status != 0 {
		return status
	}
	return err
}

// shell opens a login shell.
func (a *app) shell() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		user := fs.StringP("user", "u", "", "the shell of `USER` of the machine")
		return func(ctx context.Context, args []string) error {
			return a.execute(ctx, args[0], run.Exec{User: *user, Terminal: isTerminal(os.Stdin) && isTerminal(os.Stdout)})
		}
	}
}
