package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"croft/idmap"
	"croft/state"
)

// Shifted keeps a full copy of the image for each machine, whose owners on disk are the machine's as the host sees
// them. It serves where the filesystem cannot be seen through a user namespace: on an overlay, as in a container.
//
// The copy is named after the base of the ids it was written for, so that what it is and what it is called never
// disagree. A machine that comes back with other ids gets a copy of its copy: no owner of a file that exists is changed.
type Shifted struct{}

const shiftedPrefix = "fs-"

func shiftedOf(r Root, base int) string {
	return filepath.Join(r.Dir, shiftedPrefix+strconv.Itoa(base))
}

// Create makes the machine's directory. The copy waits for the mount, which knows the ids.
func (Shifted) Create(r Root) error { return os.MkdirAll(r.Dir, 0o711) }

// Mount makes the copy where it is missing, puts the generated files into it, and mounts it as it is.
func (Shifted) Mount(r Root, userns *os.File, at string) error {
	if err := unmount(at); err != nil {
		return err
	}
	base, err := ownerOf(userns)
	if err != nil {
		return err
	}
	if err := makeShifted(r, base); err != nil {
		return err
	}
	err = asOwner(base, func() error { // what is written belongs to the machine's root
		return overwrite(r.Guest(), shiftedOf(r, base), filepath.Join(r.Dir, "generated"))
	})
	if err != nil {
		return err
	}
	tree, err := detach(shiftedOf(r, base))
	if err != nil {
		return err
	}
	return attach(tree, at)
}

// Unmount detaches the copy.
func (Shifted) Unmount(at string) error { return unmount(at) }

// Remove deletes the copy.
func (Shifted) Remove(r Root) error { return removeTree(r.Dir) }

// makeShifted makes sure that the machine's files are there for base, and in no other copy. Until the new copy has its
// name, the old one is the machine's; from then on the old one is rubbish, which the next mount deletes as well.
func makeShifted(r Root, base int) error {
	others, err := otherShifted(r, base)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(shiftedOf(r, base)); errors.Is(err, os.ErrNotExist) {
		if err := copyShifted(r, base, others); err != nil {
			return err
		}
	}
	for _, old := range others {
		if err := removeTree(shiftedOf(r, old)); err != nil {
			return err
		}
	}
	return nil
}

// otherShifted are the bases of the copies that were made for other ids.
func otherShifted(r Root, base int) (others []int, err error) {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), shiftedPrefix)
		if n, err := strconv.Atoi(digits); ok && err == nil && n != base {
			others = append(others, n)
		}
	}
	return others, nil
}

func copyShifted(r Root, base int, others []int) error {
	aside := filepath.Join(r.Dir, ".new-fs")
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	from, sources := 0, r.Layers
	if len(others) > 0 {
		from, sources = others[0], []string{shiftedOf(r, others[0])}
	}
	view, err := OpenView(sources)
	if err != nil {
		return err
	}
	defer view.Close()
	for i, dir := range view.Dirs {
		if err := copyLayer(dir, aside, owners{from, base, idmap.Size}); err != nil {
			return fmt.Errorf("copy %s: %w", sources[i], err)
		}
	}
	if len(others) > 0 { // what is on disk is deleted next
		if err := state.SyncFilesystem(aside); err != nil {
			return err
		}
	}
	return os.Rename(aside, shiftedOf(r, base))
}
