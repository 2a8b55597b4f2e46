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

// ShiftsBelow says the same of dir with all that is mounted below it.
func ShiftsBelow(dir string, userns *os.File) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	tree := os.NewFile(uintptr(fd), dir)
	defer tree.Close()
	if err := shift(tree, userns); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: dir, Err: err}
	}
	return nil
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
	if err := ownAttributes(fs); err != nil {
		return err
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

// MountsFile says why a file with a filesystem of that kind, squashfs or erofs, cannot be a layer as it is: be mounted,
// or be shifted. It leaves a file in scratch.
func MountsFile(kind, scratch string, userns *os.File) error {
	image := filepath.Join(scratch, "empty."+kind)
	empty := map[string][]byte{"squashfs": emptySquashfs, "erofs": emptyErofs}
	if err := inflate(empty[kind], image); err != nil {
		return err
	}
	root, err := mountFile(image)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := shift(root, userns); err != nil {
		return fmt.Errorf("it cannot be shifted: mount_setattr: %w", err)
	}
	return nil
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

// Loops says why this process has no loop devices. It leaves a file in scratch.
func Loops(scratch string) error {
	file, err := os.Create(filepath.Join(scratch, "loop"))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(4096); err != nil {
		return err
	}
	device, err := loopDevice(file)
	if err != nil {
		return err
	}
	return device.Close()
}
