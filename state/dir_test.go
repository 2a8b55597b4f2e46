package state

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestProcess is no test: the others run it as a process of its own, to be killed or to compete.
func TestProcess(t *testing.T) {
	job, root := os.Getenv("CROFT_TEST_JOB"), os.Getenv("CROFT_TEST_ROOT")
	if job == "" {
		return
	}
	d, err := Open(root, filepath.Join(root, "run"))
	if err != nil {
		t.Fatal(err)
	}
	what, arg, _ := strings.Cut(job, " ")
	switch what {
	case "create":
		err = createMany(d, arg, 15)
	case "edit":
		err = editForEver(d, arg)
	case "claim":
		_, err = d.Claim(arg)
		fmt.Printf("claim: %v\n", err)
		bufio.NewReader(os.Stdin).ReadString('\n')
		os.Exit(0)
	case "hold": // the claim came as descriptor 3
		c := AdoptClaim(3)
		fmt.Println("held")
		bufio.NewReader(os.Stdin).ReadString('\n')
		c.Release()
		os.Exit(0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type process struct {
	*exec.Cmd
	out *bufio.Reader
}

// start runs a job of TestProcess on d.
func start(t *testing.T, d *Dir, job string, files ...*os.File) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcess$")
	cmd.Env = append(os.Environ(), "CROFT_TEST_JOB="+job, "CROFT_TEST_ROOT="+d.Root)
	cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &process{cmd, bufio.NewReader(out)}
}

func (p *process) line(t *testing.T) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v", p.Args, err)
	}
	return strings.TrimSpace(line)
}

func (p *process) kill() {
	p.Process.Kill()
	p.Cmd.Wait()
}

// pickNext decides on a range that no record has, the way the engine does.
func pickNext(d *Dir) func(*Instance) error {
	return func(in *Instance) error {
		all, _, err := d.List()
		if err != nil {
			return err
		}
		in.Facts.Range = Range{1 << 16, 1 << 16}
		for _, other := range all {
			if other.Facts.Range.Base >= in.Facts.Range.Base {
				in.Facts.Range.Base = other.Facts.Range.Base + 1<<16
			}
		}
		return nil
	}
}

func createMany(d *Dir, prefix string, n int) error {
	for i := range n {
		in := &Instance{Spec: Spec{Name: prefix + strconv.Itoa(i), Image: "i"}}
		if err := d.Create(in, pickNext(d)); err != nil {
			return err
		}
	}
	return nil
}

func disjoint(t *testing.T, d *Dir, count int) {
	t.Helper()
	all, damaged, err := d.List()
	if err != nil || len(damaged) > 0 || len(all) != count {
		t.Fatalf("%d records, %d damaged, %v; want %d", len(all), len(damaged), err, count)
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.Facts.Range.Overlaps(b.Facts.Range) || a.UUID == b.UUID {
				t.Errorf("%s and %s share something: %v %v", a.Spec.Name, b.Spec.Name, a.Facts.Range, b.Facts.Range)
			}
		}
	}
}

func TestCreatesCompete(t *testing.T) {
	d := open(t)
	var procs []*process
	for i := range 4 {
		procs = append(procs, start(t, d, fmt.Sprintf("create p%d-", i)))
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if err := createMany(d, fmt.Sprintf("g%d-", i), 15); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, p := range procs {
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
	disjoint(t, d, 8*15)
}

// Of many who want one name, one gets it.
func TestCreatesCompeteForOneName(t *testing.T) {
	d := open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 20 {
		wg.Go(func() {
			err := d.Create(&Instance{Spec: Spec{Name: "web"}}, func(*Instance) error { return nil })
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if !errors.Is(err, ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Name() != ".lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestCreateRefuses(t *testing.T) {
	d := open(t)
	before := string(read(t, d, make1(t, d, "web").Spec.Name))
	err := d.Create(&Instance{Spec: Spec{Name: "web"}}, func(*Instance) error { t.Error("decide was called"); return nil })
	if !errors.Is(err, ErrExist) || string(read(t, d, "web")) != before {
		t.Errorf("a taken name: %v", err)
	}
	os.Mkdir(d.Of("damaged"), 0o700) // a name is taken by a damaged one as well
	if err := d.Create(&Instance{Spec: Spec{Name: "damaged"}}, nil); !errors.Is(err, ErrExist) {
		t.Errorf("a damaged one's name: %v", err)
	}
	no := errors.New("no")
	if err := d.Create(&Instance{Spec: Spec{Name: "other"}}, func(*Instance) error { return no }); !errors.Is(err, no) {
		t.Errorf("decide failing: %v", err)
	}
	if got := entries(t, d.instances()); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
}

// Names reach Create from faces that have checked them; one that did not must not write elsewhere.
func TestBadNamesStayInside(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".lock"} {
		if err := d.Create(&Instance{Spec: Spec{Name: name}}, func(*Instance) error { return nil }); err == nil {
			t.Errorf("created %q", name)
		}
		if err := d.Remove(name); err == nil {
			t.Errorf("removed %q", name)
		}
	}
	if _, err := d.Get("web"); err != nil {
		t.Errorf("after removals of nothing: %v", err)
	}
}

func editForEver(d *Dir, name string) error {
	filler := strings.Repeat("x", 20000) // more than one block, so that a torn write would show
	for i := 0; ; i++ {
		_, err := d.Edit(name, func(in *Instance) error {
			in.Spec.Env = []string{fmt.Sprintf("N=%d%s", i, filler[:i%20000])}
			return nil
		})
		if err != nil {
			return err
		}
		if i == 3 {
			fmt.Println("going")
		}
	}
}

// Whenever an editor is killed, the record is whole, and the next editor gets the lock.
func TestEditSurvivesKill(t *testing.T) {
	d := open(t)
	uuid := make1(t, d, "web").UUID
	for i := range 15 {
		p := start(t, d, "edit web")
		p.line(t)
		time.Sleep(time.Duration(i*i) * 100 * time.Microsecond) // spread over the loop, whatever its speed
		p.kill()
		in, err := d.Edit("web", func(*Instance) error { return nil })
		if err != nil || in.UUID != uuid {
			t.Fatalf("after a kill: %v", err)
		}
	}
	if _, err := d.Sweep(); err != nil {
		t.Error(err)
	}
	if got := entries(t, d.Of("web")); len(got) != 4 {
		t.Errorf("beside record, spare, claim and lock: %v", got)
	}
}

func TestEditsDoNotLoseEachOther(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := d.Edit("web", func(in *Instance) error { in.Facts.StopSignal++; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if in, _ := d.Get("web"); in.Facts.StopSignal != 38+50 {
		t.Errorf("%d edits arrived of 50", in.Facts.StopSignal-38)
	}
}

func TestEditFailing(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	before := read(t, d, "web")
	no := errors.New("no")
	if _, err := d.Edit("web", func(in *Instance) error { in.UUID = "x"; return no }); !errors.Is(err, no) {
		t.Error(err)
	}
	if !bytes.Equal(before, read(t, d, "web")) {
		t.Error("a change that failed was written")
	}
	if _, err := d.Edit("absent", nil); !errors.Is(err, ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Lstat(d.Of("absent")); err == nil {
		t.Error("an edit of nothing made something")
	}
}

// Whoever waited for the lock of an instance that was removed and made anew must not edit under the old lock.
func TestEditAfterRemoveAndCreate(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	old, err := Lock(filepath.Join(d.Of("web"), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	edited := make(chan error)
	go func() {
		_, err := d.Edit("web", func(in *Instance) error { in.Facts.StopSignal = 1; return nil })
		edited <- err
	}()
	waitBlocked(t, old)
	if err := d.Remove("web"); err != nil {
		t.Fatal(err)
	}
	make1(t, d, "web")
	now, err := Lock(filepath.Join(d.Of("web"), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	old.Close()
	select {
	case err := <-edited:
		t.Errorf("edited the new instance although its lock is held: %v", err)
	case <-time.After(200 * time.Millisecond): // a wrong edit comes at once
		now.Close()
		if err := <-edited; err != nil {
			t.Error(err)
		}
	}
}

// waitBlocked waits until somebody waits for the lock on f.
func waitBlocked(t *testing.T, f *os.File) {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", st.Sys().(*syscall.Stat_t).Ino)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		data, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Skip("SKIPPED, PROVES NOTHING: ", err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, "-> OFDLCK") && strings.Contains(line, inode) {
				return
			}
		}
	}
	t.Fatal("nobody waits for the lock")
}

func TestRemoveAndSweep(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	for range 2 { // already gone is success
		if err := d.Remove("web"); err != nil {
			t.Fatal(err)
		}
	}
	if got := entries(t, d.instances()); got != nil {
		t.Errorf("left: %v", got)
	}
	make1(t, d, "keep")
	for _, stale := range []string{".new-1", ".gone-1"} {
		if err := os.MkdirAll(filepath.Join(d.instances(), stale, "web", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	swept, err := d.Sweep()
	if err != nil || len(swept) != 2 {
		t.Errorf("swept %v, %v", swept, err)
	}
	if again, err := d.Sweep(); err != nil || again != nil {
		t.Errorf("swept again %v, %v", again, err)
	}
	if got := entries(t, d.instances()); len(got) != 1 || got[0] != "keep" {
		t.Errorf("left: %v", got)
	}
}

func TestReplaceIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, data := range []string{"one", "", "three"} {
		if err := Replace(path, []byte(data), 0o640); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if got, _ := os.ReadFile(path); err != nil || string(got) != data || st.Mode() != 0o640 {
			t.Errorf("%q %v %v", got, st.Mode(), err)
		}
	}
	if got := entries(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
	if err := Replace(filepath.Join(path, "x"), nil, 0o600); err == nil {
		t.Error("wrote below a file")
	}
}
