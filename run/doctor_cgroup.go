package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"croft/idmap"

	"golang.org/x/sys/unix"
)

func cgroupProbes() []probe {
	return []probe{
		{"cgroup.layout", true, false, cgroupLayout, "", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"},
		{"cgroup.v2", false, false, cgroupV2, "machines with systemd do not boot, and a command that is left is killed process by process", "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"},
		{"cgroup.make", true, true, cgroupMake, "", "mount -o remount,rw /sys/fs/cgroup; in a container: start it with --privileged"},
		{"cgroup.controllers", false, false, cgroupControllers, "limits of those kinds", "boot without cgroup_disable="},
		{"cgroup.foreground", false, false, cgroupForeground, "", ""},
		{"cgroup.io-weight", false, false, cgroupIOWeight, "--io-weight has no effect", "echo bfq >/sys/block/DISK/queue/scheduler"},
		{"cgroup.clone", false, true, cgroupClone, "croft exec", "a kernel from 5.7 on"},
		{"cgroup.kill", false, true, cgroupKill, "what a command leaves is killed one by one", "a kernel from 5.14 on"},
		{"cgroup.freeze", false, true, cgroupFreezer, "croft pause", "a kernel from 5.2 on, or mount -t cgroup -o freezer freezer /sys/fs/cgroup/freezer"},
		{"cgroup.devices", true, true, cgroupDevices, "", "a kernel with CONFIG_CGROUP_BPF"},
	}
}

// tree tells where this host's hierarchies are: the unified one, "" when it is not mounted, and those of v1 by their
// controllers.
func tree() (v2 string, v1 map[string]hierarchy, err error) {
	roots, _, err := hierarchies()
	if err != nil {
		return "", nil, err
	}
	if v1, err = cgroupMounts(); err != nil {
		return "", nil, err
	}
	delete(v1, "")
	switch {
	case roots[0] == unified:
		return unified, nil, nil
	case isUnified(roots[0]):
		return roots[0], v1, nil
	}
	return "", v1, nil
}

func cgroupLayout(*examination) (string, error) {
	v2, v1, err := tree()
	switch {
	case err != nil:
		return "", err
	case v2 == "":
		return fmt.Sprintf("limits by %d v1 hierarchies", len(v1)), nil
	case len(v1) == 0:
		return "cgroup v2 at " + v2, nil
	}
	return fmt.Sprintf("hybrid cgroups: v2 at %s, limits by %d v1 hierarchies", v2, len(v1)), nil
}

func cgroupV2(*examination) (string, error) {
	v2, _, err := tree()
	if err != nil {
		return "", blocked{"cgroup.layout"}
	}
	if v2 == "" {
		return "", errors.New("the v2 hierarchy is not mounted")
	}
	return "one for machines", nil
}

// inCgroup makes a cgroup in the hierarchy at root for a moment.
func inCgroup(root string, use func(dir string) error) error {
	const prefix = "croft-doctor-"
	for _, dir := range leftBehind(root, prefix) {
		removeCgroup(dir)
	}
	dir, err := os.MkdirTemp(root, prefix)
	if err != nil {
		return err
	}
	defer removeCgroup(dir)
	return use(dir)
}

func cgroupMake(*examination) (string, error) {
	roots, _, err := hierarchies()
	if err != nil {
		return "", blocked{"cgroup.layout"}
	}
	for _, root := range roots {
		err := inCgroup(root, func(dir string) error {
			_, err := os.Stat(filepath.Join(dir, "cgroup.procs"))
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return "writable", nil
}

// wanted are the controllers that limits of machines need, by their v2 names.
var wanted = [...]struct{ v2, v1 string }{{"cpu", "cpu"}, {"cpuset", "cpuset"}, {"io", "blkio"}, {"memory", "memory"}, {"pids", "pids"}}

func cgroupControllers(*examination) (string, error) {
	have, err := controllersHere()
	if err != nil {
		return "", blocked{"cgroup.layout"}
	}
	var found, missing []string
	for _, w := range wanted {
		if slices.Contains(have, w.v2) {
			found = append(found, w.v2)
		} else {
			missing = append(missing, w.v2)
		}
	}
	if missing != nil {
		return "", fmt.Errorf("no controller for %s", strings.Join(missing, ", "))
	}
	return "controllers " + strings.Join(found, " "), nil
}

// controllersHere are the controllers of this host that limits need, of v2 and v1, by their v2 names.
func controllersHere() ([]string, error) {
	v2, v1, err := tree()
	if err != nil {
		return nil, err
	}
	text, _ := os.ReadFile(filepath.Join(v2, "cgroup.controllers")) // without a v2 those of v1 count alone
	all := strings.Fields(string(text))
	for names := range v1 {
		for _, name := range strings.Split(names, ",") {
			for _, w := range wanted {
				if name == w.v1 {
					all = append(all, w.v2)
				}
			}
		}
	}
	return all, nil
}

// cgroupForeground tells whether a machine has limits that stays in the cgroup of whoever starts it. Others have a
// unit, or a place at the top of the tree.
func cgroupForeground(*examination) (string, error) {
	_, own, err := hierarchies()
	if err != nil {
		return "", blocked{"cgroup.layout"}
	}
	_, v1, err := tree()
	if err == nil && len(v1) == 0 && own[0] != unified && delegated(own[0]) == "" {
		return "no limits for machines in the foreground from here, which is not delegated", nil
	}
	return "limits in the foreground, too", nil
}

// cgroupIOWeight looks for a disk that is shared by weight: its scheduler does so, or the kernel's cost model is on
// (cgroup-v2.rst, "io.cost.qos"; block/bfq-iosched.rst).
func cgroupIOWeight(*examination) (string, error) {
	schedulers, err := filepath.Glob("/sys/block/*/queue/scheduler")
	if err != nil {
		return "", err
	}
	var heed, not []string
	for _, file := range schedulers {
		block := filepath.Dir(filepath.Dir(file))
		disk := filepath.Base(block)
		if !exists(filepath.Join(block, "device")) { // of the kernel's own making: loop, ram, dm
			continue
		}
		text, _ := os.ReadFile(file)
		_, after, _ := strings.Cut(string(text), "[")
		scheduler, _, _ := strings.Cut(after, "]")
		number, _ := os.ReadFile(filepath.Join(block, "dev"))
		if scheduler == "bfq" || costed(strings.TrimSpace(string(number))) {
			heed = append(heed, disk)
		} else {
			not = append(not, disk+" ("+scheduler+")")
		}
	}
	switch {
	case heed != nil:
		return "weights of io on " + strings.Join(heed, ", "), nil
	case not != nil:
		return "", fmt.Errorf("no weights of io on %s", strings.Join(not, ", "))
	}
	return "", errors.New("no disk whose io has weights")
}

// costed says whether the cost model is on for the disk of that number.
func costed(number string) bool {
	text, _ := os.ReadFile(filepath.Join(unified, "io.cost.qos"))
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, number+" ") && strings.Contains(line, "enable=1") {
			return true
		}
	}
	return false
}

// onUnified uses a cgroup in the v2 hierarchy.
func onUnified(use func(dir string) error) error {
	v2, _, err := tree()
	if err != nil {
		return blocked{"cgroup.layout"}
	}
	if v2 == "" {
		return blocked{"cgroup.v2"}
	}
	if err := inCgroup(v2, use); errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return blocked{"cgroup.make"}
	} else {
		return err
	}
}

// cgroupClone starts a process in a cgroup, which is how a command gets into a machine.
func cgroupClone(*examination) (string, error) {
	err := onUnified(func(dir string) error {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd := exec.Command("/proc/self/exe", "version")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("clone3(CLONE_INTO_CGROUP): %w", err)
		}
		return nil
	})
	return "processes born in them", err
}

func cgroupKill(*examination) (string, error) {
	err := onUnified(func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	})
	return "killed as a whole", err
}

func cgroupFreezer(*examination) (string, error) {
	err := onUnified(func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("1"), 0)
	})
	if err == nil {
		return "frozen", nil
	}
	if _, v1, e := tree(); e == nil && v1["freezer"].at != "" {
		return "frozen by v1", nil
	}
	return "", err
}

// cgroupDevices loads the kind of program that says which devices a machine may use; where v1 has a hierarchy for
// that, it is enough that one is there.
func cgroupDevices(*examination) (string, error) {
	if _, v1, err := tree(); err == nil && v1["devices"].at != "" {
		return "devices by v1", nil
	}
	if idmap.Nested() {
		return "devices by the user namespace", nil // in which nobody makes any
	}
	program := [...]uint64{0x1_00_00_00_b7, 0x95} // r0 = 1; exit: every device is allowed
	license := []byte("GPL\x00")
	attr := struct {
		kind, count       uint32
		program, license  uint64
		logLevel, logSize uint32
		log               uint64
	}{15 /* BPF_PROG_TYPE_CGROUP_DEVICE */, 2, uint64(uintptr(unsafe.Pointer(&program))), uint64(uintptr(unsafe.Pointer(&license[0]))), 0, 0, 0}
	fd, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if e != 0 {
		return "", fmt.Errorf("bpf(BPF_PROG_LOAD): %w", e)
	}
	unix.Close(int(fd))
	return "devices by BPF", nil
}
