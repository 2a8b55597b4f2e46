package idmap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"croft/state"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, PROVES NOTHING: a user namespace with a range of ids takes root")
	}
}

func owner(t *testing.T, ns *os.File) uint32 {
	t.Helper()
	var uid uint32
	const getOwner = 0xb704 // NS_GET_OWNER_UID, ioctl_nsfs(2)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, ns.Fd(), getOwner, uintptr(unsafe.Pointer(&uid))); e != 0 {
		t.Fatal("ioctl(NS_GET_OWNER_UID): ", e)
	}
	return uid
}

// maps are the id maps of ns, read by a process that joins it.
func maps(t *testing.T, ns *os.File) string {
	t.Helper()
	cmd := exec.Command("nsenter", "--user=/proc/self/fd/3", "--preserve-credentials", "cat", "/proc/self/uid_map", "/proc/self/gid_map")
	cmd.ExtraFiles = []*os.File{ns}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nsenter: %v: %s", err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// credentials are the lines of every thread of this process that tell what it may do.
func credentials(t *testing.T) map[string]int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		var lines []string
		for line := range strings.Lines(string(data)) {
			for _, key := range []string{"Uid:", "Gid:", "CapEff:", "CapPrm:", "CapBnd:", "CapInh:"} {
				if strings.HasPrefix(line, key) {
					lines = append(lines, strings.Join(strings.Fields(line), " "))
				}
			}
		}
		seen[strings.Join(lines, "; ")]++
	}
	return seen
}

func children(t *testing.T) []string {
	t.Helper()
	var all []string
	files, _ := filepath.Glob("/proc/self/task/*/children")
	if len(files) == 0 {
		t.Skip("SKIPPED, PROVES NOTHING: this kernel does not list children")
	}
	for _, f := range files {
		data, _ := os.ReadFile(f)
		all = append(all, strings.Fields(string(data))...)
	}
	return all
}

func checkNamespace(t *testing.T, ns *os.File, r state.Range) {
	t.Helper()
	if got := owner(t, ns); got != r.Base {
		t.Errorf("owner is %d, want %d", got, r.Base)
	}
	want := fmt.Sprintf("0 %d %d 0 %d %d", r.Base, r.Size, r.Base, r.Size)
	if got := maps(t, ns); got != want {
		t.Errorf("maps are %q, want %q", got, want)
	}
}

func TestNamespace(t *testing.T) {
	needRoot(t)
	before := credentials(t)
	for _, r := range []state.Range{{Base: 1 << 20, Size: Size}, {Base: 1 << 24, Size: 1 << 20}, {Base: 1879048192 - Size, Size: Size}} {
		ns, err := Namespace(r)
		if err != nil {
			t.Fatal(err)
		}
		checkNamespace(t, ns, r)
		ns.Close()
	}
	if left := children(t); left != nil {
		t.Errorf("processes left behind: %v", left)
	}
	sameCredentials(t, before)
}

// sameCredentials finds a thread that differs from what all threads were before.
func sameCredentials(t *testing.T, before map[string]int) {
	t.Helper()
	if len(before) != 1 {
		t.Fatalf("threads differed already before: %v", before)
	}
	for now, n := range credentials(t) {
		if before[now] == 0 || !strings.HasPrefix(now, "Uid: 0 0 0 0; Gid: 0 0 0 0;") {
			t.Errorf("%d threads have %s", n, now)
		}
	}
}

// Twenty at once: none may keep another one's helper alive.
func TestNamespacesAtOnce(t *testing.T) {
	needRoot(t)
	before := credentials(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for j := range 5 {
					r := state.Range{Base: uint32(i*5+j+16) << 16, Size: Size}
					ns, err := Namespace(r)
					if err != nil {
						t.Error(err)
						return
					}
					if got := owner(t, ns); got != r.Base {
						t.Errorf("owner is %d, want %d", got, r.Base)
					}
					ns.Close()
				}
			})
		}
		wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("they wait for each other: ", children(t))
	}
	if left := children(t); left != nil {
		t.Errorf("processes left behind: %v", left)
	}
	sameCredentials(t, before)
}

func TestNamespaceRefused(t *testing.T) {
	needRoot(t)
	before := credentials(t)
	if ns, err := Namespace(state.Range{Base: 1 << 20, Size: 0}); err == nil {
		ns.Close()
		t.Error("made one without ids")
	} else if !strings.Contains(err.Error(), "user namespace for 1048576+0") {
		t.Errorf("the error does not say of what: %v", err)
	}
	if left := children(t); left != nil {
		t.Errorf("processes left behind: %v", left)
	}
	sameCredentials(t, before)
}

// The helper must hold nothing of its parent, whose claims would otherwise live as long as it does.
func TestHelperHoldsNothing(t *testing.T) {
	needRoot(t)
	f, err := os.CreateTemp(t.TempDir(), "claim")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = asUser(1<<20, pause, func(pid int) error {
		fds := fmt.Sprintf("/proc/%d/fd", pid)
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			entries, err := os.ReadDir(fds)
			if err != nil || len(entries) == 1 {
				return err
			}
			if time.Now().After(end) {
				return fmt.Errorf("it holds %d descriptors, want its end of the pipe alone", len(entries))
			}
		}
	})
	if err != nil {
		t.Error(err)
	}
}
