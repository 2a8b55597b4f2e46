package run

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"croft/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// refused are the system calls that no machine may make: they load code into the kernel, replace it, or open
// files by handle, past every mount (the "shocker" escape). They answer as in a kernel that lacks them.
var refused = [...]string{
	"kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "open_by_handle_at",
}

// seccompProfile is a denylist: a machine is a whole system, and nearly everything has its use in one.
func seccompProfile(s *state.Security) *specs.LinuxSeccomp {
	if s.Seccomp == state.Unconfined {
		return nil
	}
	enosys := uint(unix.ENOSYS)
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: seccompArchitectures(),
		Syscalls:      []specs.LinuxSyscall{{Names: refused[:], Action: specs.ActErrno, ErrnoRet: &enosys}},
	}
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

// seccompProgram compiles the machines' filter for an exec, which loads it itself. libcontainer compiles the
// same profile for PID 1. It is the same for all machines of a build, so it is kept beside them.
func seccompProgram(runDir string) ([]unix.SockFilter, error) {
	cache := filepath.Join(runDir, ".seccomp-"+hash(Version+fmt.Sprint(refused)))
	data, err := os.ReadFile(cache)
	if err != nil {
		if data, err = compileSeccomp(); err != nil {
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

func compileSeccomp() ([]byte, error) {
	filter, err := seccomp.NewFilter(seccomp.ActAllow)
	if err != nil {
		return nil, err
	}
	defer filter.Release()
	for _, a := range seccompArchitectures() {
		arch, err := seccomp.GetArchFromString(archName(a))
		if err != nil {
			return nil, err
		}
		if err := filter.AddArch(arch); err != nil {
			return nil, err
		}
	}
	for _, name := range refused {
		call, err := seccomp.GetSyscallFromName(name)
		if err != nil {
			continue // newer than the library, which then lets it through for PID 1 as well
		}
		if err := filter.AddRule(call, seccomp.ActErrno.SetReturnCode(int16(unix.ENOSYS))); err != nil {
			return nil, err
		}
	}
	return export(filter)
}

// archName is libseccomp's word for an architecture of OCI.
func archName(a specs.Arch) string {
	switch a {
	case specs.ArchX86_64:
		return "amd64"
	case specs.ArchAARCH64:
		return "arm64"
	}
	return strings.ToLower(strings.TrimPrefix(string(a), "SCMP_ARCH_"))
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
