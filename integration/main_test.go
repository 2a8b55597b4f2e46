package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := closeWorkshop(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	fmt.Print(result.report())
	os.Exit(code)
}

// cacheDir is the absolute directory of everything the tests keep or work in; the scripts' roots need a filesystem that can carry an
// overlay's upper directory.
func cacheDir() string {
	if dir := os.Getenv("CROFT_TEST_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			panic(err)
		}
		return abs
	}
	return "/var/tmp/croft-test"
}

// A workshop is one run's working place: DIR/script-NAME for each script and the binary they run.
type workshop struct {
	dir    string   // exists, world-readable
	shared string   // where scripts share a root, which has the larger guests
	binary string   // absolute path of the croft under test
	lock   *os.File // held: one run on a host at a time, for the leak check looks at all of it
}

// openWorkshop makes the run's workshop on the first call.
var openWorkshop = sync.OnceValues(func() (*workshop, error) {
	if err := os.MkdirAll(filepath.Join(cacheDir(), "work"), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.Create(filepath.Join(cacheDir(), ".lock"))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("flock %s: %w", lock.Name(), err)
	}
	w := &workshop{dir: filepath.Join(cacheDir(), "work", fmt.Sprint(os.Getpid())), lock: lock}
	w.shared = filepath.Join(w.dir, "shared")
	if insideHost() {
		w.shared = "/croft/shared" // filled by load
	}
	if w.binary, err = findBinary(); err != nil {
		return nil, err
	}
	if err := inNamespaces(func() error { return sweepOldRuns(w.binary) }); err != nil {
		return nil, err
	}
	opened = w
	return w, os.Mkdir(w.dir, 0o755)
})

// opened is the workshop that closeWorkshop has to clear, nil if no script ran.
var opened *workshop

func closeWorkshop() error {
	if opened == nil {
		return nil
	}
	if err := inNamespaces(func() error { return sweep(opened.binary, opened.shared) }); err != nil {
		return err
	}
	if keepWork() {
		fmt.Println("kept:", opened.dir)
		return nil
	}
	return removeTree(opened.dir)
}

// findBinary returns CROFT_BIN or builds croft with the Makefile.
func findBinary() (string, error) {
	if bin := os.Getenv("CROFT_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	top, err := filepath.Abs("..")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("make", "-s", "-C", top, "build").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return filepath.Join(top, "croft"), nil
}

// sweepOldRuns ends and removes what a run that was killed left in the cache; the lock says that none is alive.
func sweepOldRuns(binary string) error {
	old, err := filepath.Glob(filepath.Join(cacheDir(), "work", "*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		places, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, place := range places {
			if err := sweep(binary, place); err != nil {
				return err
			}
		}
		if err := removeTree(dir); err != nil {
			return err
		}
	}
	return nil
}

// rootOf and runOf are where scripts that work in place keep their CROFT_ROOT and CROFT_RUN.
func rootOf(place string) string { return filepath.Join(place, ".root") }
func runOf(place string) string  { return filepath.Join(place, ".run") }

// sweep removes the instances of the place by force, then its networks, and ends the host that booted there.
func sweep(binary, place string) error {
	if group, err := hostGroup(place); err == nil {
		endGroup(group)
	}
	instances, _ := os.ReadDir(filepath.Join(rootOf(place), "instances"))
	for _, e := range instances {
		croftOf(binary, place, "rm", "-f", e.Name()).Run() // the leak check has spoken by then
	}
	return removeNetworks(binary, place)
}

// removeNetworks removes what the first machine with a network has made: it is there until it is told to go.
func removeNetworks(binary, place string) error {
	networks, _ := os.ReadDir(filepath.Join(rootOf(place), "networks"))
	for _, e := range networks {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if out, err := croftOf(binary, place, "network", "rm", e.Name()).CombinedOutput(); err != nil {
			return fmt.Errorf("croft network rm %s: %w: %s", e.Name(), err, out)
		}
	}
	return nil
}

// croftOf is a command of croft's in the root of the place.
func croftOf(binary, place string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "CROFT_ROOT="+rootOf(place), "CROFT_RUN="+runOf(place))
	return cmd
}

// removeTree removes dir unless something is mounted below it.
func removeTree(dir string) error {
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	for _, point := range mounts {
		if strings.HasPrefix(point, dir+"/") {
			return fmt.Errorf("%s is mounted: not removing %s", point, dir)
		}
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// A tally is what became of the scripts of a run.
type tally struct {
	passed, failed, skipped int
	spent                   map[string]time.Duration // by top-level test, boots of hosts included
	want                    map[string][]string      // reason to skip -> scripts
}

// result is written by one script after the other.
var result = tally{spent: map[string]time.Duration{}, want: map[string][]string{}}

func (r *tally) skip(script, reason string) {
	r.want[reason] = append(r.want[reason], script)
}

// clock counts the time from here to the end of the test.
func (r *tally) clock(t *testing.T) {
	start := time.Now()
	t.Cleanup(func() {
		top, _, _ := strings.Cut(t.Name(), "/")
		r.spent[top] += time.Since(start)
	})
}

// end counts a script and says how it went, since a run takes minutes.
func (r *tally) end(t *testing.T, took time.Duration) {
	word, count := "ok", &r.passed
	switch {
	case t.Failed():
		word, count = "FAIL", &r.failed
	case t.Skipped():
		word, count = "skip", &r.skipped
	}
	*count++
	fmt.Printf("%-4s %-50s %6.2fs\n", word, strings.TrimPrefix(t.Name(), "Test"), took.Seconds())
}

// report is what is printed at the end of a run, empty when it had no scripts.
func (r *tally) report() string {
	if r.passed+r.failed+r.skipped == 0 {
		return ""
	}
	var text strings.Builder
	for _, reason := range slices.Sorted(maps.Keys(r.want)) {
		fmt.Fprintf(&text, "SKIPPED for want of %s: %s\n", reason, strings.Join(r.want[reason], " "))
	}
	for _, test := range slices.Sorted(maps.Keys(r.spent)) {
		fmt.Fprintf(&text, "%-16s %7.1fs\n", test, r.spent[test].Seconds())
	}
	fmt.Fprintf(&text, "scripts: %d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return text.String()
}
