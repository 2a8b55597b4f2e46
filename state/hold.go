package state

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Hold is a hold on the files of an instance: as long as it lasts they are not mounted anew, nor removed. It is no
// claim: an instance whose files are held does not run by that. It ends with the process.
type Hold struct{ file *os.File }

// Release ends the hold.
func (h *Hold) Release() error { return h.file.Close() }

func (d *Dir) holdFile(name string) string { return filepath.Join(d.Of(name), "hold") }

// HoldRunning holds the files of an instance that runs, beside others who do the same. ErrBusy when somebody has
// them as those of a stopped one, which then cannot run.
func (d *Dir) HoldRunning(name string) (*Hold, error) { return d.hold(name, unix.F_RDLCK) }

// HoldStopped holds the files of an instance that does not run, alone. ErrBusy when somebody else has them,
// ErrRunning when it runs.
func (d *Dir) HoldStopped(name string) (*Hold, error) {
	h, err := d.hold(name, unix.F_WRLCK)
	if err != nil {
		return nil, err
	}
	// Whoever takes a claim looks for holds afterwards, and here it is the other way round: both may be refused, never
	// both succeed.
	claimed, err := d.Claimed(name)
	if err == nil && claimed {
		err = fmt.Errorf("%s: %w", name, ErrRunning)
	}
	if err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

func (d *Dir) hold(name string, kind int16) (*Hold, error) {
	f, err := os.OpenFile(d.holdFile(name), os.O_RDWR|os.O_CREATE, 0o600)
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("%s: %w", name, ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	lk := unix.Flock_t{Type: kind}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	if err == nil && current(f, d.holdFile(name)) {
		return &Hold{f}, nil
	}
	f.Close()
	if err == nil {
		return nil, fmt.Errorf("%s: was removed, or renamed, at this moment: %w", name, ErrBusy)
	}
	if err == unix.EAGAIN || err == unix.EACCES {
		return nil, held(name)
	}
	return nil, fmt.Errorf("fcntl(F_OFD_SETLK): %w", err)
}

func held(name string) error { return fmt.Errorf("%s: its files are being copied: %w", name, ErrBusy) }

// Unheld waits until nobody holds the files of an instance that somebody has claimed: a copy ends when it sees that
// the machine has. ErrBusy when one goes on.
func (d *Dir) Unheld(name string) error {
	for began := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		is, err := locked(d.holdFile(name), unix.F_WRLCK)
		if err != nil || !is {
			return err
		}
		if time.Since(began) > holdLimit {
			return held(name)
		}
	}
}

// holdLimit is how long a copy may take to notice.
const holdLimit = time.Second
