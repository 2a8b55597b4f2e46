package rootfs

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Clear removes a machine's scratch directory: what is mounted below it in the caller's namespace is detached
// first, so that nothing mounted is deleted. Already gone is success.
func Clear(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return removeTree(dir)
}

// MountedBelow says whether something is mounted below dir, in the caller's namespace.
func MountedBelow(dir string) (bool, error) {
	points, err := mountsBelow(dir)
	if err != nil {
		return false, err
	}
	dir, err = filepath.EvalSymlinks(dir)
	return slices.ContainsFunc(points, func(p string) bool { return p != dir }), err
}

func unmountBelow(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for i := len(points) - 1; i >= 0; i-- { // later mounts lie over or in earlier ones
		if err := unmount(points[i]); err != nil {
			return err
		}
	}
	return nil
}

// mountsBelow are the mount points at or below dir in the caller's namespace, in the order of mounting.
func mountsBelow(dir string) (points []string, err error) {
	// The kernel tells where a mount really is, and --root may go through a link.
	dir, err = filepath.EvalSymlinks(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Of this thread: libcontainer may have taken the main one, which /proc/self is, into a container's namespace for good.
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text()) // proc_pid_mountinfo(5): the fifth is the mount point
		if len(fields) < 5 {
			continue
		}
		at := unescape.Replace(fields[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			points = append(points, at)
		}
	}
	return points, s.Err()
}

// unescape undoes the four escapes of mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
