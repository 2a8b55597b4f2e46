package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSystemd runs its scripts in a host whose PID 1 is systemd: Debian's, in namespaces on this machine. It has a bus, a journal and
// logind, and a cgroup2 tree without controllers. All scripts run in one boot of it.
func TestSystemd(t *testing.T) {
	inHost(t, "testdata/systemd", hostKind{
		start: startNamespaces,
		parts: []string{"trixie"},
		facts: "root,systemd,bus,cgroup2,overlay,loop,nft,nobody,keyctl,strace,squashfs,erofs",
	})
}

// A hostKind is a way to get a host of one's own.
type hostKind struct {
	start func(h *testHost) error // runs it and returns when it is down
	parts []string                // what host/build has to make for it
	facts string                  // what must hold there, as in CROFT_TEST_NEED: it is we who have made it
}

// A testHost is a host that boots for a test and does what /croft/run says there.
type testHost struct {
	dir   string            // all of it but the parts; DIR/croft is its /croft
	parts map[string]string // name -> directory
	said  bytes.Buffer      // what its start printed, for an error
}

// insideHost reports whether this process is the one that a test started in its host.
func insideHost() bool { return os.Getenv("CROFT_TEST_HOST") != "" }

// bootLimit is how long a host may take until the first script begins there; each script has its scriptLimit.
const bootLimit = 2 * time.Minute

// inHost runs the scripts of a directory in a host of its own. There the same test of the same binary runs them, as runScripts does
// anywhere; what became of them is told again here.
func inHost(t *testing.T, dir string, kind hostKind) {
	if insideHost() {
		runScripts(t, dir)
		return
	}
	if testing.Short() {
		t.Skip("scripts need minutes and root")
	}
	shop, err := openWorkshop()
	if err != nil {
		t.Fatal(err)
	}
	h := &testHost{dir: filepath.Join(shop.dir, "host-"+t.Name()), parts: map[string]string{}}
	needs := []string{"root", "cgroup2", "overlay"}
	for _, part := range kind.parts {
		needs = append(needs, "host:"+part)
	}
	needFacts(t, needs)
	for _, part := range kind.parts {
		if h.parts[part], err = hostPart(part); err != nil {
			t.Fatal(err)
		}
	}
	before := look(h.dir)
	defer func() {
		for _, leak := range leaks(before, h.dir) {
			t.Error(leak)
		}
		if !keepWork() {
			if err := removeTree(h.dir); err != nil {
				t.Error(err)
			}
		}
	}()
	if err := h.load(t, shop.binary, dir, kind.facts); err != nil {
		t.Fatal(err)
	}
	h.run(t, kind)
}

// needFacts is a script's `need` for a test.
func needFacts(t *testing.T, facts []string) {
	for _, fact := range facts {
		why, ok := check(fact)
		switch {
		case !ok:
			t.Fatalf("no such fact: %s", fact)
		case why != nil && demanded(fact):
			t.Fatalf("CROFT_TEST_NEED demands %s: %v", fact, why)
		case why != nil:
			result.skip(t.Name(), fmt.Sprintf("%s: %v", fact, why))
			t.Skip(why)
		}
	}
}

var guestNamed = regexp.MustCompile(`(?m)(?:\bguest:|^guest )([a-z-]+)`)

// load puts together what the host gets as /croft: the binary under test, this test's own binary and its directory, the guests
// that the scripts of dir name, and what is to be run.
func (h *testHost) load(t *testing.T, binary, dir, facts string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cache := filepath.Join(h.dir, "croft/cache/guests")
	for _, made := range []string{cache, filepath.Join(h.dir, "croft/bin"), filepath.Join(h.dir, "lib")} {
		if err := os.MkdirAll(made, 0o755); err != nil {
			return err
		}
	}
	copies := [][]string{
		{binary, filepath.Join(h.dir, "croft/bin/croft")},
		{self, filepath.Join(h.dir, "croft/integration.test")},
		{"-r", ".", filepath.Join(h.dir, "croft/integration")},
	}
	scripts, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return err
	}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			return err
		}
		for _, named := range guestNamed.FindAllSubmatch(text, -1) {
			if guests[string(named[1])] == "" {
				continue
			}
			tar, err := guestTar(string(named[1]))
			if err != nil {
				return err
			}
			copies = append(copies, []string{"--link", "--force", tar, cache})
		}
	}
	for _, args := range copies {
		if err := try("cp", args...); err != nil {
			return err
		}
	}
	// The part of -run below the test's own name means the same there.
	_, below, deeper := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	pattern := "^" + t.Name() + "$"
	if deeper {
		pattern += "/" + below
	}
	run := fmt.Sprintf(`cd /croft/integration
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export CROFT_BIN=/croft/bin/croft CROFT_TEST_CACHE=/croft/cache CROFT_TEST_HOST=%s CROFT_TEST_NEED='%s' CROFT_TEST_SEED='%s'
/croft/integration.test -test.v=test2json -test.timeout=0 -testwork=%t -test.run='%s'
echo "%s$?"
sync
systemctl poweroff -ff &>/dev/null
`, t.Name(), facts, os.Getenv("CROFT_TEST_SEED"), keepWork(), pattern, exitLine)
	return os.WriteFile(filepath.Join(h.dir, "croft/run"), []byte(run), 0o644)
}

// exitLine is the host's last word, with the exit status of its tests.
const exitLine = "croft-test: exit "

// run boots the host and tells what its tests say while they say it.
func (h *testHost) run(t *testing.T, kind hostKind) {
	fifo := filepath.Join(h.dir, "croft/out")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(os.NewSyscallError("mkfifo", err))
	}
	reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	writer, err := os.OpenFile(fifo, os.O_WRONLY, 0) // ours, so that the answer ends when the host has
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- kind.start(h)
		writer.Close()
	}()
	said := h.retell(t, reader)
	if err := <-ended; err != nil {
		t.Errorf("the host: %v\n%s", err, h.said.String())
	}
	if status, has := strings.CutPrefix(said, exitLine); !has {
		t.Errorf("the host went down before its tests had ended; the last that was said:\n%s\n%s", said, h.said.String())
	} else if status != "0" && !t.Failed() {
		t.Errorf("the tests in the host ended with status %s", status)
	}
}

// A testEvent is a line of `go tool test2json`.
type testEvent struct {
	Action, Test, Output string
	Elapsed              float64 // seconds
}

// retell runs a test here for each that ran in the host, with its log and its end. It returns the last line that it read.
func (h *testHost) retell(t *testing.T, out *os.File) string {
	decode := exec.Command("go", "tool", "test2json", "-t") // -t: with times
	decode.Stdin = out
	events, err := decode.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := decode.Start(); err != nil {
		t.Fatal(err)
	}
	defer decode.Wait()
	logs := map[string]*strings.Builder{}
	last := ""
	for lines := bufio.NewScanner(events); lines.Scan(); {
		var e testEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Errorf("test2json: %v", err)
			continue
		}
		if logs[e.Test] == nil {
			logs[e.Test] = &strings.Builder{}
		}
		log := logs[e.Test]
		name, below := strings.CutPrefix(e.Test, t.Name()+"/")
		switch {
		case e.Action == "output" && strings.TrimSpace(e.Output) != "":
			log.WriteString(e.Output)
			last = strings.TrimSpace(e.Output)
		case e.Action == "fail" && e.Test == t.Name() && !t.Failed():
			t.Errorf("in the host:\n%s", log.String())
		case below && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
			t.Run(name, func(t *testing.T) {
				defer func() { result.end(t, time.Duration(e.Elapsed*float64(time.Second))) }()
				switch e.Action {
				case "fail":
					t.Error("in the host:\n" + log.String())
				case "skip":
					reason := skipReason(log.String())
					result.skip(name, reason)
					t.Skip(reason)
				default:
					t.Log(log.String())
				}
			})
		}
	}
	return last
}

var skipLine = regexp.MustCompile(`(?m)^\s+\w+_test\.go:\d+: (.*)$`)

// skipReason finds in a test's log why it was skipped.
func skipReason(log string) string {
	all := skipLine.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return "an unknown reason"
	}
	return all[len(all)-1][1]
}

// hostGroup is the cgroup of the host in the directory, beside all others of the cgroup2 tree. Its name has what the leak check looks for.
func hostGroup(dir string) (string, error) {
	top, err := cgroup2Top()
	return filepath.Join(top, tag(rootOf(dir))), err
}

// startNamespaces boots systemd as PID 1 of namespaces. It dies with this process.
func startNamespaces(h *testHost) error {
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
	cmd := exec.Command("host/systemd", filepath.Join(h.parts["trixie"], "tree"), h.dir,
		filepath.Join(h.dir, "croft"), "/croft", filepath.Join(h.dir, "lib"), "/var/lib/croft")
	cmd.Stdout, cmd.Stderr = &h.said, &h.said
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		UseCgroupFD: true,
		CgroupFD:    int(fd.Fd()),
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGINT {
		return nil // what the kernel makes of a pid namespace's poweroff
	}
	return fmt.Errorf("not powered off but ended: %w", err)
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
