package rootfs

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the images below
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What a kernel and a filesystem can do is found out by doing it. Nothing here is attached anywhere: what is mounted
// is seen by nobody, and ends when its descriptor is closed.

// Shifts says why the filesystem at dir cannot be seen through userns; nil means that it can.
func Shifts(dir string, userns *os.File) error {
	tree, err := cloneTree(dir, userns)
	if err != nil {
		return err
	}
	return tree.Close()
}

// CarriesUpper says why the directory scratch cannot hold the upper directory of an overlay; nil means that it can.
// It leaves directories in scratch.
func CarriesUpper(scratch string) error {
	options := map[string]string{"lowerdir": "lower", "upperdir": "upper", "workdir": "work"}
	for option, name := range options {
		options[option] = filepath.Join(scratch, name)
		if err := os.MkdirAll(options[option], 0o700); err != nil {
			return err
		}
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen(overlay): %w", err)
	}
	defer unix.Close(fs)
	for option, dir := range options {
		// Named by a descriptor: no comma and no colon of the path can mean something to the parser of options.
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.FsconfigSetString(fs, option, fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil {
			return fmt.Errorf("fsconfig(%s): %w", option, err)
		}
	}
	mnt, err := createMount(fs)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	var st unix.Statfs_t
	if err := unix.Fstatfs(mnt, &st); err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return errors.New("the overlay came up read-only")
	}
	return nil
}

// LayersByFd says why an overlay's layers cannot be handed to this kernel as descriptors: then they get mount points.
// It leaves directories in scratch.
func LayersByFd(scratch string, userns *os.File) error {
	r := Root{Dir: scratch}
	if err := (Overlay{}).Create(r); err != nil {
		return err
	}
	if err := os.MkdirAll(r.Guest(), 0o755); err != nil {
		return err
	}
	base, err := ownerOf(userns)
	if err != nil {
		return err
	}
	trees, err := cloneTrees([]string{r.Guest(), upperOf(r)}, userns)
	if err != nil {
		return err
	}
	defer trees.close()
	return asOwner(base, func() error {
		mnt, err := trees.mountDetached()
		if err == nil {
			unix.Close(mnt)
		}
		return err
	})
}

// The smallest filesystems there are: an empty directory each.
//
//go:embed empty/squashfs.gz
var emptySquashfs []byte

//go:embed empty/erofs.gz
var emptyErofs []byte

// FileSystems are those that can be asked about with MountsFile.
var FileSystems = map[string][]byte{"squashfs": emptySquashfs, "erofs": emptyErofs}

// ErrNotShifted: it can be mounted, but not be seen through a user namespace.
var ErrNotShifted = errors.New("cannot be idmapped")

// MountsFile says why a file with a filesystem of that kind cannot be mounted from scratch: directly, or by a loop
// device. With a userns it must be possible to shift it, too.
func MountsFile(kind, scratch string, userns *os.File) (how string, err error) {
	image := filepath.Join(scratch, "empty."+kind)
	if err := inflate(FileSystems[kind], image); err != nil {
		return "", err
	}
	how = "from the file"
	mnt, err := mountSource(kind, image)
	if errors.Is(err, unix.ENOTBLK) {
		how = "by a loop device"
		loop, e := Loop(image)
		if e != nil {
			return "", e
		}
		defer loop.Close() // the mount keeps it, and the last of the two clears it
		mnt, err = mountSource(kind, loop.Name())
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(mnt)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(mnt, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return how, fmt.Errorf("%w: mount_setattr: %w", ErrNotShifted, err)
	}
	return how, nil
}

func inflate(data []byte, path string) error {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	image, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	return os.WriteFile(path, image, 0o600)
}

// mountSource mounts the filesystem of a file or device, read-only and attached to nothing.
func mountSource(kind, source string) (mnt int, err error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen(%s): %w", kind, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", source); err != nil {
		return -1, fmt.Errorf("fsconfig(source): %w", err)
	}
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		return -1, fmt.Errorf("fsconfig(ro): %w", err)
	}
	return createMount(fs)
}

// createMount makes the superblock that fs describes and a mount of it.
func createMount(fs int) (mnt int, err error) {
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig(create): %w", err)
	}
	if mnt, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return mnt, nil
}

// Loop attaches a file to a free loop device, read-only. The device is free again after its last use.
func Loop(file string) (*os.File, error) {
	backing, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("ioctl(LOOP_CTL_GET_FREE): %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd())}
		config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was faster
			return nil, fmt.Errorf("ioctl(LOOP_CONFIGURE): %w", err)
		}
	}
}
