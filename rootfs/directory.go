package rootfs

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Directory keeps a full copy of the image for each machine. It serves where overlay cannot: on a filesystem that
// carries no upper directory.
type Directory struct{}

func copyOf(r Root) string { return filepath.Join(r.Dir, "fs") }

// Create copies the layers, lowest first, beside the final place and renames the copy into it.
func (Directory) Create(r Root) error {
	if _, err := os.Lstat(copyOf(r)); err == nil {
		return nil
	}
	if err := os.MkdirAll(r.Dir, 0o711); err != nil {
		return err
	}
	aside := filepath.Join(r.Dir, ".new-fs")
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	view, err := OpenView(r.Layers)
	if err != nil {
		return err
	}
	defer view.Close()
	for i, dir := range view.Dirs {
		if err := copyLayer(dir, aside, owners{}); err != nil {
			return fmt.Errorf("copy %s: %w", r.Layers[i], err)
		}
	}
	return os.Rename(aside, copyOf(r))
}

// Mount puts the generated files into the copy and mounts it shifted.
func (Directory) Mount(r Root, userns *os.File, at string) error {
	if err := unmount(at); err != nil {
		return err
	}
	if err := overwrite(r.Guest(), copyOf(r), filepath.Join(r.Dir, "generated")); err != nil {
		return err
	}
	return mountShifted(copyOf(r), userns, at)
}

// mountShifted mounts dir at the directory at, as userns sees it.
func mountShifted(dir string, userns *os.File, at string) error {
	tree, err := cloneTree(dir, userns)
	if err != nil {
		return err
	}
	return attach(tree, at)
}

// attach gives a detached tree its mount point, and closes it.
func attach(tree *os.File, at string) error {
	defer tree.Close()
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: at, Err: err}
	}
	return nil
}

// Unmount detaches the copy.
func (Directory) Unmount(at string) error { return unmount(at) }

// Remove deletes the copy.
func (Directory) Remove(r Root) error { return removeTree(r.Dir) }
