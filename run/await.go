package run

import (
	"bytes"
	"context"
	"fmt"
	"io"
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
	began, quiet := time.Now(), time.Time{}
	for !keeper.gone(pause(began)) {
		s, err := keeper.look(in.Applied.Facts.InitKind)
		if err != nil || s == booting { // what cannot be looked at while it boots may be the next time
			quiet = time.Time{}
			continue
		}
		// One look may fall between two things that the init waits for.
		if up := s == loggingIn && !quiet.IsZero(); up || !quiet.IsZero() && time.Since(quiet) > quietLimit {
			return keeper.Ready()
		}
		if quiet.IsZero() {
			quiet = time.Now()
		}
	}
	return nil
}

// look tells how far the machine's init has come, and frees the console that it may have taken. The root is not kept
// open for the next look: a reboot would find it mounted.
func (k *Keeper) look(kind string) (stage, error) {
	defer watchdog().Stop()
	init, err := lookAt(k.PID)
	if err != nil || init.ours() {
		return booting, err
	}
	root, err := k.guestRoot()
	if err != nil {
		return booting, err
	}
	defer root.Close()
	if init.terminal {
		if err := k.freeConsole(root); err != nil {
			return booting, err
		}
	}
	return stageOf(kind, init, root), nil
}

// watchdog ends this process, which is there for one machine alone, unless it is stopped in time: a guest can make
// whoever reads its memory or its files wait for ever (userfaultfd, FUSE).
func watchdog() *time.Timer {
	const limit = 30 * time.Second
	return time.AfterFunc(limit, func() { os.Exit(1) })
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
func (k *Keeper) gone(limit time.Duration) bool { return ended(k.Init, limit) }

// pause is how long to wait for the next look at what began then: not long at first, and never so long that
// somebody who waits for it would mind.
func pause(began time.Time) time.Duration {
	return min(max(time.Since(began)/16, 10*time.Millisecond), 500*time.Millisecond)
}

// stage is how far an init has come.
type stage int

const (
	booting   stage = iota
	idle            // it waits for nothing that is known of
	loggingIn       // and what comes last is there: whoever comes is let in
)

// quietLimit is how long an init must be idle to count as up when nobody is let in: the image has no getty, or not one
// that is recognized.
const quietLimit = 5 * time.Second

func stageOf(kind string, init process, root *os.File) stage {
	up := false
	switch kind {
	case "runit": // stage 2 ends by executing it
		up = slices.ContainsFunc(init.children, func(p process) bool { return p.runs("runsvdir") })
	case "openrc": // its fifo is made when the default runlevel is there
		ctl, err := openIn(root, "run/openrc/init.ctl", unix.O_PATH)
		ctl.Close() // nil is fine
		up = err == nil
	case "":
		up = init.state == 'S' && init.age > unknownGrace
	default:
		return stageByInittab(kind, init, string(guestText(root, "etc/inittab")))
	}
	if up {
		return loggingIn
	}
	return booting
}

// unknownGrace is how long an init that nothing is known of must live to count as up.
const unknownGrace = 100 * time.Millisecond

// stageByInittab compares what sysvinit or busybox has running with its inittab.
func stageByInittab(kind string, init process, inittab string) stage {
	first, last := commands(inittab)
	come := idle
	if init.state != 'S' { // it is about to do something
		come = booting
	}
	for _, p := range init.children {
		is := func(command string) bool { return strings.Contains(p.command(), command) }
		switch {
		case p.state == 'Z', slices.ContainsFunc(first, is), p.runs("openrc"): // with the last rc replaces itself
			return booting
		case kind == "sysvinit" && p.program == init.program: // a copy, which waits for one of the first commands
			return booting
		case come == idle && (slices.ContainsFunc(last, is) || slices.Equal(p.args, init.args)): // a copy that waits for a key
			come = loggingIn
		}
	}
	return come
}

// commands are those of an inittab that must end before its gettys are started, and those gettys and their like.
func commands(inittab string) (first, last []string) {
	first = []string{"/etc/init.d/rcS"} // of busybox without an inittab
	for line := range strings.Lines(inittab) {
		f := strings.SplitN(line, ":", 4)
		if len(f) != 4 || strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		command := strings.Join(strings.Fields(strings.TrimLeft(f[3], "-")), " ")
		switch {
		case command == "":
		case f[2] == "sysinit", f[2] == "bootwait", f[2] == "wait":
			first = append(first, command)
		case f[2] == "respawn", f[2] == "askfirst":
			last = append(last, command)
		}
	}
	return first, last
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

// lookAt reads a process and its children, of which a guest may have any number: the first tell what is to be known. It
// takes some time, in which they go on.
func lookAt(pid int) (process, error) {
	const most = 256
	defer watchdog().Stop()
	p, err := processOf(pid)
	if err != nil {
		return process{}, err
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		list, _ := os.ReadFile(task)
		for _, word := range strings.Fields(string(list)) {
			if len(p.children) == most {
				return p, nil
			}
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
	args, err := head(dir + "cmdline")
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

// head reads as much of a file as tells what is to be known: a guest's command line may have megabytes, of each process.
func head(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
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
