package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// A conversation is a command under a pseudo terminal and the hand at its keyboard. The file that directs it has a line for each move:
//
//	expect RE       wait (20s) for output that matches, and take it off the front
//	send TEXT       type a Go string without its quotes: \n, \x03 and so on
//	size WxH        resize the terminal
//	signal SIG      signal the command
//	sleep D
//	hangup          close the terminal's other end
type conversation struct {
	cmd    *exec.Cmd
	master *os.File
	shown  lockedBuffer
	read   int // how much of shown has been taken by expect
}

func cmdPty(ts *testscript.TestScript, neg bool, args []string) {
	status, size := 0, "80x24"
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-status":
			n, err := strconv.Atoi(args[1])
			ts.Check(err)
			status = n
		case "-size":
			size = args[1]
		}
		args = args[2:]
	}
	usage(ts, !neg && len(args) > 1, "pty [-status N] [-size WxH] FILE CMD ARG...")
	moves := ts.ReadFile(args[0])
	c := &conversation{cmd: command(ts, args[1], args[2:]...)}
	ts.Check(c.start(size))
	defer c.cmd.Process.Kill()
	var err error
	for line := bufio.NewScanner(strings.NewReader(moves)); err == nil && line.Scan(); {
		if err = c.move(line.Text()); err != nil {
			err = fmt.Errorf("%s: %w", line.Text(), err)
		}
	}
	var end error
	if err == nil {
		end, err = c.wait(20 * time.Second)
	}
	io.WriteString(ts.Stdout(), strings.ReplaceAll(c.shown.after(0), "\r\n", "\n"))
	ts.Check(err)
	if got := statusOf(ts, end); got != status {
		ts.Fatalf("exit status %d, not %d", got, status)
	}
}

// start runs the command on a new terminal, its session's leader there.
func (c *conversation) start(size string) error {
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer slave.Close()
	c.master = master
	if err := c.resize(size); err != nil {
		return err
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP) // what is caught here is not ignored there, even if the tests run under nohup
	defer signal.Stop(hangups)
	if err := c.cmd.Start(); err != nil {
		return err
	}
	go io.Copy(&c.shown, master)
	return nil
}

// openTerminal returns both ends of a new terminal. The master stays non-blocking, so that closing it ends a read of it.
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("open(/dev/ptmx)", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, os.NewSyscallError("ioctl(TIOCSPTLCK)", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, os.NewSyscallError("ioctl(TIOCGPTN)", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return os.NewFile(uintptr(fd), "/dev/ptmx"), slave, err
}

// move carries out one line of the file.
func (c *conversation) move(line string) error {
	verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch verb {
	case "", "#":
		return nil
	case "expect":
		return c.expect(rest)
	case "send":
		text, err := strconv.Unquote(`"` + rest + `"`)
		if err == nil {
			_, err = io.WriteString(c.master, text)
		}
		return err
	case "size":
		return c.resize(rest)
	case "signal":
		return c.cmd.Process.Signal(unix.SignalNum("SIG" + rest))
	case "sleep":
		d, err := time.ParseDuration(rest)
		time.Sleep(d)
		return err
	case "hangup":
		return c.master.Close()
	}
	return fmt.Errorf("no such move")
}

func (c *conversation) resize(size string) error {
	var w unix.Winsize
	if _, err := fmt.Sscanf(size, "%dx%d", &w.Col, &w.Row); err != nil {
		return err
	}
	master, err := c.master.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = master.Control(func(fd uintptr) { set = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &w) })
	return errors.Join(err, os.NewSyscallError("ioctl(TIOCSWINSZ)", set))
}

func (c *conversation) expect(pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text := c.shown.after(c.read)
		if at := re.FindStringIndex(text); at != nil {
			c.read += at[1]
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not in %q", text)
		}
	}
}

// wait returns how the command ended, or why it is not known.
func (c *conversation) wait(limit time.Duration) (end, err error) {
	done := make(chan error, 1)
	go func() { done <- c.cmd.Wait() }()
	select {
	case end = <-done:
		time.Sleep(20 * time.Millisecond) // what the terminal still holds
		return end, nil
	case <-time.After(limit):
		return nil, fmt.Errorf("still runs after %v", limit)
	}
}
