package run

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// The command never gets a descriptor of ours: what it writes goes through pipes that belong to the machine,
// or through a terminal of the machine's own. Otherwise it could push input into our terminal, walk from a
// directory that happened to be our stdin, or fail to reopen its own /dev/stdout.

// session makes the standard files of x.
func (x *Exec) session(keeper *Keeper, e *entry) (*session, error) {
	s := &session{x: x, detached: make(chan struct{})}
	var err error
	if x.Terminal {
		err = s.terminal(keeper, e)
	} else {
		err = s.pipes(e)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) pipes(e *entry) error {
	uid, gid, err := e.hostIDs()
	if err != nil {
		return err
	}
	r, w, err := pipeOf(uid, gid)
	if err != nil {
		return err
	}
	s.stdio[0], s.ours = r, append(s.ours, w)
	if s.x.NoStdin {
		w.Close()
	}
	for i, to := range []*os.File{s.x.Stdout, s.x.Stderr} {
		r, w, err := pipeOf(uid, gid)
		if err != nil {
			return err
		}
		s.stdio[i+1], s.ours = w, append(s.ours, r)
		s.outputs = append(s.outputs, &output{from: r, to: to, done: make(chan struct{})})
	}
	return nil
}

// pipeOf makes a pipe that belongs to the user of the machine: it may be opened anew through /dev/stdout.
func pipeOf(uid, gid int) (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, err
	}
	return r, w, w.Chown(uid, gid)
}

// hostIDs gives the host's ids of the user that the command runs as.
func (x *entry) hostIDs() (uid, gid int, err error) {
	if x.uid >= int(x.ids.Size) || x.gid >= int(x.ids.Size) {
		return 0, 0, fmt.Errorf("user %d:%d: the machine has ids up to %d", x.uid, x.gid, x.ids.Size-1)
	}
	return int(x.ids.Base) + x.uid, int(x.ids.Base) + x.gid, nil
}

// terminal makes a terminal in the machine and joins ours to it.
func (s *session) terminal(keeper *Keeper, e *entry) error {
	uid, _, err := e.hostIDs()
	if err != nil {
		return err
	}
	pty, err := newPTY(keeper)
	if err != nil {
		return err
	}
	s.pty, s.ours = pty, append(s.ours, pty)
	slave, err := peer(pty)
	if err != nil {
		return err
	}
	s.stdio = [3]*os.File{slave, slave, slave}
	if err := slave.Chown(uid, -1); err != nil { // the group stays tty's
		return err
	}
	s.resize()
	saved, err := term.MakeRaw(int(s.x.Stdin.Fd()))
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	s.restore = func() { term.Restore(int(s.x.Stdin.Fd()), saved) }
	s.outputs = []*output{{from: pty, to: s.x.Stdout, done: make(chan struct{})}}
	return nil
}

// newPTY makes a terminal in the machine's own devpts, so that its name is right in there. The node is looked
// up without links, since the guest may have changed what /dev/ptmx is.
func newPTY(keeper *Keeper) (*os.File, error) {
	root, err := keeper.guestRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	pty, err := openIn(root, "dev/pts/ptmx", unix.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	if err := checkPTMX(pty); err != nil {
		pty.Close()
		return nil, err
	}
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		pty.Close()
		return nil, fmt.Errorf("ioctl(TIOCSPTLCK): %w", err)
	}
	return pty, nil
}

func checkPTMX(f *os.File) error {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2) {
		return errors.New("terminal: the machine's /dev/pts/ptmx is not one")
	}
	return nil
}

func (s *session) resize() {
	if s.pty == nil {
		return
	}
	if size, err := unix.IoctlGetWinsize(int(s.x.Stdin.Fd()), unix.TIOCGWINSZ); err == nil {
		unix.IoctlSetWinsize(int(s.pty.Fd()), unix.TIOCSWINSZ, size)
	}
}

// copy starts the copying in both directions.
func (s *session) copy() {
	for _, o := range s.outputs {
		go o.copy()
	}
	switch {
	case s.pty != nil:
		go s.keys()
	case !s.x.NoStdin:
		go func() {
			w := s.ours[0]
			io.Copy(w, s.x.Stdin)
			w.Close()
		}()
	}
}

// keys copies what is typed; ctrl-a q leaves where that was offered.
func (s *session) keys() {
	if !s.x.Detach {
		io.Copy(s.pty, s.x.Stdin)
		return
	}
	if CopyKeys(s.pty, s.x.Stdin) {
		close(s.detached)
	}
}

// CopyKeys copies from a terminal until its end, false, or until ctrl-a q is typed, true. Ctrl-a twice is one.
func CopyKeys(to io.Writer, from io.Reader) bool {
	const prefix = 1
	var buf [1024]byte
	held := false
	for {
		n, err := from.Read(buf[:])
		var out []byte
		for _, b := range buf[:n] {
			switch {
			case held && b == 'q':
				to.Write(out)
				return true
			case held && b != prefix:
				out = append(out, prefix, b)
				held = false
			case held:
				out, held = append(out, prefix), false
			case b == prefix:
				held = true
			default:
				out = append(out, b)
			}
		}
		if _, werr := to.Write(out); err != nil || werr != nil {
			return false
		}
	}
}

// output copies one stream of the command to us.
type output struct {
	from, to *os.File
	done     chan struct{}
}

func (o *output) copy() {
	defer close(o.done)
	_, err := io.Copy(o.to, o.from)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		o.rest()
	}
	o.from.Close() // a write error: the command must see that nobody listens
}

// rest copies what is there, and waits for nothing: a process that the command left in the background may keep
// the stream open for ever.
func (o *output) rest() {
	o.from.SetReadDeadline(time.Time{})
	raw, err := o.from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 64<<10)
	for {
		var n int
		raw.Read(func(fd uintptr) bool {
			n, _ = unix.Read(int(fd), buf)
			return true
		})
		if n <= 0 {
			return
		}
		if _, err := o.to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// drain copies what the command has written before it ended.
func (s *session) drain() {
	for _, o := range s.outputs {
		o.from.SetReadDeadline(time.Unix(1, 0))
		<-o.done
	}
}
