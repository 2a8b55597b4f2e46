package rootfs

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"croft/state"
)

// writer is the sink that is a directory of a tree. Whose tree it is may move and replace things all the while, so
// it goes by handles, one name at a time, and follows no link below its top. A file appears whole under its name.
type writer struct {
	ctx   context.Context
	tree  *Tree
	how   Copying
	path  []level // from the top to where the last entry went
	pump  pump
	bytes int64
}

// level is an open directory on the way down.
type level struct {
	name string // from the top
	dir  *os.File
	made *tar.Header // what to make of it at the end, since filling it changes its time; nil: it was there before
}

func newWriter(ctx context.Context, t *Tree, top *os.File, how Copying) *writer {
	return &writer{ctx: ctx, tree: t, how: how, path: []level{{name: ".", dir: top}}}
}

func (w *writer) end(failed error) error {
	all := []error{failed}
	for len(w.path) > 0 {
		all = append(all, w.leave())
	}
	return errors.Join(all...)
}

func (w *writer) put(h *tar.Header, content io.Reader) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	name := path.Clean(h.Name)
	if name == "." {
		return nil // a directory that is there keeps what it has
	}
	err := w.entry(name, h, content)
	if errors.Is(err, errShrank) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err // it is the source's
	}
	return told(w.label(name), err)
}

func (w *writer) label(name string) string {
	return w.tree.label(path.Join(w.path[0].dir.Name(), name))
}

func (w *writer) entry(name string, h *tar.Header, content io.Reader) error {
	if err := w.settle(h); err != nil {
		return err
	}
	at, err := w.enter(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	if regular(h) {
		return w.file(at, base, h, content)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return w.mkdir(at, base, name, h)
	case tar.TypeLink:
		return w.link(at, base, h)
	case tar.TypeSymlink:
		return w.special(at, base, h, func(name string) error { return unix.Symlinkat(h.Linkname, int(at.Fd()), name) })
	case tar.TypeFifo:
		return w.special(at, base, h, func(name string) error { return unix.Mkfifoat(int(at.Fd()), name, 0o600) })
	case tar.TypeChar, tar.TypeBlock:
		return w.device(at, base, h)
	}
	return fmt.Errorf("tar entry type %q %w", h.Typeflag, state.ErrUnsupported)
}

// settle turns owner, mode and attributes of a header into those of the copy, owners in the host's numbers.
func (w *writer) settle(h *tar.Header) error {
	portable(h)
	inMachine := w.tree.root != nil
	if !w.how.Archive {
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if inMachine {
			h.Uid, h.Gid = int(w.tree.ids.Base), int(w.tree.ids.Base)
		}
		h.Mode &= 0o1777
		delete(h.PAXRecords, xattrRecord+capability)
		return nil
	}
	if h.Typeflag == tar.TypeLink {
		return nil
	}
	if err := checkOwner(h); err != nil || !inMachine {
		return err
	}
	if size := int(w.tree.ids.Size); h.Uid >= size || h.Gid >= size {
		return refused("owner %d:%d: a machine has ids up to %d", h.Uid, h.Gid, size-1)
	}
	h.Uid, h.Gid = h.Uid+int(w.tree.ids.Base), h.Gid+int(w.tree.ids.Base)
	if value, ok := h.PAXRecords[xattrRecord+capability]; ok {
		rooted := owners{to: int(w.tree.ids.Base), size: w.tree.ids.Size}.capability([]byte(value))
		h.PAXRecords[xattrRecord+capability] = string(rooted)
	}
	return nil
}

// as does what makes a file as root of the machine: the host's own root has no number there.
func (w *writer) as(do func() error) error {
	if w.tree.root == nil {
		return do()
	}
	return asOwner(int(w.tree.ids.Base), do)
}

// enter opens the directory that an entry goes into; an archive need not have brought it.
func (w *writer) enter(dir string) (*os.File, error) {
	for !below(dir, w.path[len(w.path)-1].name) {
		if err := w.leave(); err != nil {
			return nil, err
		}
	}
	for {
		at := w.path[len(w.path)-1]
		if at.name == dir {
			return at.dir, nil
		}
		rest := strings.TrimPrefix(dir, at.name+"/")
		if at.name == "." {
			rest = dir
		}
		base, _, _ := strings.Cut(rest, "/")
		h := &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}
		if err := w.settle(h); err != nil {
			return nil, err
		}
		if err := w.down(at.dir, base, path.Join(at.name, base), h, true); err != nil {
			return nil, err
		}
	}
}

func below(dir, top string) bool {
	return top == "." || dir == top || strings.HasPrefix(dir, top+"/")
}

// leave closes the last directory and gives it, when it is new, what its header says.
func (w *writer) leave() error {
	at := w.path[len(w.path)-1]
	w.path = w.path[:len(w.path)-1]
	defer at.dir.Close()
	if at.made == nil {
		return nil
	}
	return finish(at.dir, at.made)
}

// finish gives an open file its owner, attributes, mode and time.
func finish(f *os.File, h *tar.Header) error {
	if err := dress(int(f.Fd()), h); err != nil {
		return err
	}
	if h.ModTime.IsZero() {
		return nil // a directory that nobody described
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(int(f.Fd()), "", times(h), unix.AT_EMPTY_PATH))
}

func (w *writer) mkdir(at *os.File, base, name string, h *tar.Header) error {
	return w.down(at, base, name, h, false)
}

// down opens the directory base of at as the next level, and makes it where it is missing. Until it is left nobody
// else may look into a new one.
func (w *writer) down(at *os.File, base, name string, h *tar.Header, implied bool) error {
	err := w.as(func() error { return unix.Mkdirat(int(at.Fd()), base, 0o700) })
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC}
	switch err {
	case nil: // what the guest has mounted there since would get the owner and mode of what is new
		how.Resolve = unix.RESOLVE_NO_XDEV
	case unix.EEXIST:
		h = nil
	default:
		return os.NewSyscallError("mkdirat", err)
	}
	fd, err := unix.Openat2(int(at.Fd()), base, &how)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		if implied {
			return refused("%s is no directory, and no link is followed there", printable(name))
		}
		return refused("a directory cannot replace a file or a link")
	}
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	dir := os.NewFile(uintptr(fd), base)
	if err := files(dir); err != nil {
		dir.Close()
		return err
	}
	w.path = append(w.path, level{name, dir, h})
	return nil
}

// file writes aside and gives the name to what is complete.
func (w *writer) file(at *os.File, base string, h *tar.Header, content io.Reader) error {
	f, aside, err := w.blank(at)
	if err != nil {
		return err
	}
	defer f.Close()
	if err = w.content(f, h.Size, content); err == nil {
		err = finish(f, h)
	}
	switch {
	case err != nil:
	case aside == "":
		err = w.place(at, base, func(name string) error {
			return unix.Linkat(unix.AT_FDCWD, procPath(f), int(at.Fd()), name, unix.AT_SYMLINK_FOLLOW)
		})
	default:
		err = w.rename(at, aside, base)
	}
	if err != nil && aside != "" {
		unix.Unlinkat(int(at.Fd()), aside, 0)
	}
	return err
}

// blank makes a file without a name in at: killed here, nothing is left of it. Where the filesystem cannot do that
// it has a name of ours.
func (w *writer) blank(at *os.File) (f *os.File, aside string, err error) {
	fd := -1
	err = w.as(func() (err error) {
		fd, err = unix.Openat(int(at.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err == unix.EOPNOTSUPP || err == unix.EISDIR || err == unix.EINVAL {
			aside = asideName()
			flags := unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
			fd, err = unix.Openat(int(at.Fd()), aside, flags, 0o600)
		}
		return err
	})
	if err != nil {
		return nil, "", os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(fd), "new file"), aside, nil
}

func asideName() string { return ".croft-cp-" + rand.Text()[:10] }

// place lets create make base, or, where a file or a link has that name, another one that then replaces it.
func (w *writer) place(at *os.File, base string, create func(name string) error) error {
	err := w.as(func() error { return create(base) })
	if err != unix.EEXIST {
		return os.NewSyscallError("create", err)
	}
	aside := asideName()
	if err := w.as(func() error { return create(aside) }); err != nil {
		return os.NewSyscallError("create", err)
	}
	err = w.rename(at, aside, base)
	unix.Unlinkat(int(at.Fd()), aside, 0) // it is still there when both names were one file, or after an error
	return err
}

// rename gives the file aside the name base, which may be a file's or a link's by now.
func (w *writer) rename(at *os.File, aside, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(at.Fd()), aside, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	if err := replaceable(at, base, st.Mode&unix.S_IFMT); err != nil {
		return err
	}
	err := w.as(func() error { return unix.Renameat(int(at.Fd()), aside, int(at.Fd()), base) })
	return os.NewSyscallError("renameat", err)
}

// replaceable refuses to put a file of the type by in the place of what is no file. What is mounted in a machine must be looked for: of a mount in
// another namespace than its caller's the kernel makes nothing, renames over it, and takes it off.
func replaceable(at *os.File, base string, by uint32) error {
	fd, err := unix.Openat2(int(at.Fd()), base, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV,
	})
	switch {
	case err == unix.EXDEV:
		return &sentence{"something is mounted there", state.ErrBusy}
	case err == unix.ENOENT:
		return nil // again
	case err != nil:
		return os.NewSyscallError("openat2", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK, by:
		return nil
	case unix.S_IFDIR:
		return refused("a file cannot replace a directory")
	}
	return refused("a file cannot replace a device, a pipe or a socket")
}

// link makes one more name of a file that this copy has brought. What the name leads to now is the guest's choice,
// within its own files.
func (w *writer) link(at *os.File, base string, h *tar.Header) error {
	dir, target := path.Split(path.Clean(h.Linkname))
	from, err := unix.Openat2(int(w.path[0].dir.Fd()), path.Clean(dir), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", printable(h.Linkname), err)
	}
	defer unix.Close(from)
	return w.place(at, base, func(name string) error { return unix.Linkat(from, target, int(at.Fd()), name, 0) })
}

func (w *writer) device(at *os.File, base string, h *tar.Header) error {
	if !w.how.Archive {
		w.how.Note(w.label(h.Name) + ": is a device, which only --archive copies: left out")
		return nil
	}
	mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	if dev == 0 { // to overlayfs, and to nobody else, it says that a file is gone
		return fmt.Errorf("character device 0:0 %w", state.ErrInvalid)
	}
	return w.special(at, base, h, func(name string) error { return unix.Mknodat(int(at.Fd()), name, mode|0o600, int(dev)) })
}

// special makes what is not opened to be changed. What has the name a moment later may be the guest's choice: it is
// changed by a handle, which follows no link and no mount, of a file of its cgroup, say, whose owner we could change.
func (w *writer) special(at *os.File, base string, h *tar.Header, create func(name string) error) error {
	if err := w.place(at, base, create); err != nil {
		return err
	}
	fd, err := unix.Openat2(int(at.Fd()), base, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return os.NewSyscallError("openat2", err)
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if err := unix.Fchownat(fd, "", h.Uid, h.Gid, unix.AT_EMPTY_PATH); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Chmod(procPath(f), uint32(h.Mode&modeBits)); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, "", times(h), unix.AT_EMPTY_PATH))
}

// content fills f with size bytes, as holes where the source has holes or, in an archive, long runs of zeros.
func (w *writer) content(f *os.File, size int64, content io.Reader) error {
	if src, ok := content.(*os.File); ok {
		return w.pump.extents(f, src, size, w.wrote)
	}
	var off int64
	for off < size {
		p := w.pump.buffer()[:min(piece, size-off)]
		if _, err := io.ReadFull(content, p); err != nil {
			return err
		}
		if _, err := writeSparse(int(f.Fd()), p, off); err != nil {
			return err
		}
		off += int64(len(p))
		if err := w.wrote(len(p)); err != nil {
			return err
		}
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(int(f.Fd()), size))
}

func (w *writer) wrote(n int) error {
	w.bytes += int64(n)
	w.how.Progress(w.bytes)
	return w.ctx.Err()
}

// A file's capabilities name the root that they count for (capabilities(7), "Namespaced file capabilities"): the
// root of the user namespace, which is another id on each side. In a header they are those of no particular root.
const capability = "security.capability"

// plainCapability takes the root's id off: version 2 of what owners.capability makes version 3.
func plainCapability(value string) string {
	const revisions, revision2, size2, size3 = 0xff000000, 0x02000000, 20, 24 // linux/capability.h
	if len(value) != size3 {
		return value
	}
	magic := binary.LittleEndian.Uint32([]byte(value))&^uint32(revisions) | revision2
	return string(binary.LittleEndian.AppendUint32(nil, magic)) + value[4:size2]
}
