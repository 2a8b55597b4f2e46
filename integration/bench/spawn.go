package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

func owner(info fs.FileInfo) (uid, gid int) {
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid)
}

// A command line of croft or a peer, and the environment it needs beside PATH.
type command struct {
	args []string
	env  []string
}

// run spawns the command, waits for it and gives how long both took. All peers are spawned by this: os/exec clones with
// CLONE_VFORK|CLONE_VM, as posix_spawn does. Output goes to the log, straight into the file.
func (b *bench) run(c command) (time.Duration, error) {
	from, err := b.log.Seek(0, 2)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = b.null, b.log, b.log
	cmd.Env = append(c.env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	began := time.Now()
	err = cmd.Run()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(c.args, " "), err, b.said(from))
	}
	return took, nil
}

// output is run for the set-up: it gives what the command printed to both of its outputs.
func (b *bench) output(c command) (string, error) {
	from, err := b.log.Seek(0, 2)
	if err != nil {
		return "", err
	}
	_, err = b.run(c)
	return b.said(from), err
}

// said is what was logged behind an offset.
func (b *bench) said(from int64) string {
	buf := make([]byte, 64<<10)
	n, _ := b.log.ReadAt(buf, from)
	return string(bytes.TrimSpace(buf[:n]))
}

// lap is run as a part of a timed sequence: the first error stops the rest of it.
type lap struct {
	b     *bench
	err   error
	total time.Duration
}

func (l *lap) run(c command) time.Duration {
	if l.err != nil {
		return 0
	}
	var took time.Duration
	took, l.err = l.b.run(c)
	l.total += took
	return took
}

// settle lets the kernel finish what the last commands left to it. The first move of a process between cgroups after a quiet time
// waits for a grace period of RCU; the ones that follow at once do not. Nobody shall gain by a neighbour's having paid it.
func settle() { time.Sleep(60 * time.Millisecond) }

func openNull() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }
