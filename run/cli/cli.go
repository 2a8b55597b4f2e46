// Package cli is the face at the shell: it turns words into a state.Spec and results into text.
//
// One table (table.go) describes all commands; help, manual and completion come out of it. It decides nothing
// about machines: the engine does.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// The exit codes of the contract (docs: croft(1), EXIT STATUS).
const (
	exitDone     = 0
	exitFailed   = 1
	exitMisuse   = 2
	exitNotExist = 3
	exitState    = 4
	exitOurs     = 125 // run and exec: croft itself failed
)

// Main carries out one command line and gives the exit code.
func Main(args []string) int {
	// The caller's mask is no machine's: under 0077 its users could not read the /etc/hosts that is made for it. What is
	// nobody's business has a mode of its own.
	unix.Umask(0o022)
	a := &app{}
	program := a.program()
	call, err := program.Parse(args)
	if err != nil {
		return a.fail(err, false)
	}
	if c := call.Command; c != nil { // nil: the help of all
		a.inner = c.Name == "run" || c.Name == "exec" || c.Name == "shell"
		a.verb, a.verbs = c.Name, program.Commands
	}
	if call.Flags != nil {
		a.environment(call.Flags)
	}
	err = call.Run(context.Background())
	return a.fail(err, a.inner)
}

// app is what the commands of one invocation share: the global flags, and the engine once it is opened.
type app struct {
	root, run string
	origin    map[string]string // of root and run: the flag or variable that said it; none where neither did
	host      hostSettings      // once they are read
	log       string
	verb      string         // that is carried out
	verbs     []*man.Command // all
	inner     bool           // the exit code belongs to what runs inside
	force     bool           // go on where the disk is nearly full
	opened    *run.Engine
}

// globals binds the flags that every command takes. What the environment says is no default of theirs: the
// manual is the same everywhere.
func (a *app) globals(fs *pflag.FlagSet) {
	fs.StringVar(&a.root, "root", run.DefaultRoot, "keep images and instances in `DIR`")
	fs.StringVar(&a.run, "run", run.DefaultRun, "keep what a reboot may take in `DIR`")
	fs.Var(oneOf(&a.log, "error", "warn", "info", "debug"), "log-level", "log `error|warn|info|debug` and graver to stderr; default: warn")
	fs.Bool("version", false, "print the version")
}

// environment gives the flags that were not used the values of the environment.
func (a *app) environment(fs *pflag.FlagSet) {
	a.places(fs.Changed)
	if a.log != "" {
		os.Setenv(run.EnvLog, a.log)
	}
}

// completing does so for the flags of the words to be completed: they were bound anew, to their defaults.
func (a *app) completing() {
	a.places(func(flag string) bool {
		return flag == "root" && a.root != run.DefaultRoot || flag == "run" && a.run != run.DefaultRun
	})
}

// places gives root and run the values of the environment where no flag said them, and notes who did.
func (a *app) places(flagged func(flag string) bool) {
	a.origin = map[string]string{}
	for flag, to := range map[string]*string{"root": &a.root, "run": &a.run} {
		name := "CROFT_" + strings.ToUpper(flag)
		switch v := os.Getenv(name); {
		case flagged(flag):
			a.origin[flag] = "--" + flag
		case v != "":
			a.origin[flag], *to = name, v
		}
	}
}

// engine opens the engine; it needs root, since machines do.
func (a *app) engine() (*run.Engine, error) {
	if a.opened != nil {
		return a.opened, nil
	}
	if !run.Privileged() {
		return nil, state.Hint(errNotRoot, "sudo croft "+strings.Join(os.Args[1:], " "))
	}
	path, err := a.configure()
	if err != nil {
		return nil, err
	}
	e, err := a.open()
	if err == nil {
		e.Pool, e.Settings = a.host.pool(), filepath.Dir(path)
		e.Subnet, e.Ports = a.host.Subnet.Prefix, a.host.Publish.Addr
	}
	return e, err
}

// interruptible is ctx until the terminal or a supervisor wants us to end.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
}

var errNotRoot = errors.New("needs root")

// open opens the engine without a look at the host's settings. The processes of a machine do so: they were told all
// they need, and a slip in a file must not keep a machine from being undone.
func (a *app) open() (*run.Engine, error) {
	e, err := run.Open(a.root, a.run)
	if err == nil {
		e.Log = func(line string) { fmt.Fprintln(os.Stderr, line) }
	}
	a.opened = e
	return e, err
}

// forced binds --force of the verbs that begin something new on the disk.
func (a *app) forced(fs *pflag.FlagSet) {
	fs.BoolVar(&a.force, "force", false, forceText)
}

const forceText = "go on although the disk is full but for a reserve"

// fail prints an error in the one form there is and gives its exit code.
func (a *app) fail(err error, inner bool) int {
	var status run.ExitStatus
	if err == nil {
		return exitDone
	}
	if errors.As(err, &status) && err == error(status) {
		return int(status)
	}
	var said said
	if !errors.As(err, &said) {
		fmt.Fprintln(os.Stderr, "croft: "+a.text(err))
		if hint := hintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint: "+hint)
		}
	}
	return code(err, inner)
}

// text is what an error says, with the verb before it: VERB NAME: CAUSE. What was typed wrong has it, or is about the
// words and not about a machine.
func (a *app) text(err error) string {
	text := err.Error()
	first, _, _ := strings.Cut(text, " ")
	verb := func(c *man.Command) bool { return c.Name == strings.TrimSuffix(first, ":") && !c.Hidden }
	switch {
	case a.verb == "", errors.As(err, new(*man.Misuse)), errors.As(err, new(state.Violations)), errors.As(err, new(*run.CommandError)),
		errors.Is(err, errNotRoot), first == a.verb, slices.ContainsFunc(a.verbs, verb):
		return text
	}
	return a.verb + " " + text
}

// said is an error that was printed already, or one that carries a status of its own.
type said struct {
	error
	status int
}

func hintOf(err error) string {
	var h *state.Hinted
	if errors.As(err, &h) {
		return h.Hint
	}
	var m *man.Misuse
	if errors.As(err, &m) {
		return m.Hint
	}
	return ""
}

func code(err error, inner bool) int {
	var misuse *man.Misuse
	var said said
	var status run.ExitStatus
	var command *run.CommandError
	var violations state.Violations
	switch {
	case errors.As(err, &said) && said.status != 0:
		return said.status
	case errors.As(err, &command):
		return int(command.Status)
	case errors.As(err, &misuse):
		return exitMisuse
	case errors.As(err, &status):
		return int(status)
	case inner:
		return exitOurs
	case errors.Is(err, state.ErrNotExist):
		return exitNotExist
	case errors.Is(err, state.ErrRunning), errors.Is(err, state.ErrNotRunning), errors.Is(err, state.ErrPaused), errors.Is(err, state.ErrBusy),
		errors.Is(err, state.ErrProtected):
		return exitState
	case errors.As(err, &violations), errors.Is(err, state.ErrMisnamed):
		return exitMisuse
	}
	return exitFailed
}

// each carries out one verb for several names and goes on after a failure: all errors are printed, the exit
// code is that of the first.
func (a *app) each(names []string, do func(name string) error) error {
	var first error
	for _, name := range names {
		if err := do(name); err != nil {
			status := a.fail(err, a.inner)
			if first == nil {
				first = said{err, status}
			}
		}
	}
	return first
}
