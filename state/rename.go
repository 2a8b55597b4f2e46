package state

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// BeginRename makes a second record of the instance, under its new name. Both say what is to become of them, and both
// names are taken until EndRename. ErrExist when the new one is. The caller has the claim of the old one. The trigger is
// that of the next start, unless another waits for it.
func (d *Dir) BeginRename(from, to, trigger string) (*Instance, error) {
	if err := CheckName(to); err != nil {
		return nil, err
	}
	lock, err := Lock(filepath.Join(d.instances(), ".lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if _, err := os.Lstat(d.Of(to)); err == nil {
		return nil, fmt.Errorf("%s: %w", to, ErrExist)
	}
	in, err := d.Edit(from, func(in *Instance) error {
		in.Rename = &Rename{from, to}
		if in.Facts.Trigger == "" {
			in.Facts.Trigger = trigger
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	in.Spec.Name = to
	return in, d.publish(in)
}

// EndRename takes what else lies beside the old record to the new one, removes the old one, and makes the new one a
// record like any other. It may be repeated after a crash.
func (d *Dir) EndRename(r *Rename) error {
	entries, err := os.ReadDir(d.Of(r.From))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "instance.json", name == "claim", name == "lock", strings.HasPrefix(name, ".new-"):
		default:
			if err := os.Rename(filepath.Join(d.Of(r.From), name), filepath.Join(d.Of(r.To), name)); err != nil {
				return err
			}
		}
	}
	if err := d.Remove(r.From); err != nil {
		return err
	}
	return d.ForgetRename(r.To)
}

// ForgetRename makes a record that speaks of a rename one like any other.
func (d *Dir) ForgetRename(name string) error {
	_, err := d.Edit(name, func(in *Instance) error {
		in.Rename = nil
		return nil
	})
	return err
}
