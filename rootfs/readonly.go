package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// Point is where something will be mounted in a machine's root.
type Point struct {
	Path string // in the machine
	File bool   // rather than a directory
}

// NoDevices has the root that is mounted at the directory at open no device: an image may bring nodes of the host's disks.
// The machine cannot undo it, since a mount that comes to a user namespace from outside keeps its flags.
func NoDevices(at string) error {
	return setFlag(at, unix.MOUNT_ATTR_NODEV)
}

func setFlag(at string, flag uint64) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, at, 0, &unix.MountAttr{Attr_set: flag}); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: at, Err: err}
	}
	return nil
}

// Seal makes the root that is mounted at the directory at read-only, with those of the points that are missing made
// before: nobody can afterwards. Nor can the machine undo this.
func Seal(at string, userns *os.File, points []Point) error {
	root, base, err := openRoot(at, userns)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, p := range points {
		if err := asOwner(base, func() error { return p.make(root) }); err != nil {
			return fmt.Errorf("mount point %s: %w", p.Path, err)
		}
	}
	return setFlag(at, unix.MOUNT_ATTR_RDONLY)
}

// make makes the point unless something is there. No link of the machine's leads out of its root.
func (p Point) make(root *os.File) error {
	found, err := pathrs.OpenatInRoot(root, p.Path)
	if err == nil {
		return found.Close()
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	dir, name := p.Path, ""
	if p.File {
		dir, name = path.Split(path.Clean(p.Path))
	}
	parent, err := pathrs.MkdirAllHandle(root, dir, 0o755)
	if err != nil {
		return err
	}
	defer parent.Close()
	if !p.File {
		return nil
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
