package run

// #include "hold.h"
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// steady is how long a machine must have run for its next restart to be the first again.
const steady = time.Minute

// inARow counts a restart after an end of in: those before it count only as long as no run was steady.
func inARow(in *state.Instance, end time.Time) int {
	if in.Applied != nil && end.Sub(in.Applied.Started) >= steady {
		return 1
	}
	return in.Restarts + 1
}

// pauseBefore is how long to wait before the nth restart in a row: what fails at once must not keep the host busy.
func pauseBefore(n int) time.Duration {
	const least, most = 100 * time.Millisecond, 10 * time.Second
	if n > 8 { // 100 ms << 7 is past most
		return most
	}
	return min(least<<(n-1), most)
}

// conclude undoes a machine that has ended. When its policy wants it to run again it is started in this process, with
// the claim, and conclude does not return; otherwise, and when it is stopped before that, it gives the end as an
// ExitStatus, nil for 0.
func (e *Engine) conclude(in *state.Instance, end state.Exit, cause Cause, claim *state.Claim) error {
	// An undo is short, and half of one helps nobody: it is a restart that the signals are for.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, stopSignals[:]...)
	defer signal.Stop(signals)
	end.Time, end.HostDown = time.Now().UTC(), e.goesDown(in, cause)
	count, again := in.Restarts, cause == CauseSelf && in.Spec.Restart.After(end.Code)
	switch most := in.Spec.Restart.Most(); {
	case cause == CauseAsked:
		count = 0
	case again && inARow(in, end.Time) > most:
		again, end.Error = false, fmt.Sprintf("it was restarted %d times in a row: gave up", most)
	case again:
		count = inARow(in, end.Time)
	}
	if err := e.finish(in.Spec.Name, end, count); err != nil {
		return err
	}
	if again {
		if err := e.restart(in.Spec.Name, pauseBefore(count), claim, signals); err != nil {
			return err
		}
	}
	if end.Code != 0 {
		return ExitStatus(end.Code)
	}
	return nil
}

// restart starts the machine after a pause, in this process. It returns when somebody wants it stopped.
func (e *Engine) restart(name string, pause time.Duration, claim *state.Claim, signals chan os.Signal) error {
	e.dropClients()
	asked, err := e.askedWithin(name, pause, signals)
	if err == nil && !asked {
		err = e.startAgain(name, claim, signals)
	}
	down := false
	if in, err := e.Dir.Get(name); asked && err == nil { // systemd may take its time: not while the record is locked
		down = e.goesDown(in, CauseAsked)
	}
	_, editErr := e.Dir.Edit(name, func(in *state.Instance) error {
		in.Restarts = 0
		if in.Exit != nil && down {
			in.Exit.HostDown = true
		}
		return nil
	})
	return errors.Join(err, os.RemoveAll(e.Dir.RunOf(name)), editErr)
}

// startAgain executes the next start in place of this process, unless a signal came by signals. One that comes later
// ends the next start before it has begun (mounts.c).
func (e *Engine) startAgain(name string, claim *state.Claim, signals chan os.Signal) error {
	env := append(e.onward(), envClaim+"="+strconv.Itoa(passOn(claim.File())))
	return onHost(func() error { // on the thread that executes it
		runtime.LockOSThread()
		C.croft_hold_signals()
		signal.Stop(signals) // when it returns the last one has arrived
		select {
		case <-signals:
			return nil
		default:
		}
		return fmt.Errorf("exec: %w", syscall.Exec("/proc/self/exe", []string{"croft", "supervise", name}, env))
	})
}

// dropClients closes the connections that the keeper has passed on to the undo: that machine is gone. They are the
// only ones without close-on-exec, but for the sockets of a unit.
func (e *Engine) dropClients() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		fd, _ := strconv.Atoi(entry.Name())
		kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd >= firstSocket+e.sockets() && err == nil && kind == unix.SOCK_SEQPACKET && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// askedWithin waits for the given time, in the keeper's place and at its socket: whoever asks for a stop or a kill
// meanwhile, or sends one of the signals, ends the wait.
func (e *Engine) askedWithin(name string, pause time.Duration, signals <-chan os.Signal) (bool, error) {
	if err := os.MkdirAll(e.Dir.RunOf(name), 0o711); err != nil {
		return false, err
	}
	listener, err := listen(e.Dir.RunOf(name), socketName, unix.SOCK_SEQPACKET, 0o600)
	if err != nil {
		return false, err
	}
	asked := make(chan struct{}, 1)
	go welcome(listener, asked)
	select {
	case <-asked:
		return true, nil
	case <-signals:
		return true, nil
	case <-time.After(pause):
		return false, nil
	}
}

// welcome greets every client with a machine that has no init. Connections end with this process, or with its exec.
func welcome(listener *os.File, asked chan<- struct{}) {
	hello := binary.NativeEndian.AppendUint32(nil, keeperMagic)
	hello = binary.NativeEndian.AppendUint32(hello, keeperVersion)
	hello = append(hello, make([]byte, 8)...)
	for {
		fd, _, err := unix.Accept4(int(listener.Fd()), unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return
		}
		go attend(os.NewFile(uintptr(fd), "client"), hello, asked)
	}
}

// attend waits for a client to ask for an end.
func attend(conn *os.File, hello []byte, asked chan<- struct{}) {
	unix.SendmsgN(int(conn.Fd()), hello, nil, nil, unix.MSG_NOSIGNAL) // one that is gone shows below
	var buf [4096]byte
	for {
		n, _, err := receive(conn, buf[:])
		if err != nil || n == 0 {
			conn.Close()
			return
		}
		if buf[0] == askStop || buf[0] == askKill {
			asked <- struct{}{} // the connection stays: its end is the end of it all
			return
		}
	}
}
