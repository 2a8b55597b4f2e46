package run

// #include <stdlib.h>
// #include "enter.h"
import "C"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// entry is one process on its way into a running machine (enter.c does it).
type entry struct {
	pidfd           *os.File
	ids             state.Range
	privileged      bool // the machine has no user namespace to join
	hostNetwork     bool // nor a network namespace
	cell            *cell
	stdio           [3]*os.File
	terminal        bool
	uid, gid        int
	groups          []int
	capabilities    uint64 // bit n: capability n stays in the bounding set
	noNewPrivileges bool
	labels          []label
	seccomp         []unix.SockFilter
	seccompFlags    uint
	ulimits         []state.Ulimit
	dir             string
	dirAsked        bool // it must be that one
	args, env       []string
}

// errExec: the process was ready and its program could not be executed; the errno is wrapped too.
var errExec = errors.New("exec")

// enter starts the process and gives its pid in this namespace. It is a child of this process.
func (x *entry) enter() (int, error) {
	errs, theirs, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer errs.Close()
	var pid int
	err = idmap.Thread(func() (err error) { // whose children belong to the machine's pid namespace from there on
		pid, err = x.fork(theirs)
		return err
	})
	theirs.Close()
	if err != nil {
		return 0, err
	}
	if err := x.outcome(errs); err != nil {
		unix.Wait4(pid, nil, 0, nil)
		return 0, err
	}
	return pid, nil
}

// outcome reads what the child could not do; the pipe closes by the exec when there is nothing.
func (x *entry) outcome(errs *os.File) error {
	what, err := enterError(errs)
	switch {
	case err == 0:
		return nil
	case what == "exec":
		return fmt.Errorf("%w: %w", errExec, err)
	case what == "chdir":
		return &os.PathError{Op: what, Path: x.dir, Err: err}
	}
	return os.NewSyscallError(what, err)
}

// enterError reads what a forked child could not do; 0 when it has closed the pipe without a word.
func enterError(errs *os.File) (what string, err unix.Errno) {
	var e C.struct_enter_error
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e))
	if _, err := io.ReadFull(errs, buf); err != nil {
		return "", 0
	}
	return C.GoString(&e.what[0]), unix.Errno(e.err)
}

func (x *entry) fork(errs *os.File) (int, error) {
	if err := unix.Setns(int(x.pidfd.Fd()), unix.CLONE_NEWPID); err != nil {
		return 0, fmt.Errorf("setns(pid): %w", err)
	}
	var mem memory
	defer mem.free()
	e := (*C.struct_enter)(mem.alloc(C.sizeof_struct_enter))
	e.pidfd = C.int(x.pidfd.Fd())
	e.namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if !x.privileged {
		e.namespaces |= unix.CLONE_NEWUSER
	}
	if !x.hostNetwork {
		e.namespaces |= unix.CLONE_NEWNET
	}
	e.cgroup = -1
	if x.cell.leaf != nil {
		e.cgroup = C.int(x.cell.leaf.Fd())
	}
	e.tasks, e.task_count = mem.fds(x.cell.tasks), C.int(len(x.cell.tasks))
	for i, f := range x.stdio {
		e.stdio[i] = C.int(f.Fd())
	}
	e.terminal = C.int(flag(x.terminal))
	e.uid, e.gid = C.uid_t(x.uid), C.gid_t(x.gid)
	e.groups, e.group_count = mem.groups(x.groups), C.int(len(x.groups))
	e.limits, e.limit_count = mem.limits(x.ulimits)
	e.capabilities, e.no_new_privs = C.uint64_t(x.capabilities), C.int(flag(x.noNewPrivileges))
	e.labels, e.label_count = mem.labels(x.labels), C.int(len(x.labels))
	e.seccomp, e.seccomp_flags = mem.filter(x.seccomp), C.uint(x.seccompFlags)
	e.dir, e.dir_asked = mem.text(x.dir), C.int(flag(x.dirAsked))
	e.argv, e.envp = mem.texts(x.args), mem.texts(x.env)
	e.errors = C.int(errs.Fd())
	pid := int(C.croft_enter(e))
	runtime.KeepAlive(x)
	if pid < 0 {
		return 0, os.NewSyscallError("fork", unix.Errno(-pid))
	}
	return pid, nil
}

// memory is what C is given and must be freed.
type memory []unsafe.Pointer

func (m *memory) alloc(size int) unsafe.Pointer {
	p := C.calloc(1, C.size_t(size))
	*m = append(*m, p)
	return p
}

func (m *memory) free() {
	for _, p := range *m {
		C.free(p)
	}
}

func (m *memory) text(s string) *C.char {
	p := C.CString(s)
	*m = append(*m, unsafe.Pointer(p))
	return p
}

func (m *memory) texts(all []string) **C.char {
	p := (**C.char)(m.alloc((len(all) + 1) * int(unsafe.Sizeof(uintptr(0)))))
	for i, s := range all {
		unsafe.Slice(p, len(all))[i] = m.text(s)
	}
	return p
}

func (m *memory) fds(files []*os.File) *C.int {
	p := (*C.int)(m.alloc((len(files) + 1) * C.sizeof_int))
	for i, f := range files {
		unsafe.Slice(p, len(files))[i] = C.int(f.Fd())
	}
	return p
}

func (m *memory) groups(ids []int) *C.gid_t {
	p := (*C.gid_t)(m.alloc((len(ids) + 1) * C.sizeof_gid_t))
	for i, id := range ids {
		unsafe.Slice(p, len(ids))[i] = C.gid_t(id)
	}
	return p
}

func (m *memory) limits(asked []state.Ulimit) (*C.struct_enter_limit, C.int) {
	all := limits(asked)
	p := (*C.struct_enter_limit)(m.alloc((len(all) + 1) * C.sizeof_struct_enter_limit))
	for i, l := range all {
		at := &unsafe.Slice(p, len(all))[i]
		at.resource = C.int(l.resource)
		at.limit.rlim_cur, at.limit.rlim_max = C.rlim_t(l.Cur), C.rlim_t(l.Max)
	}
	return p, C.int(len(all))
}

func (m *memory) labels(all []label) *C.struct_enter_label {
	p := (*C.struct_enter_label)(m.alloc((len(all) + 1) * C.sizeof_struct_enter_label))
	for i, l := range all {
		at := &unsafe.Slice(p, len(all))[i]
		at.file, at.text = m.text(l.file), m.text(l.text)
	}
	return p
}

func (m *memory) filter(prog []unix.SockFilter) *C.struct_sock_fprog {
	if len(prog) == 0 {
		return nil
	}
	code := m.alloc(len(prog) * int(unsafe.Sizeof(prog[0])))
	copy(unsafe.Slice((*unix.SockFilter)(code), len(prog)), prog)
	p := (*C.struct_sock_fprog)(m.alloc(C.sizeof_struct_sock_fprog))
	p.len = C.ushort(len(prog))
	p.filter = (*C.struct_sock_filter)(code)
	return p
}
