package run

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Timing is how long one step of a start took.
type Timing struct {
	Step string        `json:"step"`
	Took time.Duration `json:"took_ns"`
}

// Started is a start under way, as seen by whoever asked for it. Its pipe stays open until all is undone.
type Started struct {
	Timings []Timing
	name    string
	process *os.Process // starter, keeper and undo: it stays the same one, and our child; nil when it is systemd's
	pipe    *os.File
	lines   *bufio.Scanner
	code    int
	reason  string            // of its end
	log     func(line string) // nil: nobody reads it
	words   string            // the last lines of its console, once it has ended
}

// Start starts a stopped instance in a session of its own, which outlives the caller, and returns once its
// init runs. ErrRunning when it is running already.
func (e *Engine) Start(ctx context.Context, in *state.Instance) (*Started, error) {
	return e.start(ctx, in, nil)
}

// StartBound is Start of a machine that stops when the connection to its keeper ends, however that comes. The connection
// is made before the machine: with console, which the caller then must read, nothing that it prints is missed, and one
// that ends at once has been heard.
func (e *Engine) StartBound(ctx context.Context, in *state.Instance, console bool) (*Started, *Keeper, error) {
	ours, theirs, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, nil, err
	}
	k := &Keeper{conn: ours}
	err = k.Bind()
	if err == nil && console {
		err = k.Attach()
	}
	var s *Started
	if err == nil {
		s, err = e.start(ctx, in, theirs)
	}
	theirs.Close()
	if err == nil {
		k, err = hello(ctx, ours)
	}
	if err != nil {
		ours.Close()
		if s != nil {
			s.Close()
		}
		return nil, nil, err
	}
	return s, k, nil
}

// start hands client, the keeper's end of a connection, to the starter; nil is none.
func (e *Engine) start(ctx context.Context, in *state.Instance, client *os.File) (*Started, error) {
	name := in.Spec.Name
	job := client != nil && inJob() // that it is bound to
	bus, err := e.supervisor(ctx, in, job)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	var s *Started
	if bus != nil {
		s, err = e.startUnit(ctx, bus, in, client)
	} else {
		s, err = e.startApart(in, client, job)
	}
	if err != nil {
		return nil, err
	}
	s.lines, s.code = bufio.NewScanner(s.pipe), -1
	if err := s.until(ctx, "S"); err != nil {
		s.pipe.Close()
		return nil, err
	}
	debug.SetGCPercent(100) // the caller may stay for days (see Hurry)
	return s, nil
}

// startApart starts the machine by a process of a session of its own.
func (e *Engine) startApart(in *state.Instance, client *os.File, job bool) (*Started, error) {
	name := in.Spec.Name
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd := e.another("supervise", name)
	cmd.Env = append(cmd.Env, envReport+"=3")
	cmd.ExtraFiles = []*os.File{w}
	if job {
		cmd.Env = append(cmd.Env, envHold+"="+string(HeldByJob))
	}
	if client != nil {
		cmd.Env, cmd.ExtraFiles = append(cmd.Env, envClient+"=4"), append(cmd.ExtraFiles, client)
	}
	// What our caller has left open for us, a lock or the sockets of a unit, is not for a machine that outlives us.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close_range: %w", err)
	}
	if err := startOnHost(cmd); err != nil {
		r.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	w.Close()
	return &Started{name: name, process: cmd.Process, pipe: r, log: e.Log}, nil
}

// Close stops listening; the machine goes on.
func (s *Started) Close() error { return s.pipe.Close() }

// errEnded: the pipe closed, and with it the machine's last process of ours.
var errEnded = errors.New("ended")

// until reads reports up to the one that starts with mark.
func (s *Started) until(ctx context.Context, mark string) error {
	stop := context.AfterFunc(ctx, func() { s.pipe.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for s.lines.Scan() {
		kind, rest, _ := strings.Cut(s.lines.Text(), " ")
		switch kind {
		case "T":
			s.timing(rest)
		case "E":
			return reported(rest)
		case "L":
			if s.log != nil {
				s.log(rest)
			}
		case "X":
			code, reason, _ := strings.Cut(rest, " ")
			s.code, _ = strconv.Atoi(code)
			s.reason = reason
		case "W":
			s.words, _ = strconv.Unquote(rest)
		}
		if kind == mark {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errEnded
}

func (s *Started) timing(rest string) {
	step, us, _ := strings.Cut(rest, " ")
	n, _ := strconv.ParseInt(us, 10, 64)
	s.Timings = append(s.Timings, Timing{step, time.Duration(n) * time.Microsecond})
}

// classes are the errors that a caller can still tell after they came through the pipe.
func classes() []error {
	return []error{state.ErrNotExist, state.ErrRunning, state.ErrBusy, state.ErrUnsupported}
}

// classed is an error that came through the pipe.
type classed struct {
	text  string
	class error
}

func (c *classed) Error() string { return c.text }
func (c *classed) Unwrap() error { return c.class }

// reported takes status, class, text and hint of an error out of a report.
func reported(rest string) error {
	number, rest, _ := strings.Cut(rest, " ")
	class, rest, _ := strings.Cut(rest, " ")
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return errors.New(rest)
	}
	text, _ := strconv.Unquote(quoted)
	hint, _ := strconv.Unquote(strings.TrimSpace(rest[len(quoted):]))
	said := errors.New(text)
	if c, _ := strconv.Atoi(class); c > 0 && c <= len(classes()) {
		said = &classed{text, classes()[c-1]}
	}
	if status, _ := strconv.Atoi(number); status != 0 {
		said = &CommandError{ExitStatus(status), text}
	}
	if hint == "" {
		return said
	}
	return state.Hint(said, hint)
}

// Ready waits until the machine is up. A machine that ends before is an error with its last console lines.
func (s *Started) Ready(ctx context.Context, e *Engine, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := s.until(ctx, "R")
	switch {
	case errors.Is(err, errEnded):
		return fmt.Errorf("start %s: boot: %s", s.name, s.lastWords(e))
	case errors.Is(err, context.DeadlineExceeded):
		return state.Hint(fmt.Errorf("start %s: boot: not ready within %v", s.name, limit), "croft logs "+s.name)
	}
	return err
}

// Expired says whether the machine has ended because its time was up.
func (s *Started) Expired() bool { return s.reason == state.ExitTimeout }

// Wait waits until the machine has ended and all is undone, and gives its exit code.
func (s *Started) Wait(ctx context.Context) (int, error) {
	err := s.until(ctx, "")
	if errors.Is(err, errEnded) {
		if s.process != nil {
			s.process.Wait() // the pipe closes a moment before it is gone
		}
		return s.code, nil
	}
	return 0, err
}

func (s *Started) lastWords(e *Engine) string {
	text := "the init ended at once"
	if s.code > 0 {
		text += fmt.Sprintf(" with status %d", s.code)
	}
	words := s.words
	if lines, _ := e.lastWords(s.name, 3); words == "" {
		words = strings.Join(lines, " | ")
	}
	if words == "" {
		return text + " and printed nothing"
	}
	return text + "; its last lines: " + words
}

// another is a process of croft's that outlives this one: in a session of its own, and nowhere that somebody may want to
// unmount.
func (e *Engine) another(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "croft"
	cmd.Env = e.environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	return cmd
}

// startOnHost starts cmd in the host's mount namespace: the machine must not keep the namespace of a caller that it
// outlives.
func startOnHost(cmd *exec.Cmd) error { return onHost(cmd.Start) }

// onHost runs do on a thread in the host's mount namespace, from which this process may have gone (mounts.c).
func onHost(do func() error) error {
	hostns, err := hostMounts()
	if err != nil {
		return do() // we never left it
	}
	return idmap.Thread(
		func() error { return os.NewSyscallError("unshare(CLONE_FS)", unix.Unshare(unix.CLONE_FS)) },
		func() error { return os.NewSyscallError("setns", unix.Setns(hostns, unix.CLONE_NEWNS)) },
		do, // what forks or executes does it from this thread
	)
}

// Foreground starts an instance in this very process, which becomes its keeper and exits with its status:
// console and signals are the caller's. It returns only with an error; when ctx ends before the machine runs, it does not.
func (e *Engine) Foreground(ctx context.Context, in *state.Instance) error {
	os.Setenv(envHold, string(HeldByCaller))
	if _, err := hostMounts(); err == nil {
		return e.Supervise(ctx, in.Spec.Name)
	}
	err := syscall.Exec("/proc/self/exe", []string{"croft", "supervise", in.Spec.Name}, e.onward())
	return fmt.Errorf("exec: %w", err)
}
