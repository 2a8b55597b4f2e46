package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"croft/state"
)

// Tree is files as the host sees them, or as a machine does. A machine's belong to somebody who may change any of
// them at any moment: every name is resolved below the root, nothing is opened before a handle on it has told what
// it is, and the kernel's own filesystems are refused.
type Tree struct {
	name    string      // of the machine
	root    *os.File    // O_PATH; nil: the host's, from the working directory
	ids     state.Range // of the machine, on the host
	covered []string    // what a mount would hide if the machine ran
}

// HostTree is the host's files.
func HostTree() *Tree { return &Tree{} }

// MachineTree is the files of the machine called name below root, where its ids are those of the range. The tree
// takes root over.
func MachineTree(name string, root *os.File, ids state.Range) *Tree {
	return &Tree{name: name, root: root, ids: ids}
}

// Cover says that something of the machine's will be mounted at these paths, so that what lies below them now is
// not what the machine will see. Opening anything there is refused from here on.
func (t *Tree) Cover(paths []string) error {
	var covered []string
	for _, p := range paths {
		f, err := t.open(p, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // and so nothing is below it
		}
		if err != nil {
			return err
		}
		covered = append(covered, t.where(f))
		f.Close()
	}
	t.covered = covered
	return nil
}

// Close lets the root go.
func (t *Tree) Close() error {
	if t.root == nil {
		return nil
	}
	return t.root.Close()
}

// label is how messages call a path of the tree: as it is typed.
func (t *Tree) label(p string) string {
	if t.root == nil {
		return printable(p)
	}
	return printable(t.name + ":" + p)
}

// open gives a handle (O_PATH) on a path, following links, or with O_NOFOLLOW in flags on the link at its end.
func (t *Tree) open(p string, flags uint64) (*os.File, error) {
	dir, how := unix.AT_FDCWD, unix.OpenHow{Flags: flags | unix.O_PATH | unix.O_CLOEXEC}
	if t.root != nil {
		dir, how.Resolve = int(t.root.Fd()), unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS
	}
	fd, err := unix.Openat2(dir, p, &how)
	// The kernel gives up on ".." when anything was renamed meanwhile; a guest that does it without end loses.
	for tries := 0; err == unix.EINTR || err == unix.EAGAIN && tries < 1000; tries++ {
		fd, err = unix.Openat2(dir, p, &how)
	}
	if err != nil {
		return nil, t.missing(p, err)
	}
	f := os.NewFile(uintptr(fd), p)
	if err := t.visible(f, p); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// missing is the error for a path that cannot be opened, or for a directory above it that a mount will hide: what is
// not there now may be there then.
func (t *Tree) missing(p string, err error) error {
	if up := path.Dir(path.Clean("/" + p)); err == unix.ENOENT && len(t.covered) > 0 && up != "/" {
		f, err := t.open(up, 0)
		if errors.Is(err, state.ErrNotRunning) {
			return err
		}
		if err == nil {
			f.Close()
		}
	}
	return fmt.Errorf("%s: %w", t.label(p), errno(err))
}

// visible refuses what a mount will hide, and what is no file but the kernel's word.
func (t *Tree) visible(f *os.File, p string) error {
	at := ""
	if len(t.covered) > 0 {
		at = t.where(f)
	}
	for _, c := range t.covered {
		if at == c || strings.HasPrefix(at, c+"/") {
			err := fmt.Errorf("%s: what is mounted at %s when %s runs is not there: %w", t.label(p), c, t.name, state.ErrNotRunning)
			return state.Hint(err, "croft start "+t.name)
		}
	}
	return nil
}

// where is the path of a handle below the root of its mount. It is exact only while nobody renames things.
func (t *Tree) where(f *os.File) string {
	at, _ := os.Readlink(procPath(f))
	return at
}

// id gives the machine's own number of an owner as the kernel tells it to the host. What has no number in the
// machine belongs to nobody.
func (t *Tree) id(host uint32) int {
	if t.root == nil {
		return int(host)
	}
	return int(owners{from: int(t.ids.Base), size: t.ids.Size}.id(host))
}

// Glob gives the paths that a pattern of path.Match stands for, sorted; no element of it begins with a dot unless
// the pattern's does. A path that exists as it is written stands for itself. ErrNotExist when there is none.
func (t *Tree) Glob(pattern string) ([]string, error) {
	if _, err := path.Match(pattern, ""); err != nil || !strings.ContainsAny(pattern, `*?[\`) {
		return []string{pattern}, nil // whether it is there will be seen
	}
	if f, err := t.open(pattern, unix.O_NOFOLLOW); err == nil {
		return []string{pattern}, f.Close()
	}
	found := []string{""}
	rest := pattern
	if strings.HasPrefix(pattern, "/") {
		found, rest = []string{"/"}, strings.TrimLeft(pattern, "/")
	}
	for rest != "" {
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		var err error
		if found, err = t.globElement(found, element); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: nothing matches: %w", t.label(pattern), state.ErrNotExist)
	}
	if strings.HasSuffix(pattern, "/") {
		for i := range found {
			found[i] += "/"
		}
	}
	return found, nil
}

// globElement gives the entries of the directories that match one element of a pattern.
func (t *Tree) globElement(dirs []string, element string) (found []string, err error) {
	if element == "" || !strings.ContainsAny(element, `*?[\`) {
		for _, dir := range dirs {
			if f, err := t.open(path.Join(dir, element), unix.O_NOFOLLOW); err == nil {
				f.Close()
				found = append(found, path.Join(dir, element))
			}
		}
		return found, nil
	}
	for _, dir := range dirs {
		names, err := t.list(dir)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			hidden := strings.HasPrefix(name, ".") && !strings.HasPrefix(element, ".")
			if ok, _ := path.Match(element, name); ok && !hidden {
				found = append(found, path.Join(dir, name))
			}
		}
	}
	return found, nil
}

// list gives the sorted names in a directory.
func (t *Tree) list(dir string) ([]string, error) {
	f, err := t.open(path.Join("/", dir), unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := reopen(f, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// reopen opens the file behind a handle, and no other that has got its name since.
func reopen(f *os.File, flags int) (*os.File, error) {
	// O_NONBLOCK: nothing waits for a guest to give up its lease on the file.
	fd, err := unix.Open(procPath(f), flags|unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// kernels names a filesystem that holds no files: to read there is to ask the host's kernel, to write is to order it
// about, whoever mounted it. "" is any other. A table would be made anew at the start of every container.
func kernels(magic int64) string {
	switch magic {
	case unix.PROC_SUPER_MAGIC:
		return "proc"
	case unix.SYSFS_MAGIC:
		return "sysfs"
	case unix.CGROUP_SUPER_MAGIC:
		return "cgroup"
	case unix.CGROUP2_SUPER_MAGIC:
		return "cgroup2"
	case unix.DEVPTS_SUPER_MAGIC:
		return "devpts"
	case unix.DEBUGFS_MAGIC:
		return "debugfs"
	case unix.TRACEFS_MAGIC:
		return "tracefs"
	case unix.SECURITYFS_MAGIC:
		return "securityfs"
	case unix.SELINUX_MAGIC:
		return "selinuxfs"
	case unix.SMACK_MAGIC:
		return "smackfs"
	case unix.BPF_FS_MAGIC:
		return "bpf"
	case unix.PSTOREFS_MAGIC:
		return "pstore"
	case unix.EFIVARFS_MAGIC:
		return "efivarfs"
	case unix.NSFS_MAGIC:
		return "nsfs"
	case unix.BINFMTFS_MAGIC:
		return "binfmt_misc"
	case unix.RDTGROUP_SUPER_MAGIC:
		return "resctrl"
	case unix.BINDERFS_SUPER_MAGIC:
		return "binder"
	case unix.AUTOFS_SUPER_MAGIC:
		return "autofs"
	case 0x62656570: // this one and the next two are not in the headers for users
		return "configfs"
	case 0x19800202:
		return "mqueue"
	case 0x65735543:
		return "fusectl"
	}
	return ""
}

// files refuses a handle on a filesystem of the kernel's.
func files(f *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if name := kernels(int64(st.Type)); name != "" {
		return &sentence{"is on " + name + ", where there are no files but the kernel's", state.ErrUnsupported}
	}
	return nil
}

// refused is an error in plain words.
func refused(format string, args ...any) error {
	return &sentence{fmt.Sprintf(format, args...), state.ErrInvalid}
}

// errno gives the causes that a user meets as the sentinels of state, where there is one.
func errno(err error) error {
	if err == unix.ENOENT {
		return &sentence{"no such file or directory", errors.Join(unix.ENOENT, state.ErrNotExist)}
	}
	return err
}
