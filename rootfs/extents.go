package rootfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// pump copies the content of files: in the kernel where it can, which may share the blocks, and holes as holes. The
// zero value is ready.
type pump struct{ buf []byte }

func (p *pump) buffer() []byte {
	if p.buf == nil {
		p.buf = make([]byte, piece)
	}
	return p.buf
}

// extents copies size bytes of src into the empty file dst. It tells wrote how many have come, and ends with its error.
// A source with less is errShrank.
func (p *pump) extents(dst, src *os.File, size int64, wrote func(n int) error) error {
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO { // a hole to its end
			break
		}
		end := size
		if err == nil {
			if end, err = unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE); err != nil {
				return os.NewSyscallError("lseek", err)
			}
		} else {
			data = off // it knows no holes
		}
		end = min(end, size)
		if err := p.stretch(dst, src, data, end, wrote); err != nil {
			return err
		}
		off = end
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Size < size {
		return errShrank
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(int(dst.Fd()), size))
}

// stretch copies the bytes from off to end.
func (p *pump) stretch(dst, src *os.File, off, end int64, wrote func(n int) error) error {
	for inKernel := true; off < end; {
		var n int
		var err error
		if inKernel {
			in, out := off, off
			n, err = unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, int(min(end-off, piece)), 0)
			if err != nil && err != unix.ENOSPC && err != unix.EDQUOT && err != unix.EIO {
				inKernel = false // not between these two
				continue
			}
		} else {
			b := p.buffer()[:min(piece, end-off)]
			if n, err = unix.Pread(int(src.Fd()), b, off); err == nil {
				err = pwrite(int(dst.Fd()), b[:n], off)
			}
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errShrank
		}
		off += int64(n)
		if err := wrote(n); err != nil {
			return err
		}
	}
	return nil
}
