package state

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// HostDir is where the things that a host has only once are reserved, whatever the root. It is gone with a
// reboot: records keep what they had, and ask for it again, or for another, when they start.
const HostDir = "/run/croft-host"

// Owner is who reserved a thing: a record of some root on this host.
type Owner struct {
	Root string `json:"root"`
	Name string `json:"name"`
	UUID string `json:"uuid"`
}

// alive says whether the record that reserved something still exists.
func (o Owner) alive() bool {
	data, err := os.ReadFile(filepath.Join(o.Root, "instances", o.Name, "instance.json"))
	if err != nil {
		return !os.IsNotExist(err)
	}
	in, err := parse(data)
	return err != nil || in.UUID == o.UUID
}

// Host is the locked table of reservations; Close unlocks it.
type Host struct {
	dir  string
	lock *os.File
}

// OpenHost locks the reservations of this host.
func OpenHost() (*Host, error) { return openHost(HostDir) }

func openHost(dir string) (*Host, error) {
	if err := os.MkdirAll(filepath.Join(dir, "ids"), 0o755); err != nil {
		return nil, err
	}
	lock, err := Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	return &Host{dir, lock}, nil
}

// Close unlocks the table.
func (h *Host) Close() error { return h.lock.Close() }

func (h *Host) file(r Range) string {
	return filepath.Join(h.dir, "ids", fmt.Sprintf("%d-%d", r.Base, r.Size))
}

// Ranges are the id ranges that are reserved; their owners are not looked at.
func (h *Host) Ranges() ([]Range, error) {
	entries, err := os.ReadDir(filepath.Join(h.dir, "ids"))
	if err != nil {
		return nil, err
	}
	var all []Range
	for _, e := range entries {
		var r Range
		if _, err := fmt.Sscanf(e.Name(), "%d-%d", &r.Base, &r.Size); err == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

// Owner tells who reserved exactly r; false when nobody that still exists did.
func (h *Host) Owner(r Range) (Owner, bool) {
	var o Owner
	data, err := os.ReadFile(h.file(r))
	if err != nil || json.Unmarshal(data, &o) != nil {
		return Owner{}, false
	}
	return o, o.alive()
}

// Take reserves r for o. The caller has seen that it is free.
func (h *Host) Take(r Range, o Owner) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(h.file(r), data, 0o600)
}

// Free gives r back if o has it. Already free is success.
func (h *Host) Free(r Range, o Owner) error {
	var has Owner
	data, err := os.ReadFile(h.file(r))
	if err != nil || json.Unmarshal(data, &has) != nil || has != o {
		return nil
	}
	return os.Remove(h.file(r))
}

// FreeAll gives back whatever the record called name in root has: for one that cannot be read.
func (h *Host) FreeAll(root, name string) error {
	all, err := h.Ranges()
	if err != nil {
		return err
	}
	for _, r := range all {
		var o Owner
		data, err := os.ReadFile(h.file(r))
		if err != nil || json.Unmarshal(data, &o) != nil || o.Root != root || o.Name != name {
			continue
		}
		if err := os.Remove(h.file(r)); err != nil {
			return err
		}
	}
	return nil
}

// Sweep frees what records of root that no longer exist had reserved, and what a killed croft had half written. Other
// roots are left alone: whether their records exist can be hidden from here, in another mount namespace for one. The
// caller keeps root's records from being made meanwhile (Dir.Still), since a range is reserved before its record is.
func (h *Host) Sweep(root string) ([]Range, error) {
	all, err := h.Ranges()
	if err != nil {
		return nil, err
	}
	var swept []Range
	for _, r := range all {
		if !h.dead(r, root) {
			continue
		}
		if err := os.Remove(h.file(r)); err != nil {
			return swept, err
		}
		swept = append(swept, r)
	}
	return swept, nil
}

func (h *Host) dead(r Range, root string) bool {
	data, err := os.ReadFile(h.file(r))
	var o Owner
	if err != nil {
		return false
	}
	if json.Unmarshal(data, &o) != nil {
		return true // it is written with the table locked, and we have the lock
	}
	return o.Root == root && !o.alive()
}
