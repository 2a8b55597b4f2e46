package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Overlay keeps what the machine changed in an upper directory over the image's layers. The image is shared,
// creation copies nothing.
type Overlay struct{}

// upper and work lie in one directory because overlayfs wants them on one mount.
func upperOf(r Root) string { return filepath.Join(r.Dir, "upper") }

// Create makes the empty upper.
func (Overlay) Create(r Root) error {
	for _, d := range []string{r.Dir, upperOf(r), filepath.Join(upperOf(r), "work")} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return err
		}
	}
	// The root directory of the machine takes its mode from the topmost layer, which is this one.
	fs := filepath.Join(upperOf(r), "fs")
	if err := os.MkdirAll(fs, 0o755); err != nil {
		return err
	}
	return os.Chmod(fs, 0o755)
}

// Unmount detaches the overlay, and its layers where they had mount points of their own.
func (Overlay) Unmount(at string) error {
	if err := unmount(at); err != nil {
		return err
	}
	if _, err := os.Lstat(scratchOf(at)); err != nil {
		return nil // the usual case: no need to read all mounts of the host
	}
	return unmountBelow(scratchOf(at))
}

// scratchOf is where the layers of an overlay at at are mounted when they must have paths.
func scratchOf(at string) string { return filepath.Join(filepath.Dir(at), "trees") }

// Remove deletes upper, work and generated files.
func (Overlay) Remove(r Root) error { return removeTree(r.Dir) }

// What the overlay is mounted with. The guest must not be able to plant redirects or metadata-only files in
// its upper, and an index would tie the upper to one set of lower inodes.
var overlayOptions = [...][2]string{{"redirect_dir", "nofollow"}, {"metacopy", "off"}, {"index", "off"}}

// userAttributes has an overlay keep its notes in attributes that a user namespace may write.
const userAttributes = "userxattr"

// ownAttributes sets that for the overlay that fs is to be, where it is needed.
func ownAttributes(fs int) error {
	if !idmap.Nested() {
		return nil
	}
	if err := unix.FsconfigSetFlag(fs, userAttributes); err != nil {
		return fmt.Errorf("fsconfig(%s): %w", userAttributes, err)
	}
	return nil
}

// PathMode, set in the environment to "path", takes the way of kernels before 6.15 for a test of it.
const PathMode = "CROFT_OVERLAY"

// Mount detaches each layer and the upper, shifts them with userns and mounts the overlay of them.
func (o Overlay) Mount(r Root, userns *os.File, at string) error {
	if err := o.Unmount(at); err != nil { // twice over one upper is undefined
		return err
	}
	base, err := ownerOf(userns)
	if err != nil {
		return err
	}
	lowers := make([]string, 0, len(r.Layers)+1)
	if _, err := os.Lstat(r.Guest()); err == nil {
		lowers = append(lowers, r.Guest())
	}
	for i := len(r.Layers) - 1; i >= 0; i-- { // overlayfs lists them top first
		lowers = append(lowers, r.Layers[i])
	}
	trees, err := cloneTrees(append(lowers, upperOf(r)), userns)
	if err != nil {
		return err
	}
	defer trees.close()
	if os.Getenv(PathMode) != "path" {
		err = asOwner(base, func() error { return trees.mountByFd(at) })
	}
	if os.Getenv(PathMode) == "path" || errors.Is(err, errNoFdLayers) {
		err = trees.mountByPath(base, scratchOf(at), at)
	}
	if err != nil {
		return err
	}
	return writable(at)
}

// writable catches an overlay that came up read-only, which the kernel only mentions in its log.
func writable(at string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: at, Err: err}
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		unmount(at)
		return fmt.Errorf("overlay at %s came up read-only: the kernel could not write to its work directory: %w", at, state.ErrUnsupported)
	}
	return nil
}

// ownerOf gives the host id of a user namespace's owner, which is the base of its range (see idmap).
func ownerOf(userns *os.File) (int, error) {
	var uid uint32
	const getOwner = 0xb704 // NS_GET_OWNER_UID, ioctl_nsfs(2)
	if err := ioctl(userns, getOwner, &uid); err != nil {
		return 0, fmt.Errorf("ioctl(NS_GET_OWNER_UID): %w", err)
	}
	return int(uid), nil
}

// trees are detached, shifted mounts of layers and directories; the last one is the upper. Closing one dissolves it, so
// they must stay open until the overlay exists.
type trees []*os.File

func (t trees) close() {
	for _, f := range t {
		f.Close()
	}
}

func cloneTrees(dirs []string, userns *os.File) (trees, error) {
	var all trees
	for _, d := range dirs {
		f, err := cloneTree(d, userns)
		if err != nil {
			all.close()
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// cloneTree gives a detached mount of a layer or directory, shifted with userns.
func cloneTree(layer string, userns *os.File) (*os.File, error) {
	tree, err := detach(layer)
	if err != nil {
		return nil, err
	}
	err = shift(tree, userns)
	if err == nil {
		return tree, nil
	}
	tree.Close()
	if borrowable(err) {
		return borrow(layer, userns)
	}
	err = &os.PathError{Op: "mount_setattr", Path: layer, Err: err}
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("this kernel cannot shift the ids of that filesystem: %w", err)
	}
	return nil, err
}

func detach(layer string) (*os.File, error) {
	file, err := isFile(layer)
	if err != nil {
		return nil, err
	}
	if file {
		return mountFile(layer)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, layer, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_NO_AUTOMOUNT)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: layer, Err: err}
	}
	return os.NewFile(uintptr(fd), layer), nil
}

// shift has all mounts of the detached tree show their files' ids as userns sees them.
func shift(tree, userns *os.File) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	return unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
}

// errNoFdLayers means that this kernel does not take layers as descriptors.
var errNoFdLayers = errors.New("layers by descriptor")

// mountByFd hands the trees to overlayfs as descriptors: no path of the host shows in the guest's mountinfo.
func (t trees) mountByFd(at string) error {
	mnt, err := t.mountDetached()
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: at, Err: err}
	}
	return nil
}

// mountDetached gives the overlay as a mount that is attached nowhere.
func (t trees) mountDetached() (mnt int, err error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen(overlay): %w", err)
	}
	defer unix.Close(fs)
	last := len(t) - 1
	for _, lower := range t[:last] {
		if err := unix.FsconfigSetFd(fs, "lowerdir+", int(lower.Fd())); err != nil {
			return -1, fmt.Errorf("%w: fsconfig(lowerdir+): %w", errNoFdLayers, err)
		}
	}
	for option, dir := range map[string]string{"upperdir": "fs", "workdir": "work"} {
		fd, err := unix.Openat(int(t[last].Fd()), dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		err = unix.FsconfigSetFd(fs, option, fd)
		unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("%w: fsconfig(%s): %w", errNoFdLayers, option, err)
		}
	}
	for _, o := range overlayOptions {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("fsconfig(%s=%s): %w", o[0], o[1], err)
		}
	}
	if err := ownAttributes(fs); err != nil {
		return -1, err
	}
	if mnt, err = createMount(fs); errors.Is(err, unix.EINVAL) { // kernels before 6.15 refuse detached trees only here
		return -1, fmt.Errorf("%w: %w", errNoFdLayers, err)
	}
	return mnt, err
}

// mountByPath gives each tree a mount point below scratch: the way of kernels before 6.15, with mount(2) because
// before 6.5 overlayfs knew no other. The trees are named through their descriptors: that is short, holds no
// comma or colon whatever --run is, and tells the guest nothing of the host.
func (t trees) mountByPath(base int, scratch, at string) error {
	var at_ []string
	for i, tree := range t {
		point := filepath.Join(scratch, fmt.Sprint(i))
		if err := os.MkdirAll(point, 0o711); err != nil {
			return err
		}
		if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, point, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return &os.PathError{Op: "move_mount", Path: point, Err: err}
		}
		at_ = append(at_, fmt.Sprintf("/proc/self/fd/%d", tree.Fd()))
	}
	last := len(at_) - 1
	options := []string{
		"lowerdir=" + strings.Join(at_[:last], ":"),
		"upperdir=" + filepath.Join(at_[last], "fs"),
		"workdir=" + filepath.Join(at_[last], "work"),
	}
	for _, o := range overlayOptions {
		options = append(options, o[0]+"="+o[1])
	}
	if idmap.Nested() {
		options = append(options, userAttributes)
	}
	text := strings.Join(options, ",")
	if len(text) >= os.Getpagesize() { // mount(2) takes one page and cuts off the rest, upperdir for one
		return fmt.Errorf("mount overlay: %d layers are too many for this kernel: %w", last, state.ErrUnsupported)
	}
	return asOwner(base, func() error {
		if err := unix.Mount("overlay", at, "overlay", 0, text); err != nil {
			return fmt.Errorf("mount overlay of %d layers at %s: %w", last, at, err)
		}
		return nil
	})
}

// asOwner runs mount on a thread whose filesystem ids are base. Overlayfs keeps the credentials of its
// mounter for its own writes: host root is nobody in the shifted upper, and with it the overlay would come
// up read-only without an error. For the same reason it does so without CAP_SYS_RESOURCE, before which neither quotas
// hold nor the blocks that a filesystem reserves for root.
func asOwner(base int, mount func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("prctl(PR_GET_SECUREBITS): %w", err)
	}
	// Without the fixup: setfsuid away from 0 drops the filesystem capabilities, which the mounter needs.
	const noFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits|noFixup), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_SECUREBITS): %w", err)
	}
	defer unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits), 0, 0, 0)
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&head, &have[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	less := have
	less[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	if err := unix.Capset(&head, &less[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	defer unix.Capset(&head, &have[0])
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(base), 0, 0) // these two cannot fail for root
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(base), 0, 0)
	defer unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0)
	defer unix.RawSyscall(unix.SYS_SETFSGID, 0, 0, 0)
	return mount()
}
