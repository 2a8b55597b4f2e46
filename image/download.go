package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"croft/state"
)

// Downloads lists the directories of what was broken off on its way here, and that nobody goes on with now.
func (s *Store) Downloads() (dirs []string, err error) {
	names, err := digests(filepath.Join(s.Dir, downloadsDir))
	for _, name := range names {
		if dir := filepath.Join(s.Dir, downloadsDir, name); !held(filepath.Join(dir, lockName)) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, err
}

// DropDownloads deletes them: the next pull begins at the beginning.
func (s *Store) DropDownloads() error {
	dirs, err := s.Downloads()
	all := []error{err}
	for _, dir := range dirs {
		claim, err := state.ClaimFile(filepath.Join(dir, lockName))
		if errors.Is(err, state.ErrRunning) || errors.Is(err, fs.ErrNotExist) { // somebody goes on with it, or has finished it
			continue
		}
		if err == nil {
			err = errors.Join(os.RemoveAll(dir), claim.Release())
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}
