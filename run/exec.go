package run

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"croft/state"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// Exec is a command to run in a running machine.
type Exec struct {
	Args     []string // none: the user's login shell
	Env      []string // KEY=VALUE, over the machine's own
	User     string   // NAME|UID[:GROUP|GID]; "" is root
	Dir      string   // "" is the user's home
	Terminal bool     // a terminal in the machine, joined to ours
	NoStdin  bool     // nothing to read
	Detach   bool     // ctrl-a q leaves (Terminal only)

	Stdin          *os.File
	Stdout, Stderr *os.File
}

// ErrDetached: the user left a terminal with ctrl-a q.
var ErrDetached = errors.New("detached")

// ExitStatus is how a command in a machine ended, as a shell would see it.
type ExitStatus int

func (s ExitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// StatusTimeout is that of what ran out of its time, as timeout(1) has it.
const StatusTimeout = 124

// The statuses that a shell gives for a command that it could not run.
const (
	StatusNotExecutable ExitStatus = 126
	StatusNotFound      ExitStatus = 127
)

// Exec runs a command in a running machine, with the machine's full confinement on it, and returns its status.
// When this process dies the keeper ends all that the command has started.
func (e *Engine) Exec(ctx context.Context, in *state.Instance, x Exec) (status ExitStatus, err error) {
	keeper, err := e.Connect(ctx, in)
	if err != nil {
		return 0, err
	}
	defer keeper.Close()
	name := in.Spec.Name
	defer func() {
		if err != nil && status == 0 && keeper.initEnded() { // whatever call it was that noticed
			err = fmt.Errorf("%s: has just ended: %w", name, state.ErrNotRunning)
		}
	}()
	if in, err = e.Dir.Get(name); err != nil { // as it runs now, which may be later than the caller's
		return 0, err
	}
	if in.Applied == nil {
		return 0, e.notRunning(in)
	}
	if err := Awake(in); err != nil {
		return 0, err
	}
	cell, err := newCell(in.Applied.Cgroups, in.Applied.Facts.Range)
	if err != nil {
		return 0, err
	}
	defer cell.leave()
	if cell.kill != nil {
		if err := keeper.Watch(cell.kill); err != nil {
			return 0, err
		}
	}
	entry, err := e.entry(in, keeper, cell, &x)
	if err != nil {
		return 0, err
	}
	s, err := x.session(keeper, entry)
	if err != nil {
		return 0, err
	}
	defer s.close()
	status, err = s.run(ctx, entry, cell)
	if err == nil && !s.signalled && !keeper.initEnded() {
		err = keeper.Done() // what it left running in the background may stay
	}
	return status, err
}

// entry works out who the command runs as, where, and with what.
func (e *Engine) entry(in *state.Instance, keeper *Keeper, cell *cell, x *Exec) (*entry, error) {
	root, err := keeper.guestRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	who, err := lookUp(root, x.User)
	if err != nil {
		return nil, err
	}
	as := in.Applied
	filter, program, err := e.filterOf(as)
	if err != nil {
		return nil, err
	}
	if len(x.Args) == 0 {
		x.Args = []string{who.shell, "-l"}
	}
	dir := x.Dir
	if dir == "" {
		dir = who.Home
	}
	return &entry{
		pidfd: keeper.Init, ids: as.Facts.Range, privileged: as.Spec.Security.Privileged, hostNetwork: as.Spec.HostNetwork(), cell: cell,
		uid: who.Uid, gid: who.Gid, groups: who.groups(as.CDI), capabilities: capabilityMask(capabilities(&as.Spec.Security, as.AppArmor)),
		noNewPrivileges: noNewPrivileges(&as.Spec, &as.Facts), labels: labels(as), seccomp: program, seccompFlags: filterFlags(filter), ulimits: as.Spec.Limits.Ulimits,
		dir: dir, dirAsked: x.Dir != "", args: x.Args,
		env: x.environment(in, who),
	}, nil
}

func (x *Exec) environment(in *state.Instance, who account) []string {
	env := []string{
		defaultPath,
		"container=" + containerName, "HOME=" + who.Home, "USER=" + who.name,
	}
	if x.Terminal {
		term := os.Getenv("TERM")
		if term == "" {
			term = "xterm"
		}
		env = append(env, "TERM="+term)
	}
	return overlayEnv(slices.Concat(env, in.Applied.Facts.Env, in.Applied.Spec.Env, environ(in.Applied.CDI)), x.Env)
}

// overlayEnv gives env with later values in place of earlier ones of the same name.
func overlayEnv(env, over []string) []string {
	var out []string
	at := map[string]int{}
	for _, kv := range slices.Concat(env, over) {
		k, _, _ := strings.Cut(kv, "=")
		if i, ok := at[k]; ok {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}

// account is a user of the guest.
type account struct {
	*user.ExecUser
	name, shell string
}

// lookUp finds a user in the guest's own files.
func lookUp(root *os.File, spec string) (account, error) {
	passwd, group := accounts(root, "etc/passwd"), accounts(root, "etc/group")
	found, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", spec, err)
	}
	who := account{found, "root", "/bin/sh"}
	users, _ := user.ParsePasswdFilter(bytes.NewReader(passwd), func(u user.User) bool { return u.Uid == found.Uid })
	if len(users) > 0 {
		who.name = users[0].Name
		if users[0].Shell != "" {
			who.shell = users[0].Shell
		}
	}
	return who, nil
}

// accounts reads the guest's passwd or group, without lines that are too long for the parser: it would fail, and the guest could
// keep everybody out.
func accounts(root *os.File, path string) (kept []byte) {
	for line := range bytes.Lines(guestText(root, path)) {
		if len(line) < bufio.MaxScanTokenSize {
			kept = append(kept, line...)
		}
	}
	return kept
}

// guestText reads a text file of the guest; nothing when there is none, or something else in its place.
func guestText(root *os.File, path string) []byte {
	f, err := openIn(root, path, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	const most = 1 << 20 // it is the guest's file, and need not end
	text, _ := io.ReadAll(io.LimitReader(f, most))
	return text
}

// initEnded says whether the machine's init is dead, or dying: it gives up its root long before its pidfd tells, since
// between the two it waits for all others of its pid namespace.
func (k *Keeper) initEnded() bool {
	_, rootless := os.Readlink(fmt.Sprintf("/proc/%d/root", k.PID))
	return k.gone(0) || errors.Is(rootless, os.ErrNotExist)
}

// guestRoot opens the root directory of the machine's init. The machine owns what is below: resolve in it only.
func (k *Keeper) guestRoot() (*os.File, error) {
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", k.PID), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	// The init lives, and so the number was its own when it was used.
	if err := unix.PidfdSendSignal(int(k.Init.Fd()), 0, nil, 0); err != nil {
		root.Close()
		return nil, fmt.Errorf("pidfd_send_signal: %w", err)
	}
	return root, nil
}

// openIn opens a path of the guest, and nothing outside of it whatever links the guest has laid.
func openIn(root *os.File, path string, flags uint64) (*os.File, error) {
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NOCTTY | unix.O_NONBLOCK // what is opened may be a terminal, or a fifo
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(root.Fd()), path, &how)
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// cell is the cgroup of one command: with it the whole tree of its processes can be ended.
type cell struct {
	dir   string     // "" where the machine has no v2 cgroup
	leaf  *os.File   // dir, to be born in
	tasks []*os.File // of the v1 hierarchies, to join
	kill  *os.File   // nil without v2
}

// cellPrefix begins the cgroup's name; the pid of the client ends it.
const cellPrefix = "croft-exec-"

func newCell(cgroups []string, ids state.Range) (*cell, error) {
	c := &cell{}
	for _, d := range cgroups {
		var err error
		if c.dir == "" && exists(filepath.Join(d, "cgroup.kill")) {
			err = c.makeLeaf(filepath.Join(d, cellPrefix+strconv.Itoa(os.Getpid())), ids)
		} else {
			err = c.join(d)
		}
		if err != nil {
			c.leave()
			return nil, err
		}
	}
	return c, nil
}

// makeLeaf makes the v2 cgroup. A leaf of its own: where the guest has controllers enabled below its root, the
// root itself may hold no process.
func (c *cell) makeLeaf(dir string, ids state.Range) (err error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	c.dir = dir
	if err := delegate(dir, int(ids.Base)); err != nil { // a command may start machines below itself
		return err
	}
	if c.leaf, err = os.Open(dir); err != nil {
		return err
	}
	c.kill, err = os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0)
	return err
}

// join opens the machine's cgroup of a v1 hierarchy; one that the machine is not in is passed over.
func (c *cell) join(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
	if os.IsNotExist(err) {
		return nil
	}
	c.tasks = append(c.tasks, f)
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (c *cell) end() {
	if c.kill != nil {
		c.kill.WriteString("1")
	}
}

// leave removes the cgroup, unless something was left running in it: then it goes with the machine.
func (c *cell) leave() {
	for _, f := range append(c.tasks, c.leaf, c.kill) {
		f.Close() // nil is fine
	}
	if c.dir != "" {
		unix.Rmdir(c.dir)
		sweepCells(filepath.Dir(c.dir))
	}
}

// sweepCells removes the cgroups of commands whose client was killed. One that still has a process stays, and
// one whose client lives too: it may be about to put a process there.
func sweepCells(parent string) {
	cells, _ := filepath.Glob(filepath.Join(parent, cellPrefix+"*"))
	for _, dir := range cells {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), cellPrefix))
		if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			unix.Rmdir(dir)
		}
	}
}

// session is the command's standard files: the ends that it gets and the copying to and from ours.
type session struct {
	x         *Exec
	stdio     [3]*os.File // the command's ends
	ours      []*os.File  // to close at the end
	outputs   []*output
	pty       *os.File
	restore   func()
	signalled bool
	detached  chan struct{}
}

func (s *session) close() {
	for _, f := range s.stdio {
		f.Close() // nil or closed already is fine
	}
	for _, f := range s.ours {
		f.Close()
	}
	if s.restore != nil {
		s.restore()
	}
}

// run starts the command and stays until it has ended.
func (s *session) run(ctx context.Context, entry *entry, cell *cell) (ExitStatus, error) {
	entry.stdio, entry.terminal = s.stdio, s.x.Terminal
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGWINCH)
	defer signal.Stop(signals)
	pid, err := entry.enter()
	if errors.Is(err, errExec) {
		return notRun(s.x.Args[0], err)
	}
	if err != nil {
		return 0, err
	}
	for _, f := range s.stdio {
		f.Close()
	}
	s.copy()
	ended := make(chan unix.WaitStatus, 1)
	go func() { ended <- reap(pid) }()
	return s.attend(ctx, pid, ended, signals, cell)
}

// attend passes signals on until the command has ended.
func (s *session) attend(ctx context.Context, pid int, ended <-chan unix.WaitStatus, signals <-chan os.Signal, cell *cell) (ExitStatus, error) {
	var late <-chan time.Time
	var by syscall.Signal
	done := ctx.Done()
	for {
		select {
		case status := <-ended:
			if by != 0 {
				cell.end() // and whatever of its tree outlived it
			}
			s.drain()
			if by != 0 && status.Signaled() { // by that one, or by ours because it did not heed it
				return ExitStatus(128 + int(by)), nil
			}
			return statusOf(status), nil
		case sig := <-signals:
			if sig == syscall.SIGWINCH {
				s.resize()
				continue
			}
			if s.signalled {
				cell.end()
			}
			s.signalled, by = true, sig.(syscall.Signal)
			unix.Kill(-pid, by) // it leads its session, and so a group
			late = time.After(signalGrace)
		case <-done:
			done, s.signalled, by = nil, true, syscall.SIGTERM
			cell.end()
		case <-late:
			cell.end()
		case <-s.detached:
			s.signalled = true // so that the keeper ends the command
			cell.end()
			return 0, ErrDetached
		}
	}
}

// signalGrace is how long a command may take to end after a signal that was passed on to it.
const signalGrace = 5 * time.Second

func reap(pid int) unix.WaitStatus {
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			return status
		}
	}
}

func statusOf(w unix.WaitStatus) ExitStatus {
	if w.Signaled() {
		return ExitStatus(128 + int(w.Signal()))
	}
	return ExitStatus(w.ExitStatus())
}

// notRun maps the errno of an exec to what a shell says.
func notRun(name string, err error) (ExitStatus, error) {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return StatusNotFound, fmt.Errorf("exec %s: not found", name)
	}
	var no unix.Errno
	errors.As(err, &no)
	return StatusNotExecutable, fmt.Errorf("exec %s: %w", name, no)
}
