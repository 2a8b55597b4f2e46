package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"croft/state"
)

// Sweep deletes what interrupted imports, pulls and removals left behind, aliases of images that are gone, and layers that
// no image has. It says what it removed, one line each. Imports and pulls that are running are left alone.
func (s *Store) Sweep() ([]string, error) {
	if !exists(s.Dir) {
		return nil, nil
	}
	var gone, said []string
	err := s.locked(func() error {
		leftovers, err := s.leftovers()
		if err != nil {
			return err
		}
		layers, err := s.setAsideUnreferenced()
		for _, dir := range layers {
			said = append(said, "layer "+strings.SplitN(filepath.Base(dir), "-", 3)[1]+", which no image has")
		}
		parts, partsErr := s.abandonedBlobs()
		leftovers = append(leftovers, parts...)
		gone = append(leftovers, layers...)
		for _, dir := range leftovers {
			said = append(said, "leftover "+dir)
		}
		if err := errors.Join(err, partsErr); err != nil {
			return err
		}
		aliases, err := s.sweepAliases()
		said = append(said, aliases...)
		return err
	})
	return said, errors.Join(err, removeTrees(gone))
}

// sweepAliases drops the aliases whose image is gone.
func (s *Store) sweepAliases() (said []string, err error) {
	aliases, err := s.Aliases()
	if err != nil {
		return nil, err
	}
	for alias, fingerprint := range aliases {
		if !isDigest(fingerprint) || !exists(filepath.Join(s.Dir, fingerprint)) {
			delete(aliases, alias)
			said = append(said, "alias "+alias+", whose image is gone")
		}
	}
	if len(said) == 0 {
		return nil, nil
	}
	return said, s.writeAliases(aliases)
}

// leftovers lists what dead processes left half-made or half-removed, and takes the half-made out of everybody's way.
// The store is locked, so that nobody is just beginning.
func (s *Store) leftovers() (dead []string, err error) {
	for _, dir := range []string{s.Dir, filepath.Join(s.Dir, layersName)} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return dead, err
		}
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); abandoned(path) {
				dead = append(dead, path)
			}
		}
	}
	return dead, nil
}

// abandoned tells whether path is unfinished business that nobody works on.
func abandoned(path string) bool {
	name := filepath.Base(path)
	if strings.HasPrefix(name, gonePrefix) {
		return true // whoever else deletes it too does no harm
	}
	return strings.HasPrefix(name, newPrefix) && !held(filepath.Join(path, lockName))
}

// setAside renames dir/name so that it is there no more, whole and at once, and can be deleted at leisure.
func setAside(dir, name string) (string, error) {
	aside := fmt.Sprintf("%s%s-%d", filepath.Join(dir, gonePrefix), name, os.Getpid())
	for n := 0; exists(aside); n++ {
		aside = fmt.Sprintf("%s%s-%d-%d", filepath.Join(dir, gonePrefix), name, os.Getpid(), n)
	}
	if err := os.Rename(filepath.Join(dir, name), aside); err != nil {
		return "", err
	}
	return aside, state.SyncDir(dir)
}

// removeTrees deletes trees that have been set aside. The store need not be locked: nobody looks for them.
func removeTrees(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// removeTree deletes dir, but not through a mount that somebody made inside: that would delete another tree's files.
func removeTree(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): the fifth field is the mount point.
		if f := strings.Fields(line); len(f) > 4 && (f[4] == real || strings.HasPrefix(f[4], real+"/")) {
			return fmt.Errorf("remove %s: %s %w: it is a mount point", dir, f[4], state.ErrBusy)
		}
	}
	return os.RemoveAll(dir)
}

// held tells whether a living process has the lock file locked; no file is not held.
func held(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk)
	return err != nil || lk.Type != unix.F_UNLCK
}
