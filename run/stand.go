package run

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// stand makes the machine's cgroup and keeps a process in it until leave is called, where the cgroup around it has
// processes of its own: its caller's, who may not divide it. libcontainer tries to switch on every controller in there,
// and with the ones that work on threads it would succeed: the machine's cgroup would become a threaded one, in which no
// process can be started. Around a cgroup with processes the kernel refuses them all (cgroup-v2.rst, "Threads").
func (l *launch) stand() (leave func(), err error) {
	dir := l.Cgroups[0]
	around, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"))
	if l.Hold == HeldByNone || len(l.Cgroups) > 1 || err == nil && len(bytes.TrimSpace(around)) == 0 {
		return func() {}, nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return nil, err
	}
	fd, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer fd.Close()
	cmd := exec.Command("/proc/self/exe", "stand")
	cmd.Args[0] = "croft"
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("stand: %w", err)
	}
	return func() {
		stdin.Close()
		cmd.Wait()
	}, nil
}
