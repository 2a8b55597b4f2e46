package rootfs

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"croft/idmap"
	"croft/state"
)

// Whiteouts: how a layer says that a name of the layers below is gone. OCI spells it as an entry `.wh.NAME` and
// `.wh..wh..opq` (image-spec layer.md), overlayfs as a character device 0:0 and an attribute of the directory
// (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutAUFS   = ".wh..wh."
)

// opaqueXattr marks an opaque directory, originXattr one that came from somewhere.
func opaqueXattr() string { return overlayPrefix() + "opaque" }
func originXattr() string { return overlayPrefix() + "origin" }

// overlayPrefix begins the names of overlayfs's attributes: only root of the host's user namespace has trusted ones.
func overlayPrefix() string {
	if idmap.Nested() {
		return "user.overlay."
	}
	return "trusted.overlay."
}

type mark int

const (
	markNone     mark = iota
	markWhiteout      // NAME is gone
	markOpaque        // all that the directory had below is gone
	markIgnored       // AUFS's own notes, which Docker's layers carried for years
)

// whiteoutKind tells what a cleaned name stands for. A whiteout that names nothing, `.` or `..`, or that has children,
// is refused.
func whiteoutKind(name string) (mark, error) {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		last := i == len(parts)-1
		gone, ok := strings.CutPrefix(part, whiteoutPrefix)
		switch {
		case !ok:
		case part == whiteoutOpaque && last:
			return markOpaque, nil
		case strings.HasPrefix(part, whiteoutAUFS):
			return markIgnored, nil
		case gone == "" || gone == "." || gone == ".." || !last:
			return markNone, fmt.Errorf("a whiteout of nothing %w", state.ErrInvalid)
		default:
			return markWhiteout, nil
		}
	}
	return markNone, nil
}

// whiteout marks base as removed. A whiteout speaks of the layers below only: what this layer brings itself stays, and
// when it is a directory it hides the lower one.
func (u *unpacker) whiteout(at *os.File, base string) error {
	err := unix.Mknodat(int(at.Fd()), base, unix.S_IFCHR, 0)
	if err == nil {
		return hideWhiteouts(at)
	}
	if err != unix.EEXIST {
		return os.NewSyscallError("mknodat", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(at.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	err = unix.Lsetxattr(procPath(at)+"/"+base, opaqueXattr(), []byte("y"), 0)
	return os.NewSyscallError("lsetxattr "+opaqueXattr(), err)
}

// hideWhiteouts has overlayfs look for whiteouts where it lists dir. In a directory that one layer alone has it does so only when
// its origin says that it may have some, and lists names otherwise that nobody can open.
func hideWhiteouts(dir *os.File) error {
	err := unix.Setxattr(procPath(dir), originXattr(), nil, 0) // no value: it came from somewhere
	return os.NewSyscallError("setxattr "+originXattr(), err)
}

func setOpaque(dir *os.File) error {
	err := unix.Setxattr(procPath(dir), opaqueXattr(), []byte("y"), 0)
	return os.NewSyscallError("setxattr "+opaqueXattr(), err)
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}
