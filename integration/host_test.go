package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A hostKind is a way to get a host of one's own.
type hostKind struct {
	start func(ctx context.Context, h *testHost) error // runs it and returns when it is down
	parts []string                                     // what host/build has to make for it
	facts string                                       // what must hold there, as in CROFT_TEST_NEED: it is we who have made it
}

// A testHost is a host that boots for a test and does what /croft/run says there.
type testHost struct {
	dir   string            // all of it but the parts; DIR/croft is its /croft, what it answers comes out of the fifo DIR/out
	parts map[string]string // name -> directory
	said  bytes.Buffer      // what its start printed, for an error

	watchdog *time.Timer // ends it
}

// insideHost reports whether this process is the one that a test started in its host.
func insideHost() bool { return os.Getenv("CROFT_TEST_HOST") != "" }

// silence is how long a host may say nothing: a boot, or a script that is killed there after its own limit.
const silence = scriptLimit + time.Minute

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

// guestsOf are the guests that the scripts of a directory name.
func guestsOf(dir string) ([]string, error) {
	scripts, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			return nil, err
		}
		for _, found := range guestNamed.FindAllSubmatch(text, -1) {
			name := string(found[1])
			if guests[name] != "" && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all, nil
}

var guestNamed = regexp.MustCompile(`(?m)(?:\bguest:|^guest )([a-z-]+)`)

// load puts together what the host gets as /croft: the binary under test, this test's own binary and its directory, the guests
// that the scripts of dir name, imported already since a VM takes a minute for one, and what is to be run.
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
	named, err := guestsOf(dir)
	if err != nil {
		return err
	}
	for _, name := range named {
		tar, err := guestTar(name)
		if err != nil {
			return err
		}
		copies = append(copies, []string{"--link", tar, cache})
		if name == "busybox" { // every script imports its own
			continue
		}
		shared := filepath.Join(h.dir, "croft/shared")
		cmd := exec.Command(binary, "image", "import", "-q", "--alias", guests[name], tar)
		cmd.Env = append(os.Environ(), "CROFT_ROOT="+rootOf(shared), "CROFT_RUN="+runOf(shared))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("image import %s: %w: %s", tar, err, out)
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
	fifo := filepath.Join(h.dir, "out")
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
	ctx, kill := context.WithCancel(context.Background())
	defer kill()
	h.watchdog = time.AfterFunc(silence, kill)
	defer h.watchdog.Stop()
	ended := make(chan error, 1)
	go func() {
		ended <- kind.start(ctx, h)
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
		h.watchdog.Reset(silence)
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
