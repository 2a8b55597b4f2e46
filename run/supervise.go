package run

// #include "hold.h"
// #include "mounts.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"croft/rootfs"
	"croft/state"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// What passes from one croft process of a machine to the next, beside the arguments.
const (
	envRoot   = "CROFT_ROOT"
	envRun    = "CROFT_RUN"
	envPool   = "CROFT_ID_POOL"
	envPorts  = "CROFT_PUBLISH_ADDRESS"
	envClaim  = "CROFT_CLAIM"  // descriptor of the claim
	envReport = "CROFT_REPORT" // descriptor of the pipe to whoever asked for the start
	envClient = "CROFT_CLIENT" // descriptor of a connection of theirs to the keeper
	envHold   = "CROFT_HOLD"   // the Hold
	envNotify = "NOTIFY_SOCKET"

	// EnvLog is the log level of a start: error, warn, info or debug.
	EnvLog = "CROFT_LOG_LEVEL"

	// EnvTimings makes a foreground start print its timings to stderr.
	EnvTimings = "CROFT_TIMINGS"
)

// Hold is what holds the process that keeps a machine.
type Hold string

// The holds. Only a starter has one in its environment; what starts a starter says which.
const (
	HeldByNone   Hold = ""           // it has a session and a cgroup of its own
	HeldByCaller Hold = "foreground" // it is its caller's own process: a shell's, a job's, a unit's
	HeldByUnit   Hold = "unit"       // systemd made a unit for it (systemd.go)
	HeldByJob    Hold = "job"        // it has a session of its own, in the cgroup of the job that it is bound to
)

func hold() Hold { return Hold(os.Getenv(envHold)) }

// Supervise starts an instance in this process and becomes its keeper. It returns when that failed, and then
// nothing of the start is left, or when the machine has ended before: with its ExitStatus, nil for 0. The process
// was made for it: see Engine.Start and Engine.Foreground.
func (e *Engine) Supervise(ctx context.Context, name string) error {
	report := inheritReport()
	var client *os.File
	if hold() == HeldByUnit {
		report, client = meetCaller()
	} else if fd, ok := inherited(envClient); ok {
		client = os.NewFile(uintptr(fd), "client")
	}
	report.takeLogs()
	err := e.supervise(ctx, name, report, client)
	var ended ExitStatus
	if err == nil || errors.As(err, &ended) {
		return err
	}
	err = fmt.Errorf("start %s: %w", name, unprivileged(err))
	report.failed(err)
	daemon.SdNotify(false, "STATUS="+err.Error())
	return err
}

// meetCaller talks to whoever asked systemd for this unit, at the socket that is stdin, as startUnit does at the other
// end. There is none when it is systemd that starts the unit again.
func meetCaller() (*report, *os.File) {
	var client *os.File
	r := &report{}
	if here, away, err := os.Pipe(); err == nil {
		unix.SetNonblock(0, true)
		_, client, _ = receive(os.Stdin, make([]byte, 1))
		if unix.Sendmsg(0, []byte{0}, unix.UnixRights(int(here.Fd())), nil, unix.MSG_NOSIGNAL) == nil {
			r.file = away
		}
		here.Close()
	}
	if null, err := os.Open(os.DevNull); err == nil {
		unix.Dup3(int(null.Fd()), 0, 0)
		null.Close()
	}
	return r, client
}

func (e *Engine) supervise(ctx context.Context, name string, report *report, client *os.File) error {
	hostns, err := hostMounts()
	if err != nil {
		return err
	}
	if hold() == HeldByNone {
		leaveCaller("self")
	}
	claim, heir, err := e.claim(name)
	if err != nil {
		return err
	}
	defer claim.Release()
	in, err := e.Dir.Get(name)
	if err != nil {
		return err
	}
	if err = e.settle(in); err != nil && !heir {
		return err // nothing has begun, and what is left belongs to the run before
	}
	ctx, cancel := signal.NotifyContext(ctx, stopSignals[:]...)
	defer cancel()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, stopSignals[:]...)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // whoever reads our stderr may go; ignored, the guest would inherit it
	var l *launch
	if err == nil && heir { // a copy of the files ends with the machine; what it had mounted must be gone by now
		err = e.Dir.Unheld(name)
	}
	if err == nil {
		l, err = e.prepare(in, heir, report, client)
	}
	if err == nil {
		err = l.up(ctx)
	}
	if err == nil && l.Stdio {
		if status, over := l.brief(ctx); over {
			daemon.SdNotify(false, daemon.SdNotifyReady) // a unit whose program has done its work has not failed
			l.listener.Close()                           // whoever connects is for the next run
			return e.conclude(l.Instance, exitOf(in, status, CauseSelf), CauseSelf, claim)
		}
	}
	if err == nil {
		err = l.become(claim, hostns, asked)
	}
	return e.failed(in, l, err, heir, claim)
}

// brief stays with a payload for its first moments. One that ends in them is undone by this process, which saves
// two executions of this binary: the keeper's, and the one for the undo.
func (l *launch) brief(ctx context.Context) (status unix.WaitStatus, over bool) {
	dead := make(chan bool, 1)
	go func() { dead <- ended(l.container.pidfd, briefly) }()
	select {
	case <-ctx.Done(): // the keeper passes the signal on
		return 0, false
	case yes := <-dead:
		if !yes {
			return 0, false
		}
	}
	pid, err := unix.Wait4(l.container.pid, &status, 0, nil)
	return status, pid == l.container.pid && err == nil
}

// briefly is how long. Who connects meanwhile waits that long for the keeper.
const briefly = 50 * time.Millisecond

// ended says whether the process of a pidfd is dead, after at most limit. Of a closed one nothing is known.
func ended(pidfd *os.File, limit time.Duration) bool {
	p := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	_, err := unix.Poll(p, int(limit.Milliseconds()))
	return err == nil && p[0].Revents&unix.POLLIN != 0
}

// hostMounts is the mount namespace that this process left before the Go runtime started (mounts.c).
func hostMounts() (fd int, err error) {
	if fd := int(C.croft_host_mounts); fd > 0 {
		return fd, nil
	}
	if C.croft_host_mounts == 0 {
		return -1, fmt.Errorf("mount namespace: this process is in the host's: %w", state.ErrUnsupported)
	}
	return -1, os.NewSyscallError("unshare(CLONE_NEWNS)", unix.Errno(-int(C.croft_host_mounts)))
}

// claim takes the instance, or is the heir of the process that execed us for a reboot or a restart.
func (e *Engine) claim(name string) (claim *state.Claim, heir bool, err error) {
	if fd, ok := inherited(envClaim); ok {
		return state.AdoptClaim(uintptr(fd)), true, nil
	}
	claim, err = e.Dir.Claim(name)
	return claim, false, err
}

// settle removes what a crash left of an earlier start and makes sure of the instance's ids, addresses and networks.
func (e *Engine) settle(in *state.Instance) error {
	if err := e.settleRename(in); err != nil {
		return err
	}
	if in.Applied != nil {
		if in.Applied.Populated() {
			return state.Hint(fmt.Errorf("it is orphaned: its keeper was killed and its processes live on: %w", state.ErrBusy), "croft stop "+in.Spec.Name)
		}
		if err := e.down(in.Applied); err != nil {
			return err
		}
	}
	ids, err := e.reserve(in)
	if err != nil {
		return err
	}
	in.Facts.Range = ids
	for _, decide := range []func(*state.Instance) error{e.relink, e.decidePorts} {
		if err := decide(in); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	return e.furnishLinks(in.Facts.Links)
}

// prepare writes down what is about to be done, before any of it is. An heir goes on where the run before it ended.
func (e *Engine) prepare(in *state.Instance, heir bool, report *report, client *os.File) (*launch, error) {
	began := time.Now()
	host, err := hostNotify()
	if err != nil {
		return nil, err
	}
	layers, err := e.layers(in)
	if err != nil {
		return nil, err
	}
	h, err := e.look(in, layers)
	if err != nil {
		return nil, err
	}
	plan := NewPlan(e.Dir, in, layers, h, hold())
	applied := &state.Applied{
		BootID: state.BootID(), Build: Version, Started: began.UTC(),
		Spec: in.Spec, Facts: in.Facts, Run: plan.RunDir, Cgroups: plan.Cgroups, Unit: plan.Unit, AppArmor: plan.AppArmor, CDI: plan.cdi.lasting(), SELinux: plan.SELinux,
	}
	applied.Bound = hold() == HeldByCaller || client != nil
	if life := in.Spec.Timeouts.Life; life > 0 {
		applied.Expires = applied.Started.Add(time.Duration(life) * time.Second)
	}
	if heir && in.Applied != nil { // a reboot does not put off the end, and somebody may have let go of it
		applied.Expires, applied.Bound = in.Applied.Expires, in.Applied.Bound
	}
	_, err = e.Dir.Edit(in.Spec.Name, func(now *state.Instance) error {
		applied.Spec.Limits = now.Spec.Limits // who changed them since in was read takes them for applied (relimit)
		now.Facts, now.Applied, now.Exit = applied.Facts, applied, nil
		if !heir {
			now.Restarts = 0
		}
		in.Applied, in.Restarts = applied, now.Restarts
		return nil
	})
	if err != nil {
		return nil, err
	}
	report.timing("record", time.Since(began))
	return &launch{Plan: plan, engine: e, report: report, client: client, host: host}, nil
}

// failed undoes a start that did not come about and remembers why. One that was a reboot or a restart may be tried
// again; of any other its caller is told.
func (e *Engine) failed(in *state.Instance, l *launch, why error, heir bool, claim *state.Claim) error {
	cause := CauseSelf
	if errors.Is(why, context.Canceled) {
		why, cause = errors.New("interrupted"), CauseAsked
		if e.Foregrounded() { // where the status is that of a program that was ended so
			why = &CommandError{ExitStatus(128 + int(syscall.SIGTERM)), "interrupted"}
		}
	}
	if l != nil && l.container != nil { // it is our child, and we are about to go
		unix.PidfdSendSignal(int(l.container.pidfd.Fd()), unix.SIGKILL, nil, 0)
	}
	end := state.Exit{Time: time.Now().UTC(), Reason: state.ExitFailed, Code: 1, Error: why.Error()}
	end.HostDown = e.goesDown(in, cause)
	if !heir {
		return errors.Join(why, e.finish(in.Spec.Name, end, 0))
	}
	if l != nil {
		l.listener.Close() // nil is fine
	}
	err := e.conclude(in, end, cause, claim)
	if _, ended := err.(ExitStatus); ended {
		err = nil // why says more
	}
	return errors.Join(why, err)
}

// stopSignals ask a starter, like a keeper, to stop the machine: of systemd and users, and those of a terminal.
var stopSignals = [...]os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}

// become executes the keeper in place of this process. What it needs is open and not close-on-exec; all else
// is closed by the exec. It begins by stopping the machine when a signal came by asked, or comes from now on.
func (l *launch) become(claim *state.Claim, hostns int, asked chan os.Signal) error {
	name := l.Instance.Spec.Name
	runtime.LockOSThread() // the one that executes it, and never unlocked
	if l.Hold == HeldByNone {
		// Again: a thread that was made while the others left can have stayed (seen with Linux 6.18).
		leaveCaller("thread-self")
		leaveCaller("self")
	}
	C.croft_hold_signals()
	signal.Stop(asked) // when it returns the last one has arrived
	logs, err := os.Open(l.engine.Dir.Of(name))
	if err != nil {
		return err
	}
	run, err := os.Open(l.RunDir)
	if err != nil {
		return err
	}
	grace := -1
	switch {
	case !l.Boot:
		grace = 0
	case !l.Notify:
		grace = -2 // Await finds out
	}
	fields := []int{
		l.container.pid, passOn(l.container.pidfd), passOn(l.container.pty), passOn(l.container.slave),
		passOn(l.listener), passOn(l.client), passOn(l.notify), passOn(l.host), passOn(logs), passOn(run), passOn(l.report.file), hostns,
		l.Instance.Facts.StopSignal, int(l.stopAfter() / time.Second), l.life(), grace,
		flag(l.Echo), flag(len(asked) > 0),
	}
	args := []string{"croft", "keeper", name}
	for _, n := range fields {
		args = append(args, strconv.Itoa(n))
	}
	env := append(l.engine.onward(), envClaim+"="+strconv.Itoa(passOn(claim.File())))
	if l.report.file != nil {
		env = append(env, envReport+"="+strconv.Itoa(passOn(l.report.file)))
	}
	unix.FcntlInt(uintptr(hostns), unix.F_SETFD, 0)
	l.report.started()
	// Through the link, and not the path: an upgrade may have replaced the file.
	err = syscall.Exec("/proc/self/exe", args, env)
	runtime.KeepAlive(l)
	return fmt.Errorf("exec keeper: %w", err)
}

// hostNotify is a socket to the systemd whose unit this process is (sd_notify(3)); nil when it is in none that wants
// to hear of it. Its queue is short, and full when many start at once: what is written waits, or the unit would start for
// ever. A systemd that hears nothing for a while is not worth the machine's console.
func hostNotify() (*os.File, error) {
	path := os.Getenv(envNotify)
	if hold() == HeldByNone || path == "" {
		return nil, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 10})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", envNotify, path, err)
	}
	return os.NewFile(uintptr(fd), "host"), nil
}

// stopAfter is how long a clean stop may take that comes by a signal. In a unit it is the host that stops it.
func (l *launch) stopAfter() time.Duration {
	if l.Unit != "" {
		return l.Instance.Spec.HostStop()
	}
	return l.Instance.Spec.Timeouts.StopAfter()
}

// life is how many seconds of the machine's life are left, 0 when it has no end.
func (l *launch) life() int {
	expires := l.Instance.Applied.Expires
	if expires.IsZero() {
		return 0
	}
	return max(1, int((time.Until(expires)+time.Second-1)/time.Second))
}

// passOn clears close-on-exec and gives the number; -1 for nil.
func passOn(f *os.File) int {
	if f == nil {
		return -1
	}
	unix.FcntlInt(f.Fd(), unix.F_SETFD, 0)
	return int(f.Fd())
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// environ is what the processes of a machine run with: nothing of the caller's but where things are.
func (e *Engine) environ() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), envRoot + "=" + e.Dir.Root, envRun + "=" + e.Dir.Run}
	if e.Pool != DefaultPool() {
		env = append(env, fmt.Sprintf("%s=%d+%d", envPool, e.Pool.Base, e.Pool.Size))
	}
	if e.Ports.IsValid() {
		env = append(env, envPorts+"="+e.Ports.String())
	}
	for _, name := range []string{rootfs.PathMode, EnvLog, EnvTimings} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// inherited takes over the descriptor whose number the environment names; false when it names none.
func inherited(name string) (fd int, ok bool) {
	fd, err := strconv.Atoi(os.Getenv(name))
	os.Unsetenv(name)
	if err != nil {
		return -1, false
	}
	unix.CloseOnExec(fd)
	return fd, true
}

// report is the pipe to whoever asked for the start; without one it says nothing.
type report struct{ file *os.File }

func inheritReport() *report {
	if fd, ok := inherited(envReport); ok {
		return &report{os.NewFile(uintptr(fd), "report")}
	}
	return &report{}
}

// takeLogs sends what libcontainer logs the same way, or to stderr where there is nobody at the other end.
func (r *report) takeLogs() {
	level, err := logrus.ParseLevel(os.Getenv(EnvLog))
	if err != nil {
		level = logrus.WarnLevel
	}
	logrus.SetLevel(level)
	if r.file != nil {
		logrus.SetOutput(logLines{r})
	}
}

type logLines struct{ report *report }

func (l logLines) Write(text []byte) (int, error) {
	l.report.line("L " + strings.TrimSpace(string(text)))
	return len(text), nil
}

// line says whether there is somebody who reads it.
func (r *report) line(text string) bool {
	if r.file == nil {
		return false
	}
	_, err := r.file.WriteString(text + "\n")
	return err == nil
}

// warn says something that keeps nobody from starting the machine.
func (r *report) warn(text string) {
	if !r.line("L " + text) {
		fmt.Fprintln(os.Stderr, "croft: "+text)
	}
}

func (r *report) timing(step string, d time.Duration) {
	if os.Getenv(EnvTimings) != "" {
		fmt.Fprintf(os.Stderr, "%-10s %8.1f ms\n", step, float64(d.Microseconds())/1000)
	}
	r.line("T " + step + " " + strconv.FormatInt(d.Microseconds(), 10))
}

func (r *report) close() {
	if r.file != nil {
		r.file.Close()
	}
}

func (r *report) started() { r.line("S") }
func (r *report) failed(err error) {
	class := 1 + slices.IndexFunc(classes(), func(c error) bool { return errors.Is(err, c) })
	r.line("E " + strconv.Itoa(statusFor(err)) + " " + strconv.Itoa(class) + " " + strconv.Quote(err.Error()) + " " + strconv.Quote(hintOf(err)))
}

// statusFor is the exit status that an error asks for; 0 when it leaves that to the face.
func statusFor(err error) int {
	var e *CommandError
	if errors.As(err, &e) {
		return int(e.Status)
	}
	return 0
}

func hintOf(err error) string {
	var h *state.Hinted
	if errors.As(err, &h) {
		return h.Hint
	}
	return ""
}

// Cause is why a machine ended, as its keeper saw it.
type Cause string

// The causes, as in keeper.c.
const (
	CauseSelf    Cause = "self"    // the guest itself, by a crash too
	CauseAsked   Cause = "asked"   // a stop or a kill was asked for
	CauseExpired Cause = "expired" // its time was up
)

// Undo ends a machine whose init has died with the given wait status: the keeper executes it. It gives the status
// that a foreground run exits with as an ExitStatus, nil for 0.
func (e *Engine) Undo(name string, status unix.WaitStatus, cause Cause) error {
	claim, _, err := e.claim(name)
	if err != nil {
		return err
	}
	defer claim.Release()
	report := inheritReport()
	in, err := e.Dir.Get(name)
	if err != nil {
		return err
	}
	e.Dir.Unheld(name) // a copy that was stopped in the middle costs the machine's end a moment, and no more
	end := exitOf(in, status, cause)
	if report.line("X " + strconv.Itoa(end.Code) + " " + end.Reason) { // somebody listens
		if lines, _ := e.lastWords(name, 3); len(lines) > 0 {
			report.line("W " + strconv.Quote(strings.Join(lines, " | "))) // the log may go with the record
		}
	}
	if end.Code != 0 && os.Getenv(envNotify) != "" { // a unit that has failed tells why
		daemon.SdNotify(false, "STATUS="+end.Says())
		fmt.Fprintf(os.Stderr, "\ncroft: %s: %s\n", name, end.Says()) // the console may have stopped in a line
	}
	if in.Spec.Restart.Policy != state.RestartNo {
		report.close() // whoever waits there waits for this run alone
	}
	return e.conclude(in, end, cause, claim)
}

// exitOf reads a wait status. The kernel ends the init of a pid namespace with SIGINT when the guest halts or
// powers off and with SIGHUP when it reboots (reboot(2)); nothing else can send PID 1 those.
func exitOf(in *state.Instance, status unix.WaitStatus, cause Cause) state.Exit {
	boots := in.Facts.Init.Mode == state.InitBoot
	switch {
	case cause == CauseExpired:
		return state.Exit{Reason: state.ExitTimeout, Code: StatusTimeout}
	case status.Signaled() && (status.Signal() == unix.SIGINT || status.Signal() == unix.SIGHUP):
		return state.Exit{Reason: state.ExitPoweroff}
	case status.Signaled() && boots:
		return state.Exit{Reason: state.ExitKilled, Code: 1}
	case status.Signaled():
		return state.Exit{Reason: state.ExitKilled, Code: 128 + int(status.Signal())}
	}
	return state.Exit{Reason: state.ExitExited, Code: status.ExitStatus()}
}

// finish undoes the start of name, remembers how it ended and how often it was restarted, and removes what was made
// to be removed.
func (e *Engine) finish(name string, end state.Exit, restarts int) error {
	in, err := e.Dir.Get(name)
	if err != nil {
		return err
	}
	if in.Applied != nil {
		if err := e.down(in.Applied); err != nil {
			return err
		}
	}
	if in.Spec.Remove {
		return e.remove(in)
	}
	_, err = e.Dir.Edit(name, func(in *state.Instance) error {
		was := in.Applied
		in.Applied, in.Exit, in.Restarts = nil, &end, restarts
		if was == nil {
			return nil
		}
		return e.endLeases(in, was.Facts.Links, in.Facts.Links) // those that it was to have until now alone
	})
	return err
}

// lost is the end of a run that nobody saw. One of another boot went down with the host.
func lost(a *state.Applied) state.Exit {
	down := a.BootID != state.BootID() && !a.Bound
	return state.Exit{Time: time.Now().UTC(), Reason: state.ExitLost, Code: 1, HostDown: down}
}

// Foregrounded says whether somebody reads the stderr of this process of a machine: its caller, or a journal.
func (e *Engine) Foregrounded() bool { return hold() == HeldByCaller || hold() == HeldByUnit }
