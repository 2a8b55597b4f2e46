package rootfs

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"croft/state"

	"golang.org/x/sys/unix"
)

// Merge gives the tree that layers make, lowest first, as a machine sees it: read-only, and where nobody else sees it. Its
// Name is a path to walk it by; it ends when it is closed.
func Merge(layers []string) (root *os.File, err error) {
	var dirs []*os.File
	defer func() {
		for _, d := range dirs { // an overlay holds what it is made of
			d.Close()
		}
	}()
	if len(layers) == 1 { // which may have whiteouts, of nothing: overlayfs knows them, and wants two
		empty, err := emptyDir()
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, empty)
	}
	for _, layer := range layers {
		d, err := OpenLayer(layer)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, d)
	}
	if root, err = overlayOf(dirs); err != nil {
		return nil, fmt.Errorf("overlay of %d layers: %w", len(layers), err)
	}
	return root, nil
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
