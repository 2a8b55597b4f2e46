package state

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Claim is the hold on a running instance: an open-file-description lock. It passes through fork and exec,
// ends with its last holder, however that one dies, and is seen by others without being taken.
type Claim struct{ file *os.File }

// File is the locked file; whoever inherits its descriptor holds the claim too.
func (c *Claim) File() *os.File { return c.file }

// Release gives the claim up, unless a child has inherited it.
func (c *Claim) Release() error { return c.file.Close() }

// AdoptClaim takes over a claim that came with an inherited descriptor.
func AdoptClaim(fd uintptr) *Claim {
	unix.CloseOnExec(int(fd))
	return &Claim{os.NewFile(fd, "claim")}
}

// ClaimFile claims the file at path for something that is no instance, creating it; ErrRunning when somebody has it.
func ClaimFile(path string) (*Claim, error) { return claim(path) }

// claim locks the file at path for this process and its heirs; ErrRunning when someone else holds it.
func claim(path string) (*Claim, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		lk := unix.Flock_t{Type: unix.F_WRLCK}
		switch err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err {
		case nil:
			if current(f, path) {
				return &Claim{f}, nil
			}
			f.Close()
		case unix.EAGAIN, unix.EACCES:
			f.Close()
			return nil, ErrRunning
		default:
			f.Close()
			return nil, fmt.Errorf("fcntl(F_OFD_SETLK): %w", err)
		}
	}
}

// current says whether f still is what path names: while we waited for its lock the instance may have been
// removed, and made anew with a lock of its own.
func current(f *os.File, path string) bool {
	ours, err1 := f.Stat()
	now, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(ours, now)
}

// Locked asks whether anybody holds the lock at path, and takes nothing. No file is not locked.
func Locked(path string) (bool, error) { return locked(path, unix.F_RDLCK) }

// locked asks whether somebody's lock on the file at path is in the way of one of this kind.
func locked(path string, kind int16) (bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) // a start asks so of all its neighbours: os.Open does four times as much
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	lk := unix.Flock_t{Type: kind}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lk); err != nil {
		return false, fmt.Errorf("fcntl(F_OFD_GETLK): %w", err)
	}
	return lk.Type != unix.F_UNLCK, nil
}

// Lock waits for the exclusive lock on the file at path, creating it; closing the result unlocks.
func Lock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := wait(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if current(f, path) {
			return f, nil
		}
		f.Close()
	}
}

func wait(f *os.File) error {
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	for {
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &lk); err != unix.EINTR {
			return err
		}
	}
}
