package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"croft/state"
)

// Placed is a file to be written into a machine's root. One that is there keeps its owner and mode, and is left alone
// with CreateOnly. Ids are the machine's.
type Placed struct {
	Path       string // in the machine, absolute
	Content    string
	UID, GID   int
	Mode       uint32
	CreateOnly bool
}

// Place writes files into the root that is mounted at the directory at, as the machine's root would. The machine does not
// run, but what it has left there may be hostile: no link leads out of its root, and only regular files are written to.
func Place(at string, userns *os.File, files []Placed) error {
	root, base, err := openRoot(at, userns)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		if err := asOwner(base, func() error { return f.write(root, base) }); err != nil {
			return fmt.Errorf("%s: %w", printable(f.Path), err)
		}
	}
	return nil
}

// openRoot opens the root that is mounted at the directory at, and tells which user of the host is the machine's root.
func openRoot(at string, userns *os.File) (root *os.File, base int, err error) {
	if base, err = ownerOf(userns); err != nil {
		return nil, 0, err
	}
	root, err = os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY, 0)
	return root, base, err
}

func (p Placed) write(root *os.File, base int) error {
	f, isNew, err := p.open(root)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	if isNew { // the owner first: to change it takes set-user-id bits away
		if err := f.Chown(base+p.UID, base+p.GID); err != nil {
			return err
		}
		if err := unix.Fchmod(int(f.Fd()), p.Mode); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteString(p.Content); err != nil {
		return err
	}
	// That they are written is about to be noted in the record, which is synced as well.
	return errors.Join(f.Sync(), f.Close())
}

// open gives the file to write to; nil for one that is to stay as it is. A link is followed as in the machine, to what is
// not there, too.
func (p Placed) open(root *os.File) (f *os.File, isNew bool, err error) {
	found, err := pathrs.OpenatInRoot(root, p.Path)
	if err == nil {
		defer found.Close()
		if p.CreateOnly {
			return nil, false, nil
		}
		// What it is is looked at before it is opened: to open a device is to use it.
		if err := checkRegular(found); err != nil {
			return nil, false, err
		}
		f, err = os.OpenFile(procPath(found), os.O_WRONLY, 0)
		return f, false, err
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, false, err
	}
	parent, err := pathrs.MkdirAllHandle(root, path.Dir(p.Path), 0o755)
	if err != nil {
		return nil, false, err
	}
	parent.Close()
	fd, err := unix.Openat2(int(root.Fd()), p.Path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CREAT | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Mode:    0o600,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, false, os.NewSyscallError("openat2", err)
	}
	f = os.NewFile(uintptr(fd), p.Path)
	if err := checkRegular(f); err != nil {
		f.Close()
		return nil, false, err
	}
	return f, true, nil
}

func checkRegular(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("what is no regular file %w", state.ErrInvalid)
	}
	return nil
}
