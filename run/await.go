package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// Await finds out when a machine is up whose init does not tell it, and tells its keeper, which has executed us for
// that. It returns then, or when the machine has ended.
func (e *Engine) Await(ctx context.Context, name string) error {
	in, keeper, err := e.running(ctx, name)
	if err != nil {
		return err
	}
	defer keeper.Close()
	root, err := keeper.guestRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	began, seen := time.Now(), 0
	for seen < 2 { // one look may fall between two things that the init waits for
		if keeper.gone(pause(began)) {
			return nil
		}
		init, err := lookAt(keeper.PID)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // keeper.gone will say so
		}
		if err != nil {
			return err
		}
		up := isUp(in.Applied.Facts.InitKind, init, root)
		if init.terminal && !init.ours() {
			if err := freeConsole(root); err != nil {
				return err
			}
		}
		if seen++; !up {
			seen = 0
		}
	}
	return keeper.Ready()
}

// running gives the record of the running machine and a connection to its keeper.
func (e *Engine) running(ctx context.Context, name string) (*state.Instance, *Keeper, error) {
	in, err := e.Dir.Get(name)
	if err != nil {
		return nil, nil, err
	}
	if in.Applied == nil {
		return nil, nil, e.notRunning(in)
	}
	keeper, err := e.Connect(ctx, in)
	return in, keeper, err
}

// gone says whether the machine's init is dead, after at most limit.
func (k *Keeper) gone(limit time.Duration) bool {
	p := []unix.PollFd{{Fd: int32(k.Init.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(p, int(limit.Milliseconds()))
	return n > 0 && err == nil
}

// pause is how long to wait for the next look at what began then: not long at first, and never so long that
// somebody who waits for it would mind.
func pause(began time.Time) time.Duration {
	return min(max(time.Since(began)/16, 10*time.Millisecond), 500*time.Millisecond)
}

// isUp says whether an init is done with what its system does before anybody can log in.
func isUp(kind string, init process, root *os.File) bool {
	if init.ours() {
		return false
	}
	switch kind {
	case "runit": // stage 2 ends by executing it
		return slices.ContainsFunc(init.children, func(p process) bool { return p.runs("runsvdir") })
	case "openrc": // its fifo is made when the default runlevel is there
		ctl, err := openIn(root, "run/openrc/init.ctl", unix.O_PATH)
		ctl.Close() // nil is fine
		return err == nil
	case "":
		return init.state == 'S' && init.age > unknownGrace
	}
	first := firstCommands(string(guestText(root, "etc/inittab")))
	waitsFor := func(p process) bool {
		// At first sysvinit waits for a copy of itself, which waits for the entry's command.
		return p.state == 'Z' || kind == "sysvinit" && p.program == init.program ||
			slices.ContainsFunc(first, func(c string) bool { return strings.Contains(p.command(), c) })
	}
	return init.state == 'S' && !slices.ContainsFunc(init.children, waitsFor)
}

// unknownGrace is how long an init that nothing is known of must live to count as up.
const unknownGrace = 100 * time.Millisecond

// firstCommands are the commands of an inittab that must end before its gettys are started.
func firstCommands(inittab string) []string {
	first := []string{"/etc/init.d/rcS"} // of busybox without an inittab
	for line := range strings.Lines(inittab) {
		f := strings.SplitN(line, ":", 4)
		if len(f) == 4 && (f[2] == "sysinit" || f[2] == "bootwait" || f[2] == "wait") {
			first = append(first, strings.Join(strings.Fields(strings.TrimLeft(f[3], "-")), " "))
		}
	}
	return first
}

// process is what /proc tells of one.
type process struct {
	state    byte
	terminal bool // it has a controlling one
	args     []string
	program  string // what it executes; nothing for a zombie
	age      time.Duration
	hears    uint64 // signals that it catches or holds back; bit 0 is signal 1
	children []process
}

// lookAt reads a process and its children. It takes some time, in which they go on.
func lookAt(pid int) (process, error) {
	p, err := processOf(pid)
	if err != nil {
		return process{}, err
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		list, _ := os.ReadFile(task)
		for _, word := range strings.Fields(string(list)) {
			child, _ := strconv.Atoi(word)
			if c, err := processOf(child); err == nil { // else it has ended meanwhile
				p.children = append(p.children, c)
			}
		}
	}
	return p, nil
}

func processOf(pid int) (process, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return process{}, err
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return process{}, err
	}
	args, err := os.ReadFile(dir + "cmdline")
	if err != nil {
		return process{}, err
	}
	st, err := os.Stat(dir)
	if err != nil {
		return process{}, err
	}
	p := process{age: time.Since(st.ModTime()), args: strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")}
	p.program, _ = os.Readlink(dir + "exe")
	// PID (COMM) STATE PPID PGRP SESSION TTY: the name may hold anything.
	if f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(f) > 4 {
		p.state, p.terminal = f[0][0], f[4] != "0"
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if key == "SigBlk" || key == "SigCgt" {
			mask, _ := strconv.ParseUint(value, 16, 64)
			p.hears |= mask
		}
	}
	return p, nil
}

// ours: it is libcontainer's init still, about to execute the guest's.
func (p process) ours() bool {
	return len(p.args) == 2 && p.args[0] == "croft" && p.args[1] == ContainerInit
}

func (p process) command() string { return strings.Join(p.args, " ") }

// runs says whether one of the words it was executed with has that name: a script's name comes after its shell's.
func (p process) runs(name string) bool {
	return slices.ContainsFunc(p.args, func(word string) bool { return path.Base(word) == name })
}

func (p process) catches(sig unix.Signal) bool { return p.hears>>(sig-1)&1 == 1 }
