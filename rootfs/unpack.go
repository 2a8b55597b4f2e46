package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"croft/state"
)

// Limits bound what an archive may unpack to; 0 is no limit.
type Limits struct{ Bytes, Entries int64 }

// Usage is what an archive unpacked to: bytes of its regular files (holes counted), and its entries.
type Usage struct{ Bytes, Entries int64 }

// Unpack extracts the uncompressed tar stream r into the existing directory dir, as a layer that overlayfs can take
// as a lower: owners exactly as the archive numbers them, OCI whiteouts as overlayfs whiteouts. Nothing is ever
// created, changed or linked outside dir, whatever the archive says. Nothing is synced: one syncfs of the caller does
// for all files. On error dir holds what was unpacked so far.
//
// It reads up to the archive's end mark and leaves what follows in r to the caller. An archive that ends without the
// mark is truncated: tar has no other way to tell.
func Unpack(ctx context.Context, r io.Reader, dir string, limit Limits) (Usage, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Usage{}, fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	end := &lastBlock{r: r}
	u := &unpacker{ctx: ctx, root: root, tar: tar.NewReader(end), limit: limit, buf: make([]byte, 256<<10)}
	defer u.forget()
	if err := u.entries(end); err != nil {
		return u.used, err
	}
	return u.used, u.stampDirs()
}

// unpacker is one archive on its way into one directory.
type unpacker struct {
	ctx   context.Context
	root  *os.File // O_PATH
	tar   *tar.Reader
	limit Limits
	used  Usage
	buf   []byte

	// Archives list a directory's content together, so that one remembered parent saves nearly every path walk.
	at     *os.File
	atPath string

	stamps []stamp
}

// stamp is a directory time to set last: every entry made in the directory would change it again.
type stamp struct {
	name string
	time []unix.Timespec
}

func (u *unpacker) entries(end *lastBlock) error {
	for {
		if err := u.ctx.Err(); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		h, err := u.tar.Next()
		if err == io.EOF && end.zero() {
			return nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", plain(err))
		}
		if err := u.entry(h); err != nil {
			return fmt.Errorf("unpack %s: %w", printable(h.Name), plain(err))
		}
	}
}

func (u *unpacker) entry(h *tar.Header) error {
	if err := u.count(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == typeVolumeLabel {
		return nil // says something of the archive, not of a file
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	kind, err := whiteoutKind(name)
	if err != nil || kind == markIgnored {
		return err
	}
	dir, base := path.Split(name)
	at, err := u.parent(path.Clean(dir))
	if err != nil {
		return err
	}
	switch kind {
	case markOpaque:
		return setOpaque(at)
	case markWhiteout:
		return u.whiteout(at, strings.TrimPrefix(base, whiteoutPrefix))
	}
	return u.node(at, base, name, h)
}

// count enforces the limits before the entry costs anything.
func (u *unpacker) count(h *tar.Header) error {
	u.used.Entries++
	if regular(h) {
		u.used.Bytes += h.Size // what the header claims: a bomb is refused before it is written
	}
	if u.limit.Entries > 0 && u.used.Entries > u.limit.Entries {
		return fmt.Errorf("an archive of more than %d entries %w", u.limit.Entries, state.ErrInvalid)
	}
	if u.used.Bytes < 0 || u.limit.Bytes > 0 && u.used.Bytes > u.limit.Bytes {
		return fmt.Errorf("an archive of more than %d bytes of files %w", u.limit.Bytes, state.ErrInvalid)
	}
	return nil
}

// node makes the entry called base in at; name is the same entry seen from the root.
func (u *unpacker) node(at *os.File, base, name string, h *tar.Header) error {
	if h.Typeflag != tar.TypeLink {
		if err := checkOwner(h); err != nil {
			return err
		}
	}
	if name == "." && h.Typeflag != tar.TypeDir {
		return fmt.Errorf("a root that is not a directory %w", state.ErrInvalid)
	}
	if regular(h) {
		return u.file(at, base, h)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(at, base, name, h)
	case tar.TypeSymlink:
		return u.special(at, base, h, func() error { return unix.Symlinkat(h.Linkname, int(at.Fd()), base) })
	case tar.TypeLink:
		return u.link(at, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.device(at, base, h)
	}
	return fmt.Errorf("tar entry type %q %w", h.Typeflag, state.ErrUnsupported)
}

func regular(h *tar.Header) bool {
	return h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont || h.Typeflag == tar.TypeGNUSparse
}

func (u *unpacker) file(at *os.File, base string, h *tar.Header) error {
	fd := -1
	err := u.make(at, base, "openat", func() (err error) {
		// O_EXCL: a name that exists, as a symlink above all, is never opened.
		fd, err = unix.Openat(int(at.Fd()), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = u.content(fd, h.Size)
	if err == nil {
		err = dress(fd, h)
	}
	if err == nil {
		err = utimes(at, base, h)
	}
	if cerr := unix.Close(fd); err == nil && cerr != nil {
		err = os.NewSyscallError("close", cerr)
	}
	return err
}

// content copies the current entry's size bytes to fd, leaving long runs of zeros as holes.
func (u *unpacker) content(fd int, size int64) error {
	var off, written int64
	for off < size {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		p := u.buf[:min(int64(len(u.buf)), size-off)]
		if _, err := io.ReadFull(u.tar, p); err != nil {
			return err
		}
		end, err := writeSparse(fd, p, off)
		if err != nil {
			return err
		}
		off, written = off+int64(len(p)), max(written, end)
	}
	if written < size {
		return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, size))
	}
	return nil
}

func (u *unpacker) dir(at *os.File, base, name string, h *tar.Header) error {
	opaque := false
	err := unix.Mkdirat(int(at.Fd()), base, 0o700)
	if err == unix.EEXIST {
		opaque, err = u.mkdirOver(at, base)
	}
	if err != nil {
		return os.NewSyscallError("mkdirat", err)
	}
	fd, err := unix.Openat(int(at.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	if opaque {
		if err := unix.Fsetxattr(fd, opaqueXattr(), []byte("y"), 0); err != nil {
			return os.NewSyscallError("fsetxattr "+opaqueXattr(), err)
		}
	}
	u.stamps = append(u.stamps, stamp{name, times(h)})
	return dress(fd, h)
}

// mkdirOver makes a directory where something is: a directory stays and anything else gives way. Where the archive
// had removed the name (a whiteout), the new directory must not let the lower one shine through: it is opaque.
func (u *unpacker) mkdirOver(at *os.File, base string) (opaque bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(at.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false, nil
	}
	if err := u.remove(at, base); err != nil {
		return false, err
	}
	return isWhiteout(&st), unix.Mkdirat(int(at.Fd()), base, 0o700)
}

// link makes a hard link to an entry that the archive has already brought.
func (u *unpacker) link(at *os.File, base string, h *tar.Header) error {
	target, err := inside(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", printable(h.Linkname), err)
	}
	dir, targetBase := path.Split(target)
	from, err := u.lookup(path.Clean(dir))
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", printable(h.Linkname), err)
	}
	defer from.Close()
	same, err := sameFile(from, targetBase, at, base)
	if err != nil || same {
		return err
	}
	return u.make(at, base, "linkat to "+printable(h.Linkname), func() error {
		// No AT_SYMLINK_FOLLOW: a link to a symlink is a link to the symlink itself.
		return unix.Linkat(int(from.Fd()), targetBase, int(at.Fd()), base, 0)
	})
}

// sameFile tells whether both names are one file already; the second need not exist, the first must.
func sameFile(from *os.File, target string, at *os.File, base string) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), target, &a, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, fmt.Errorf("hard link to %s: %w", printable(target), err)
	}
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false, fmt.Errorf("hard link to the directory %s %w", printable(target), state.ErrInvalid)
	}
	err := unix.Fstatat(int(at.Fd()), base, &b, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && a.Ino == b.Ino && a.Dev == b.Dev, nil
}

func (u *unpacker) device(at *os.File, base string, h *tar.Header) error {
	mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	dev := 0
	if h.Typeflag != tar.TypeFifo {
		dev = int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	}
	// overlayfs takes a character device 0:0 for "removed here", and nothing else uses the number. Somebody has
	// packed the inside of an overlay; to skip the entry would bring back a file that was deleted.
	if h.Typeflag == tar.TypeChar && dev == 0 {
		return fmt.Errorf("character device 0:0 (a bare overlayfs whiteout) %w", state.ErrInvalid)
	}
	err := u.special(at, base, h, func() error { return unix.Mknodat(int(at.Fd()), base, mode|0o600, dev) })
	// In a user namespace the kernel makes no devices. The guest's /dev is never the image's, so that none is missed.
	if errors.Is(err, unix.EPERM) && h.Typeflag != tar.TypeFifo {
		return nil
	}
	return err
}

// special makes what cannot be opened to be changed (symlinks, devices, pipes) and dresses it by name.
func (u *unpacker) special(at *os.File, base string, h *tar.Header, create func() error) error {
	call := "mknodat"
	if h.Typeflag == tar.TypeSymlink {
		call = "symlinkat"
	}
	if err := u.make(at, base, call, create); err != nil {
		return err
	}
	if err := dressAt(at, base, h); err != nil {
		return err
	}
	return utimes(at, base, h)
}

// make calls create, and once more with the name cleared when something had it: later entries replace earlier ones.
func (u *unpacker) make(at *os.File, base, call string, create func() error) error {
	err := create()
	if err == unix.EEXIST {
		if err := u.remove(at, base); err != nil {
			return err
		}
		err = create()
	}
	return os.NewSyscallError(call, err)
}

// remove takes base out of at, with all below it. The remembered parent may have been below it, or behind it when it
// was a symlink.
func (u *unpacker) remove(at *os.File, base string) error {
	u.atPath = forgotten
	err := unix.Unlinkat(int(at.Fd()), base, 0)
	if err != unix.EISDIR {
		return os.NewSyscallError("unlinkat", err)
	}
	dir, err := os.OpenRoot(procPath(at))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.RemoveAll(base)
}

// forgotten is no cleaned relative path, so that it equals none.
const forgotten = "/"

// parent opens the directory that an entry goes into, and makes it when the archive did not bring it. The handle is
// the unpacker's and good until the next call.
func (u *unpacker) parent(dir string) (*os.File, error) {
	if u.at != nil && u.atPath == dir {
		return u.at, nil
	}
	u.forget()
	f, err := u.lookupOrMake(dir)
	if err != nil {
		return nil, err
	}
	u.at, u.atPath = f, dir
	return f, nil
}

func (u *unpacker) forget() {
	if u.at != nil {
		u.at.Close()
	}
	u.at, u.atPath = nil, forgotten
}

// lookup opens dir (O_PATH) the way a process chrooted into the root would: symlinks are followed, absolute ones from
// the root, and `..` ends there. Debian's /bin -> usr/bin needs them followed.
func (u *unpacker) lookup(dir string) (*os.File, error) {
	return pathrs.OpenatInRoot(u.root, dir)
}

func (u *unpacker) lookupOrMake(dir string) (*os.File, error) {
	f, err := u.lookup(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	up, base := path.Split(dir)
	at, err := u.lookupOrMake(path.Clean(up))
	if err != nil {
		return nil, err
	}
	defer at.Close()
	// EEXIST here is a symlink to nowhere: it stays an error, for following it would be a guess.
	if err := unix.Mkdirat(int(at.Fd()), base, 0o755); err != nil {
		return nil, fmt.Errorf("mkdirat(%s): %w", printable(dir), err)
	}
	// Not left to the umask: 0077 would close the guest's directory to its own users.
	if err := unix.Fchmodat(int(at.Fd()), base, 0o755, 0); err != nil {
		return nil, fmt.Errorf("fchmodat(%s): %w", printable(dir), err)
	}
	return u.lookup(dir)
}

func (u *unpacker) stampDirs() error {
	for _, s := range u.stamps {
		if err := u.stampDir(s); err != nil {
			return fmt.Errorf("unpack %s: %w", printable(s.name), err)
		}
	}
	return nil
}

// stampDir sets one directory time. What a later entry has removed or replaced has the time of that entry.
func (u *unpacker) stampDir(s stamp) error {
	dir, base := path.Split(s.name)
	at, err := u.lookup(path.Clean(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(at.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(int(at.Fd()), base, s.time, unix.AT_SYMLINK_NOFOLLOW))
}

// inside gives an archive's name as a path relative to the root. An absolute name is meant from the root; one that
// climbs out of it is refused.
func inside(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if name == "" {
		return "", fmt.Errorf("an empty name %w", state.ErrInvalid)
	}
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("a name that leaves the root directory %w", state.ErrInvalid)
	}
	return clean, nil
}

// printable keeps an archive's names from writing to the reader's terminal.
func printable(name string) string {
	if q := strconv.Quote(name); q != `"`+name+`"` {
		return q
	}
	return name
}

// typeVolumeLabel is GNU tar's --label.
const typeVolumeLabel = 'V'
