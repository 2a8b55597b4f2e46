package run

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"croft/image"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Unused is one thing that nothing uses any more.
type Unused struct {
	What  string // "image debian/12 (0123456789ab)", or "leftover" and a path
	Bytes int64  // on disk
}

// Prune removes what nothing uses any more, and tells what it was: what interrupted commands left, layers without an
// image, and images that no machine is made of, those without an alias or, with images, all. It never touches a
// machine. When dry it removes nothing.
func (e *Engine) Prune(images, dry bool) ([]Unused, error) {
	all, err := e.leftovers()
	if err != nil {
		return nil, err
	}
	victims, err := e.unusedImages(images, 0)
	if err != nil {
		return nil, err
	}
	all = append(all, unusedOf(victims)...)
	if dry {
		return all, nil
	}
	err = e.prune(victims, images)
	if errors.Is(err, unix.ENOSPC) { // there is room now for what had to be written
		err = e.prune(victims, images)
	}
	return all, err
}

// PruneImages removes images that no machine is made of and tells what they were: those without an alias or, with a time,
// all that no machine has been made of for that long. When dry it removes nothing.
func (e *Engine) PruneImages(unusedFor time.Duration, dry bool) ([]Unused, error) {
	victims, err := e.unusedImages(unusedFor > 0, unusedFor)
	if err != nil || dry {
		return unusedOf(victims), err
	}
	return unusedOf(victims), e.removeImages(victims, unusedFor > 0)
}

func unusedOf(victims []victim) (all []Unused) {
	for _, v := range victims {
		all = append(all, v.Unused)
	}
	return all
}

// prune removes the images and everything that no record accounts for.
func (e *Engine) prune(victims []victim, aliased bool) error {
	err := e.removeImages(victims, aliased)
	_, swept := e.sweepFiles()
	return errors.Join(err, swept, e.Images.DropDownloads())
}

func (e *Engine) removeImages(victims []victim, aliased bool) error {
	var all []error
	for _, v := range victims {
		err := e.Images.Remove(v.fingerprint, func(fingerprint string) []string { return e.users(fingerprint, aliased) })
		if !errors.Is(err, state.ErrNotExist) && !errors.Is(err, state.ErrBusy) { // somebody was faster
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// users are who wants an image to stay: machines and, unless aliased ones go as well, its aliases.
func (e *Engine) users(fingerprint string, aliased bool) []string {
	users := e.Users(fingerprint)
	if aliased {
		return users
	}
	img, err := e.Images.Get(fingerprint)
	if err != nil {
		return append(users, "?")
	}
	return append(users, img.Aliases...)
}

// leftovers are what no record accounts for.
func (e *Engine) leftovers() ([]Unused, error) {
	paths, err := e.Images.Unused()
	if err != nil {
		return nil, err
	}
	broken, err := e.Images.Downloads()
	if err != nil {
		return nil, err
	}
	paths = append(paths, broken...)
	records, err := e.Dir.Leftovers()
	if err != nil {
		return nil, err
	}
	paths = append(paths, records...)
	for _, parent := range []string{e.Dir.Roots(), e.Dir.Run} {
		names, err := e.strays(parent)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			paths = append(paths, filepath.Join(parent, name))
		}
	}
	var all []Unused
	for _, p := range paths {
		all = append(all, Unused{"leftover " + p, onDisk(p)})
	}
	return all, nil
}

// victim is an image that is to go.
type victim struct {
	fingerprint string
	Unused
}

// unusedImages are those that no machine is made of, nor was in the time since; without aliased only those that have no
// name. Damaged ones stay: nobody can tell what they are.
func (e *Engine) unusedImages(aliased bool, since time.Duration) ([]victim, error) {
	list, err := e.Images.List()
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	list = slices.DeleteFunc(list, func(i image.Image) bool {
		stays := i.Damaged != "" || len(e.users(i.Fingerprint, aliased)) > 0 || time.Since(e.lastUsed(i)) < since
		for _, l := range i.Layers {
			kept[l.Digest] = kept[l.Digest] || stays
		}
		return stays
	})
	var all []victim
	for _, i := range list {
		v := victim{i.Fingerprint, Unused{What: fmt.Sprintf("image %.12s", i.Fingerprint)}}
		if len(i.Aliases) > 0 {
			v.What = fmt.Sprintf("image %s (%.12s)", i.Name(), i.Fingerprint)
		}
		for _, l := range i.Layers {
			if !kept[l.Digest] {
				kept[l.Digest] = true // counted once
				v.Bytes += onDisk(e.Images.LayerPath(l))
			}
		}
		all = append(all, v)
	}
	return all, nil
}

// lastUsed is when an image was last of use: it was when it came.
func (e *Engine) lastUsed(i image.Image) time.Time {
	if at, ok := e.Images.LastUsed(i.Fingerprint); ok {
		return at
	}
	return i.Imported
}

// onDisk is what a tree takes of the disk, hard links once. What cannot be looked at counts nothing.
func onDisk(path string) (bytes int64) {
	seen := map[[2]uint64]bool{}
	filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil
		}
		id := [2]uint64{uint64(st.Dev), st.Ino}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		bytes += st.Blocks * 512 // stat(2): blocks of 512, whatever the filesystem's are
		return nil
	})
	return bytes
}
