package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := closeWorkshop(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	if note := skips.report(); note != "" {
		fmt.Fprint(os.Stderr, note)
	}
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
	if w.binary, err = findBinary(); err != nil {
		return nil, err
	}
	if err := sweepOldRuns(w.binary); err != nil {
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
	sweep(opened.binary, filepath.Join(opened.dir, "shared"))
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
			sweep(binary, place)
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

// sweep removes the instances of the place by force. Its errors don't matter: the leak check has spoken by then.
func sweep(binary, place string) {
	entries, _ := os.ReadDir(filepath.Join(rootOf(place), "instances"))
	for _, e := range entries {
		cmd := exec.Command(binary, "rm", "-f", e.Name())
		cmd.Env = append(os.Environ(), "CROFT_ROOT="+rootOf(place), "CROFT_RUN="+runOf(place))
		cmd.Run()
	}
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

// A skipList remembers which scripts were skipped for want of what.
type skipList struct {
	mu   sync.Mutex
	want map[string][]string // fact or reason -> scripts
}

var skips = skipList{want: map[string][]string{}}

func (s *skipList) add(reason, script string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want[reason] = append(s.want[reason], script)
}

// report is the paragraph printed at the end of a run, empty when nothing was skipped.
func (s *skipList) report() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for reason, scripts := range s.want {
		slices.Sort(scripts)
		lines = append(lines, fmt.Sprintf("SKIPPED for want of %s: %s\n", reason, strings.Join(slices.Compact(scripts), " ")))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
