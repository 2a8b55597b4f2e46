package image

import (
	"os"
	"path/filepath"

	"croft/state"
)

// locked runs change with the store's lock held. The store's directories exist then.
func (s *Store) locked(change func() error) error {
	if err := s.mkdirs(); err != nil {
		return err
	}
	lock, err := state.Lock(filepath.Join(s.Dir, lockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	return change()
}

// mkdirs makes the store's directories.
func (s *Store) mkdirs() error {
	for _, dir := range []string{s.Dir, filepath.Join(s.Dir, layersName)} {
		// Nobody else on the host may walk in: layers hold set-user-id programs and directories open to all.
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}
