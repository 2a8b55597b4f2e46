package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"croft/state"
)

// Files are what croft generates for a machine, by path in the machine.
type Files map[string]File

// File is one of them.
type File struct {
	Text string `json:",omitempty"`
	Link string `json:",omitempty"` // what it links to, when it is a symbolic link

	Secret bool `json:",omitempty"` // root alone may read it
}

// WriteGuest makes the generated files of r anew. They are a layer of their own, not mounts: the machine may
// rename, edit or replace them like any file, and what it wrote wins from then on.
func WriteGuest(r Root, files Files) error {
	if err := os.RemoveAll(r.Guest()); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(r.Guest(), filepath.Clean("/"+name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := f.write(path); err != nil {
			return err
		}
	}
	return nil
}

func (f File) write(path string) error {
	if f.Link != "" {
		return os.Symlink(f.Link, path)
	}
	return os.WriteFile(path, []byte(f.Text), f.mode())
}

// mode makes scripts executable.
func (f File) mode() os.FileMode {
	switch {
	case f.Secret:
		return 0o600
	case strings.HasPrefix(f.Text, "#!"):
		return 0o755
	}
	return 0o644
}

// Reclaim has the next mount of r show the generated file name again, a link, where the machine has put a file of its own
// in its place: keep gets what is in that, at most most bytes. What else the machine has made of it stays. Nobody may have
// the root mounted meanwhile.
func Reclaim(r Root, driver string, ids state.Range, name string, most int64, keep func(text []byte) error) error {
	top, was, err := ownFiles(r, driver, ids)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // never started
	}
	if err != nil {
		return err
	}
	defer root.Close()
	name = strings.TrimPrefix(name, "/")
	if was == "" && opaque(filepath.Join(top, filepath.Dir(name))) {
		return nil // nothing shines through there
	}
	if was != "" {
		last, err := readGenerated(filepath.Join(was, name))
		if err != nil || unchanged(root, name, last) {
			return nil // the image's
		}
	}
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > most {
		return nil
	}
	text, err := root.ReadFile(name)
	if err != nil {
		return err
	}
	if err := keep(text); err != nil {
		return err
	}
	if was == "" {
		return root.Remove(name)
	}
	return os.Remove(filepath.Join(was, name))
}

// MountNet makes the directory that the host and the machine share, and mounts it at the directory at, as a driver has r
// seen through userns: it belongs to the machine's root.
func MountNet(r Root, driver string, userns *os.File, at string) error {
	if err := unmount(at); err != nil {
		return err
	}
	if err := os.MkdirAll(r.Net(), 0o755); err != nil {
		return err
	}
	if driver != "shifted" {
		return mountShifted(r.Net(), userns, at)
	}
	base, err := ownerOf(userns)
	if err != nil {
		return err
	}
	for _, path := range []string{r.Net(), filepath.Join(r.Net(), "hosts")} { // the ids may have changed
		if err := os.Lchown(path, base, base); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	tree, err := detach(r.Net())
	if err != nil {
		return err
	}
	return attach(tree, at)
}

// UnmountNet takes that mount away before its namespace ends.
func UnmountNet(at string) error { return unmount(at) }

// RemoveGuest deletes the generated files.
func RemoveGuest(r Root) error { return os.RemoveAll(r.Guest()) }
