package state

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func claimedIs(t *testing.T, d *Dir, name string, want bool) {
	t.Helper()
	if held, err := d.Claimed(name); err != nil || held != want {
		t.Errorf("claimed: %v, %v; want %v", held, err, want)
	}
}

func TestClaim(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	claimedIs(t, d, "web", false)
	os.Remove(d.claimFile("web")) // as with a record of an earlier croft, which made it at the first start
	claimedIs(t, d, "web", false)
	if _, err := os.Lstat(d.claimFile("web")); err == nil {
		t.Error("a question made the file")
	}
	c, err := d.Claim("web")
	if err != nil {
		t.Fatal(err)
	}
	claimedIs(t, d, "web", true)
	if _, err := d.Claim("web"); !errors.Is(err, ErrRunning) { // in the same process, too
		t.Errorf("a second claim: %v", err)
	}
	if p := start(t, d, "claim web"); p.line(t) != "claim: web: is running" {
		t.Error("another process could claim it")
	}
	c.Release()
	claimedIs(t, d, "web", false)
	if _, err := d.Claim("absent"); !errors.Is(err, ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	claimedIs(t, d, "absent", false)
}

// A claim that a child has inherited is the child's, for as long as it lives.
func TestClaimPassesToAChild(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	c, err := d.Claim("web")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, d, "hold web", c.File())
	if got := p.line(t); got != "held" {
		t.Fatal(got)
	}
	c.Release()
	claimedIs(t, d, "web", true)
	if _, err := d.Claim("web"); !errors.Is(err, ErrRunning) {
		t.Errorf("claimed from under the child: %v", err)
	}
	p.kill()
	claimedIs(t, d, "web", false)
	again, err := d.Claim("web")
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
}

// However many ask, a claim of a free instance succeeds: asking takes nothing.
func TestAskingTakesNothing(t *testing.T) {
	d := open(t)
	in := make1(t, d, "web")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				d.List()
				if _, err := d.Status(in); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 300 {
		c, err := d.Claim("web")
		if err != nil {
			t.Fatal(err)
		}
		c.Release()
	}
}

// A list goes on while others hold every lock there is.
func TestListTakesNoLock(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	for _, path := range []string{filepath.Join(d.instances(), ".lock"), filepath.Join(d.Of("web"), "lock"), d.claimFile("web")} {
		lock, err := Lock(path)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
	}
	all, _, err := d.List()
	if err != nil || len(all) != 1 {
		t.Errorf("%d, %v", len(all), err)
	}
	if st, err := d.Status(all[0]); err != nil || st.State != Running {
		t.Errorf("%+v, %v", st, err)
	}
}

// The claim file of an instance that was removed meanwhile is nobody's.
func TestClaimOfARemovedInstance(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	c, err := d.Claim("web")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if err := d.Remove("web"); err != nil {
		t.Fatal(err)
	}
	make1(t, d, "web")
	claimedIs(t, d, "web", false)
	second, err := d.Claim("web")
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

func fakeCgroup(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestStatus(t *testing.T) {
	full := map[string]string{"cgroup.events": "populated 1\nfrozen 0\n", "cgroup.procs": ""}
	empty := map[string]string{"cgroup.events": "populated 0\nfrozen 1\n", "cgroup.procs": ""}
	v1full, v1empty := map[string]string{"cgroup.procs": "12\n"}, map[string]string{"cgroup.procs": ""}
	type dirs []map[string]string
	for _, c := range []struct {
		name    string
		claimed bool
		ready   bool
		boot    string
		cgroups dirs // nil: nothing is applied
		want    string
	}{
		{"never started", false, false, BootID(), nil, Stopped},
		{"stale readiness", false, true, BootID(), nil, Stopped},
		{"claimed, nothing applied yet", true, false, BootID(), nil, Stopped},
		{"running", true, true, BootID(), dirs{full, v1full}, Running},
		{"running, not ready", true, false, BootID(), dirs{full}, Running},
		{"stopped uncleanly", false, false, BootID(), dirs{empty, v1empty}, Stopped},
		{"orphan on v2", false, false, BootID(), dirs{full}, Orphaned},
		{"orphan on v1", false, false, BootID(), dirs{v1full}, Orphaned},
		{"orphan in one of many", false, true, BootID(), dirs{empty, v1empty, v1full}, Orphaned},
		{"cgroups are gone", false, false, BootID(), dirs{{}}, Stopped},
		{"of an earlier boot", false, false, "another", dirs{full, v1full}, Stopped},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t)
			in := make1(t, d, "web")
			in.Applied.BootID, in.Applied.Cgroups = c.boot, nil
			for _, files := range c.cgroups {
				in.Applied.Cgroups = append(in.Applied.Cgroups, fakeCgroup(t, files))
			}
			if c.cgroups == nil {
				in.Applied = nil
			}
			if c.ready {
				os.MkdirAll(d.RunOf("web"), 0o700)
				os.WriteFile(d.ReadyFile("web"), nil, 0o600)
			}
			if c.claimed {
				claim, err := d.Claim("web")
				if err != nil {
					t.Fatal(err)
				}
				defer claim.Release()
			}
			checkStatus(t, d, in, c.want, c.ready && c.claimed)
		})
	}
}

func checkStatus(t *testing.T, d *Dir, in *Instance, want string, ready bool) {
	t.Helper()
	before := read(t, d, "web")
	st, err := d.Status(in)
	if claimed, _ := d.Claimed("web"); st.Held != claimed {
		t.Errorf("held is %v", st.Held)
	}
	if err != nil || st.State != want || st.Ready != ready {
		t.Errorf("%+v, %v; want %s, ready %v", st, err, want, ready)
	}
	if wantSince := want != Stopped && in.Applied != nil; st.Since.IsZero() == wantSince {
		t.Errorf("since %v", st.Since)
	}
	if !bytes.Equal(before, read(t, d, "web")) {
		t.Error("the record was written")
	}
}
