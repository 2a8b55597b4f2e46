package run

// #include "payload.h"
import "C"

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What systemd gives the process of a unit, for the machine that a foreground start makes of it: sd_listen_fds(3)
// and "Credentials" of systemd.exec(5).
const (
	envListenPID   = "LISTEN_PID"
	envListenFDs   = "LISTEN_FDS"
	envListenNames = "LISTEN_FDNAMES"
	envCredentials = "CREDENTIALS_DIRECTORY"
)

// firstSocket is the descriptor at which the sockets of a unit begin.
const firstSocket = 3

// sockets is how many listening sockets the unit has opened for this process. They stay at their descriptors for as
// long as it lives, whatever it executes: the machine gets copies, at every reboot anew.
func (e *Engine) sockets() int {
	if !e.Foregrounded() || !isOurs(envListenPID) {
		return 0
	}
	n, err := strconv.Atoi(os.Getenv(envListenFDs))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// isOurs says whether a variable names this process: without that the rest is for another one, an ancestor as a rule.
func isOurs(name string) bool { return os.Getenv(name) == strconv.Itoa(os.Getpid()) }

// activation gives PID 1 of the machine what the unit gave us: copies of its sockets, and the variables that say so.
func (e *Engine) activation() (files []*os.File, env []string, err error) {
	n := e.sockets()
	for i := range n {
		fd, err := copyInherited(firstSocket+i, firstSocket+n)
		if err != nil {
			return nil, nil, fmt.Errorf("%s=%d: descriptor %d: %w", envListenFDs, n, firstSocket+i, err)
		}
		files = append(files, os.NewFile(uintptr(fd), "socket"))
	}
	if n > 0 {
		env = append(env, envListenPID+"=1", envListenFDs+"="+strconv.Itoa(n))
		if names, ok := os.LookupEnv(envListenNames); ok {
			env = append(env, envListenNames+"="+names)
		}
	}
	return files, env, nil
}

// copyInherited copies a descriptor that our caller has given us to a number from least on. One that closes when something
// is executed has come to its number since.
func copyInherited(fd, least int) (int, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err == nil && flags&unix.FD_CLOEXEC != 0 {
		err = unix.EBADF
	}
	if err != nil {
		return -1, err
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, least)
}

// onward is the environment of what this process executes next in its own place: what its unit gave is still for it.
func (e *Engine) onward() []string {
	env := e.environ()
	if hold() == HeldByJob {
		return append(env, envHold+"="+string(HeldByJob))
	}
	if !e.Foregrounded() {
		return env
	}
	for i := range e.sockets() { // libcontainer has closed them to whatever is executed
		unix.FcntlInt(uintptr(firstSocket+i), unix.F_SETFD, 0)
	}
	for _, name := range []string{envHold, envNotify, envListenPID, envListenFDs, envListenNames, envCredentials} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// roomForPID is LISTEN_PID for a command under the tiny init, which alone knows its pid and writes it there.
func roomForPID() string { return envListenPID + "=" + strings.Repeat("0", C.PAYLOAD_PID_ROOM) }
