package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"croft/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// filterFile is a profile as docker and podman ship theirs: that of the OCI with conditions on machine and host.
type filterFile struct {
	specs.LinuxSeccomp
	DefaultErrno string       `json:"defaultErrno"` // by name, over defaultErrnoRet
	ArchMap      []archMap    `json:"archMap"`
	Syscalls     []filterRule `json:"syscalls"`
}

type archMap struct {
	Architecture     specs.Arch   `json:"architecture"`
	SubArchitectures []specs.Arch `json:"subArchitectures"`
}

type filterRule struct {
	specs.LinuxSyscall
	Name     string          `json:"name"` // one, in place of names
	Errno    string          `json:"errno"`
	Comment  string          `json:"comment"`
	Includes filterCondition `json:"includes"`
	Excludes filterCondition `json:"excludes"`
}

// filterCondition is what the machine or its host must be for a rule to count, or must not be.
type filterCondition struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"` // in Go's words
	MinKernel string   `json:"minKernel"`
}

// checkFilter wants the filter that was asked for to be there and to be one.
func checkFilter(s *state.Security) (err error) {
	if file := s.SeccompFile(); file != "" {
		_, err = readFilter(file, capabilities(s, state.AppArmor{}))
	}
	return err
}

// readFilter reads the profile at path, for a machine of these capabilities on this host.
func readFilter(path string, granted []string) (*specs.LinuxSeccomp, error) {
	const most = 1 << 20
	data, err := os.ReadFile(path)
	if err == nil && len(data) > most {
		err = state.ErrInvalid
	}
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	profile, err := parseFilter(data, granted, release())
	if err == nil {
		_, err = compileSeccomp(profile)
	}
	if err != nil {
		return nil, fmt.Errorf("seccomp %s: %w", path, err)
	}
	return profile, nil
}

// release is the version of this kernel.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// parseFilter makes of a file's text the profile for a machine of these capabilities on that kernel.
func parseFilter(data []byte, granted []string, kernel string) (*specs.LinuxSeccomp, error) {
	var f filterFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields() // a rule that is not understood is a wall that is not there
	err := d.Decode(&f)
	if err == nil && d.More() {
		err = errors.New("something follows the profile")
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends too soon")
	}
	if err != nil {
		return nil, fmt.Errorf("is no profile: %w", err)
	}
	out := &specs.LinuxSeccomp{DefaultAction: f.DefaultAction, Architectures: f.Architectures, Flags: f.Flags}
	if f.ListenerPath != "" || f.ListenerMetadata != "" || f.DefaultAction == specs.ActNotify {
		return nil, errNotify
	}
	if f.DefaultAction == "" {
		return nil, errors.New("has no defaultAction")
	}
	if out.DefaultErrnoRet, err = errnoOf(f.DefaultErrno, f.DefaultErrnoRet); err != nil {
		return nil, err
	}
	if slices.Contains(f.Flags, specs.LinuxSeccompFlagWaitKillableRecv) {
		return nil, errNotify
	}
	if own := seccompArchitectures(); len(f.ArchMap) > 0 && len(own) > 0 {
		out.Architectures = own[:1]
		for _, m := range f.ArchMap {
			if m.Architecture == own[0] {
				out.Architectures = append(own[:1:1], m.SubArchitectures...)
			}
		}
	}
	for _, rule := range f.Syscalls {
		call, err := rule.resolve(f.DefaultAction)
		if err != nil {
			return nil, err
		}
		if rule.Includes.hold(granted, kernel, true) && !rule.Excludes.hold(granted, kernel, false) {
			out.Syscalls = append(out.Syscalls, call)
		}
	}
	return out, nil
}

var errNotify = errors.New("asks somebody at each call, which croft has nobody for")

// resolve checks a rule and writes it as the OCI has it. No call is passed over that this croft does not know.
func (r *filterRule) resolve(otherwise specs.LinuxSeccompAction) (call specs.LinuxSyscall, err error) {
	call = r.LinuxSyscall
	if r.Name != "" {
		call.Names = append([]string{r.Name}, call.Names...)
	}
	if len(call.Names) == 0 {
		return call, errors.New("a rule names no system call")
	}
	first := call.Names[0]
	if call.Action == specs.ActNotify {
		return call, fmt.Errorf("%s: %w", first, errNotify)
	}
	if call.ErrnoRet, err = errnoOf(r.Errno, call.ErrnoRet); err != nil {
		return call, fmt.Errorf("%s: %w", first, err)
	}
	var seen [6]bool
	for _, a := range call.Args {
		if int(a.Index) >= len(seen) || seen[a.Index] {
			return call, fmt.Errorf("%s: argument %d is compared twice, or is none from 0 to 5", first, a.Index)
		}
		seen[a.Index] = true
	}
	known := call.Names[:0:0]
	for _, name := range call.Names {
		if _, err := seccomp.GetSyscallFromName(name); err == nil {
			known = append(known, name)
			continue
		}
		if !slices.Contains(young[:], name) {
			return call, fmt.Errorf("there is no system call %q", name)
		}
		// It is above all that can be named, and so answers ENOSYS where calls are refused unless they are named.
		if r.Action != specs.ActAllow || otherwise == specs.ActAllow {
			return call, fmt.Errorf("%s is too new for this croft to refuse", name)
		}
	}
	call.Names = known
	return call, nil
}

// young are system calls that the library we are built with does not know yet.
var young = [...]string{
	"cachestat", "fchmodat2", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue", "statmount", "listmount",
	"lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules", "mseal", "uretprobe", "uprobe", "setxattrat", "getxattrat", "listxattrat",
	"removexattrat", "open_tree_attr", "file_getattr", "file_setattr", "listns", "riscv_hwprobe",
}

// errnoOf is an error number by its name, or as it was given.
func errnoOf(name string, number *uint) (*uint, error) {
	const most = 4095 // MAX_ERRNO
	if name == "" {
		if number != nil && *number > most {
			return nil, fmt.Errorf("%d is no error number", *number)
		}
		return number, nil
	}
	if n, err := strconv.ParseUint(name, 10, 12); err == nil {
		number := uint(n)
		return &number, nil
	}
	for n := range uint(200) {
		if unix.ErrnoName(unix.Errno(n)) == name {
			return &n, nil
		}
	}
	return nil, fmt.Errorf("%q is no error number", name)
}

// hold says whether the condition is met: all of what it says for an inclusion, any of it for an exclusion.
func (c *filterCondition) hold(granted []string, kernel string, all bool) bool {
	var met []bool
	for _, name := range c.Caps {
		met = append(met, slices.Contains(granted, name))
	}
	if len(c.Arches) > 0 {
		met = append(met, slices.Contains(c.Arches, runtime.GOARCH))
	}
	if c.MinKernel != "" {
		met = append(met, !older(kernel, c.MinKernel))
	}
	if all {
		return !slices.Contains(met, false)
	}
	return slices.Contains(met, true)
}

// older says whether a kernel's release is below a version like 4.8.
func older(release, version string) bool {
	have, want := strings.Split(release, "."), strings.Split(version, ".")
	for i := range want {
		var h, w int
		if i < len(have) {
			fmt.Sscanf(have[i], "%d", &h)
		}
		fmt.Sscanf(want[i], "%d", &w)
		if h != w {
			return h < w
		}
	}
	return false
}

// keptFilter is where the filter that a machine was asked is kept while it runs, resolved: the file may change.
func keptFilter(runDir string) string { return filepath.Join(runDir, "seccomp.json") }

// keepFilter does so.
func (l *launch) keepFilter() error {
	if l.Instance.Spec.Security.SeccompFile() == "" {
		return nil
	}
	data, err := json.Marshal(l.seccomp)
	if err != nil {
		return err
	}
	return os.WriteFile(keptFilter(l.RunDir), data, 0o600)
}

// filterOf is the filter of a machine that runs, for what enters it.
func (e *Engine) filterOf(a *state.Applied) (*specs.LinuxSeccomp, []unix.SockFilter, error) {
	profile, dir := seccompProfile(&a.Spec.Security), e.Dir.Run
	if a.Spec.Security.SeccompFile() != "" {
		data, err := os.ReadFile(keptFilter(a.Run))
		if err != nil {
			return nil, nil, err
		}
		profile, dir = new(specs.LinuxSeccomp), a.Run
		if err := json.Unmarshal(data, profile); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", keptFilter(a.Run), err)
		}
	}
	if profile == nil {
		return nil, nil, nil
	}
	program, err := seccompProgram(dir, profile)
	return profile, program, err
}
