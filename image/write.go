package image

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// locked runs change with the store's lock held. The store's directories exist then.
func (s *Store) locked(change func() error) error {
	if err := s.mkdirs(); err != nil {
		return err
	}
	lock, err := lockFile(filepath.Join(s.Dir, lockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	return change()
}

// mkdirs makes the store's directories: to be passed through, not to be listed.
func (s *Store) mkdirs() error {
	for _, dir := range []string{s.Dir, filepath.Join(s.Dir, layersName)} {
		if exists(dir) {
			continue
		}
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o711); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}

// lockFile opens path and waits for its lock, which lasts until the file is closed: by us or by our death.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// An open-file-description lock: two goroutines of one process exclude each other as two processes do.
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	for {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &lk)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// replaceFile replaces dir/name whole: after a crash there is the old content or the new.
func replaceFile(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, newPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone under that name when all went well
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in dir as durable as the files are.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// syncTree writes out everything of the filesystem that path is on, which is cheaper than a sync for every file.
func syncTree(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}
