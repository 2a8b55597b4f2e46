package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
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
	hostKind
	shop *workshop
	dir  string            // all of it but the parts; DIR/croft is its /croft, what it answers comes out of the fifo DIR/out
	made map[string]string // part -> directory
	said bytes.Buffer      // what its start printed, for an error

	told     int         // scripts whose end has been told
	watchdog *time.Timer // ends the host
}

// insideHost reports whether this process is the one that a test started in its host.
func insideHost() bool { return os.Getenv("CROFT_TEST_HOST") != "" }

// silence is how long a host may say nothing: a boot, or a script that is killed there after its own limit.
const silence = 2*scriptLimit + time.Minute

// inHost runs the scripts of a directory in a host of its own. There the same test of the same binary runs them, as runScripts does
// anywhere; what became of them is told again here.
func inHost(t *testing.T, dir string, kind hostKind) {
	if insideHost() {
		runScripts(t, dir)
		return
	}
	h := newHost(t, kind)
	pattern := patternFor(t.Name(), flag.Lookup("test.run").Value.String())
	h.load(t, dir, pattern, "systemctl poweroff -ff")
	h.run(t)
}

// patternFor is what is left of -run's pattern for the test of that name alone: what it says of its subtests.
func patternFor(test, run string) string {
	var all []string
	for _, alternative := range regexp.MustCompile(`(\([^)]*\)|\[[^]]*\]|[^|])+`).FindAllString(run, -1) {
		top, below, deeper := strings.Cut(alternative, "/")
		if ours, err := regexp.MatchString(top, test); err != nil || !ours {
			continue
		}
		if !deeper {
			return "^" + test + "$"
		}
		all = append(all, "^"+test+"$/"+below)
	}
	return cmp.Or(strings.Join(all, "|"), "^"+test+"$")
}

func TestPatternFor(t *testing.T) {
	for run, want := range map[string]string{
		"":                              "^TestSystemd$",
		"Systemd|Scripts/x":             "^TestSystemd$",
		"TestSystemd$/^(a|b)$":          "^TestSystemd$/^(a|b)$",
		"Scripts/x|Systemd/a|Systemd/b": "^TestSystemd$/a|^TestSystemd$/b",
	} {
		if got := patternFor("TestSystemd", run); got != want {
			t.Errorf("-run %s: %s, not %s", run, got, want)
		}
	}
}

// inReboots runs the scripts 1, 2 and so on of each directory under dir in one boot after the other of one host, which croft is
// installed in; between them it is rebooted in the orderly way. What a script leaves is the next one's to find.
func inReboots(t *testing.T, dir string, kind hostKind) {
	all, err := filepath.Glob(dir + "/*")
	if err != nil || len(all) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	for _, scripts := range all {
		t.Run(filepath.Base(scripts), func(t *testing.T) {
			if insideHost() {
				runInstalled(t, scripts)
				return
			}
			boots, _ := filepath.Glob(scripts + "/*.txtar")
			h := newHost(t, kind)
			h.load(t, scripts, "^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$/^$boot$", "systemctl reboot")
			for range boots {
				if h.run(t); t.Failed() {
					return
				}
			}
		})
	}
}

// hold runs what a host is made of. It dies with this process.
func (h *testHost) hold(cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = &h.said, &h.said
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// newHost makes the directory of a host and clears it away when the test ends, with a look at what has become of the machine.
func newHost(t *testing.T, kind hostKind) *testHost {
	shop := scriptShop(t)
	h := &testHost{hostKind: kind, shop: shop, dir: filepath.Join(shop.dir, "host-"+strings.ReplaceAll(t.Name(), "/", "-"))}
	h.made = map[string]string{}
	needFacts(t, []string{"root", "cgroup2", "overlay"})
	for _, part := range kind.parts {
		needFacts(t, []string{"host:" + part})
		made, err := hostPart(part)
		if err != nil {
			t.Fatal(err)
		}
		h.made[part] = made
	}
	before := look(h.dir)
	t.Cleanup(func() {
		for _, leak := range leaks(before, h.dir) {
			t.Error(leak)
		}
		if !keepWork() {
			if err := removeTree(h.dir); err != nil {
				t.Error(err)
			}
		}
	})
	return h
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
func guestsOf(t *testing.T, dir string) []string {
	scripts, err := filepath.Glob(dir + "/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	var all []string
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range guestNamed.FindAllSubmatch(text, -1) {
			name := string(found[1])
			if guests[name] != "" && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}

var guestNamed = regexp.MustCompile(`(?m)(?:\bguest:|^guest )([a-z-]+)`)

// load puts together what the host gets as /croft: the binary under test, this test's own binary and its directory, the guests
// that the scripts of dir name, imported already since a VM takes a minute for one, and what is to be run. In the pattern of the
// tests $boot is the number of the boot; the last command is what ends each.
func (h *testHost) load(t *testing.T, dir, pattern, last string) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cache := h.dir + "/croft/cache/guests"
	for _, made := range []string{cache, h.dir + "/croft/bin", h.dir + "/lib"} {
		if err := os.MkdirAll(made, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(h.dir+"/out", 0o600); err != nil {
		t.Fatal(os.NewSyscallError("mkfifo", err))
	}
	attempts, err := attemptProgram()
	if err != nil {
		t.Fatal(err)
	}
	copies := [][]string{{"--link", attempts, cache}, {h.shop.binary, h.dir + "/croft/bin/croft"}, {self, h.dir + "/croft/integration.test"}, {"-r", ".", h.dir + "/croft/integration"}}
	for _, name := range guestsOf(t, dir) {
		tar, err := guestTar(name)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, []string{"--link", tar, cache})
		if name != "busybox" { // which every script imports for itself
			shared := h.dir + "/croft/shared"
			if err := try("env", "CROFT_ROOT="+rootOf(shared), "CROFT_RUN="+runOf(shared),
				h.shop.binary, "image", "import", "-q", "--alias", guests[name], tar); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, args := range copies {
		if err := try("cp", args...); err != nil {
			t.Fatal(err)
		}
	}
	run := fmt.Sprintf(`cd /croft/integration
boot=$(($(cat /croft/boot 2>/dev/null || echo 0) + 1))
echo $boot >/croft/boot
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export CROFT_BIN=/croft/bin/croft CROFT_TEST_CACHE=/croft/cache CROFT_TEST_HOST=yes CROFT_TEST_NEED='%s' CROFT_TEST_SEED='%s'
/croft/integration.test -test.v=test2json -test.timeout=0 -testwork=%t -test.run='%s'
echo "%s$?"
sync
%s &>/dev/null
`, h.facts, os.Getenv("CROFT_TEST_SEED"), keepWork(), strings.ReplaceAll(pattern, "$boot", "'$boot'"), exitLine, last)
	if err := os.WriteFile(h.dir+"/croft/run", []byte(run), 0o644); err != nil {
		t.Fatal(err)
	}
}

// exitLine is the host's last word, with the exit status of its tests.
const exitLine = "croft-test: exit "

// run boots the host and tells what its tests say while they say it.
func (h *testHost) run(t *testing.T) {
	fifo := h.dir + "/out"
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
	down := make(chan error, 1)
	go func() {
		down <- h.start(ctx, h)
		writer.Close()
	}()
	h.told = 0
	said := h.retell(t, reader)
	if err := <-down; err != nil {
		t.Errorf("the host: %v\n%s", err, h.said.String())
	}
	_, status, ended := strings.Cut(said, exitLine)
	switch {
	case !ended:
		t.Errorf("the host went down before its tests had ended; the last that was said:\n%s\n%s", said, h.said.String())
	case t.Failed():
	case h.told == 0:
		t.Error("no script ran in the host")
	case status != "0\n":
		t.Errorf("the tests in the host have failed:\n%s", said)
	}
}

// A testEvent is a line of `go tool test2json`.
type testEvent struct {
	Action, Test, Output string
	Elapsed              float64 // seconds
}

// retell runs a test here for each that ran in the host, with its log and its end. It returns what was said outside
// of tests, or all of it when the host was not heard to the end.
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
		case e.Action == "fail" && e.Test == t.Name() && !t.Failed():
			t.Errorf("in the host:\n%s", log.String())
		case below && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
			h.told++
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
	if outside := logs[""]; outside != nil && strings.Contains(outside.String(), exitLine) {
		return outside.String()
	}
	var all strings.Builder
	for _, log := range logs {
		all.WriteString(log.String())
	}
	return all.String()
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
