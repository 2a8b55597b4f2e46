package rootfs

import (
	"os"
	"path/filepath"
	"strings"
)

// Files are what croft generates for a machine, by path in the machine.
type Files map[string]File

// File is one of them.
type File struct {
	Text string `json:",omitempty"`
	Link string `json:",omitempty"` // what it links to, when it is a symbolic link
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
	return os.WriteFile(path, []byte(f.Text), modeOf(f.Text))
}

// modeOf makes scripts executable.
func modeOf(content string) os.FileMode {
	if strings.HasPrefix(content, "#!") {
		return 0o755
	}
	return 0o644
}

// RemoveGuest deletes the generated files.
func RemoveGuest(r Root) error { return os.RemoveAll(r.Guest()) }
