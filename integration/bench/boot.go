package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// measureBoot: from the command that starts a Debian to the moment its systemd says that it is running, asked in the same way of both.
func measureBoot(b *bench) error {
	tree, err := shiftedTree("trixie")
	if err != nil {
		return err
	}
	var ours, ready, theirs samples
	err = interleave(max(b.n/2, 3),
		func(i int) error { return b.croftBoot(fmt.Sprintf("boot%d", i), &ours, &ready) },
		func(i int) error { return b.nspawnBoot(fmt.Sprintf("boot%d", i), tree, &theirs) })
	if err != nil {
		return err
	}
	peer, err := b.nspawnVersion()
	if err != nil {
		return err
	}
	b.compare("boot of Debian 13: start to is-system-running", ours, peer, theirs, 1)
	b.note("boot: croft start itself, which waits for READY=1, took %s", ready.ms())
	return nil
}

func (b *bench) nspawnVersion() (string, error) {
	version, err := b.output(command{args: []string{"systemd-nspawn", "--version"}})
	if err != nil {
		return "", err
	}
	return "systemd-nspawn " + strings.Trim(strings.Fields(version)[2], "()"), nil
}

func (b *bench) croftBoot(name string, up, ready *samples) error {
	if _, err := b.output(b.croft.do("create", "--network", "none", "--name", name, "trixie")); err != nil {
		return err
	}
	defer b.output(b.croft.do("rm", "-f", name))
	settle()
	began := time.Now()
	returned := make(chan error, 1)
	go func() {
		took, err := b.run(b.croft.do("start", name))
		ready.add(took)
		returned <- err
	}()
	err := b.isRunning(func() (string, error) { return b.croft.cgroup(name) })
	up.add(time.Since(began))
	if e := <-returned; err == nil {
		err = e
	}
	return err
}

// isRunning waits until the systemd that appears in a cgroup has come up with nothing failed.
func (b *bench) isRunning(cgroup func() (string, error)) error {
	leader := ""
	err := await("init in the cgroup", 20*time.Second, func() bool {
		dir, err := cgroup()
		if err == nil {
			leader = initIn(dir)
		}
		return leader != ""
	})
	if err != nil {
		return err
	}
	said := ""
	err = await("running system", time.Minute, func() bool {
		said = b.ask(leader)
		return said == "running" || said == "degraded"
	})
	if err == nil && said != "running" {
		err = fmt.Errorf("the system is %s", said)
	}
	return err
}

// ask joins the guest and waits there for the end of its boot; before its systemd listens the answer is an error of systemctl.
func (b *bench) ask(leader string) string {
	out, _ := exec.Command("nsenter", "-t", leader, "-U", "-m", "-u", "-i", "-n", "-p", "systemctl", "is-system-running", "--wait").Output()
	return strings.TrimSpace(string(out))
}

// initIn finds the systemd that is process 1 of a pid namespace in the cgroup or below.
func initIn(cgroup string) string {
	found := ""
	filepath.WalkDir(cgroup, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, pid := range strings.Fields(string(procs)) {
			if isInit(pid) {
				found = pid
			}
		}
		return nil
	})
	return found
}

func isInit(pid string) bool {
	status, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(ids)
			exe, _ := os.Readlink("/proc/" + pid + "/exe")
			return len(fields) > 1 && fields[len(fields)-1] == "1" && filepath.Base(exe) == "systemd"
		}
	}
	return false
}

// nspawn is one container of systemd-nspawn, prepared: its root is mounted and its process waits in its cgroups for a newline.
type nspawn struct {
	dir     string
	cgroups []string
	cmd     *exec.Cmd
	release io.WriteCloser
}

func (b *bench) newNspawn(name string) *nspawn {
	s := &nspawn{dir: filepath.Join(b.work, "nspawn", name)}
	// Those in which systemd would put its unit: each costs something at every fork and every page.
	for _, root := range hierarchies() {
		switch filepath.Base(root) {
		case "cgroup", "unified", "systemd", "memory", "pids", "cpu", "cpuacct", "cpu,cpuacct", "devices":
			s.cgroups = append(s.cgroups, filepath.Join(root, b.place, "nspawn-"+name))
		}
	}
	return s
}

func (b *bench) nspawnBoot(name, tree string, up *samples) error {
	s := b.newNspawn(name)
	defer s.remove()
	if err := s.prepare(b, tree, name); err != nil {
		return err
	}
	settle()
	began := time.Now()
	if _, err := s.release.Write([]byte("\n")); err != nil {
		return err
	}
	err := b.isRunning(func() (string, error) { return s.cgroups[0], nil })
	up.add(time.Since(began))
	if err != nil {
		return fmt.Errorf("systemd-nspawn: %w", err)
	}
	return s.end(syscall.SIGKILL)
}

// prepare makes the root as croft does, an overlay over a tree that is already shifted, and starts the process up to its exec.
func (s *nspawn) prepare(b *bench, tree, name string) error {
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(s.dir, "upper"), shiftBase, shiftBase); err != nil {
		return err
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", tree, s.dir, s.dir)
	if err := syscall.Mount("overlay", s.root(), "overlay", 0, layers); err != nil {
		return fmt.Errorf("mount(overlay): %w", err)
	}
	// nspawn keeps its sockets and locks there, and a host without systemd has no such directory.
	if err := os.MkdirAll("/run/systemd", 0o755); err != nil {
		return err
	}
	s.cmd = exec.Command("/bin/sh", append([]string{"-c", `read -r _; exec "$@"`, "sh"}, s.args(name)...)...)
	s.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"}
	s.cmd.Stdout, s.cmd.Stderr = b.log, b.log
	var err error
	if s.release, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	return s.join()
}

func (s *nspawn) root() string { return filepath.Join(s.dir, "root") }

// args: without a manager of units to ask for a scope, and a private network as croft's machine has.
func (s *nspawn) args(name string) []string {
	return []string{"systemd-nspawn", "-q", "-b", "-D", s.root(), "-M", "bench-" + name,
		"--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--private-network",
		fmt.Sprintf("--private-users=%d:%d", shiftBase, shiftSize), "--private-users-ownership=off"}
}

// join moves the waiting process to cgroups of its own: nspawn makes two of fixed names below the one it is in.
func (s *nspawn) join() error {
	for _, d := range s.cgroups {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d, "cgroup.procs"), []byte(strconv.Itoa(s.cmd.Process.Pid)), 0); err != nil {
			return err
		}
	}
	return nil
}

// end sends the guest's init a signal and waits for nspawn, which ends when all of the guest has.
func (s *nspawn) end(sig syscall.Signal) error {
	leader, err := strconv.Atoi(initIn(s.cgroups[0]))
	if err != nil {
		return fmt.Errorf("systemd-nspawn: the init is gone: %w", err)
	}
	if err := syscall.Kill(leader, sig); err != nil {
		return err
	}
	s.cmd.Wait() // says how the guest ended: by our signal
	s.cmd = nil
	return nil
}

func (s *nspawn) remove() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
	syscall.Unmount(s.root(), syscall.MNT_DETACH)
	os.RemoveAll(s.dir)
	for _, d := range s.cgroups {
		removeCgroups(d)
	}
}
