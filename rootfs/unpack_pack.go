package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"croft/state"
)

// Pack writes the directory tree dir to w as a tar that Unpack turns into the same tree: the same tree gives the same
// bytes. Names are sorted, owners are numbers, hard links are kept within the tree, overlayfs whiteouts are written as
// OCI ones. Sockets are left out, and so is what is mounted below dir; nothing outside dir is read.
func Pack(ctx context.Context, dir string, w io.Writer) error {
	return (&packer{ctx: ctx}).pack(dir, w)
}

func (p *packer) pack(dir string, w io.Writer) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("pack %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(root), dir)
	defer f.Close()
	p.tar, p.seen = tar.NewWriter(w), map[inode]string{}
	if err := p.dir(f, "."); err != nil {
		return err
	}
	if err := p.tar.Close(); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

type packer struct {
	ctx  context.Context
	tar  *tar.Writer
	seen map[inode]string // the first name of a file with several

	owners owners                             // of the files, into those of the archive
	skip   func(f *os.File, path string) bool // regular files that stay out, by their path in the tree; nil: none
}

// dir packs the open directory called name, and all below it.
func (p *packer) dir(dir *os.File, name string) error {
	if err := p.openEntry(dir, name); err != nil {
		return packError(name, err)
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return packError(name, err)
	}
	slices.Sort(names)
	for _, base := range names {
		if err := p.entry(dir, base, path.Join(name, base)); err != nil {
			return err
		}
	}
	return nil
}

// entry packs base of the open directory dir.
func (p *packer) entry(dir *os.File, base, name string) error {
	if err := p.ctx.Err(); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return packError(name, err)
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return packError(name, fmt.Errorf("the name stands for a removed file and %w", state.ErrInvalid))
	}
	if first, ok := p.firstName(&st, name); ok {
		return packError(name, p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: first, Format: tar.FormatPAX}))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.open(dir, base, name, unix.O_DIRECTORY, p.dir)
	case unix.S_IFREG:
		return p.open(dir, base, name, 0, p.file)
	case unix.S_IFSOCK:
		return nil // means nothing without its listener
	}
	return packError(name, p.special(dir, base, name, &st))
}

// firstName tells under which name a file with several links is in the archive already.
func (p *packer) firstName(st *unix.Stat_t, name string) (string, bool) {
	if st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR || isWhiteout(st) {
		return "", false
	}
	key := inode{uint64(st.Dev), st.Ino}
	first, ok := p.seen[key]
	if !ok {
		p.seen[key] = name
	}
	return first, ok
}

// open opens base for pack. What is mounted there (EXDEV) belongs to another tree: a directory stays as an empty
// place to mount on, a file is left out.
func (p *packer) open(dir *os.File, base, name string, flags uint64, pack func(*os.File, string) error) error {
	fd, err := unix.Openat2(int(dir.Fd()), base, &unix.OpenHow{
		// O_NONBLOCK: should a pipe have taken the file's place, there is no writer to wait for.
		Flags:   unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err == unix.EXDEV && flags&unix.O_DIRECTORY != 0 {
		return packError(name, p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}))
	}
	if err == unix.EXDEV {
		return nil
	}
	if err != nil {
		return packError(name, os.NewSyscallError("openat2", err))
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return pack(f, name)
}

func (p *packer) file(f *os.File, name string) error {
	if p.skip != nil && p.skip(f, path.Join("/", name)) {
		return nil
	}
	if err := p.openEntry(f, name); err != nil {
		return packError(name, err)
	}
	return nil
}

// openEntry writes the header of an open directory or file, and the file's content.
func (p *packer) openEntry(f *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	h, err := header(name, &st)
	if err != nil {
		return err
	}
	opaque, err := readXattrs(h,
		func(b []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), b) },
		func(x string, b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), x, b) })
	if err != nil {
		return err
	}
	p.owners.header(h)
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	if opaque {
		return p.tar.WriteHeader(whiteoutHeader(path.Join(name, whiteoutOpaque)))
	}
	if h.Typeflag == tar.TypeReg {
		return p.content(f, h.Size)
	}
	return nil
}

// content copies the size bytes that the header promised: a file that grows is cut there, one that shrinks is an error.
func (p *packer) content(f *os.File, size int64) error {
	for size > 0 {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(p.tar, f, min(size, 8<<20))
		if err == io.EOF {
			return fmt.Errorf("changed while it was read: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// special packs symlinks, devices and pipes, which are never opened: to open a device is to use it.
func (p *packer) special(dir *os.File, base, name string, st *unix.Stat_t) error {
	if isWhiteout(st) {
		return p.tar.WriteHeader(whiteoutHeader(path.Join(path.Dir(name), whiteoutPrefix+base)))
	}
	h, err := header(name, st)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeSymlink {
		if h.Linkname, err = readlinkat(dir, base); err != nil {
			return err
		}
	}
	at := procPath(dir) + "/" + base
	_, err = readXattrs(h,
		func(b []byte) (int, error) { return unix.Llistxattr(at, b) },
		func(x string, b []byte) (int, error) { return unix.Lgetxattr(at, x, b) })
	if err != nil {
		return err
	}
	p.owners.header(h)
	return p.tar.WriteHeader(h)
}

// header is the tar header of one file, with times to the nanosecond and without names of users.
func header(name string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Uid: int(st.Uid), Gid: int(st.Gid), Mode: int64(st.Mode & modeBits),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = map[uint32]byte{unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock}[st.Mode&unix.S_IFMT]
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	default:
		return nil, fmt.Errorf("file type %#o %w", st.Mode&unix.S_IFMT, state.ErrUnsupported)
	}
	return h, nil
}

func whiteoutHeader(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// readXattrs puts a file's extended attributes into its header; overlayfs's own are left out but for the answer
// whether the directory is opaque.
func readXattrs(h *tar.Header, list func([]byte) (int, error), get func(string, []byte) (int, error)) (opaque bool, err error) {
	names, err := sized(list)
	if errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("listxattr", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if name == "" || overlayXattr(name) && name != opaqueXattr() {
			continue
		}
		value, err := sized(func(b []byte) (int, error) { return get(name, b) })
		if err == unix.ENODATA { // a machine has taken it off meanwhile
			continue
		}
		if err != nil {
			return false, os.NewSyscallError("getxattr "+name, err)
		}
		if name == opaqueXattr() {
			opaque = string(value) == "y"
			continue
		}
		h.PAXRecords[xattrRecord+name] = string(value)
	}
	return opaque, nil
}

// sized calls a system call that tells with an empty buffer how much there is.
func sized(call func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := call(nil)
		if n == 0 || err != nil {
			return nil, err
		}
		b := make([]byte, n)
		n, err = call(b)
		if err == unix.ERANGE {
			continue // grew in between
		}
		return b[:max(n, 0)], err
	}
}

func readlinkat(dir *os.File, base string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), base, b)
	return string(b[:max(n, 0)]), os.NewSyscallError("readlinkat", err)
}

// packError names the entry; nil stays nil.
func packError(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("pack %s: %w", printable(name), err)
}
