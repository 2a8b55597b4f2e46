package state

import (
	"errors"
	"fmt"
)

// What a caller can act on. Wrap them with %w; compare with errors.Is.
var (
	ErrNotExist    = errors.New("no such thing")
	ErrExist       = errors.New("already exists")
	ErrRunning     = errors.New("is running")
	ErrNotRunning  = errors.New("is not running")
	ErrPaused      = errors.New("is paused")
	ErrBusy        = errors.New("is in use")
	ErrProtected   = errors.New("is protected from removal")
	ErrInvalid     = errors.New("is not valid")
	ErrUnsupported = errors.New("is not supported here")
)

// ErrMisnamed is the ErrInvalid of a name that was typed; others are found in things, such as archives.
var ErrMisnamed = fmt.Errorf("%w", ErrInvalid)

// Hinted is an error together with the command that would help: faces print the hint on a line of its own.
type Hinted struct {
	Err  error
	Hint string
}

func (h *Hinted) Error() string { return h.Err.Error() }

func (h *Hinted) Unwrap() error { return h.Err }

// Hint attaches a remedy to err; nil stays nil.
func Hint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Hinted{err, hint}
}
