package idmap

/*
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// pause_in_userns forks a child into a new user namespace; the child waits until wait_fd reaches its end.
// A plain fork: between it and _exit the child makes system calls and nothing else. It keeps no other descriptor:
// two helpers that held the ends of each other's pipes would never end, and a claim must not live in one.
static int pause_in_userns(int wait_fd)
{
	struct clone_args args;
	memset(&args, 0, sizeof args);
	args.flags = CLONE_NEWUSER;
	args.exit_signal = SIGCHLD;
	long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		char c;
		if (dup2(wait_fd, 0) < 0 || syscall(SYS_close_range, 1, ~0U, 0) < 0)
			_exit(1);
		while (read(0, &c, 1) < 0 && errno == EINTR)
			;
		_exit(0);
	}
	return (int)pid;
}
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"croft/state"

	"golang.org/x/sys/unix"
)

// Namespace makes a user namespace whose ids 0..Size-1 are those of r, owned by the range's base id.
//
// The owner matters: the kernel charges inotify instances, namespaces and the like of a user namespace to
// the uid that created it. Created by root, all machines would share root's 128 inotify instances.
func Namespace(r state.Range) (*os.File, error) {
	same := []Extent{{0, 0, r.Size}}
	return NamespaceOf(r, same, same)
}

// NamespaceOf makes one for a mount: which ids of files are which of the range is what the extents say.
func NamespaceOf(r state.Range, uids, gids []Extent) (*os.File, error) {
	var ns *os.File
	err := asUser(r.Base, func() (int, *os.File, error) { return pause() }, func(pid int) error {
		for file, extents := range map[string][]Extent{"uid_map": uids, "gid_map": gids} {
			var lines []byte // in one write: there is no second one
			for _, x := range extents {
				lines = fmt.Appendf(lines, "%d %d %d\n", x.File, r.Base+x.Guest, x.Count)
			}
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file), lines, 0); err != nil {
				return err
			}
		}
		var err error
		ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		return err
	})
	if err != nil && Nested() && !mapped(r) {
		return nil, Nesting(fmt.Errorf("the ids %d-%d: this machine does not have them: %w", r.Base, r.End()-1, state.ErrUnsupported))
	}
	if err != nil {
		return nil, fmt.Errorf("user namespace for %d+%d: %w", r.Base, r.Size, err)
	}
	return ns, nil
}

// asUser runs start on a thread whose effective uid is base and which keeps its capabilities, then use as
// root with the pid that came of it, and lets the process go at the end.
func asUser(base uint32, start func() (int, *os.File, error), use func(pid int) error) error {
	runtime.LockOSThread()
	// Without the fixup of capabilities: a switch of distributions against unprivileged user namespaces
	// (Debian, Ubuntu) asks for CAP_SYS_ADMIN, which a plain seteuid would drop.
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("prctl(PR_GET_SECUREBITS): %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits|secbitNoSetuidFixup), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_SECUREBITS): %w", err)
	}
	// The raw call changes this thread alone; the wrappers of Go change all of them.
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(base), ^uintptr(0)); e != 0 {
		return fmt.Errorf("setresuid: %w", e)
	}
	pid, hold, err := start()
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)); e != 0 {
		return fmt.Errorf("setresuid back: %w", e) // the thread stays locked, and dies with its goroutine
	}
	if e := unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits), 0, 0, 0); e != nil {
		return fmt.Errorf("prctl(PR_SET_SECUREBITS): %w", e)
	}
	runtime.UnlockOSThread()
	if err != nil {
		return err
	}
	defer unix.Wait4(pid, nil, 0, nil)
	defer hold.Close()
	return use(pid)
}

const secbitNoSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP, linux/securebits.h

// pause starts the process that keeps the namespace alive until hold is closed.
func pause() (pid int, hold *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	n := int(C.pause_in_userns(C.int(r.Fd())))
	if n < 0 {
		w.Close()
		return 0, nil, os.NewSyscallError("clone3(CLONE_NEWUSER)", unix.Errno(-n))
	}
	return n, w, nil
}

// here is what is found out once of the user namespace of this process.
var here struct {
	sync.Once
	nested bool
}

// Nested says whether this process is in a user namespace that somebody made, rather than in the host's.
func Nested() bool {
	here.Do(func() {
		data, err := os.ReadFile("/proc/self/uid_map")
		here.nested = err == nil && strings.Join(strings.Fields(string(data)), " ") != "0 0 4294967295" // user_namespaces(7)
	})
	return here.nested
}

// mapped says whether the user namespace of this process has the ids of r.
func mapped(r state.Range) bool {
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		if slices.ContainsFunc(unmapped(file), r.Overlaps) {
			return false
		}
	}
	return true
}

// Nesting adds to an error about ids what gives a machine some for others, where this is one that has none.
func Nesting(err error) error {
	if !Nested() || mapped(state.Range{Base: Pool.Base, Size: Size}) {
		return err
	}
	return state.Hint(err, "on the host of this machine: croft set NAME nesting=true, and restart it")
}
