package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// usedName is a file beside the record whose time is that of the last use: the record itself never changes.
const usedName = "used"

// Use notes that an image is used now. One that is gone meanwhile is not missed.
func (s *Store) Use(fingerprint string) error {
	f, err := os.OpenFile(filepath.Join(s.Dir, fingerprint, usedName), os.O_CREATE|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return os.Chtimes(f.Name(), time.Time{}, time.Now())
}

// LastUsed is when a machine was last made of the image or removed; ok is false when none ever was.
func (s *Store) LastUsed(fingerprint string) (at time.Time, ok bool) {
	info, err := os.Stat(filepath.Join(s.Dir, fingerprint, usedName))
	if err != nil {
		return time.Time{}, false
	}
	return info.ModTime().UTC().Truncate(time.Second), true
}

// Unique is, by fingerprint, how many bytes of each image no other one of them has: what its removal would free.
func Unique(images []Image) map[string]int64 {
	has := map[string]int{}
	for _, i := range images {
		for _, l := range distinct(i.Layers) {
			has[l.Digest]++
		}
	}
	unique := map[string]int64{}
	for _, i := range images {
		for _, l := range distinct(i.Layers) {
			if has[l.Digest] == 1 {
				unique[i.Fingerprint] += l.Size
			}
		}
	}
	return unique
}

// distinct leaves out layers that an image has twice, which lie on disk once.
func distinct(layers []Layer) (once []Layer) {
	seen := map[string]bool{}
	for _, l := range layers {
		if !seen[l.Digest] {
			seen[l.Digest] = true
			once = append(once, l)
		}
	}
	return once
}
