package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Merge gives the tree that layers make, lowest first, as a machine sees it: read-only, and where nobody else sees it. Its
// Name is a path to walk it by; it ends when it is closed.
func Merge(layers []string) (root *os.File, err error) {
	if os.Getenv(PathMode) != "path" {
		if root, err = merge(layers, ""); !errors.Is(err, unix.EINVAL) {
			return root, err
		}
	}
	// Kernels before 6.15 want layers that are mounted somewhere: in a mount namespace that ends with its thread.
	err = idmap.Thread(
		func() error { return scratchMounts(state.HostDir) },
		func() (err error) {
			root, err = merge(layers, state.HostDir)
			return err
		})
	return root, err
}

// scratchMounts gives this thread a mount namespace of its own, with an empty filesystem at dir.
func scratchMounts(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare(CLONE_NEWNS): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return &os.PathError{Op: "mount", Path: "/", Err: err}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700"); err != nil {
		return &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	return nil
}

// merge is Merge with layers mounted below scratch, or nowhere with "".
func merge(layers []string, scratch string) (root *os.File, err error) {
	var dirs []*os.File
	defer func() {
		for _, d := range dirs { // an overlay holds what it is made of
			d.Close()
		}
	}()
	add := func(d *os.File, err error) error {
		if err != nil {
			return err
		}
		dirs = append(dirs, d)
		if scratch == "" {
			return nil
		}
		return mountAt(d, filepath.Join(scratch, strconv.Itoa(len(dirs))))
	}
	if len(layers) == 1 { // which may have whiteouts, of nothing: overlayfs knows them, and wants two
		if err := add(emptyDir()); err != nil {
			return nil, err
		}
	}
	for _, layer := range layers {
		if err := add(OpenLayer(layer)); err != nil {
			return nil, err
		}
	}
	if root, err = overlayOf(dirs); err != nil {
		return nil, fmt.Errorf("overlay of %d layers: %w", len(layers), err)
	}
	return root, nil
}

// mountAt mounts at a new directory what is mounted nowhere yet; another directory is left where it is.
func mountAt(d *os.File, at string) error {
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	err := unix.MoveMount(int(d.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil && err != unix.EINVAL { // a directory that is no mount
		return &os.PathError{Op: "move_mount", Path: at, Err: err}
	}
	return nil
}

// emptyDir is a directory that nobody sees and that has nothing in it.
func emptyDir() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen(tmpfs): %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("fsconfig(create): %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return os.NewFile(uintptr(mnt), fmt.Sprintf("/proc/self/fd/%d/", mnt)), nil
}

// OpenLayer gives the root directory of one layer as it is, with its whiteouts, as Merge does that of several.
func OpenLayer(layer string) (*os.File, error) {
	file, err := isFile(layer)
	if err != nil {
		return nil, err
	}
	if file {
		return mountFile(layer)
	}
	return os.Open(layer)
}

// overlayOf mounts the directories over each other, the last on top, where nobody sees it.
func overlayOf(dirs []*os.File) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen(overlay): %w", err)
	}
	defer unix.Close(fs)
	var names []string
	for _, d := range slices.Backward(dirs) { // overlayfs lists them top first
		names = append(names, fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
	}
	// All at once is understood by every kernel, and a value of more than 255 bytes by none; one by one since 6.5.
	option, values := "lowerdir", []string{strings.Join(names, ":")}
	if len(values[0]) > 255 {
		option, values = "lowerdir+", names
	}
	for _, v := range values {
		if err := unix.FsconfigSetString(fs, option, v); err != nil {
			return nil, fmt.Errorf("fsconfig(%s): %w", option, err)
		}
	}
	for _, o := range overlayOptions[:2] { // the third is about an upper directory
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("fsconfig(%s=%s): %w", o[0], o[1], err)
		}
	}
	if err := ownAttributes(fs); err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("fsconfig(create): %w: %w", err, state.ErrUnsupported)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return os.NewFile(uintptr(mnt), fmt.Sprintf("/proc/self/fd/%d/", mnt)), nil
}
