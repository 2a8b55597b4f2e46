// Package rootfs makes the root filesystem of a machine out of image layers and what the machine changed.
//
// Ownership on disk stays as the image has it: ids are shifted by mounts, and nothing is ever chowned. (Where a
// filesystem cannot do that, a machine gets a copy that is written with its ids: Shifted.) This package knows layers as
// directories or files and instances as a place on disk; it never fetches, starts or decides.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Root is one machine's root filesystem: where it is kept and what lies below it.
type Root struct {
	Dir    string   // its own directory: upper, work, generated files
	Layers []string // of the image, lowest first: directories, or files that hold a filesystem
}

// Guest is the directory of the files that croft generates for the machine. It lies over the image and
// under what the machine changed.
func (r Root) Guest() string { return filepath.Join(r.Dir, "guest") }

// Net is a directory of the machine's that the host writes to as well, while it runs: it is mounted beside the root.
func (r Root) Net() string { return filepath.Join(r.Dir, "net") }

// Driver keeps root filesystems in one way. All four are idempotent; nil means the state holds, not that
// this call brought it about.
type Driver interface {
	// Create prepares r.Dir for a machine that has changed nothing yet.
	Create(r Root) error
	// Mount mounts r at the directory at, seen through the user namespace userns, in the mount namespace of
	// the caller. The caller's namespace must be private: the mount's life is that of the namespace.
	Mount(r Root, userns *os.File, at string) error
	// Unmount takes a mount away before its namespace ends.
	Unmount(at string) error
	// Remove deletes all that is kept of r. It refuses a tree with a mount in it.
	Remove(r Root) error
}

// Drivers are the ones there are, by name.
func Drivers(name string) (Driver, bool) {
	switch name {
	case "overlay":
		return Overlay{}, true
	case "dir":
		return Directory{}, true
	case "shifted":
		return Shifted{}, true
	}
	return nil, false
}

// Pick names the driver for a new machine kept under dir, by trying what the filesystem there can do.
func Pick(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		if !idmap.Nested() {
			return "overlay", nil // they can do all of it on every kernel that croft runs on
		}
	}
	// No process ever has these ids, so they need not be reserved.
	userns, err := idmap.Namespace(state.Range{Base: idmap.Pool.Base, Size: idmap.Size})
	if err != nil {
		return "", err
	}
	defer userns.Close()
	if Shifts(dir, userns) != nil {
		return "shifted", nil
	}
	scratch, err := os.MkdirTemp(dir, ".gone-pick-") // what a repair takes away when we are killed
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	switch err := CarriesUpper(scratch); {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOSPC): // a repair was faster; the disk is full
		return "", err
	case err != nil:
		return "dir", nil
	}
	return "overlay", nil
}

// unmount detaches all that is mounted at the directory at, one over the other; nothing mounted is success.
func unmount(at string) error {
	for {
		err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "umount", Path: at, Err: err}
		}
	}
}

// removeTree renames dir aside and deletes it, and never descends into a mount.
func removeTree(dir string) error {
	parent, name := filepath.Split(filepath.Clean(dir))
	gone := filepath.Join(parent, ".gone-"+strings.TrimPrefix(name, ".gone-")) // maybe of an earlier removal
	err := os.Rename(dir, gone)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		if err := removeUnmounted(gone); err != nil { // of an interrupted removal
			return err
		}
		return removeTree(dir)
	}
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	return removeUnmounted(gone)
}

// removeUnmounted deletes a tree. Machines are mounted in namespaces of their own, so a mount below it is somebody
// else's: deleting it file by file would delete what is mounted.
func removeUnmounted(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("remove %s: %s is mounted: %w", dir, points[0], state.ErrBusy)
	}
	return os.RemoveAll(dir)
}
