package run

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"croft/state"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// refusal is system calls that no machine may make, and what they answer: what a kernel does that lacks them or whose
// administrator has closed them, since programs know that.
type refusal struct {
	names  []string
	errno  unix.Errno
	unless string                  // a capability that opens them, when a machine was given it
	args   []specs.LinuxSeccompArg // of these arguments alone
}

// refusals is a denylist: a machine is a whole system, and nearly everything has its use in one. What only the host's root
// may do, and what reaches nothing but the machine's own, is left to the kernel.
func refusals() []refusal {
	all := []refusal{
		// Code into the kernel, or another kernel.
		{names: []string{"kexec_load", "kexec_file_load"}, errno: unix.ENOSYS},
		{names: []string{"init_module", "finit_module", "delete_module"}, errno: unix.ENOSYS, unless: "CAP_SYS_MODULE"},
		// Files by handle, past every mount (the "shocker" escape).
		{names: []string{"open_by_handle_at"}, errno: unix.ENOSYS},
		// What its requests do passes no filter of system calls; every program that can use it can do without.
		{names: []string{"io_uring_setup", "io_uring_enter", "io_uring_register"}, errno: unix.EPERM},
		// Compilers and counters in the kernel, with a long history of holes; they answer as where sysctls close them.
		{names: []string{"bpf"}, errno: unix.EPERM, unless: "CAP_BPF"},
		{names: []string{"perf_event_open"}, errno: unix.EACCES, unless: "CAP_PERFMON"},
		// Faults of the kernel, held up by a program, win races in the kernel. Those of programs may be held up.
		{names: []string{"userfaultfd"}, errno: unix.EPERM, args: flagsAre(0, uffdUserModeOnly, 0)},
		// The kernel's log is all machines' and the host's.
		{names: []string{"syslog"}, errno: unix.EPERM, unless: "CAP_SYSLOG"},
		// A request with a text for it makes the kernel execute the host's /sbin/request-key, as root of the host.
		{names: []string{"request_key"}, errno: unix.ENOKEY, args: []specs.LinuxSeccompArg{{Index: 2, Value: 0, Op: specs.OpNotEqual}}},
		// Of filesystems that others use as well: their quotas, their swap, how full one is by its number, unmounting them for all.
		{names: []string{"quotactl", "quotactl_fd", "ustat"}, errno: unix.ENOSYS},
		{names: []string{"swapon", "swapoff"}, errno: unix.EPERM},
		{names: []string{"umount2"}, errno: unix.EPERM, args: flagsAre(1, unix.MNT_FORCE, unix.MNT_FORCE)},
		// Keys typed into the terminal that a command has from its caller.
		{names: []string{"ioctl"}, errno: unix.EIO, args: flagsAre(1, allBits, unix.TIOCSTI)},
		{names: []string{"ioctl"}, errno: unix.EIO, args: flagsAre(1, allBits, tioclinux)},
		// Loads a program as a library, by a parser that nobody looks at any more.
		{names: []string{"uselib"}, errno: unix.ENOSYS},
	}
	for _, f := range families {
		all = append(all, refusal{names: []string{"socket"}, errno: unix.EAFNOSUPPORT, args: flagsAre(0, f.mask, f.value)})
	}
	return all
}

const (
	allBits          = 1<<32 - 1 // the kernel does not look at the upper half of an int, so neither may the filter
	uffdUserModeOnly = 1
	tioclinux        = 0x541c
)

// families are the address families of sockets that are not kept apart by network namespaces or have no use in a machine, as
// masks: a socket of one loads its module into the kernel. AF_VSOCK asks the hypervisor of the host.
var families = [...]struct{ mask, value uint64 }{
	{allBits, unix.AF_AX25},
	{allBits &^ 3, unix.AF_IPX},        // and APPLETALK, NETROM, BRIDGE, which has none
	{allBits &^ 1, unix.AF_ATMPVC},     // and X25
	{allBits, unix.AF_ROSE},            //
	{allBits, unix.AF_DECnet},          //
	{allBits &^ 1, unix.AF_ASH},        // and ECONET
	{allBits &^ 3, unix.AF_ATMSVC},     // and RDS, SNA, IRDA
	{allBits, unix.AF_WANPIPE},         //
	{allBits &^ 1, unix.AF_LLC},        // and IB
	{allBits &^ 1, unix.AF_TIPC},       // and BLUETOOTH
	{allBits &^ 7, unix.AF_RXRPC &^ 7}, // and IUCV, ISDN, PHONET, IEEE802154, CAIF, ALG, NFC
	{allBits &^ 1, unix.AF_VSOCK},      // and KCM
	{allBits, unix.AF_QIPCRTR},         //
}

// flagsAre is a condition on the bits of mask in an argument.
func flagsAre(index uint, mask, value uint64) []specs.LinuxSeccompArg {
	return []specs.LinuxSeccompArg{{Index: index, Value: mask, ValueTwo: value, Op: specs.OpMaskedEqual}}
}

// seccompProfile is the filter of machines that were asked no other; nil for none.
func seccompProfile(s *state.Security) *specs.LinuxSeccomp {
	if s.Seccomp == state.Unconfined {
		return nil
	}
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: seccompArchitectures()}
	granted := capabilities(s, state.AppArmor{}) // no call is refused for want of what its own policy takes
	for _, r := range refusals() {
		if !slices.Contains(granted, r.unless) {
			errno := uint(r.errno)
			profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: r.names, Action: specs.ActErrno, ErrnoRet: &errno, Args: r.args})
		}
	}
	return profile
}

// seccompArchitectures are the instruction sets that this kernel runs: a filter that names only the native
// one would kill every program of the other.
func seccompArchitectures() []specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	case "s390x":
		return []specs.Arch{specs.ArchS390X, specs.ArchS390}
	}
	return nil // the native one alone
}

// seccompProgram compiles a filter for an exec, which loads it itself. libcontainer compiles the same profile for PID 1. What
// is compiled is kept in dir, for others with the same.
func seccompProgram(dir string, profile *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	text, err := json.Marshal(profile)
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(dir, ".seccomp-"+hash(Version+string(text)))
	data, err := os.ReadFile(cache)
	if err != nil {
		if data, err = compileSeccomp(profile); err != nil {
			return nil, fmt.Errorf("seccomp: %w", err)
		}
		if err := keep(cache, data); err != nil {
			return nil, err
		}
	}
	if len(data)%8 != 0 || len(data) == 0 {
		return nil, fmt.Errorf("seccomp: %s: %w", cache, state.ErrInvalid)
	}
	prog := make([]unix.SockFilter, len(data)/8)
	for i := range prog {
		b := data[i*8:]
		prog[i] = unix.SockFilter{Code: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])}
	}
	return prog, nil
}

// keep puts data at path without a name before it is whole: whoever is killed in between leaves nothing. That
// somebody else was faster is as good, and a filesystem that cannot do it keeps nothing.
func keep(path string, data []byte) error {
	f, err := os.OpenFile(filepath.Dir(path), unix.O_TMPFILE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil && err != unix.EEXIST {
		return &os.LinkError{Op: "linkat", New: path, Err: err}
	}
	return nil
}

// compileSeccomp makes of a profile what libcontainer makes of it.
func compileSeccomp(profile *specs.LinuxSeccomp) ([]byte, error) {
	config, err := specconv.SetupSeccomp(profile)
	if err != nil {
		return nil, err
	}
	otherwise := seccompAction(config.DefaultAction, config.DefaultErrnoRet)
	filter, err := seccomp.NewFilter(otherwise)
	if err != nil {
		return nil, err
	}
	defer filter.Release()
	for _, name := range config.Architectures {
		arch, err := seccomp.GetArchFromString(name)
		if err != nil {
			return nil, err
		}
		if err := filter.AddArch(arch); err != nil {
			return nil, err
		}
	}
	if err := filter.SetOptimize(2); err != nil { // a tree, as there are many rules
		return nil, err
	}
	for _, rule := range config.Syscalls {
		call, err := seccomp.GetSyscallFromName(rule.Name)
		action := seccompAction(rule.Action, rule.ErrnoRet)
		if err != nil || action == otherwise {
			continue // newer than the library: for libcontainer it is, too
		}
		var conditions []seccomp.ScmpCondition
		for _, a := range rule.Args {
			c, err := seccomp.MakeCondition(a.Index, comparisons[a.Op], a.Value, a.ValueTwo)
			if err != nil {
				return nil, err
			}
			conditions = append(conditions, c)
		}
		if err := filter.AddRuleConditional(call, action, conditions); err != nil {
			return nil, fmt.Errorf("%s: %w", rule.Name, err)
		}
	}
	program, err := export(filter)
	if err != nil || permissive(config.DefaultAction) {
		return program, err
	}
	young, err := refuseYoung(config)
	return append(young, program...), err
}

// permissive says whether a call that no rule names is made.
func permissive(a configs.Action) bool {
	return a == configs.Allow || a == configs.Log || a == configs.Trace
}

// refuseYoung is the beginning of a filter that names what is allowed: whatever came to the kernel after the last call that it
// names answers ENOSYS, so that programs do without. It is what libcontainer puts before such a filter.
func refuseYoung(config *configs.Seccomp) (code []byte, err error) {
	native, err := seccomp.GetNativeArch()
	if err != nil {
		return nil, err
	}
	last := map[seccomp.ScmpArch]uint32{native: 0}
	for _, name := range config.Architectures {
		arch, err := seccomp.GetArchFromString(name)
		if err != nil {
			return nil, err
		}
		last[arch] = 0
	}
	for arch := range last {
		for _, rule := range config.Syscalls {
			if n, err := seccomp.GetSyscallFromNameByArch(rule.Name, arch); err == nil && n > 0 {
				last[arch] = max(last[arch], uint32(n))
			}
		}
	}
	const ofArch, ofCall = 4, 0 // in struct seccomp_data
	add := func(op uint16, k uint32, yes, no uint8) {
		code = binary.NativeEndian.AppendUint16(code, op)
		code = binary.NativeEndian.AppendUint32(append(code, yes, no), k)
	}
	for _, arch := range slices.Sorted(maps.Keys(last)) {
		// Those of x32 have a bit that those of its own architecture lack, and are above all of them.
		lowest, highest := uint32(0), uint32(math.MaxUint32)
		switch arch {
		case seccomp.ArchX32:
			lowest = x32Bit
		case seccomp.ArchAMD64:
			highest = x32Bit - 1
		}
		token, known := auditArch(arch)
		if last[arch] == 0 || !known {
			continue
		}
		add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, ofArch, 0, 0)
		add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, token, 0, 5)
		add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, ofCall, 0, 0)
		add(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, lowest, 0, 3)
		add(unix.BPF_JMP|unix.BPF_JGT|unix.BPF_K, highest, 2, 0)
		add(unix.BPF_JMP|unix.BPF_JGT|unix.BPF_K, last[arch], 0, 1)
		add(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS), 0, 0)
	}
	return code, nil
}

const x32Bit = 1 << 30

// auditArch is how the kernel names an architecture to a filter.
func auditArch(arch seccomp.ScmpArch) (uint32, bool) {
	switch arch {
	case seccomp.ArchX86:
		return unix.AUDIT_ARCH_I386, true
	case seccomp.ArchAMD64, seccomp.ArchX32:
		return unix.AUDIT_ARCH_X86_64, true
	case seccomp.ArchARM:
		return unix.AUDIT_ARCH_ARM, true
	case seccomp.ArchARM64:
		return unix.AUDIT_ARCH_AARCH64, true
	case seccomp.ArchS390:
		return unix.AUDIT_ARCH_S390, true
	case seccomp.ArchS390X:
		return unix.AUDIT_ARCH_S390X, true
	case seccomp.ArchPPC64LE:
		return unix.AUDIT_ARCH_PPC64LE, true
	case seccomp.ArchRISCV64:
		return unix.AUDIT_ARCH_RISCV64, true
	}
	return 0, false
}

// filterFlags are those that a profile is loaded with; without any, those of libcontainer.
func filterFlags(profile *specs.LinuxSeccomp) (bits uint) {
	if profile == nil || profile.Flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	if slices.Contains(profile.Flags, specs.LinuxSeccompFlagLog) {
		bits |= unix.SECCOMP_FILTER_FLAG_LOG
	}
	if slices.Contains(profile.Flags, specs.LinuxSeccompFlagSpecAllow) {
		bits |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	return bits
}

// comparisons are libseccomp's words for those of a profile.
var comparisons = [...]seccomp.ScmpCompareOp{
	configs.EqualTo: seccomp.CompareEqual, configs.NotEqualTo: seccomp.CompareNotEqual, configs.GreaterThan: seccomp.CompareGreater,
	configs.GreaterThanOrEqualTo: seccomp.CompareGreaterEqual, configs.LessThan: seccomp.CompareLess,
	configs.LessThanOrEqualTo: seccomp.CompareLessOrEqual, configs.MaskEqualTo: seccomp.CompareMaskedEqual,
}

// seccompAction is libseccomp's word for what a profile answers.
func seccompAction(a configs.Action, errno *uint) seccomp.ScmpAction {
	code := int16(unix.EPERM)
	if errno != nil {
		code = int16(*errno)
	}
	switch a {
	case configs.Allow:
		return seccomp.ActAllow
	case configs.Errno:
		return seccomp.ActErrno.SetReturnCode(code)
	case configs.Trace:
		return seccomp.ActTrace.SetReturnCode(code)
	case configs.Trap:
		return seccomp.ActTrap
	case configs.Log:
		return seccomp.ActLog
	case configs.KillProcess:
		return seccomp.ActKillProcess
	}
	return seccomp.ActKillThread
}

func export(filter *seccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "seccomp")
	defer f.Close()
	if err := filter.ExportBPF(f); err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, st.Size())
	_, err = f.ReadAt(data, 0)
	return data, err
}
