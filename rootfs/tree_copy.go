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
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"croft/state"
)

// Source is a file or directory to copy.
type Source struct {
	Tree    *Tree
	Path    string // a link at its end is followed; "DIR/." is what is in DIR
	Matched bool   // by a pattern: what cannot be copied is then copied or left out as it is below a directory
}

// Copying says how to copy.
type Copying struct {
	// Archive keeps owners (by the numbers of each side), set-id bits, file capabilities and devices. Without it files
	// belong to whoever copies: the machine's root inside, the caller outside.
	Archive  bool
	Note     func(text string) // takes what was left out, and why
	Progress func(bytes int64) // takes how many bytes of content are there
}

// sink takes the files of a copy in the order of a walk: a directory before what is in it. Names are relative. The
// content of a regular file has at least as many bytes as the header says, or the copy fails; of a tree's it is an
// *os.File. end gives the error that the copy failed with, or those of its completion.
type sink interface {
	put(h *tar.Header, content io.Reader) error
	end(failed error) error
}

// Copy copies sources into the tree to, at dst: into the directory dst, or to that name.
func Copy(ctx context.Context, sources []Source, to *Tree, dst string, how Copying) error {
	opened, err := openSources(sources)
	defer closeSources(opened)
	if err != nil {
		return err
	}
	top, is, err := to.openTarget(dst)
	if err != nil {
		return err
	}
	into := newWriter(ctx, to, top, how)
	if err := nameSources(opened, to.label(dst), dst, is); err != nil {
		return into.end(err)
	}
	w := &walk{ctx: ctx, how: how, seen: map[inode]string{}}
	if err := unix.Fstat(int(top.Fd()), &w.avoid); err != nil {
		return into.end(os.NewSyscallError("fstat", err))
	}
	return w.all(opened, into)
}

// CopyOut writes sources to w as a tar, which keeps all that there is to keep.
func CopyOut(ctx context.Context, sources []Source, w io.Writer, how Copying) error {
	opened, err := openSources(sources)
	defer closeSources(opened)
	if err != nil {
		return err
	}
	if err := nameSources(opened, "-", "-", directory); err != nil {
		return err
	}
	walk := &walk{ctx: ctx, how: how, seen: map[inode]string{}}
	return walk.all(opened, &archiver{ctx: ctx, tar: tar.NewWriter(outlet{w}), progress: how.Progress})
}

// CopyIn unpacks the uncompressed tar r into the directory dst of the tree to.
func CopyIn(ctx context.Context, r io.Reader, to *Tree, dst string, how Copying) error {
	top, is, err := to.openTarget(dst)
	if err != nil {
		return err
	}
	if is == absent {
		top.Close()
		return fmt.Errorf("%s: %w", to.label(dst), errNoDirectory)
	}
	if is != directory {
		top.Close()
		return refused("%s: an archive goes into a directory, and that is none", to.label(dst))
	}
	w := newWriter(ctx, to, top, how)
	return w.end(unpackInto(w, r))
}

func unpackInto(w *writer, r io.Reader) error {
	end := &lastBlock{r: r}
	archive := tar.NewReader(end)
	for began := false; ; began = true {
		h, err := archive.Next()
		if err == io.EOF && end.zero() {
			return nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if plain(err) != err && !began {
			err = refused("is no tar, or a compressed one")
		}
		if err != nil {
			return told("-", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == typeVolumeLabel {
			continue
		}
		name := h.Name
		if h.Name, err = inside(name); err == nil && h.Typeflag == tar.TypeLink {
			h.Linkname, err = inside(h.Linkname)
		}
		if err == nil {
			err = w.put(h, archive)
		}
		if err = told(printable(name), err); err != nil {
			return err
		}
	}
}

// source is one to be copied, open.
type source struct {
	Source
	handle *os.File // O_PATH
	dir    bool
	name   string // in the copy, relative to where it goes
}

// openSources opens all before anything is written: one that is missing loses nothing.
func openSources(sources []Source) (all []*source, err error) {
	for _, s := range sources {
		handle, err := s.Tree.open(s.Path, 0)
		if err != nil && s.Matched {
			handle, err = s.Tree.open(s.Path, unix.O_NOFOLLOW) // a link that leads nowhere is copied as one
		}
		if err != nil {
			return all, err
		}
		o := &source{Source: s, handle: handle}
		all = append(all, o)
		kind, err := kindOf(handle)
		if err == nil && kind == other {
			err = errSpecial
		}
		if err != nil && !(s.Matched && errors.Is(err, state.ErrUnsupported)) {
			return all, fmt.Errorf("%s: %w", s.Tree.label(s.Path), err)
		}
		o.dir = kind == directory
	}
	return all, nil
}

func closeSources(all []*source) {
	for _, s := range all {
		s.handle.Close()
	}
}

var errNoDirectory = &sentence{"no such directory", state.ErrNotExist}

var errSpecial = &sentence{"is neither a file nor a directory", state.ErrUnsupported}

// kind is what stands at a path.
type kind int

const (
	absent kind = iota
	regularFile
	directory
	other // a device, a pipe, a socket
)

func kindOf(f *os.File) (kind, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return absent, os.NewSyscallError("fstat", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return regularFile, files(f)
	case unix.S_IFDIR:
		return directory, files(f)
	}
	return other, nil
}

// openTarget finds what stands at dst, links followed, and opens the directory that the copy goes into: dst itself,
// or what dst would be in.
func (t *Tree) openTarget(dst string) (*os.File, kind, error) {
	is := absent
	at, err := t.open(dst, 0)
	switch {
	case err == nil:
		defer at.Close()
		if is, err = kindOf(at); err == nil && is == other {
			err = errSpecial
		}
		if err != nil {
			return nil, is, fmt.Errorf("%s: %w", t.label(dst), err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, absent, err
	}
	dir := dst
	if is != directory {
		if dir, _ = path.Split(strings.TrimRight(dst, "/")); dir == "" {
			dir = "."
		}
	}
	up, err := t.open(dir, unix.O_DIRECTORY)
	if err != nil {
		return nil, is, err
	}
	defer up.Close()
	if err := files(up); err != nil {
		return nil, is, fmt.Errorf("%s: %w", t.label(dir), err)
	}
	top, err := reopen(up, unix.O_DIRECTORY)
	if err != nil {
		return nil, is, fmt.Errorf("%s: %w", t.label(dir), err)
	}
	return top, is, nil
}

// nameSources gives each source its name in the copy.
func nameSources(all []*source, label, dst string, is kind) error {
	taken := map[string]bool{}
	for _, s := range all {
		name, err := landing(s.Path, s.dir, dst, is, len(all) > 1)
		if err != nil {
			return fmt.Errorf("%s: %w", label, err)
		}
		if taken[name] && name != "." {
			return refused("%s: two files called %s would go there", label, printable(name))
		}
		taken[name], s.name = true, name
	}
	return nil
}

// landing is the name that src gets where dst is a directory or is not, with cp's rules; "." is what is in src.
func landing(src string, srcDir bool, dst string, is kind, several bool) (string, error) {
	base := path.Base(src)
	if path.Clean(src) == ".." || strings.HasSuffix(src, "/..") || base == "." || base == "/" {
		base = "."
	}
	slash := strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")
	switch {
	case is == directory:
		return base, nil
	case several:
		return "", refused("several files go into a directory, and that is none")
	case is == regularFile && srcDir:
		return "", refused("a directory cannot replace a file")
	case slash && !srcDir:
		return "", errNoDirectory
	}
	return path.Base(dst), nil
}

// walk hands trees to a sink.
type walk struct {
	ctx   context.Context
	how   Copying
	to    sink
	seen  map[inode]string // the first name of a file with several
	avoid unix.Stat_t      // where the copy goes, which must not be copied itself; zero: no directory
}

func (w *walk) all(sources []*source, to sink) error {
	w.to = to
	for _, s := range sources {
		if err := w.node(s.Source, s.handle, s.name); err != nil {
			return to.end(err)
		}
	}
	return to.end(nil)
}

// node hands over what is behind a handle, and all below it.
func (w *walk) node(s Source, f *os.File, name string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	return told(s.Tree.label(s.Path), w.handle(s, f, name))
}

// told names the file that an error is about, unless something further down did. Which system call it was is no
// matter to whoever copies.
func told(label string, err error) error {
	var already *toldError
	if err == nil || errors.As(err, &already) || errors.Is(err, context.Canceled) {
		return err
	}
	if err = plain(err); errors.As(err, new(*os.SyscallError)) {
		var cause unix.Errno
		errors.As(err, &cause)
		err = errno(cause)
	}
	return &toldError{fmt.Errorf("%s: %w", label, err)}
}

// toldError says which file it is about.
type toldError struct{ error }

func (t *toldError) Unwrap() error { return t.error }

func (w *walk) handle(s Source, f *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		w.skip(s, "is a socket")
		return nil
	}
	h, err := header(name, &st)
	if err != nil {
		return err
	}
	h.Uid, h.Gid = s.Tree.id(st.Uid), s.Tree.id(st.Gid)
	switch h.Typeflag {
	case tar.TypeDir:
		return w.dir(s, f, &st, h, name)
	case tar.TypeReg:
		return w.file(s, f, &st, h, name)
	case tar.TypeSymlink:
		if h.Linkname, err = readlinkat(f, ""); err != nil {
			return err
		}
	}
	return w.to.put(h, nil)
}

func (w *walk) skip(s Source, why string) {
	w.how.Note(s.Tree.label(s.Path) + ": " + why + ": left out")
}

func (w *walk) file(s Source, handle *os.File, st *unix.Stat_t, h *tar.Header, name string) error {
	if err := files(handle); err != nil {
		w.skip(s, err.Error())
		return nil
	}
	key := inode{uint64(st.Dev), st.Ino}
	if first, ok := w.seen[key]; ok {
		return w.to.put(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: first, Format: tar.FormatPAX}, nil)
	}
	f, err := reopen(handle, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := carry(f, h); err != nil {
		return err
	}
	if st.Nlink > 1 {
		w.seen[key] = name
	}
	return w.to.put(h, f)
}

// carry puts the extended attributes of an open file into its header.
func carry(f *os.File, h *tar.Header) error {
	_, err := readXattrs(h,
		func(b []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), b) },
		func(x string, b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), x, b) })
	portable(h)
	return err
}

// portable leaves a header those extended attributes that mean the same on both sides: the users' own, and
// capabilities without the root that they count for.
func portable(h *tar.Header) {
	for key, value := range h.PAXRecords {
		name, isXattr := strings.CutPrefix(key, xattrRecord)
		switch {
		case name == capability:
			h.PAXRecords[key] = plainCapability(value)
		case isXattr && !strings.HasPrefix(name, "user."):
			delete(h.PAXRecords, key)
		}
	}
}

func (w *walk) dir(s Source, handle *os.File, st *unix.Stat_t, h *tar.Header, name string) error {
	if err := files(handle); err != nil {
		w.skip(s, err.Error())
		return w.to.put(h, nil) // a place to mount on
	}
	if st.Dev == w.avoid.Dev && st.Ino == w.avoid.Ino {
		return refused("cannot be copied into itself")
	}
	f, err := reopen(handle, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := carry(f, h); err != nil {
		return err
	}
	if err := w.to.put(h, nil); err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, base := range names {
		if err := w.child(s, f, base, path.Join(name, base)); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) child(s Source, dir *os.File, base, name string) error {
	s.Path = path.Join(s.Path, base)
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		w.skip(s, "was removed meanwhile")
		return nil
	}
	if err != nil {
		return told(s.Tree.label(s.Path), err)
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	return w.node(s, f, name)
}

// archiver is the sink that is a tar.
type archiver struct {
	ctx      context.Context
	tar      *tar.Writer
	progress func(int64)
	done     int64
}

func (a *archiver) put(h *tar.Header, content io.Reader) error {
	if err := a.tar.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	for left := h.Size; left > 0; {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(a.tar, content, min(left, piece))
		if err == io.EOF {
			return errShrank
		}
		if err != nil {
			return err
		}
		left, a.done = left-n, a.done+n
		a.progress(a.done)
	}
	return nil
}

// end leaves an archive that failed without its end mark: nobody is to take it for a whole one.
func (a *archiver) end(failed error) error {
	if failed != nil {
		return failed
	}
	return a.tar.Close()
}

// outlet is where a tar goes, called "-" as on the command line.
type outlet struct{ io.Writer }

func (o outlet) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	return n, told("-", err)
}

// piece is how much is copied at once before anybody is asked whether to go on.
const piece = 4 << 20

// errShrank: a file that grows is cut at the size it had, and one that shrinks has no such end.
var errShrank = errors.New("got shorter while it was copied")
