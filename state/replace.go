package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Replace puts data at path whole: after a crash the file holds either the old bytes or the new ones.
func Replace(path string, data []byte, mode os.FileMode) error {
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(dir, ".new-"+name+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing left to remove
	if err := fill(f, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// ReplaceSpared is Replace for a file that must be written on a full disk, too: how a machine ended, say. Beside it lies
// a spare, of which the disk has given the blocks already: without room for a new file the spare becomes it. By that the
// old file's blocks are free, and a new spare is made of them. It is made when it is missing, as after somebody else was
// faster; until then a full disk is an error.
//
// The file and its spare must have one writer at a time. Readers never see the spare.
func ReplaceSpared(path string, data []byte, mode os.FileMode) error {
	err := Replace(path, data, mode)
	if Full(err) && useSpare(path, data, mode) == nil {
		err = nil
	}
	if err != nil {
		return err
	}
	return KeepSpare(path, len(data))
}

// Full says whether err comes from a disk that has no block or no inode left, or lets us have none.
func Full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func spareOf(path string) string {
	dir, name := filepath.Split(path)
	return filepath.Join(dir, ".spare-"+name)
}

func useSpare(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(spareOf(path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < int64(len(data)) {
		err = unix.ENOSPC
	}
	if err != nil {
		f.Close()
		return err
	}
	if err := fill(f, data, mode); err != nil {
		return err
	}
	if err := os.Rename(spareOf(path), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// KeepSpare makes the spare of the file at path, whose size is given, where it is missing and there is room.
func KeepSpare(path string, size int) error {
	spare := spareOf(path)
	if info, err := os.Lstat(spare); err == nil && info.Size() >= int64(2*size) {
		return nil
	}
	const least = 16 << 10
	err := os.WriteFile(spare, make([]byte, max(2*size, least)), 0o600)
	if Full(err) {
		os.Remove(spare) // half a spare is none
		return nil
	}
	return err
}

// fill writes all of f, which may have been longer.
func fill(f *os.File, data []byte, mode os.FileMode) error {
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Sync()
}

// SyncFilesystem writes out everything of the filesystem that path is on, which is cheaper than a sync for every file
// of a tree.
func SyncFilesystem(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

// SyncDir makes renames and removals in dir survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
