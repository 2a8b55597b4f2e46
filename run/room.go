package run

import (
	"fmt"
	"os"

	"croft/state"

	"golang.org/x/sys/unix"
)

// space is what is free on a filesystem, and how large that is, in bytes and inodes. Some have as many inodes as fit:
// there both numbers of them are 0.
type space struct{ free, size, inodes, ofInodes uint64 }

func spaceAt(dir string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return space{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	unit := uint64(st.Bsize)
	return space{st.Bavail * unit, st.Blocks * unit, st.Ffree, st.Files}, nil
}

// The last hundredth of a filesystem is left to the machines that there are, but no more of it than this.
const (
	reserveBytes  = 64 << 20
	reserveInodes = 1000
)

func (s space) short() bool {
	return s.free < min(s.size/100, reserveBytes) || s.inodes < min(s.ofInodes/100, reserveInodes)
}

func (s space) String() string {
	text := fmt.Sprintf("%d MiB free", s.free>>20)
	if s.ofInodes > 0 {
		text += fmt.Sprintf(" and %d inodes", s.inodes)
	}
	return text
}

// Room says why nothing new should be begun in this root: its filesystem is about to be full, and what is left is for
// the machines that run. nil when there is room, or when force is asked for.
func (e *Engine) Room(force bool) error {
	s, err := spaceAt(e.Dir.Root)
	if force || err != nil || !s.short() {
		return err
	}
	return state.Hint(fmt.Errorf("%s: its filesystem is full but for a reserve: %s: %w", e.Dir.Root, s, unix.ENOSPC), "croft prune --images; --force goes on all the same")
}
