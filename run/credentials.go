package run

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// guestCredentials is where the machine finds the credentials of its unit: nspawn's place, which systemd knows.
const guestCredentials = "/run/host/credentials"

// credentialsMount is where they are copied to for a start: it is mounted there in the starter's mount namespace alone.
func (p *Plan) credentialsMount() string { return filepath.Join(p.RunDir, "credentials") }

// loadCredentials copies them into memory that nobody of the host sees, as files that owner alone can read. They are
// secrets: no disk, no log and no record has them ever. The machine has a mount of its own of them once its init
// exists, and then done is to be called.
func (l *launch) loadCredentials(owner int) (done func(), err error) {
	if l.Credentials == "" {
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
	if err := copyCredentials(l.Credentials, to, owner); err != nil {
		done()
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return done, nil
}

// copyCredentials copies the files of a flat directory, which is all that a unit's manager makes.
func copyCredentials(from, to string, owner int) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		if err := copyCredential(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name()), owner); err != nil {
			return err
		}
	}
	return os.Chown(to, owner, owner)
}

func copyCredential(from, to string, owner int) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	copied, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	defer copied.Close()
	if _, err := io.Copy(copied, source); err != nil {
		return err
	}
	return copied.Chown(owner, owner)
}
