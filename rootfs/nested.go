package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// A machine's root is an overlay, and no overlay carries the upper directory of another. So a machine that runs others
// has directories of the host's own filesystem where container engines keep theirs.

// NestedStores are these directories, as they are called in the machine's /var/lib.
var NestedStores = [...]string{"croft", "docker", "containerd", "containers"}

// Nested is the directory that has them.
func (r Root) Nested() string { return filepath.Join(r.Dir, "nested") }

// lentDir is where a croft in the machine finds its own directory again, once for each range of ids that it can give
// away, shifted to that. Only root of the host's user namespace may shift a filesystem of the host's (mount_setattr(2)):
// it does so beforehand, and lends the mounts.
const lentDir = ".lent"

// MountNested makes the directories and mounts them, seen through userns, whose ids are ids, in the directory at.
func MountNested(r Root, userns *os.File, ids state.Range, at string) error {
	if err := unmountBelow(at); err != nil {
		return err
	}
	for _, store := range NestedStores {
		if err := os.MkdirAll(filepath.Join(r.Nested(), store), 0o711); err != nil {
			return err
		}
	}
	if err := mountShifted(r.Nested(), userns, at); err != nil {
		return err
	}
	own := filepath.Join(r.Nested(), NestedStores[0])
	for first := idmap.Pool.Base; first+idmap.Size <= ids.Size; first += idmap.Size {
		name := filepath.Join(lentDir, strconv.FormatUint(uint64(first), 10))
		if err := os.MkdirAll(filepath.Join(own, name), 0o700); err != nil {
			return err
		}
		if err := lend(own, state.Range{Base: ids.Base + first, Size: idmap.Size}, filepath.Join(at, NestedStores[0], name)); err != nil {
			return err
		}
	}
	return nil
}

func lend(dir string, ids state.Range, at string) error {
	userns, err := idmap.Namespace(ids)
	if err != nil {
		return err
	}
	defer userns.Close()
	return mountShifted(dir, userns, at)
}

// UnmountNested takes the mounts away before their namespace ends.
func UnmountNested(at string) error { return unmountBelow(at) }

// borrow gives a detached mount of dir, shifted with userns, out of those that the host has lent to this machine.
func borrow(dir string, userns *os.File) (*os.File, error) {
	base, err := ownerOf(userns)
	if err != nil {
		return nil, err
	}
	for above := dir; above != "/"; {
		above = filepath.Dir(above)
		lent := filepath.Join(above, lentDir, strconv.Itoa(base))
		if !same(above, lent, base) {
			continue
		}
		rest, err := filepath.Rel(above, dir)
		if err != nil {
			return nil, err
		}
		return detach(filepath.Join(lent, rest))
	}
	return nil, fmt.Errorf("%s: %w", dir, unix.EPERM)
}

// same says whether lent is the directory dir, seen with the ids from base on.
func same(dir, lent string, base int) bool {
	var a, b unix.Stat_t
	return unix.Stat(dir, &a) == nil && unix.Stat(lent, &b) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino && int64(b.Uid) == int64(a.Uid)+int64(base)
}

// borrowable says whether err is what the kernel says of a filesystem that belongs to another user namespace.
func borrowable(err error) bool { return errors.Is(err, unix.EPERM) && idmap.Nested() }
