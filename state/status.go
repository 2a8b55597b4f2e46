package state

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The states of an instance, all derived.
const (
	Stopped    = "stopped"
	Running    = "running"    // somebody holds the claim, and has written down what is done for a start
	Paused     = "paused"     // somebody does, and its processes are frozen
	Restarting = "restarting" // somebody does, who waits to start it again
	Orphaned   = "orphaned"   // nobody does, and yet there are processes: its keeper was killed
	Broken     = "damaged"    // the record cannot be read
)

// States are all that there are.
var States = []string{Running, Paused, Restarting, Stopped, Orphaned, Broken}

// Status is what the kernel says of an instance at one moment.
type Status struct {
	State string
	Ready bool      // the guest said that it is up
	Since time.Time // of the start; zero unless it has processes
	Held  bool      // somebody has the claim; of a stopped one too, to start or to change it, or at the end of its undo
}

// Status derives the state of in. It takes no lock and changes nothing.
func (d *Dir) Status(in *Instance) (Status, error) {
	name := in.Spec.Name
	held, err := d.Claimed(name)
	if err != nil {
		return Status{}, err
	}
	st := Status{State: Stopped, Held: held}
	switch {
	case held && in.Applied == nil && in.Restarts > 0:
		st.State = Restarting
	case held && in.Applied != nil:
		st.State = Running
		if in.Applied.Frozen() {
			st.State = Paused
		}
		_, err := os.Lstat(d.ReadyFile(name))
		st.Ready = err == nil
	case in.Applied != nil && in.Applied.Populated():
		st.State = Orphaned
	}
	if st.State != Stopped && in.Applied != nil {
		st.Since = in.Applied.Started
	}
	return st, nil
}

// ReadyFile appears when the guest is ready and goes when it stops or reboots.
func (d *Dir) ReadyFile(name string) string { return filepath.Join(d.RunOf(name), "ready") }

// Populated says whether a process is left in any of the cgroups.
func (a *Applied) Populated() bool {
	if a.BootID != BootID() {
		return false
	}
	for _, dir := range a.Cgroups {
		if populated(dir) {
			return true
		}
	}
	return false
}

// Frozen says whether all processes of the machine are stopped by its v2 cgroup, the first of them.
func (a *Applied) Frozen() bool {
	if len(a.Cgroups) == 0 {
		return false
	}
	data, err := os.ReadFile(filepath.Join(a.Cgroups[0], "cgroup.events"))
	return err == nil && strings.Contains(string(data), "frozen 1")
}

// populated asks cgroup.events where there is one (v2: it counts the whole subtree), and the processes of the
// directory itself otherwise (v1: the guest cannot move them further down).
func populated(dir string) bool {
	if data, err := os.ReadFile(filepath.Join(dir, "cgroup.events")); err == nil {
		return strings.Contains(string(data), "populated 1")
	}
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return err == nil && len(data) > 0
}

// BootID identifies this boot of the host; "" when the kernel does not say.
func BootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}
