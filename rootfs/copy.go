package rootfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyLayer lays one layer over what dst holds already: whiteouts and opaque directories take away, all else
// replaces. Nobody else writes to either tree meanwhile, and a walk follows no link, so names are safe here.
func copyLayer(layer, dst string, change owners) error {
	c := copier{change: change, links: map[uint64]string{}}
	err := filepath.WalkDir(layer, func(src string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(layer, src)
		if err != nil {
			return err
		}
		return c.entry(src, filepath.Join(dst, rel))
	})
	if err != nil {
		return err
	}
	for i := len(c.dirs) - 1; i >= 0; i-- { // times of directories last: filling them changes them
		if err := c.dirs[i].set(); err != nil {
			return err
		}
	}
	return nil
}

type copier struct {
	change owners
	links  map[uint64]string // by inode: the first name copied
	dirs   []copiedTimes
	pump   pump
}

type copiedTimes struct {
	path string
	stat *syscall.Stat_t
}

func (t copiedTimes) set() error {
	ts := []unix.Timespec{{Sec: t.stat.Atim.Sec, Nsec: t.stat.Atim.Nsec}, {Sec: t.stat.Mtim.Sec, Nsec: t.stat.Mtim.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, t.path, ts, unix.AT_SYMLINK_NOFOLLOW)
}

func (c *copier) entry(src, dst string) error {
	info, err := os.Lstat(src)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if whiteout(info) {
		return os.RemoveAll(dst)
	}
	if err := c.clear(src, dst, info); err != nil {
		return err
	}
	if first, ok := c.links[st.Ino]; ok && !info.IsDir() {
		return os.Link(first, dst)
	}
	if err := c.make(src, dst, info, st); err != nil {
		return err
	}
	if st.Nlink > 1 && !info.IsDir() {
		c.links[st.Ino] = dst
	}
	return c.attributes(src, dst, info, st)
}

// clear makes way for an entry: only a directory over a directory keeps what is there, and not when the upper
// one is opaque.
func (c *copier) clear(src, dst string, info fs.FileInfo) error {
	old, err := os.Lstat(dst)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() && old.IsDir() && !opaque(src) {
		return nil
	}
	return os.RemoveAll(dst)
}

func opaque(dir string) bool {
	var v [1]byte
	n, err := unix.Lgetxattr(dir, opaqueXattr(), v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

func (c *copier) make(src, dst string, info fs.FileInfo, st *syscall.Stat_t) error {
	switch mode := info.Mode(); {
	case mode.IsDir():
		if err := os.Mkdir(dst, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case mode.IsRegular():
		return c.file(src, dst, st.Size)
	case mode&fs.ModeSymlink != 0:
		to, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(to, dst)
	}
	if err := unix.Mknod(dst, st.Mode, int(st.Rdev)); err != nil {
		return &os.PathError{Op: "mknod", Path: dst, Err: err}
	}
	return nil
}

// file shares the blocks where the filesystem can, and copies no holes.
func (c *copier) file(src, dst string, size int64) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		if err := c.pump.extents(out, in, size, func(int) error { return nil }); err != nil {
			return &os.PathError{Op: "copy", Path: src, Err: err}
		}
	}
	return out.Close()
}

// attributes come owner first: a change of owner clears setuid bits and file capabilities.
func (c *copier) attributes(src, dst string, info fs.FileInfo, st *syscall.Stat_t) error {
	if err := os.Lchown(dst, int(c.change.id(st.Uid)), int(c.change.id(st.Gid))); err != nil {
		return err
	}
	if err := copyXattrs(src, dst, c.change); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		if err := unix.Chmod(dst, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: dst, Err: err}
		}
	}
	if info.IsDir() {
		c.dirs = append(c.dirs, copiedTimes{dst, st})
		return nil
	}
	return copiedTimes{dst, st}.set()
}

func copyXattrs(src, dst string, change owners) error {
	size, err := unix.Llistxattr(src, nil)
	if err != nil || size == 0 {
		return nil // a filesystem without them has none to copy
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(src, names); err != nil {
		return &os.PathError{Op: "listxattr", Path: src, Err: err}
	}
	for _, name := range bytes.Split(bytes.TrimSuffix(names[:size], []byte{0}), []byte{0}) {
		if overlayXattr(string(name)) {
			continue // it speaks of layers, and the copy has none
		}
		value := make([]byte, 1<<16) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(src, string(name), value)
		if err != nil {
			return &os.PathError{Op: "getxattr " + string(name), Path: src, Err: err}
		}
		if err := unix.Lsetxattr(dst, string(name), change.attribute(string(name), value[:n]), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return &os.PathError{Op: "setxattr " + string(name), Path: dst, Err: err}
		}
	}
	return nil
}

// overwrite puts the generated files of guest into the copy dst, but for those that the machine has changed
// since; was holds what was put there last. The machine owned dst, so every name is resolved inside it.
func overwrite(guest, dst, was string) error {
	root, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	err = filepath.WalkDir(guest, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(guest, path)
		if err != nil {
			return err
		}
		return overwriteOne(root, rel, path, filepath.Join(was, rel))
	})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(was); err != nil {
		return err
	}
	if err := os.CopyFS(was, os.DirFS(guest)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // nothing was generated
}

func overwriteOne(root *os.Root, name, from, was string) error {
	now, err := readGenerated(from)
	if err != nil {
		return err
	}
	last, err := readGenerated(was)
	if err == nil && !unchanged(root, name, last) {
		return nil // the machine has its own by now
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if now.Link != "" {
		return root.Symlink(now.Link, name)
	}
	return root.WriteFile(name, []byte(now.Text), now.mode())
}

// readGenerated reads a file as WriteGuest made it.
func readGenerated(path string) (File, error) {
	to, err := os.Readlink(path)
	if err == nil {
		return File{Link: to}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	text, err := os.ReadFile(path)
	return File{Text: string(text), Secret: info.Mode()&0o077 == 0}, err
}

// unchanged says whether name still is what was put there last. The machine may have made anything of it, a
// pipe that nobody writes to or a file larger than all memory: it is not opened before it looks right.
func unchanged(root *os.Root, name string, last File) bool {
	if last.Link != "" {
		to, err := root.Readlink(name)
		return err == nil && to == last.Link
	}
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(last.Text)) {
		return false
	}
	now, err := root.ReadFile(name)
	return err == nil && string(now) == last.Text
}
