package run

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// limit is a resource limit of a process, as setrlimit(2) takes it.
type limit struct {
	resource int
	unix.Rlimit
}

// machineFiles is how many files each process of a machine may open at most: systemd's number.
const machineFiles = 524288

// limits are those that this process can give a machine's: nobody's but the machine's own. Where this host does not let us
// raise one it stays where it is.
func limits(asked []state.Ulimit) []limit {
	all := []limit{{unix.RLIMIT_NOFILE, unix.Rlimit{Cur: 1024, Max: machineFiles}}}
	for _, u := range asked {
		all = slices.DeleteFunc(all, func(l limit) bool { return l.resource == u.Resource() })
		all = append(all, limitOf(u))
	}
	for i := range all {
		all[i].lower()
	}
	return all
}

func limitOf(u state.Ulimit) limit {
	soft, hard := u.Values()
	return limit{u.Resource(), unix.Rlimit{Cur: soft, Max: hard}}
}

// lower takes the limit down to what this process may have, which is found out by taking that.
func (l *limit) lower() {
	var now unix.Rlimit
	if unix.Getrlimit(l.resource, &now) != nil || now.Max >= l.Max {
		return
	}
	if unix.Setrlimit(l.resource, &unix.Rlimit{Cur: now.Cur, Max: l.Max}) != nil {
		l.Max = now.Max
		l.Cur = min(l.Cur, l.Max)
	}
}

// takeLimits sets the usual ones on this process, for its children: libcontainer would set them on the init from
// outside, which takes CAP_SYS_RESOURCE even where nothing is raised. What was asked for waits until the init is there: it
// is not for the keeper.
func takeLimits() error {
	for _, l := range limits(nil) {
		if err := unix.Setrlimit(l.resource, &l.Rlimit); err != nil {
			return fmt.Errorf("setrlimit: %w", err)
		}
	}
	return nil
}

// forgetFiles ends what Go does for this process alone: it raises the number of open files, and takes it back when another
// program is executed, and with that what has been set from outside meanwhile.
func forgetFiles() {
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &now) == nil {
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: min(1024, now.Max), Max: now.Max})
	}
}

// setUlimits limits a process of the machine that has these ids.
func setUlimits(pid int, ids state.Range, asked []state.Ulimit) error {
	for _, u := range asked {
		if err := limitOf(u).set(pid, ids); err != nil {
			return ulimitError(u.Name, err, "raise that of croft itself: ulimit -H, or in a unit Limit"+strings.ToUpper(u.Name)+"=")
		}
	}
	return nil
}

// set limits a process of a machine.
func (l limit) set(pid int, ids state.Range) error {
	return prlimit(pid, ids, l.resource, &l.Rlimit, nil)
}

// prlimit sets or gets a limit of a process of a machine. Who has no CAP_SYS_RESOURCE may do so as the owner of the machine's
// user namespace.
func prlimit(pid int, ids state.Range, resource int, set, get *unix.Rlimit) error {
	err := unix.Prlimit(pid, resource, set, get)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	return idmap.Thread(func() error {
		base := uintptr(ids.Base)
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, base, base, base); e != 0 {
			return e
		}
		return unix.Prlimit(pid, resource, set, get)
	})
}

// ulimitError says why a limit cannot be had.
func ulimitError(name string, err error, remedy string) error {
	err = fmt.Errorf("--ulimit %s: %w", name, err)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if have, e := effective(); e == nil && have&(1<<unix.CAP_SYS_RESOURCE) != 0 { // one of the kernel's own then
		return state.Hint(err, sysctl("fs/nr_open", machineFiles)+", or more")
	}
	return state.Hint(fmt.Errorf("%w: to raise it takes CAP_SYS_RESOURCE", err), remedy)
}

// changeUlimits has a machine that runs follow: its init, and whatever else has still what it has inherited. A limit that is
// asked for no more becomes the keeper's, from which the init had it.
func changeUlimits(a *state.Applied, before, after []state.Ulimit) error {
	if slices.Equal(before, after) {
		return nil
	}
	init, keeper := initOf(a)
	if init == 0 {
		return nil // it has just ended
	}
	for resource, name := range state.UlimitNames {
		was, asked := ulimitOf(before, resource), ulimitOf(after, resource)
		if was == asked {
			continue
		}
		var inherited unix.Rlimit
		if err := unix.Prlimit(keeper, resource, nil, &inherited); err != nil {
			return err
		}
		old, l := limit{resource, inherited}, limit{resource, inherited}
		if was.Name != "" {
			old = limitOf(was)
		}
		if asked.Name != "" {
			l = limitOf(asked)
		}
		if err := l.set(init, a.Facts.Range); err != nil && !errors.Is(err, unix.ESRCH) {
			return ulimitError(name, err, "stop the machine, and set it then")
		}
		for range 2 { // one that was born meanwhile has what its parent had
			for _, pid := range processes(a.Cgroups[0]) {
				var now unix.Rlimit
				if prlimit(pid, a.Facts.Range, resource, nil, &now) == nil && now == old.Rlimit {
					l.set(pid, a.Facts.Range) // what has ended needs none
				}
			}
		}
	}
	return nil
}

// ulimitOf is the one of that resource; one without a name when there is none.
func ulimitOf(all []state.Ulimit, resource int) state.Ulimit {
	for _, u := range all {
		if u.Resource() == resource {
			return u
		}
	}
	return state.Ulimit{}
}

// initOf finds the machine's init among its processes, and the process that keeps it.
func initOf(a *state.Applied) (init, keeper int) {
	for _, pid := range processes(a.Cgroups[0]) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		var parent int
		first := false
		for line := range strings.Lines(string(text)) {
			switch f := strings.Fields(line); {
			case len(f) == 2 && f[0] == "PPid:":
				fmt.Sscan(f[1], &parent)
			case len(f) == 3 && f[0] == "NSpid:" && f[2] == "1": // ours, and the machine's
				first = true
			}
		}
		if first {
			return pid, parent
		}
	}
	return 0, 0
}
