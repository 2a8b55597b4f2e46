package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"croft/state"

	"golang.org/x/sys/unix"
)

func privilegeProbes() []probe {
	return []probe{
		{"privilege.root", true, false, isRoot, "", "sudo croft doctor"},
		{capabilitiesID, true, true, hasCapabilities, "", "in a container: start it with --privileged; in a unit: leave CapabilityBoundingSet alone"},
		{"privilege.resource", false, true, hasResource, "the limits of machines stay below those of whoever starts them", "leave CAP_SYS_RESOURCE to croft"},
		{"privilege.seccomp", true, false, takesFilters, "", "a kernel with CONFIG_SECCOMP_FILTER"},
		{"privilege.apparmor", false, false, appArmor, "machines are confined by namespaces, capabilities and seccomp alone", ""},
		{"privilege.selinux", false, false, seLinux, "machines run in croft's own context; a policy may refuse them mounts", "croft set NAME selinux=container_t, and label croft's directory: semanage fcontext -a -t container_file_t '/var/lib/croft(/.*)?'; restorecon -R /var/lib/croft"},
	}
}

const capabilitiesID = "privilege.capabilities"

func isRoot(*examination) (string, error) {
	if !Privileged() {
		return "", errors.New("machines are started by root, and this is not root")
	}
	return "root", nil
}

// needed are the capabilities that a start uses.
var needed = [...]struct {
	name string
	bit  uint
}{
	{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}, {"CAP_SETUID", unix.CAP_SETUID}, {"CAP_SETGID", unix.CAP_SETGID},
	{"CAP_SETPCAP", unix.CAP_SETPCAP}, {"CAP_CHOWN", unix.CAP_CHOWN}, {"CAP_DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE},
	{"CAP_FOWNER", unix.CAP_FOWNER}, {"CAP_FSETID", unix.CAP_FSETID}, {"CAP_MKNOD", unix.CAP_MKNOD},
	{"CAP_KILL", unix.CAP_KILL}, {"CAP_SETFCAP", unix.CAP_SETFCAP}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN},
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE},
}

func hasCapabilities(*examination) (string, error) {
	have, err := effective()
	if err != nil {
		return "", err
	}
	var missing []string
	for _, c := range needed {
		if have&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if missing != nil {
		return "", fmt.Errorf("root without %s", strings.Join(missing, ", "))
	}
	return "all capabilities that it takes", nil
}

// unprivileged adds what root lacks here to an error that comes from it: in a container that has no such rights.
func unprivileged(err error) error {
	if !errors.Is(err, unix.EPERM) || hintOf(err) != "" {
		return err
	}
	if _, lack := hasCapabilities(nil); lack != nil {
		err = fmt.Errorf("%w: this is %w", err, lack)
	}
	return state.Hint(err, "croft doctor")
}

func effective() (mask uint64, err error) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

func hasResource(*examination) (string, error) {
	have, err := effective()
	if err == nil && have&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		err = errors.New("CAP_SYS_RESOURCE is missing")
	}
	return "limits may be raised", err
}

func takesFilters(*examination) (string, error) {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if e != 0 {
		return "", fmt.Errorf("seccomp(SECCOMP_GET_ACTION_AVAIL): %w", e)
	}
	return "seccomp", nil
}

func appArmor(*examination) (string, error) {
	return "AppArmor: each machine has a profile and policy of its own", appArmorUsable()
}

func seLinux(*examination) (string, error) {
	enforcing, err := os.ReadFile("/sys/fs/selinux/enforce")
	if err == nil && string(enforcing) == "1" {
		return "", errors.New("SELinux enforces a policy, and labels machines where --selinux asks for it alone")
	}
	return "no SELinux policy", nil
}

func kernelProbes() []probe {
	modern := "a kernel from 5.19 on"
	all := []probe{{"kernel.mount-namespace", true, true, clones(unix.CLONE_NEWNS, "mount"), "", modern}}
	for _, n := range []struct {
		name string
		flag uintptr
	}{
		{"pid", unix.CLONE_NEWPID}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS},
		{"cgroup", unix.CLONE_NEWCGROUP}, {"network", unix.CLONE_NEWNET},
	} {
		all = append(all, probe{"kernel." + n.name + "-namespace", true, true, clones(n.flag, n.name), "", "sysctl -w user.max_" + strings.Replace(n.name, "network", "net", 1) + "_namespaces=100000"})
	}
	return append(all,
		probe{"kernel.mounts", true, true, detachedMounts, "", modern},
		probe{"kernel.overlay", true, true, fileSystem("overlay"), "", "modprobe overlay"},
		probe{"kernel.proc", true, false, procIsWhole, "", "in a container: start it with --privileged, or umount what lies over /proc"},
		probe{"kernel.pidfd", true, false, pidfds, "", modern},
		probe{"kernel.close-range", true, false, closesRanges, "", modern},
		probe{"kernel.openat2", true, false, opensInside, "", modern},
		probe{"kernel.memory-file", true, false, memoryFiles, "", "sysctl -w vm.memfd_noexec=0"},
	)
}

// clones starts a process in a namespace of its own. A thread that unshares one would do as well, but it might be the
// one whose view of the host is /proc/self.
func clones(flag uintptr, name string) func(*examination) (string, error) {
	return func(*examination) (string, error) {
		cmd := exec.Command("/proc/self/exe", "version")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flag}
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("clone with a %s namespace: %w", name, err)
		}
		return name + " namespaces", nil
	}
}

// detachedMounts clones a mount without attaching it, and changes the clone.
func detachedMounts(*examination) (string, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return "", os.NewSyscallError("mount_setattr", err)
	}
	return "detached mounts", nil
}

func fileSystem(kind string) func(*examination) (string, error) {
	return func(*examination) (string, error) {
		fd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
		if err != nil {
			return "", os.NewSyscallError("fsopen("+kind+")", err)
		}
		unix.Close(fd)
		return kind, nil
	}
}

// procIsWhole looks for what is mounted over parts of /proc: with it the kernel refuses every machine a /proc of its
// own, which would uncover them (mount_too_revealing in fs/namespace.c). On what is always empty it may, and where another
// one lies that is whole, as in a machine for containers.
func procIsWhole(*examination) (string, error) {
	mounts, err := hostMountTable()
	if err != nil {
		return "", err
	}
	var over []string
	for _, m := range mounts {
		covered := slices.ContainsFunc(mounts, func(other mounted) bool { return strings.HasPrefix(other.at, m.at+"/") })
		if m.kind == "proc" && m.at != "/proc" && !covered {
			return "a whole /proc at " + m.at, nil
		}
		if strings.HasPrefix(m.at, "/proc/") && m.at != "/proc/sys/fs/binfmt_misc" {
			over = append(over, m.at)
		}
	}
	if over != nil {
		return "", fmt.Errorf("%d parts of /proc are covered, %s for one: the kernel refuses machines a /proc of their own", len(over), over[0])
	}
	return "an uncovered /proc", nil
}

func pidfds(*examination) (string, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "", os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	return "pidfds", os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(fd, 0, nil, 0))
}

func closesRanges(*examination) (string, error) {
	const none = 1<<31 - 1 // no descriptor has so high a number
	return "close_range", os.NewSyscallError("close_range", unix.CloseRange(none, none, 0))
}

func opensInside(*examination) (string, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", os.NewSyscallError("openat2", err)
	}
	unix.Close(fd)
	return "openat2", nil
}

// memoryFiles has the tiny init of --no-boot executed, from where no machine can write to it.
func memoryFiles(*examination) (string, error) {
	f, err := payloadInit()
	if err != nil || f == nil {
		return "no tiny init for this architecture", err
	}
	defer f.Close()
	cmd := exec.Command("/proc/self/fd/3", "/nonexistent")
	cmd.ExtraFiles = []*os.File{f}
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return "", fmt.Errorf("execute a memory file: %w", err)
	}
	return "sealed memory files", nil
}
