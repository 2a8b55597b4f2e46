package run

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// unified is where the only hierarchy of a host is mounted that has v2 alone.
const unified = "/sys/fs/cgroup"

// hierarchies finds where the cgroup hierarchies of this host are mounted, the unified one first, and for
// each the directory of this process.
func hierarchies() (roots, own []string, err error) { return hierarchiesOf("self") }

// hierarchiesOf does it for this process, "self", or for this thread, "thread-self".
func hierarchiesOf(task string) (roots, own []string, err error) {
	mounted, err := cgroupMounts()
	if err != nil {
		return nil, nil, err
	}
	if isUnified(unified) {
		mounted = map[string]hierarchy{"": {unified, mounted[""].top}} // whatever lies hidden below it: libcontainer looks here, too
	}
	in, err := ownCgroups(task)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range in {
		if h, ok := mounted[c.hierarchy]; ok {
			roots = append(roots, h.at)
			own = append(own, h.directory(c.path))
		}
	}
	if len(roots) == 0 {
		err := fmt.Errorf("cgroup: no hierarchy is mounted: %w", state.ErrUnsupported)
		return nil, nil, state.Hint(err, "mount -t cgroup2 cgroup2 /sys/fs/cgroup; below ip netns exec, which hides it: nsenter --net=/run/netns/NAME croft ...")
	}
	return roots, own, nil
}

// membership is the cgroup that a process is in of one hierarchy, whose name is its controllers': "" for v2.
type membership struct{ hierarchy, path string }

// ownCgroups are those of this process or thread (cgroups(7)), the unified hierarchy's first.
func ownCgroups(task string) (in []membership, err error) {
	data, err := os.ReadFile("/proc/" + task + "/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 { // number:controllers:path
			in = append(in, membership{f[1], f[2]})
		}
	}
	slices.Reverse(in) // the unified one stands last
	return in, nil
}

// isUnified says whether dir is on the v2 hierarchy.
func isUnified(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// hierarchy is where one is mounted, and which of its cgroups is at the top there: in a container not the first.
type hierarchy struct{ at, top string }

// directory is where the cgroup of that path is seen; the top of what is mounted when it lies above that.
func (h hierarchy) directory(path string) string {
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(h.top, "/")); ok && (rest == "" || rest[0] == '/') {
		return filepath.Join(h.at, rest)
	}
	return h.at
}

// cgroupMounts finds each hierarchy by its name, as memberships have it.
func cgroupMounts() (map[string]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at := map[string]hierarchy{}
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		switch right[0] {
		case "cgroup2":
			if _, ok := at[""]; !ok {
				at[""] = hierarchy{left[4], left[3]}
			}
		case "cgroup":
			// The directory has the controllers' names: that is how libcontainer finds them, too.
			at[controllers(right[2])] = hierarchy{left[4], left[3]}
		}
	}
	return at, nil
}

// controllers picks the controllers out of the options of a v1 mount, in the kernel's order.
func controllers(options string) string {
	var names []string
	for _, o := range strings.Split(options, ",") {
		switch o {
		case "rw", "ro", "clone_children", "noprefix", "xattr", "cpuset_v2_mode":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				names = append(names, o)
			}
		}
	}
	return strings.Join(names, ",")
}

// killCgroups kills all that runs in the directories and below, and waits for the end of it.
func killCgroups(dirs []string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		left := false
		for _, d := range dirs {
			pids := processes(d)
			if len(pids) == 0 {
				continue
			}
			left = true
			if os.WriteFile(filepath.Join(d, "cgroup.kill"), []byte("1"), 0) == nil {
				continue
			}
			for _, pid := range pids { // v1, and kernels before 5.14: until no new one appears
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !left {
			return nil
		}
		if wait > 4*time.Second {
			return fmt.Errorf("kill %s: processes are left: %w", strings.Join(dirs, " "), state.ErrBusy)
		}
		time.Sleep(wait)
	}
}

// processes lists those of dir and of every directory below; none when dir is gone.
func processes(dir string) []int {
	var pids []int
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		data, _ := os.ReadFile(filepath.Join(path, "cgroup.procs")) // gone since: nobody in it
		for _, line := range strings.Fields(string(data)) {
			var pid int
			if _, err := fmt.Sscan(line, &pid); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// removeCgroups removes the directories with what the guest made below them. Gone is success.
func removeCgroups(dirs []string) error {
	var first error
	for _, d := range dirs {
		if err := removeCgroup(d); err != nil && first == nil {
			first = err
		}
		if strings.HasPrefix(filepath.Base(filepath.Dir(d)), "croft") {
			unix.Rmdir(filepath.Dir(d)) // of all machines of this root, if this was the last
		}
	}
	return first
}

func removeCgroup(dir string) error {
	if entries, err := os.ReadDir(dir); err == nil {
		for _, e := range entries {
			if e.IsDir() {
				removeCgroup(filepath.Join(dir, e.Name()))
			}
		}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		// A cgroup stays busy for a moment after its last process has died.
		if wait > 500*time.Millisecond {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		time.Sleep(wait)
	}
}
