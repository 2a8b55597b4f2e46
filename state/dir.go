// Package state is croft's memory: what was asked of each instance, what was decided, and who holds it.
//
// One JSON record per instance, replaced whole and synced. Whether an instance runs is never stored: it is
// asked of the kernel (a lock, a cgroup). This package never mounts, starts, signals or talks to anybody.
package state

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Dir is where the records of one croft root live. The zero value is not usable: see Open.
type Dir struct {
	Root string // survives a reboot: images, roots, instances
	Run  string // does not: sockets, readiness, scratch mount points
}

// Open makes sure that root and run exist, both absolute from here on.
func Open(root, run string) (*Dir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if run, err = filepath.Abs(run); err != nil {
		return nil, err
	}
	d := &Dir{root, run}
	// Ids on disk are unshifted: a guest's root can make files that are set-user-id root, so no user of the host
	// may get near them. The guests themselves are given mounts and need no way in.
	// A container's init, already nobody here, walks to its root through the run directory; that one comes first,
	// since the two may have a parent in common that is not there yet.
	if err := os.MkdirAll(run, 0o711); err != nil {
		return nil, err
	}
	for _, p := range []string{root, d.instances(), d.Images(), d.Roots()} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *Dir) instances() string { return filepath.Join(d.Root, "instances") }

// Images is the directory of the image store.
func (d *Dir) Images() string { return filepath.Join(d.Root, "images") }

// Roots is the directory of the instances' root filesystems.
func (d *Dir) Roots() string { return filepath.Join(d.Root, "roots") }

// RootOf is the directory of one instance's root filesystem.
func (d *Dir) RootOf(name string) string { return filepath.Join(d.Roots(), name) }

// RunOf is the volatile directory of one instance.
func (d *Dir) RunOf(name string) string { return filepath.Join(d.Run, name) }

// Of is the lasting directory of one instance: its record, its claim, its console log.
func (d *Dir) Of(name string) string { return filepath.Join(d.instances(), name) }

func (d *Dir) record(name string) string { return filepath.Join(d.Of(name), "instance.json") }

func (d *Dir) claimFile(name string) string { return filepath.Join(d.Of(name), "claim") }

// Create makes the record of in: decide fills in the facts while the directory is locked, so that nothing
// it picks can be picked twice. ErrExist when the name is taken. The record is on disk before it returns.
func (d *Dir) Create(in *Instance, decide func(*Instance) error) error {
	name := in.Spec.Name
	if err := CheckName(name); err != nil {
		return err
	}
	lock, err := Lock(filepath.Join(d.instances(), ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Lstat(d.Of(name)); err == nil {
		return fmt.Errorf("%s: %w", name, ErrExist)
	}
	if in.UUID == "" { // one that comes from elsewhere may have been known by its own
		in.UUID = newUUID()
	}
	in.Schema, in.Created = Schema, time.Now().UTC().Truncate(time.Millisecond)
	if err := decide(in); err != nil {
		return err
	}
	return d.publish(in)
}

// Still runs do while no instance can be created.
func (d *Dir) Still(do func() error) error {
	lock, err := Lock(filepath.Join(d.instances(), ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	return do()
}

// publish writes a complete directory aside and renames it into place: no half instance is ever seen.
func (d *Dir) publish(in *Instance) error {
	aside, err := os.MkdirTemp(d.instances(), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside) // after the rename there is nothing left to remove
	data, err := in.marshal()
	if err != nil {
		return err
	}
	if err := d.furnish(aside, data); err != nil {
		return err
	}
	if err := os.Rename(aside, d.Of(in.Spec.Name)); err != nil {
		return err
	}
	return SyncDir(d.instances())
}

// furnish fills the directory of a new instance: with its record, and with the files that its end and its removal will
// need, when there may be no room for new ones.
func (d *Dir) furnish(dir string, record []byte) error {
	for _, name := range []string{"claim", "lock"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			return err
		}
	}
	return ReplaceSpared(filepath.Join(dir, "instance.json"), record, 0o600)
}

// newUUID is a random (version 4) UUID in the 32 digits of a machine id.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, says crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return hex.EncodeToString(b[:])
}

// Get reads one record. ErrNotExist when there is none; a record that cannot be read is a *Damaged.
func (d *Dir) Get(name string) (*Instance, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(d.record(name))
	if os.IsNotExist(err) {
		if _, e := os.Lstat(d.Of(name)); e == nil {
			return nil, &Damaged{name, errors.New("instance.json is missing")}
		}
		return nil, fmt.Errorf("%s: %w", name, ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	in, err := parse(data)
	if err != nil {
		return nil, &Damaged{name, err}
	}
	if in.Spec.Name != name {
		return nil, &Damaged{name, fmt.Errorf("instance.json is that of %q", in.Spec.Name)}
	}
	return in, nil
}

// Damaged is an instance whose record cannot be read. It is shown, never touched, and can only be removed.
type Damaged struct {
	Name string
	Err  error
}

func (e *Damaged) Error() string { return fmt.Sprintf("%s: record is damaged: %v", e.Name, e.Err) }

func (e *Damaged) Unwrap() error { return e.Err }

// Names lists all instances, damaged ones too, sorted. It takes no lock.
func (d *Dir) Names() ([]string, error) {
	entries, err := os.ReadDir(d.instances())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil { // what else lies there is not ours
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// List reads every record, and never blocks. Damaged ones come apart from the others.
func (d *Dir) List() ([]*Instance, []*Damaged, error) {
	names, err := d.Names()
	if err != nil {
		return nil, nil, err
	}
	var all []*Instance
	var damaged []*Damaged
	for _, name := range names {
		in, err := d.Get(name)
		var bad *Damaged
		switch {
		case err == nil:
			all = append(all, in)
		case errors.As(err, &bad):
			damaged = append(damaged, bad)
		case errors.Is(err, ErrNotExist): // removed since Names
		default:
			damaged = append(damaged, &Damaged{name, err})
		}
	}
	return all, damaged, nil
}

// Edit changes one record under its lock and returns it as written. When change fails nothing is written.
func (d *Dir) Edit(name string, change func(*Instance) error) (*Instance, error) {
	lock, err := d.lock(name)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	in, err := d.Get(name)
	if err != nil {
		return nil, err
	}
	if err := change(in); err != nil {
		return nil, err
	}
	data, err := in.marshal()
	if err != nil {
		return nil, err
	}
	return in, ReplaceSpared(d.record(name), data, 0o600)
}

// Look gives the record to look, and nobody changes it meanwhile.
func (d *Dir) Look(name string, look func(*Instance) error) error {
	lock, err := d.lock(name)
	if err != nil {
		return err
	}
	defer lock.Close()
	in, err := d.Get(name)
	if err != nil {
		return err
	}
	return look(in)
}

func (d *Dir) lock(name string) (*os.File, error) {
	if _, err := d.Get(name); errors.Is(err, ErrNotExist) {
		return nil, err
	}
	f, err := Lock(filepath.Join(d.Of(name), "lock"))
	if os.IsNotExist(err) { // removed since
		return nil, fmt.Errorf("%s: %w", name, ErrNotExist)
	}
	return f, err
}

// Claim takes the instance for the life of the caller and its heirs; ErrRunning when somebody has it, ErrBusy when
// somebody holds its files.
func (d *Dir) Claim(name string) (*Claim, error) {
	c, err := claim(d.claimFile(name))
	switch {
	case os.IsNotExist(err):
		return nil, fmt.Errorf("%s: %w", name, ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := d.Unheld(name); err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

// Claimed asks whether somebody holds the instance, and takes nothing.
func (d *Dir) Claimed(name string) (bool, error) { return Locked(d.claimFile(name)) }

// Remove takes the record out of sight at once and then off the disk. Already gone is success.
func (d *Dir) Remove(name string) error {
	// A damaged one may have a name that CheckName refuses, but no other than an entry of the directory.
	if name == "" || name[0] == '.' || filepath.Base(name) != name {
		return fmt.Errorf("remove %q: name %w", name, ErrInvalid)
	}
	aside := filepath.Join(d.instances(), ".gone-"+newUUID()) // nothing is made: the disk may be full
	defer os.RemoveAll(aside)
	if err := os.Rename(d.Of(name), aside); err != nil && !os.IsNotExist(err) {
		return err
	}
	return SyncDir(d.instances())
}

// Sweep removes what interrupted creations and removals left, and says what it was.
func (d *Dir) Sweep() (swept []string, err error) {
	err = d.leftovers(func(path string) error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		name, _ := filepath.Rel(d.instances(), path) // it lies below
		swept = append(swept, name)
		return nil
	})
	return swept, err
}

// Leftovers are the paths of what Sweep would remove.
func (d *Dir) Leftovers() (paths []string, err error) {
	err = d.leftovers(func(path string) error {
		paths = append(paths, path)
		return nil
	})
	return paths, err
}

// leftovers goes through what interrupted creations and removals left. With the locks held nobody is just at it.
func (d *Dir) leftovers(each func(path string) error) error {
	lock, err := Lock(filepath.Join(d.instances(), ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	entries, err := os.ReadDir(d.instances())
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".new-") || strings.HasPrefix(name, ".gone-") {
			err = each(filepath.Join(d.instances(), name))
		} else {
			err = d.halfRecords(name, each)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// halfRecords goes through the half-written files that killed writers of one record left beside it.
func (d *Dir) halfRecords(name string, each func(path string) error) error {
	pattern := filepath.Join(d.Of(name), ".new-instance.json-*")
	if found, _ := filepath.Glob(pattern); len(found) == 0 {
		return nil
	}
	lock, err := Lock(filepath.Join(d.Of(name), "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	found, _ := filepath.Glob(pattern) // now without those that are being written
	for _, path := range found {
		if err := each(path); err != nil {
			return err
		}
	}
	return nil
}
