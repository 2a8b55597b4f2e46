package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"croft/state"
)

// How a file of a machine differs from its image.
const (
	Added   = "A"
	Changed = "C"
	Deleted = "D"
)

// Change is one file that is not as the image has it.
type Change struct {
	Kind string `json:"kind"`
	Path string `json:"path"` // in the machine
}

// Changes lists by path what the root r kept by the named driver has that its image has not, and the other way
// round. A file is changed when anything that can be seen of it without reading it is: type, mode, owner, size, time,
// target, extended attributes. A directory is also changed when anything in it is. What croft put there does not
// count: the generated files, until the machine has changed them, and the mount points. r may be in use; ids are those of
// its last start.
func Changes(r Root, driver string, ids state.Range, generated Files, mounts []string) ([]Change, error) {
	view, err := OpenView(r.Layers)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	d := &differ{generated: map[string]bool{}, mounts: mounts, passing: map[string]bool{}}
	for name := range generated {
		d.generated[name] = true
		d.pass(name)
	}
	for _, m := range mounts {
		d.pass(m)
	}
	top, was, err := ownFiles(r, driver, ids)
	if err != nil {
		return nil, err
	}
	d.whole, d.was = was != "", was
	if driver == "shifted" {
		d.owners = owners{from: int(ids.Base), size: ids.Size}
	}
	root, err := os.OpenFile(top, unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // never started
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	layers := slices.Clone(view.Dirs)
	slices.Reverse(layers)
	if err := d.dir(root, "/", cutAtOpaque(layers), d.whole); err != nil {
		return nil, err
	}
	slices.SortFunc(d.found, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return d.found, nil
}

// ownFiles is where the machine's own files are: over those of the image, or the whole of them, and then was is what of the
// generated files was put there last.
func ownFiles(r Root, driver string, ids state.Range) (top, was string, err error) {
	was = filepath.Join(r.Dir, "generated")
	switch driver {
	case "overlay":
		return filepath.Join(upperOf(r), "fs"), "", nil
	case "dir":
		return copyOf(r), was, nil
	case "shifted":
		return shiftedOf(r, int(ids.Base)), was, nil
	}
	return "", "", fmt.Errorf("driver %q: %w", driver, state.ErrUnsupported)
}

// differ compares what a machine has with its image. The image's layers do not change and are trusted; the machine's
// own files may be changed by it at any moment, and are only looked at by handles.
type differ struct {
	owners    owners          // of the machine's files, into those of the image
	whole     bool            // the machine's files are all there, and not laid over the image's
	generated map[string]bool // by path
	was       string          // what of them was put into a whole copy last; "" when they lie in a layer of their own
	mounts    []string
	passing   map[string]bool // directories on the way to what croft puts there: their times say nothing
	found     []Change
}

func (d *differ) pass(p string) {
	for p = path.Dir(path.Clean(p)); p != "/"; p = path.Dir(p) {
		d.passing[p] = true
	}
}

// dir compares the open directory at p with those of the layers that it stands for, top first. When whole is set
// nothing of theirs shines through.
func (d *differ) dir(dir *os.File, p string, lowers []string, whole bool) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	if whole = whole || isOpaque(dir); whole {
		for _, lower := range lowers {
			entries, err := os.ReadDir(lower)
			if err != nil {
				return err
			}
			for _, e := range entries {
				names = append(names, e.Name())
			}
		}
		for name := range d.generated {
			if path.Dir(name) == p {
				names = append(names, path.Base(name))
			}
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		at := path.Join(p, name)
		if slices.Contains(d.mounts, at) {
			continue
		}
		if err := d.entry(dir, name, at, lowers, whole); err != nil {
			return fmt.Errorf("%s: %w", printable(at), err)
		}
	}
	return nil
}

func isOpaque(dir *os.File) bool {
	var v [1]byte
	n, err := unix.Fgetxattr(int(dir.Fd()), opaqueXattr(), v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

func (d *differ) entry(dir *os.File, name, at string, lowers []string, whole bool) error {
	was, below, err := underneath(lowers, name)
	if err != nil {
		return err
	}
	is, handle, err := describe(dir, name, d.owners)
	if err != nil {
		return err
	}
	if handle == nil {
		if was != nil || d.put(at) {
			d.add(Deleted, at)
		}
		return nil
	}
	defer handle.Close()
	if d.generated[at] && d.untouched(handle, at) {
		return nil
	}
	kind := ""
	switch {
	case was == nil && !d.generated[at]:
		kind = Added
	case !d.same(at, is, was):
		kind = Changed
	}
	before := len(d.found)
	if is.Typeflag == tar.TypeDir {
		sub, err := reopen(handle, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer sub.Close()
		if err := d.dir(sub, at, below, whole); err != nil {
			return err
		}
	}
	inside := len(d.found) > before
	switch {
	case kind == Added && d.passing[at] && !inside:
	case kind != "":
		d.add(kind, at)
	case inside:
		d.add(Changed, at)
	}
	return nil
}

func (d *differ) add(kind, at string) { d.found = append(d.found, Change{kind, at}) }

// same compares what can be seen of two files; the image may have none where croft has.
func (d *differ) same(at string, is, was *tar.Header) bool {
	if was == nil {
		return false
	}
	if is.Typeflag == tar.TypeDir && d.passing[at] {
		is.ModTime, was.ModTime = time.Time{}, time.Time{}
	}
	return reflect.DeepEqual(is, was)
}

// put says whether croft has put a generated file there.
func (d *differ) put(at string) bool {
	if d.was == "" {
		return d.generated[at]
	}
	_, err := os.Lstat(filepath.Join(d.was, at))
	return d.generated[at] && err == nil
}

// untouched says whether a generated file in a whole copy is as it was put there.
func (d *differ) untouched(handle *os.File, at string) bool {
	var st unix.Stat_t
	if d.was == "" || unix.Fstat(int(handle.Fd()), &st) != nil {
		return false
	}
	last, err := readGenerated(filepath.Join(d.was, at))
	if err == nil && last.Link != "" && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		to, err := readlinkat(handle, "")
		return err == nil && to == last.Link
	}
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != int64(len(last.Text)) {
		return false
	}
	f, err := reopen(handle, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	now := make([]byte, len(last.Text))
	n, err := f.ReadAt(now, 0)
	return err == nil && n == len(last.Text) && string(now) == last.Text
}

// underneath finds name in the directories of layers that lie over each other, top first: what it is, nil when it is
// not there, and for a directory the directories that make it up.
func underneath(lowers []string, name string) (found *tar.Header, below []string, err error) {
	for _, lower := range lowers {
		dir, err := os.Open(lower)
		if err != nil {
			return nil, nil, err
		}
		h, handle, err := describe(dir, name, owners{})
		gone := err == nil && handle == nil && exists(dir, name) // a whiteout
		dir.Close()
		handle.Close() // nil is fine
		switch {
		case err != nil:
			return nil, nil, err
		case gone, handle != nil && h.Typeflag != tar.TypeDir && found != nil:
			return found, cutAtOpaque(below), nil
		case handle == nil:
			continue
		case found == nil:
			found = h
		}
		if h.Typeflag != tar.TypeDir {
			return found, nil, nil
		}
		below = append(below, filepath.Join(lower, name))
	}
	return found, cutAtOpaque(below), nil
}

func exists(dir *os.File, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// cutAtOpaque leaves out the directories that an opaque one above them hides.
func cutAtOpaque(dirs []string) []string {
	if i := slices.IndexFunc(dirs, opaque); i >= 0 {
		return dirs[:i+1]
	}
	return dirs
}

// describe gives all that can be seen of name in dir, with owners changed, and a handle on it; both nil when there is
// nothing, or a whiteout.
func describe(dir *os.File, name string, o owners) (*tar.Header, *os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), name)
	h, err := describeHandle(f, o)
	if h == nil {
		f.Close()
		f = nil
	}
	return h, f, err
}

func describeHandle(f *os.File, o owners) (*tar.Header, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if isWhiteout(&st) {
		return nil, nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		st.Mode = st.Mode&modeBits | unix.S_IFIFO // no tar has sockets; here it only matters that it is no file
	}
	st.Uid, st.Gid = o.id(st.Uid), o.id(st.Gid)
	h, err := header("", &st)
	if err != nil {
		return nil, err
	}
	if h.Typeflag == tar.TypeSymlink {
		if h.Linkname, err = readlinkat(f, ""); err != nil {
			return nil, err
		}
	}
	at := procPath(f)
	_, err = readXattrs(h,
		func(b []byte) (int, error) { return unix.Listxattr(at, b) },
		func(x string, b []byte) (int, error) { return unix.Getxattr(at, x, b) })
	if err != nil {
		return nil, err
	}
	o.records(h)
	return h, nil
}
