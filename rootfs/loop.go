package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"croft/state"

	"golang.org/x/sys/unix"
)

// loopDevice gives a read-only loop device of file: the one that there is, or a new one. All who mount a file mount one
// block device, and so the kernel gives all of them one superblock and one page cache of it.
//
// The device frees itself (LO_FLAGS_AUTOCLEAR) when the last descriptor or mount of it is gone, however that comes.
// While the caller has it open nobody can take it away.
func loopDevice(file *os.File) (*os.File, error) {
	// Two that look at the same moment would find none and make two. The lock is the file's own: no other is needed.
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return nil, &os.PathError{Op: "flock", Path: file.Name(), Err: err}
	}
	defer unix.Flock(int(file.Fd()), unix.LOCK_UN)
	device, err := existingLoop(file)
	if device != nil || err != nil {
		return device, err
	}
	return newLoop(file)
}

const loopFlags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR

// existingLoop opens the device that another start made of file; nil when there is none.
func existingLoop(file *os.File) (*os.File, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &want); err != nil {
		return nil, &os.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	backed, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, b := range backed {
		name, err := os.ReadFile(b)
		if err != nil || filepath.Base(strings.TrimSpace(string(name))) != filepath.Base(file.Name()) {
			continue // gone meanwhile, or somebody else's: opening it would keep it from being freed
		}
		device, err := os.Open(filepath.Join("/dev", strings.Split(b, "/")[3]))
		if err != nil {
			continue
		}
		is, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
		if err == nil && is.Device == want.Dev && is.Inode == want.Ino && is.Offset == 0 && is.Sizelimit == 0 && is.Flags&loopFlags == loopFlags {
			return device, nil
		}
		device.Close()
	}
	return nil, nil
}

// newLoop binds file to a free device.
func newLoop(file *os.File) (*os.File, error) {
	control, err := os.Open("/dev/loop-control")
	if err != nil {
		return nil, noLoop(err)
	}
	defer control.Close()
	for range 100 { // others take free ones, too
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, noLoop(fmt.Errorf("ioctl(LOOP_CTL_GET_FREE): %w", err))
		}
		device, err := bindLoop(n, file)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) {
			continue
		}
		return device, noLoop(err)
	}
	return nil, noLoop(unix.EBUSY)
}

func bindLoop(n int, file *os.File) (*os.File, error) {
	path := fmt.Sprintf("/dev/loop%d", n)
	device, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) { // in a container nobody but us follows what the kernel makes
		const major = 7 // of all loop devices: devices.txt
		if err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(major, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, &os.PathError{Op: "mknod", Path: path, Err: err}
		}
		device, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(file.Fd())}
	// Without direct I/O, which is silently left out where the file's filesystem has none, every block would be cached
	// twice: as it is in the file and as the filesystem unpacks it.
	config.Info.Flags = loopFlags | unix.LO_FLAGS_DIRECT_IO
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		device.Close()
		return nil, fmt.Errorf("ioctl(LOOP_CONFIGURE) of %s: %w", path, err)
	}
	return device, nil
}

// noLoop says what is missing when there is no device to be had.
func noLoop(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("a loop device %w: %w", state.ErrUnsupported, err)
	return state.Hint(err, "modprobe loop; in a container /dev/loop-control has to be the host's")
}
