package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Stage mounts a small filesystem at dir, in the caller's mount namespace, in which Bind and Node prepare what a machine
// is to get. They must come to its user namespace from outside, as a whole: flags of a mount that its root has set
// itself, as nosuid or read-only, its root may also take back.
func Stage(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if err := unix.Mount("croft", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=711"); err != nil { // with devices
		return &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	return nil
}

// Staged is the place of the thing of number n.
func Staged(dir string, n int) string { return filepath.Join(dir, strconv.Itoa(n)) }

// Bind is a directory or file of the host, or whatever else has a path, for a machine.
type Bind struct {
	Source      string
	Userns      *os.File // its ids are seen through it; nil: as they are
	Shallow     bool     // without what is mounted below it
	Below       bool     // the ids of that are seen so as well
	Attr        uint64   // MOUNT_ATTR_*, of all that is mounted there
	Propagation uint64   // MS_PRIVATE or MS_SLAVE
}

// Stage mounts it at the staged place at.
func (b Bind) Stage(at string) error {
	st, err := os.Stat(b.Source)
	if err != nil {
		return err
	}
	if err := standIn(at, st.IsDir()); err != nil {
		return err
	}
	how := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if !b.Shallow {
		how |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source, how)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: b.Source, Err: err}
	}
	tree := os.NewFile(uintptr(fd), b.Source)
	if b.Userns != nil {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(b.Userns.Fd())}
		flags := uint(unix.AT_EMPTY_PATH)
		if b.Below {
			flags |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(fd, "", flags, &attr); err != nil {
			tree.Close()
			return fmt.Errorf("ids cannot be mapped: %w", &os.PathError{Op: "mount_setattr", Path: b.Source, Err: err})
		}
	}
	attr := unix.MountAttr{Attr_set: b.Attr, Propagation: b.Propagation}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		tree.Close()
		return &os.PathError{Op: "mount_setattr", Path: b.Source, Err: err}
	}
	return attach(tree, at)
}

// standIn makes what something can be mounted on.
func standIn(at string, dir bool) error {
	if dir {
		return os.Mkdir(at, 0o700)
	}
	return os.WriteFile(at, nil, 0o600)
}

// Node is a device node for a machine.
type Node struct {
	Mode     uint32 // type and permissions
	Device   uint64
	UID, GID int // on the host
}

// Stage makes it at the staged place at. A process that lives in a user namespace itself may not: ErrPermission.
func (n Node) Stage(at string) error {
	if err := unix.Mknod(at, n.Mode, int(n.Device)); err != nil {
		return &os.PathError{Op: "mknod", Path: at, Err: err}
	}
	if err := os.Lchown(at, n.UID, n.GID); err != nil {
		return err
	}
	return os.Chmod(at, os.FileMode(n.Mode&0o777)) // past the umask
}
