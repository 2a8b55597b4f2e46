package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestSystemd runs its scripts in a host whose PID 1 is systemd: Debian's, in namespaces on this machine. It has a bus, a journal and
// logind, and a cgroup2 tree without controllers. All scripts run in one boot of it.
func TestSystemd(t *testing.T) {
	inHost(t, "testdata/systemd", systemdHost())
}

// TestReboots runs the scripts of each of its directories in such a host that goes down and comes up between them, with what it has on
// its disk. It stays on this machine: the boot id is the same. TestVMReboots runs them where it is not.
func TestReboots(t *testing.T) { inReboots(t, "testdata/reboots", systemdHost()) }

func systemdHost() hostKind {
	return hostKind{
		start: startNamespaces,
		parts: []string{"trixie"},
		facts: "root,systemd,bus,cgroup2,overlay,loop,nft,nobody,keyctl,strace,squashfs,erofs",
	}
}

// hostGroup is the cgroup of the host in the directory, beside all others of the cgroup2 tree. Its name has what the leak check looks for.
func hostGroup(dir string) (string, error) {
	top, err := cgroup2Top()
	return filepath.Join(top, tag(rootOf(dir))), err
}

// startNamespaces boots systemd as PID 1 of namespaces. It dies with this process.
func startNamespaces(ctx context.Context, h *testHost) error {
	group, err := hostGroup(h.dir)
	if err != nil {
		return err
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		return err
	}
	defer endGroup(group)
	fd, err := os.Open(group)
	if err != nil {
		return err
	}
	defer fd.Close()
	cmd := exec.CommandContext(ctx, "host/systemd", filepath.Join(h.made["trixie"], "tree"), h.dir,
		h.dir+"/croft", "/croft", h.dir+"/out", "/croft/out", h.dir+"/lib", "/var/lib/croft")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		UseCgroupFD: true,
		CgroupFD:    int(fd.Fd()),
	}
	err = h.hold(cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		switch exit.Sys().(syscall.WaitStatus).Signal() {
		case syscall.SIGINT, syscall.SIGHUP: // what the kernel makes of poweroff and reboot in a pid namespace
			return nil
		}
	}
	return fmt.Errorf("neither powered off nor rebooted but ended: %w", err)
}

// endGroup kills all that is in the cgroup and removes it with those below.
func endGroup(group string) error {
	if err := os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0); err != nil {
		return err
	}
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var all []string
		filepath.WalkDir(group, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		err = nil
		for i := len(all) - 1; i >= 0; i-- {
			err = errors.Join(err, os.Remove(all[i]))
		}
		if err == nil {
			return nil
		}
	}
	return err
}
