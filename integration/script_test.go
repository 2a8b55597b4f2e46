package integration

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestHarness runs the scripts that test this harness: no croft in them.
func TestHarness(t *testing.T) { runScripts(t, "testdata/harness") }

// TestScripts runs one script for each thing croft promises.
func TestScripts(t *testing.T) { runScripts(t, "testdata") }

// TestDebian runs what any Debian with systemd must do on each that there is.
func TestDebian(t *testing.T) {
	for _, guest := range []string{"trixie", "bookworm"} {
		t.Run(guest, func(t *testing.T) { runScripts(t, "testdata/debian", "GUEST="+guest) })
	}
}

// TestInits runs what any machine must do on each init but systemd.
func TestInits(t *testing.T) {
	for _, guest := range []string{"busybox", "sysvinit", "openrc", "openrc-init", "runit"} {
		t.Run(guest, func(t *testing.T) { runScripts(t, "testdata/inits", "GUEST="+guest) })
	}
}

// TestTasks runs what real users do, from first command to last.
func TestTasks(t *testing.T) { runScripts(t, "tasks") }

// scriptLimit is how long a script may take before everything it started is killed; ten times that for a soak.
const scriptLimit = 3 * time.Minute

// runScripts runs the scripts of a directory one after the other: the leak check looks at the whole host, so each must be alone.
// The variables are added to each script's environment.
func runScripts(t *testing.T, dir string, variables ...string) {
	shop := scriptShop(t)
	testscript.RunT(&serial{T: t, shop: shop}, shop.params(dir, variables))
}

// scriptShop is the workshop of a test that runs scripts.
func scriptShop(t *testing.T) *workshop {
	if testing.Short() {
		t.Skip("scripts need minutes and root")
	}
	shop, err := openWorkshop()
	if err != nil {
		t.Fatal(err)
	}
	result.clock(t)
	return shop
}

// runInstalled installs croft in this host, runs them with it and its default places, and leaves what they leave.
func runInstalled(t *testing.T, dir string) {
	shop, err := openWorkshop()
	if err != nil {
		t.Fatal(err)
	}
	if err := try("cp", "--no-clobber", shop.binary, "/usr/local/bin/croft"); err != nil {
		t.Fatal(err)
	}
	testscript.RunT(&serial{T: t, shop: shop, leaves: true}, shop.params(dir, []string{
		"CROFT_BIN=/usr/local/bin/croft", "CROFT_ROOT=/var/lib/croft", "CROFT_RUN=/run/croft", "PATH=" + hostPath,
	}))
}

// params are testscript's, with variables that go before those of the workshop.
func (w *workshop) params(dir string, variables []string) testscript.Params {
	return testscript.Params{
		Dir:         dir,
		WorkdirRoot: w.dir,
		Setup: func(env *testscript.Env) error {
			if err := w.setup(env); err != nil {
				return err
			}
			env.Vars = append(env.Vars, variables...)
			return nil
		},
		Cmds:                commands,
		Condition:           condition,
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
	}
}

// serial is testing.T for testscript: scripts run one by one, each is watched, cleared away and compared with the host before it.
type serial struct {
	*testing.T
	shop   *workshop
	name   string
	leaves bool // what is left is meant to be
}

func (s *serial) Parallel()     {}
func (s *serial) Verbose() bool { return testing.Verbose() }

func (s *serial) Skip(args ...any) {
	result.skip(s.name, fmt.Sprint(args...))
	s.T.Skip(args...)
}

func (s *serial) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) {
		if err := enterNamespaces(); err != nil {
			t.Fatal(err)
		}
		place := filepath.Join(s.shop.dir, "script-"+name)
		shared := s.shop.shared
		before := look(place, shared)
		start := time.Now()
		limit := scriptLimit
		if os.Getenv("CROFT_TEST_CYCLES") != "" {
			limit *= 10
		}
		if insideHost() { // which may be a VM
			limit *= 2
		}
		watchdog := time.AfterFunc(limit, func() { killScript(t, place, limit) })
		defer func() {
			watchdog.Stop()
			if t.Failed() && insideHost() {
				journal, _ := exec.Command("journalctl", "--no-pager", "-o", "short-precise", "-n", "200", fmt.Sprintf("--since=@%d", start.Unix())).Output()
				t.Logf("the host's journal:\n%s", journal)
			}
			if !t.Failed() && !s.leaves { // one that stopped half way left its machines, of course
				for _, place := range []string{place, shared} {
					if err := removeNetworks(s.shop.binary, place); err != nil {
						t.Error(err)
					}
				}
				for _, leak := range leaks(before, place, shared) {
					t.Error(leak)
				}
			}
			for _, place := range []string{place, shared} {
				if err := sweep(s.shop.binary, place); err != nil {
					t.Error(err)
				}
			}
			if !keepWork() {
				if err := removeTree(place); err != nil {
					t.Error(err)
				}
			}
			result.end(t, time.Since(start))
		}()
		f(&serial{T: t, shop: s.shop, name: name, leaves: s.leaves})
	})
}

// keepWork reports testscript's flag -testwork: leave the scripts' directories to be looked at.
func keepWork() bool { return flag.Lookup("testwork").Value.String() == "true" }

const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// setup gives each script its own binary (a link, so that /proc/PID/exe tells whose process it is), root, run directory and home.
func (w *workshop) setup(env *testscript.Env) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	bin := filepath.Join(env.WorkDir, ".bin")
	settings := filepath.Join(env.WorkDir, ".settings")
	for _, dir := range []string{bin, settings, filepath.Join(env.WorkDir, ".home")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	// Those of no host, and no default remote: what is not here is looked for nowhere.
	for name, text := range map[string]string{"croft.toml": "", "remotes.json": `{"default": ""}`} {
		if err := os.WriteFile(filepath.Join(settings, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	env.Setenv("CROFT_CONFIG", filepath.Join(settings, "croft.toml"))
	if err := exec.Command("cp", "--link", w.binary, bin+"/croft").Run(); err != nil {
		if out, err := exec.Command("cp", w.binary, bin+"/croft").CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
	}
	env.Setenv("PATH", bin+":"+hostPath)
	env.Setenv("CROFT_BIN", bin+"/croft")
	env.Setenv("CROFT_ROOT", rootOf(env.WorkDir))
	env.Setenv("CROFT_RUN", runOf(env.WorkDir))
	env.Setenv("TAG", tag(rootOf(env.WorkDir)))
	env.Setenv("HOME", filepath.Join(env.WorkDir, ".home"))
	env.Setenv("TERM", "xterm")
	env.Setenv("LANG", "C.UTF-8")
	env.Setenv("SHARED", w.shared)
	env.Setenv("OCI", filepath.Join(here, "testdata", "oci.sh"))
	env.Setenv("FAULTS", filepath.Join(here, "testdata", "faults.sh"))
	env.Setenv("SEED", cmp.Or(os.Getenv("CROFT_TEST_SEED"), "1"))
	env.Setenv("CYCLES", os.Getenv("CROFT_TEST_CYCLES"))
	if err := os.WriteFile(bin+"/on", []byte(onProgram), 0o755); err != nil {
		return err
	}
	env.Values[testKey{}] = env.T()
	env.Values[jobsKey{}] = jobs{}
	env.Defer(env.Values[jobsKey{}].(jobs).killAll)
	env.Values[socketsKey{}] = sockets{}
	env.Defer(env.Values[socketsKey{}].(sockets).closeAll)
	env.Values[keysKey{}] = map[string]*openpgp.Entity{}
	env.Values[serversKey{}] = servers{}
	env.Defer(env.Values[serversKey{}].(servers).closeAll)
	return nil
}

// condition answers [fact]; a fact that CROFT_TEST_NEED demands must hold.
func condition(fact string) (bool, error) {
	why, ok := check(fact)
	switch {
	case !ok:
		return false, fmt.Errorf("no such fact: %s", fact)
	case why != nil && demanded(fact):
		return false, fmt.Errorf("CROFT_TEST_NEED demands %s: %w", fact, why)
	}
	return why == nil, nil
}

// killScript ends every process that runs from the script's place or has it in its environment, so that what waits for them returns.
func killScript(t *testing.T, place string, limit time.Duration) {
	t.Errorf("still running after %v: killing what it started", limit)
	for _, p := range processes() {
		if p.of([]string{place}) {
			t.Logf("killing %s", p)
			p.kill()
		}
	}
}
