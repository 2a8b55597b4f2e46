package run

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"croft/state"

	"golang.org/x/sys/unix"
)

// guestCredentials is where the machine finds its credentials, and those of its unit: nspawn's place, which systemd knows.
const guestCredentials = "/run/host/credentials"

// credentialsMount is where they are copied to for a start: it is mounted there in the starter's mount namespace alone.
func (p *Plan) credentialsMount() string { return filepath.Join(p.RunDir, "credentials") }

func (p *Plan) hasCredentials() bool {
	return p.Credentials != "" || len(p.Instance.Spec.Credentials) > 0
}

// loadCredentials copies them into memory that nobody of the host sees, as files that owner alone can read. They are
// secrets: of what is not in the machine's spec no disk, no log and no record ever has anything. The machine has a mount of its own of them once its init
// exists, and then done is to be called.
func (l *launch) loadCredentials(owner int) (done func(), err error) {
	if !l.hasCredentials() {
		return func() {}, nil
	}
	to := l.credentialsMount()
	if err := os.MkdirAll(to, 0o700); err != nil {
		return nil, err
	}
	// It is never swapped. What has no limit here has had one in the unit's manager.
	if err := unix.Mount("credentials", to, "ramfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0500"); err != nil {
		return nil, fmt.Errorf("credentials: mount: %w", err)
	}
	done = func() { unix.Unmount(to, unix.MNT_DETACH) }
	err = writeCredentials(l.Instance.Spec.Credentials, to, owner)
	if err == nil && l.Credentials != "" {
		err = copyCredentials(l.Credentials, to, owner)
	}
	if err == nil {
		err = os.Chown(to, owner, owner)
	}
	if err != nil {
		done()
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return done, nil
}

// writeCredentials writes those of the machine itself.
func writeCredentials(all []state.Credential, to string, owner int) error {
	for _, c := range all {
		at := filepath.Join(to, c.Name)
		var err error
		if c.File != "" {
			err = copyCredential(c.File, at, owner)
		} else {
			err = writeCredential(strings.NewReader(c.Value), at, owner)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// checkCredentials wants the host to have the files.
func checkCredentials(s *state.Spec) error {
	for _, c := range s.Credentials {
		if c.File == "" {
			continue
		}
		info, err := os.Stat(c.File)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s: what is no regular file %w", c.File, state.ErrInvalid)
		}
		if err != nil {
			return fmt.Errorf("credential %s: %w", c.Name, err)
		}
	}
	return nil
}

// copyCredentials copies the files of a flat directory, which is all that a unit's manager makes. The machine's own of the
// same name stay.
func copyCredentials(from, to string, owner int) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		err := copyCredential(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name()), owner)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func copyCredential(from, to string, owner int) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	return writeCredential(source, to, owner)
}

func writeCredential(text io.Reader, to string, owner int) error {
	copied, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	defer copied.Close()
	n, err := io.Copy(copied, io.LimitReader(text, state.MaxCredential+1)) // a file may be anything, and memory is not
	if err == nil && n > state.MaxCredential {
		err = fmt.Errorf("has more than %d bytes: it %w", state.MaxCredential, state.ErrInvalid)
	}
	if err != nil {
		return err
	}
	return copied.Chown(owner, owner)
}
