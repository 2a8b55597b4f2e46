package run

// #include "tty.h"
import "C"

import (
	"os"

	"croft/idmap"

	"golang.org/x/sys/unix"
)

// freeTerminal takes a machine's console from the session of its init (tty.c).
func freeTerminal(console *os.File) error {
	if no := C.croft_free_tty(C.int(console.Fd())); no != 0 {
		return os.NewSyscallError("ioctl(TIOCSCTTY)", unix.Errno(no))
	}
	return nil
}

// freeConsole does so for an init that has opened its console in a way that gives a leader of a session its terminal.
// The kernel's console does not do that, a pty does, and sysvinit was made for the former.
func (k *Keeper) freeConsole(root *os.File) error {
	if idmap.Nested() { // only the host's root takes a terminal from others
		return nil
	}
	console, err := openIn(root, "dev/console", unix.O_RDWR)
	if err != nil {
		return err
	}
	defer console.Close()
	// A getty that was started since may be in command of it by now, and would lose it.
	init, err := processOf(k.PID)
	if err != nil || !init.terminal {
		return err
	}
	return freeTerminal(console)
}
