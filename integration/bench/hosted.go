package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// Where systemd is PID 1 croft has it hold the machines, and that is measured in a host of ours: integration/host/systemd boots
// it in namespaces, and this program, executed again in there, is all that it does.
const envHosted = "CROFT_BENCH_HOSTED"

// hostedTests run there, in this order.
var hostedTests = []struct {
	name  string
	about string
	run   func(*bench) error
}{
	{"unit", "start of a machine that systemd holds", measureUnit},
	{"unit", "memory of ten machines that systemd holds", measureMemory},
	{"unit", "fifty machines that start with the host", measureAutostart},
}

// findings are what the host hands out.
type findings struct {
	Rows  []row
	Notes []string
}

// measureHosted boots the host and takes over what is found in it.
func measureHosted(b *bench) error {
	tree, err := tool("integration/host/build", "trixie")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	tar, err := guest("busybox")
	if err != nil {
		return err
	}
	dir := filepath.Join(b.work, "host")
	given := filepath.Join(dir, "croft")
	for _, d := range []string{given, filepath.Join(dir, "lib")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{self: "bench", b.croft.binary: "croft", tar: "busybox.tar"} {
		if _, err := tool("cp", from, filepath.Join(given, to)); err != nil {
			return err
		}
	}
	run := fmt.Sprintf("export CROFT_BIN=/croft/croft %s=yes\n/croft/bench -n %d >/croft/findings\nsystemctl poweroff -ff\n", envHosted, b.n)
	if err := os.WriteFile(filepath.Join(given, "run"), []byte(run), 0o644); err != nil {
		return err
	}
	if err := b.bootHost(tree, dir, given); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(given, "findings"))
	if err != nil {
		return err
	}
	var found findings
	if err := json.Unmarshal(text, &found); err != nil {
		said, _ := os.ReadFile(filepath.Join(given, "out"))
		return fmt.Errorf("in the host with systemd: %w: %s", err, said)
	}
	b.rows, b.notes = append(b.rows, found.Rows...), append(b.notes, found.Notes...)
	return nil
}

// bootHost boots systemd in namespaces and returns when it has powered off.
func (b *bench) bootHost(tree, dir, given string) error {
	if err := syscall.Mkfifo(filepath.Join(given, "out"), 0o600); err != nil {
		return fmt.Errorf("mkfifo: %w", err)
	}
	out, err := os.OpenFile(filepath.Join(given, "out"), os.O_RDWR, 0) // what it says goes nowhere, and holds nobody up
	if err != nil {
		return err
	}
	defer out.Close()
	go out.WriteTo(b.log)
	group := filepath.Join(hierarchies()[0], b.place+"-host")
	if err := os.Mkdir(group, 0o755); err != nil {
		return err
	}
	defer removeCgroups(group)
	fd, err := os.Open(group)
	if err != nil {
		return err
	}
	defer fd.Close()
	cmd := exec.Command("integration/host/systemd", filepath.Join(tree, "tree"), dir, given, "/croft", filepath.Join(dir, "lib"), "/var/lib/croft")
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		UseCgroupFD: true, CgroupFD: int(fd.Fd()), Pdeathsig: syscall.SIGKILL,
	}
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	defer runtime.UnlockOSThread()
	cmd.Run() // how it ended says nothing, and its findings all
	return nil
}

// performHosted is what this program does in the host.
func performHosted(o options) error {
	b := &bench{options: o, work: "/croft"}
	var err error
	if b.log, err = os.OpenFile("/croft/log", os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return err
	}
	if b.null, err = openNull(); err != nil {
		return err
	}
	b.croft = &croft{b: b, binary: os.Getenv("CROFT_BIN"), root: "/var/lib/croft", run: "/run/croft"}
	if err := b.croft.imageOf("busybox", "/croft/busybox.tar"); err != nil {
		return err
	}
	for _, t := range hostedTests {
		fmt.Fprintf(os.Stderr, "bench: %s: %s\n", t.name, t.about)
		if err := t.run(b); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(findings{b.rows, b.notes})
}

// measureUnit: what it costs to have systemd hold a machine, against what any unit of systemd's costs.
func measureUnit(b *bench) error {
	for name, supervisor := range map[string]string{"apart": "none", "unit": "systemd"} {
		if _, err := b.output(b.croft.do("create", "--network", "none", "--name", name, "--supervisor", supervisor, "busybox")); err != nil {
			return err
		}
	}
	defer b.croft.removeAll()
	var apart, unit, bare samples
	start := func(name string, into *samples) func(int) error {
		return func(int) error {
			settle()
			took, err := b.run(b.croft.do("start", name))
			if err != nil {
				return err
			}
			into.add(took)
			_, err = b.output(b.croft.do("kill", name))
			return err
		}
	}
	run := func(int) error {
		settle()
		took, err := b.run(command{args: []string{"systemd-run", "--quiet", "--wait", "true"}})
		bare.add(took)
		return err
	}
	if err := interleave(b.n, start("apart", &apart), start("unit", &unit), run); err != nil {
		return err
	}
	var allowed samples
	for i := range apart {
		allowed = append(allowed, apart[i]+1.5*bare[i])
	}
	b.compare("start of a busybox guest that systemd holds", unit, "the same held by no unit + 1.5x systemd-run --wait true", allowed, 1)
	b.note("unit: held by no unit %s, by systemd %s, systemd-run --wait true %s", apart.ms(), unit.ms(), bare.ms())
	return nil
}
