package run

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tops opens the way out of the cgroups by which whoever started us tracks what it has started: a supervisor of jobs
// ends all that is in one, and with it must not go who has to end the machine. A process that writes 0 there is at
// the top. The cgroups of v1 that only count and limit are kept, and what cannot be left is stayed in.
func tops(task string) (files []*os.File) {
	roots, own, err := hierarchiesOf(task)
	if err != nil {
		return nil
	}
	for i, root := range roots {
		tracks := isUnified(root) || filepath.Base(root) == "freezer" || filepath.Base(root) == "systemd"
		if !tracks || own[i] == root {
			continue
		}
		if f, err := os.OpenFile(filepath.Join(root, "cgroup.procs"), os.O_WRONLY, 0); err == nil {
			files = append(files, f)
		}
	}
	return files
}

// leaveCaller takes this process, which outlives its caller, to the top.
func leaveCaller(task string) {
	for _, f := range tops(task) {
		f.WriteString("0")
		f.Close()
	}
}

// guarded starts the guard of a machine that ends with its caller (guard.c). The main process of a service of systemd's
// needs none: systemd ends what its death leaves, and has croft clear up.
func guarded(_ context.Context, l *launch) error {
	service := strings.HasSuffix(l.Unit, ".service") && os.Getppid() == 1
	if l.Hold != HeldByCaller && l.Hold != HeldByJob || service {
		return nil
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	us := os.NewFile(uintptr(fd), "pidfd")
	defer us.Close()
	cmd := l.engine.another("guard", l.Instance.Spec.Name)
	ways := tops("self")
	cmd.ExtraFiles = append([]*os.File{l.container.pidfd, us}, ways...)
	err = onHost(cmd.Run)
	for _, f := range ways {
		f.Close()
	}
	return err
}
