package rootfs

import (
	"os"
	"path/filepath"
	"strings"
)

// Files are what croft generates for a machine, by path in the machine.
type Files map[string]string

// WriteGuest makes the generated files of r anew. They are a layer of their own, not mounts: the machine may
// rename, edit or replace them like any file, and what it wrote wins from then on.
func WriteGuest(r Root, files Files) error {
	if err := os.RemoveAll(r.Guest()); err != nil {
		return err
	}
	for name, content := range files {
		path := filepath.Join(r.Guest(), filepath.Clean("/"+name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), modeOf(content)); err != nil {
			return err
		}
	}
	return nil
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
