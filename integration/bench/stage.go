package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// The benchmark is three processes: the first sets up and clears away, the second is the init of pid, mount and network namespaces and
// only reaps, the third measures. When the third ends, or the first dies, all that was started is gone.
const (
	envStage   = "CROFT_BENCH_STAGE"
	envPlace   = "CROFT_BENCH_PLACE" // name of this run: cgroups and directories bear it
	exitMissed = 9
)

// stageOutside prepares the host, runs the measurement in namespaces and removes every trace of it.
func stageOutside(o options) (missed bool, err error) {
	if os.Geteuid() != 0 {
		return false, errors.New("needs root: sudo make bench")
	}
	lock, err := lockCache()
	if err != nil {
		return false, err
	}
	defer lock.Close()
	sweepHost()
	if err := os.RemoveAll(workDir()); err != nil {
		return false, err
	}
	if err := prepare(o); err != nil {
		return false, err
	}
	place := fmt.Sprintf("croft-bench-%d", os.Getpid())
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envStage+"=1", envPlace+"="+place)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	err = cmd.Run()
	left := theCroft(place) // by a run that was interrupted
	left.apart = syscall.CLONE_NEWNET
	left.removeAll()
	sweepHost()
	if !o.keep {
		os.RemoveAll(workDir())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitMissed {
		return true, nil
	}
	return false, err
}

// stageInit is the init of the namespace.
func stageInit() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount(/, MS_PRIVATE): %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount(/proc): %w", err)
	}
	if err := mountRun("/run/" + os.Getenv(envPlace)); err != nil {
		return err
	}
	if err := mountRun("/run/netns"); err != nil { // of `ip netns`
		return err
	}
	if _, err := tool("ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	os.Setenv(envStage, "2")
	p, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return fmt.Errorf("wait4: %w", err)
		case pid == p.Pid && status.Signaled():
			return fmt.Errorf("the measuring process died: %v", status.Signal())
		case pid == p.Pid:
			os.Exit(status.ExitStatus())
		}
	}
}

// mountRun gives this run's part of /run the filesystem that /run has on any distribution, which this host may not have. Both
// croft and the peers keep what does not outlive a boot there.
func mountRun(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=711"); err != nil {
		return fmt.Errorf("mount(%s): %w", dir, err)
	}
	return nil
}

// lockCache lets one benchmark at a time use the cache.
func lockCache() (*os.File, error) {
	if err := os.MkdirAll(benchDir(), 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(benchDir(), ".lock"))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another bench runs: flock %s: %w", f.Name(), err)
	}
	return f, nil
}

// sweepHost removes what a run leaves outside the cache, this one or one that was killed: the lock says that none is alive.
func sweepHost() {
	for _, root := range hierarchies() {
		dirs, _ := filepath.Glob(filepath.Join(root, "croft-bench-*"))
		for _, d := range dirs {
			removeCgroups(d)
		}
	}
	dirs, _ := filepath.Glob("/run/croft-bench-*")
	for _, d := range dirs {
		os.RemoveAll(d)
	}
}

func removeCgroups(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroups(filepath.Join(dir, e.Name()))
		}
	}
	os.Remove(dir)
}

// hierarchies are the mount points of the host's cgroup hierarchies, the one of version 2 first.
func hierarchies() []string {
	info, _ := os.ReadFile("/proc/self/mountinfo")
	var v2, v1 []string
	for line := range strings.Lines(string(info)) {
		left, right, _ := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		switch {
		case len(fields) < 5:
		case strings.HasPrefix(right, "cgroup2 "):
			v2 = append(v2, fields[4])
		case strings.HasPrefix(right, "cgroup "):
			v1 = append(v1, fields[4])
		}
	}
	return append(v2, v1...)
}
