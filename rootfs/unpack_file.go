package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"croft/state"
)

const (
	xattrRecord = "SCHILY.xattr." // how GNU tar, star, libarchive and Docker store extended attributes in PAX records

	// modeBits are what chmod sets: permissions, set-user-id, set-group-id, sticky.
	modeBits = 0o7777

	// hole is the shortest run of zeros worth a hole: shorter ones only cut a file into extents.
	hole = 32 << 10
)

// dress gives the open file its owner, extended attributes and mode. The order matters: chown clears set-id bits and
// file capabilities, and a POSIX ACL changes the mode.
func dress(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("fchown(%d:%d): %w", h.Uid, h.Gid, err)
	}
	err := setXattrs(h, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	if err != nil {
		return err
	}
	return os.NewSyscallError("fchmod", unix.Fchmod(fd, uint32(h.Mode&modeBits)))
}

// dressAt is dress for what has no file descriptor to change it by; the name has just been made by us.
func dressAt(at *os.File, base string, h *tar.Header) error {
	if err := unix.Fchownat(int(at.Fd()), base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("fchownat(%d:%d): %w", h.Uid, h.Gid, err)
	}
	path := procPath(at) + "/" + base
	err := setXattrs(h, func(name string, value []byte) error { return unix.Lsetxattr(path, name, value, 0) })
	if err != nil || h.Typeflag == tar.TypeSymlink {
		return err
	}
	return os.NewSyscallError("fchmodat", unix.Fchmodat(int(at.Fd()), base, uint32(h.Mode&modeBits), 0))
}

// setXattrs hands the archive's extended attributes to set. A filesystem that has no such kind goes without.
func setXattrs(h *tar.Header, set func(name string, value []byte) error) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || overlayXattr(name) {
			continue
		}
		if err := set(name, []byte(value)); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("setxattr %s: %w", printable(name), err)
		}
	}
	return nil
}

// overlayXattr tells overlayfs's own attributes. An archive must not bring them: redirect, metacopy and origin point
// into other layers.
func overlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

func checkOwner(h *tar.Header) error {
	// The last id means "leave as it is" to chown.
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
		return fmt.Errorf("owner %d:%d %w", h.Uid, h.Gid, state.ErrInvalid)
	}
	return nil
}

func times(h *tar.Header) []unix.Timespec {
	t := unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	return []unix.Timespec{t, t}
}

func utimes(at *os.File, base string, h *tar.Header) error {
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(int(at.Fd()), base, times(h), unix.AT_SYMLINK_NOFOLLOW))
}

// procPath names the directory behind a handle for calls that take only paths.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// writeSparse writes p at off except for its long runs of zeros, and returns where the last data ended.
func writeSparse(fd int, p []byte, off int64) (end int64, err error) {
	for len(p) > 0 {
		skip, data := split(p)
		off, p = off+int64(skip), p[skip:]
		if err := pwrite(fd, p[:data], off); err != nil {
			return end, err
		}
		if data > 0 {
			end = off + int64(data)
		}
		off, p = off+int64(data), p[data:]
	}
	return end, nil
}

// split measures the leading zeros of p and the data after them, in steps of hole bytes.
func split(p []byte) (zeros, data int) {
	for zeros < len(p) && isZero(p[zeros:min(zeros+hole, len(p))]) {
		zeros = min(zeros+hole, len(p))
	}
	end := zeros
	for end < len(p) && !isZero(p[end:min(end+hole, len(p))]) {
		end = min(end+hole, len(p))
	}
	return zeros, end - zeros
}

// isZero compares p with itself one byte on, which is memcmp's speed without a block of zeros to compare with.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

func pwrite(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("pwrite", err)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// lastBlock remembers the last 512 bytes read through it, where a whole archive has its end mark of zeros.
type lastBlock struct {
	r    io.Reader
	last [512]byte
	seen int64
}

func (l *lastBlock) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.seen += int64(n)
	if n >= len(l.last) {
		copy(l.last[:], p[n-len(l.last):n])
	} else {
		copy(l.last[:], l.last[n:])
		copy(l.last[len(l.last)-n:], p[:n])
	}
	return n, err
}

func (l *lastBlock) zero() bool { return l.seen >= int64(len(l.last)) && isZero(l.last[:]) }

// sentence is an error whose cause matters to errors.Is and not to the reader.
type sentence struct {
	text  string
	cause error
}

func (s *sentence) Error() string { return s.text }

func (s *sentence) Unwrap() error { return s.cause }

// plain says what went wrong in the words of the user's world.
func plain(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &sentence{"archive is truncated", err}
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return &sentence{"archive is corrupt", err}
	case errors.Is(err, unix.ENOSPC):
		return unix.ENOSPC // whichever call met it
	case errors.Is(err, unix.EDQUOT):
		return unix.EDQUOT
	}
	return err
}
