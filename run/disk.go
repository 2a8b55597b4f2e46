package run

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"croft/rootfs"
	"croft/state"
)

// makeRoot prepares what is kept of a machine, with its limit, which needs the whole of it to be made within.
func (e *Engine) makeRoot(in *state.Instance, driver rootfs.Driver, root rootfs.Root) error {
	if err := root.Own(in.Facts.ProjectID); err != nil {
		return err
	}
	if err := driver.Create(root); err != nil {
		return err
	}
	return e.limitDisk(in)
}

// limitDisk limits what is kept of a machine as its spec says.
func (e *Engine) limitDisk(in *state.Instance) error {
	root := rootfs.Root{Dir: e.Dir.RootOf(in.Spec.Name)}
	if err := root.Limit(in.Facts.ProjectID, in.Spec.Limits.Disk); err != nil {
		return fmt.Errorf("--disk: %w", err)
	}
	return nil
}

// resize is limitDisk of a machine whose spec changes. One that has nothing yet gets what the limit needs.
func (e *Engine) resize(in *state.Instance) (err error) {
	if exists(e.Dir.RootOf(in.Spec.Name)) {
		return e.limitDisk(in)
	}
	if in.Facts.ProjectID == 0 {
		in.Facts.ProjectID, err = e.pickProject(in)
	}
	return err
}

// pickProject finds a project for what will be kept of in, 0 where its filesystem limits none. Each machine has one from the
// beginning, limited or not: what is made before does not count.
func (e *Engine) pickProject(in *state.Instance) (uint32, error) {
	digits, err := strconv.ParseUint(in.UUID[:min(8, len(in.UUID))], 16, 32)
	if err != nil {
		return 0, fmt.Errorf("uuid: %w", err)
	}
	var all []*state.Instance
	listed := errors.New("not yet")
	first := uint32(digits)>>2 | 1<<30 // where nobody counts from 1 up, as people and other managers do
	return rootfs.FreeProject(e.Dir.Roots(), first, func(id uint32) bool {
		if listed != nil {
			all, _, listed = e.Dir.List()
		}
		return slices.ContainsFunc(all, func(other *state.Instance) bool { return other.Facts.ProjectID == id })
	})
}

// storeQuota is what doctor says of it.
func storeQuota(x *examination) (string, error) {
	return "limits of each machine's disk", rootfs.CanLimit(existing(x.rootDir))
}

// Disk tells how much is kept of a machine; nil where nobody counts that.
func (e *Engine) Disk(in *state.Instance) (*rootfs.Disk, error) {
	return rootfs.Root{Dir: e.Dir.RootOf(in.Spec.Name)}.Disk(in.Facts.ProjectID)
}
