package run

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"croft/state"

	"golang.org/x/sys/unix"
)

// TestSeccompProcess is no test: TestSeccompRefuses runs it, because a filter stays for ever.
func TestSeccompProcess(t *testing.T) {
	dir := os.Getenv("CROFT_TEST_SECCOMP")
	if dir == "" {
		return
	}
	prog, err := seccompProgram(dir, seccompProfile(&state.Security{}))
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	before := calls()
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); e != 0 {
		t.Fatal("seccomp: ", e)
	}
	for name, e := range calls() {
		fmt.Printf("%s: %v, %v\n", name, before[name] == unix.ENOSYS, e == unix.ENOSYS)
	}
	os.Exit(0)
}

// calls makes system calls with arguments that none of them can take, and a few that must go on working.
func calls() map[string]unix.Errno {
	const none = ^uintptr(0)
	out := map[string]unix.Errno{}
	for name, nr := range map[string]uintptr{
		"finit_module": unix.SYS_FINIT_MODULE, "init_module": unix.SYS_INIT_MODULE, "delete_module": unix.SYS_DELETE_MODULE,
		"kexec_load": unix.SYS_KEXEC_LOAD, "open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT,
		"mount": unix.SYS_MOUNT, "unshare": unix.SYS_UNSHARE, "ptrace": unix.SYS_PTRACE, "name_to_handle_at": unix.SYS_NAME_TO_HANDLE_AT,
	} {
		_, _, out[name] = unix.Syscall6(nr, none, none, none, none, none, none)
	}
	var u unix.Utsname
	out["uname"] = 0
	if err := unix.Uname(&u); err != nil {
		out["uname"] = err.(unix.Errno)
	}
	return out
}

// The compiled filter refuses what it must, and that as a kernel does that lacks it; all else goes on working.
func TestSeccompRefuses(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestSeccompProcess$")
	cmd.Env = append(os.Environ(), "CROFT_TEST_SECCOMP="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]string{
		"finit_module": "true", "init_module": "true", "delete_module": "true", "kexec_load": "true", "open_by_handle_at": "true",
		"mount": "false", "unshare": "false", "ptrace": "false", "name_to_handle_at": "false", "uname": "false",
	} {
		line := regexp.MustCompile(`(?m)^` + name + `: (\w+), (\w+)$`).FindStringSubmatch(string(out))
		if line == nil || line[2] != want {
			t.Errorf("%s: %q, want refused: %s", name, line, want)
		} else if line[1] == "true" && want == "true" {
			t.Logf("%s: this kernel lacks it anyway", name)
		}
	}
}

func TestSeccompIsKept(t *testing.T) {
	dir := t.TempDir()
	first, err := seccompProgram(dir, seccompProfile(&state.Security{}))
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, ".seccomp-*"))
	if len(files) != 1 {
		t.Fatalf("kept in %v", files)
	}
	again, err := seccompProgram(dir, seccompProfile(&state.Security{}))
	if err != nil || fmt.Sprint(first) != fmt.Sprint(again) || len(first) < 10 {
		t.Errorf("%v; %d and %d instructions", err, len(first), len(again))
	}
	for _, damage := range []string{"", "1234567"} {
		put(t, files[0], damage)
		if _, err := seccompProgram(dir, seccompProfile(&state.Security{})); err == nil {
			t.Errorf("took %q for a filter", damage)
		}
	}
}

// A profile of docker's form becomes one for a machine and a kernel.
func TestParseFilter(t *testing.T) {
	const head = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"`
	granted := []string{"CAP_CHOWN", "CAP_KILL"}
	for _, c := range []struct {
		rest  string
		rules int // -1: it is refused
	}{
		{`}]}`, 1},
		{`, "includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}}]}`, 1},
		{`, "includes": {"caps": ["CAP_CHOWN", "CAP_BPF"]}}]}`, 0},
		{`, "excludes": {"caps": ["CAP_CHOWN", "CAP_BPF"]}}]}`, 0},
		{`, "excludes": {"caps": ["CAP_BPF"]}}]}`, 1},
		{`, "includes": {"minKernel": "5.10"}}]}`, 1},
		{`, "includes": {"minKernel": "5.9.20"}}]}`, 1},
		{`, "includes": {"minKernel": "5.10.4"}}]}`, 0},
		{`, "includes": {"minKernel": "5.11"}}]}`, 0},
		{`, "includes": {"minKernel": "10"}}]}`, 0},
		{`, "includes": {"arches": ["` + runtime.GOARCH + `", "vax"]}}]}`, 1},
		{`, "includes": {"arches": ["vax"]}}]}`, 0},
		{`, "excludes": {"arches": ["vax"], "minKernel": "4.8"}}]}`, 0},
		{`, "errno": "ENOTTY"}]}`, 1},
		{`, "errno": "38"}]}`, 1},
		{`, "errno": "ENOTHING"}]}`, -1},
		{`, "errnoRet": 4096}]}`, -1},
		{`, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_GE"}, {"index": 0, "value": 9, "op": "SCMP_CMP_LE"}]}]}`, -1},
		{`, "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_GE"}]}]}`, -1},
		{`}], "listenerPath": "/x"}`, -1},
		{`}]} {}`, -1},
		{`, "includes": {"cap": ["CAP_CHOWN"]}}]}`, -1},
	} {
		p, err := parseFilter([]byte(head+c.rest), granted, "5.10.3-amd64")
		switch {
		case err != nil && c.rules >= 0:
			t.Errorf("%s: %v", c.rest, err)
		case err == nil && len(p.Syscalls) != c.rules:
			t.Errorf("%s: %d rules, want %d", c.rest, len(p.Syscalls), c.rules)
		}
	}
}

// client.go says again what keeper.h says, since tests and C cannot share it: both must agree.
func TestProtocolIsThatOfTheHeader(t *testing.T) {
	text, err := os.ReadFile("keeper.h")
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]int64{
		"MAGIC": keeperMagic, "VERSION": keeperVersion, "ATTACH": askAttach, "INPUT": askInput, "SIZE": askSize, "STOP": askStop,
		"KILL": askKill, "BIND": askBind, "UNBIND": askUnbind, "WATCH": askWatch, "DONE": askDone, "READY": askReady,
	}
	theirs := regexp.MustCompile(`(?m)^#define KEEPER_(\w+) (\S+)`).FindAllStringSubmatch(string(text), -1)
	for _, d := range theirs {
		value, err := strconv.ParseInt(strings.TrimRight(d[2], "u"), 0, 64)
		if strings.HasPrefix(d[2], "'") {
			value, err = int64(d[2][1]), nil
		}
		got, ok := ours[d[1]]
		if err != nil || !ok || got != value {
			t.Errorf("%s: keeper.h has %s, client.go %d", d[1], d[2], got)
		}
		delete(ours, d[1])
	}
	if len(ours) > 0 {
		t.Errorf("keeper.h has no %v", ours)
	}
	if fields := regexp.MustCompile(`(?m)^\tu?int32_t \w+;`).FindAll(text, -1); len(fields) != 4 {
		t.Errorf("the greeting has %d words of 32 bits, client.go reads 4", len(fields))
	}
}
