package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"croft/state"
)

// PackRoot writes what the root r, kept by the named driver, holds of its own as a tar: with the driver overlay what the
// machine has changed, as a layer over those of its image, with the others all of its files, and whole is set. The
// generated files are left out unless the machine has changed them. ids are those of the machine's last start. nothing
// is written for a machine that was never started.
func PackRoot(ctx context.Context, r Root, driver string, ids state.Range, generated Files, w io.Writer) (whole bool, err error) {
	p := &packer{ctx: ctx}
	top := filepath.Join(upperOf(r), "fs")
	switch driver {
	case "overlay":
	case "dir":
		top, whole = copyOf(r), true
	case "shifted":
		top, whole = shiftedOf(r, int(ids.Base)), true
		p.owners = owners{from: int(ids.Base), size: ids.Size}
	default:
		return false, fmt.Errorf("driver %q: %w", driver, state.ErrUnsupported)
	}
	if _, err := os.Lstat(top); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if whole { // there they lie among the machine's own
		d := &differ{was: filepath.Join(r.Dir, "generated")}
		p.skip = func(f *os.File, path string) bool {
			info, err := f.Stat()
			_, ours := generated[path]
			return err == nil && ours && info.Sys().(*syscall.Stat_t).Nlink == 1 && d.untouched(f, path)
		}
	}
	return whole, p.pack(top, w)
}
