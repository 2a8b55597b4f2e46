package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// A layer is a directory, or a file that holds a filesystem: squashfs or EROFS. A file is mounted as it is, read-only
// and for each machine anew, by way of one loop device.

// UnpackMode, set in the environment to "unpack", has images that are files unpacked, as where the kernel cannot shift
// their ids, for a test of it.
const UnpackMode = "CROFT_LAYERS"

// MountFile mounts the filesystem in file where nobody sees it; the mount ends with the file that is returned, whose
// Name is a path to walk it by. shifts says whether machines can have the file as a layer as it is: whether this kernel
// shifts the ids of that filesystem. Where it does, those that are seen by way of root are shifted.
func MountFile(file string) (root *os.File, shifts bool, err error) {
	if root, err = mountFile(file); err != nil {
		return nil, false, err
	}
	if shifts, err = canShift(root); err != nil {
		root.Close()
		return nil, false, err
	}
	return root, shifts, nil
}

// canShift tries it on the mount itself: another one would cost as much as all that is looked at in this one. No process
// ever has the ids, so they need not be reserved.
func canShift(root *os.File) (bool, error) {
	if os.Getenv(UnpackMode) == "unpack" {
		return false, nil
	}
	userns, err := idmap.Namespace(state.Range{Base: idmap.Pool.Base, Size: idmap.Size})
	if err != nil {
		return false, err
	}
	defer userns.Close()
	err = shift(root, userns)
	if errors.Is(err, unix.EINVAL) { // what mount_setattr(2) says of a filesystem that has no idmapped mounts
		return false, nil
	}
	return err == nil, err
}

// mountFile gives a detached mount of the filesystem in the file at path. All mounts of one file are of one superblock.
func mountFile(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	kind, err := filesystemIn(file)
	if err != nil {
		return nil, err
	}
	device, err := loopDevice(file)
	if err != nil {
		return nil, err
	}
	defer device.Close() // the mount holds it from then on
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		err := fmt.Errorf("this kernel has no %s, which %w", kind, state.ErrUnsupported)
		return nil, state.Hint(err, "modprobe "+kind)
	}
	if err != nil {
		return nil, fmt.Errorf("fsopen(%s): %w", kind, err)
	}
	defer unix.Close(fs)
	return mountDevice(fs, kind, device.Name())
}

func mountDevice(fs int, kind, device string) (*os.File, error) {
	if err := unix.FsconfigSetString(fs, "source", device); err != nil {
		return nil, fmt.Errorf("fsconfig(source=%s): %w", device, err)
	}
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		return nil, fmt.Errorf("fsconfig(ro): %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("the kernel refuses this %s: %w (%s)", kind, err, complaints(fs))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	// With the slash the path is the directory and not the link that /proc has there.
	return os.NewFile(uintptr(mnt), fmt.Sprintf("/proc/self/fd/%d/", mnt)), nil
}

// complaints are what the kernel has to say of a mount that failed (fsopen(2)).
func complaints(fs int) string {
	var all []string
	for {
		line := make([]byte, 1024)
		n, err := unix.Read(fs, line)
		if err != nil || n <= 0 {
			break
		}
		_, text, _ := strings.Cut(strings.TrimSpace(string(line[:n])), " ") // the first letter is the severity
		all = append(all, text)
	}
	if len(all) == 0 {
		return "dmesg may tell why"
	}
	return strings.Join(all, "; ")
}

// filesystemIn tells by its magic number which filesystem a file holds.
func filesystemIn(file *os.File) (string, error) {
	for _, is := range []struct {
		kind, magic string
		at          int64
	}{{"squashfs", "hsqs", 0}, {"erofs", "\xe2\xe1\xf5\xe0", 1024}} {
		head := make([]byte, 4)
		if _, err := file.ReadAt(head, is.at); err == nil && string(head) == is.magic {
			return is.kind, nil
		}
	}
	return "", fmt.Errorf("layer %s: neither a directory nor a filesystem that croft knows: %w", file.Name(), state.ErrInvalid)
}

// View is layers to be looked into by path, in directories: those that are files are mounted where nobody sees them.
type View struct {
	Dirs   []string // lowest first, as the layers
	mounts []*os.File
}

// OpenView gives a view of layers. The mounts end when it is closed.
func OpenView(layers []string) (*View, error) {
	v := &View{}
	for _, layer := range layers {
		if err := v.add(layer); err != nil {
			v.Close()
			return nil, err
		}
	}
	return v, nil
}

func (v *View) add(layer string) error {
	file, err := isFile(layer)
	if err != nil {
		return err
	}
	if file {
		root, err := mountFile(layer)
		if err != nil {
			return err
		}
		v.mounts, layer = append(v.mounts, root), root.Name()
	}
	v.Dirs = append(v.Dirs, layer)
	return nil
}

// Close ends the view.
func (v *View) Close() {
	for _, m := range v.mounts {
		m.Close()
	}
}

// isFile tells a layer that is a file from one that is a directory.
func isFile(layer string) (bool, error) {
	info, err := os.Stat(layer)
	if err != nil {
		return false, err
	}
	return info.Mode().IsRegular(), nil
}
