package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"croft/state"

	"golang.org/x/sys/unix"
)

// What is kept of a machine is limited by its filesystem. On ext4 and xfs the machine's directory belongs to a project of
// its own, and so does all that is made in there; on btrfs it is a subvolume, which has a qgroup (quota_kernel.go).

// Disk is what is kept of a machine, in bytes, and the limit of it; 0 is none.
type Disk struct{ Used, Limit int64 }

// CanLimit says why the filesystem at dir cannot limit what is kept of one machine; nil means that it can.
func CanLimit(dir string) error {
	f, kind, err := openFS(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	switch kind {
	case unix.BTRFS_SUPER_MAGIC:
		if !hasQgroups(f) {
			return cannotLimit(dir, "this btrfs counts no quotas", "btrfs quota enable "+dir)
		}
		return nil
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC:
	default:
		return cannotLimit(dir, "this filesystem has no quotas of directories", "keep machines on ext4, xfs or btrfs")
	}
	switch on, err := limitsProjects(f); {
	case on || err != nil:
		return err
	case kind == unix.XFS_SUPER_MAGIC:
		return cannotLimit(dir, "this xfs is mounted without prjquota", "mount it with prjquota; as the host's root, boot with rootflags=prjquota")
	}
	return cannotLimit(dir, "this ext4 is mounted without prjquota", "tune2fs -O quota,project -Q prjquota DEVICE, once and unmounted; then mount it with prjquota")
}

func cannotLimit(dir, why, remedy string) error {
	return state.Hint(fmt.Errorf("%s: %s: %w", dir, why, state.ErrUnsupported), remedy)
}

// FreeProject finds a project on the filesystem at dir that nobody uses, by the kernel's account and by that of the caller. It
// tries the numbers from first on. 0 is for filesystems that limit no projects.
func FreeProject(dir string, first uint32, taken func(uint32) bool) (uint32, error) {
	f, kind, err := openFS(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if kind != unix.EXT4_SUPER_MAGIC && kind != unix.XFS_SUPER_MAGIC {
		return 0, nil
	}
	if on, err := limitsProjects(f); err != nil || !on {
		return 0, nil // who asks for a limit is told by CanLimit
	}
	for id := first; ; id++ {
		used, err := usesProject(f, id)
		if err != nil {
			return 0, err
		}
		if id != 0 && !used && !taken(id) {
			return id, nil
		}
	}
}

// Own makes the machine's directory what can be limited: of the project, when it has one. One that has files already stays
// as it is, since these would not count.
func (r Root) Own(project uint32) error {
	if _, err := os.Lstat(r.Dir); err == nil && project == 0 {
		return nil
	}
	if project == 0 {
		return makeSubvolume(r.Dir)
	}
	if err := os.MkdirAll(r.Dir, 0o711); err != nil {
		return err
	}
	f, err := os.Open(r.Dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if names, _ := f.Readdirnames(1); len(names) > 0 {
		return nil
	}
	err = setProject(f, project)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) { // the store was moved
		return nil
	}
	return err
}

// makeSubvolume makes dir one, where btrfs counts what is in it; elsewhere there is nothing to do.
func makeSubvolume(dir string) error {
	f, kind, err := openFS(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer f.Close()
	if kind != unix.BTRFS_SUPER_MAGIC || !hasQgroups(f) {
		return nil
	}
	if err := createSubvolume(f, filepath.Base(dir)); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return os.Chmod(dir, 0o711)
}

// quota is the account of a machine's directory.
type quota interface {
	disk() (Disk, error)
	limit(bytes int64) error
}

// quotaOf finds that of f; nil when the directory is not what can be limited.
func quotaOf(f *os.File, kind int64, project uint32) (quota, error) {
	switch kind {
	case unix.BTRFS_SUPER_MAGIC:
		id, err := subvolume(f)
		if err != nil || id == 0 || !hasQgroups(f) {
			return nil, err
		}
		return qgroup{f, id}, nil
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC:
		if project == 0 {
			return nil, nil
		}
		is, err := projectOf(f)
		if err != nil || is != project {
			return nil, err
		}
		return projectQuota{f, project}, nil
	}
	return nil, nil
}

// Disk tells how much is kept of the machine; nil where nobody counts that.
func (r Root) Disk(project uint32) (*Disk, error) {
	f, kind, err := openFS(r.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	q, err := quotaOf(f, kind, project)
	if q == nil {
		return nil, err
	}
	d, err := q.disk()
	return &d, err
}

// Limit lets so many bytes be kept of the machine at most; 0 lifts that. Fewer than there are is ErrBusy.
func (r Root) Limit(project uint32, bytes int64) error {
	f, kind, err := openFS(r.Dir)
	if err != nil {
		return err
	}
	defer f.Close()
	q, err := quotaOf(f, kind, project)
	if q == nil && bytes > 0 && err == nil {
		err = CanLimit(filepath.Dir(r.Dir))
	}
	if q == nil && bytes > 0 && err == nil {
		err = fmt.Errorf("what is kept of it is older than the quotas of its filesystem, and does not count: %w", state.ErrUnsupported)
		return state.Hint(err, "croft publish, and another machine of that image")
	}
	if q == nil {
		return err
	}
	d, err := q.disk()
	if err != nil || d.Limit == bytes {
		return err
	}
	if kind == unix.BTRFS_SUPER_MAGIC && bytes > 0 {
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			return os.NewSyscallError("syncfs", err)
		}
		d, err = q.disk()
	}
	switch {
	case err != nil:
		return err
	case bytes > 0 && d.Used > bytes:
		return fmt.Errorf("%d MiB are less than the %d MiB that are kept of it: %w", bytes>>20, (d.Used+1<<20-1)>>20, state.ErrBusy)
	}
	return q.limit(bytes)
}

// Forget takes the limit of a machine that is gone off its project.
func (r Root) Forget(project uint32) error {
	if project == 0 {
		return nil
	}
	f, err := os.Open(filepath.Dir(r.Dir))
	if err != nil {
		return err
	}
	defer f.Close()
	return projectQuota{f, project}.limit(0)
}

// openFS opens the directory dir, and tells the kind of its filesystem.
func openFS(dir string) (*os.File, int64, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, 0, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return f, int64(st.Type), nil
}
