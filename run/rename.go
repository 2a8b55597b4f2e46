package run

import (
	"errors"
	"fmt"
	"os"

	"croft/image"
	"croft/rootfs"
	"croft/state"
)

// Rename gives a stopped instance another name. Killed at any point it is finished, or forgotten where nothing had
// moved yet, by whoever takes the claim of either name next.
func (e *Engine) Rename(name, to string) error {
	if _, err := e.Dir.Get(name); err != nil || name == to {
		return err
	}
	claim, err := e.Dir.Claim(name)
	if errors.Is(err, state.ErrRunning) {
		return state.Hint(err, "croft stop "+name)
	}
	if err != nil {
		return err
	}
	defer claim.Release()
	in, err := e.Dir.Get(name)
	if err != nil {
		return err
	}
	if err := e.settleRename(in); err != nil {
		return err
	}
	if in.Applied != nil {
		if in.Applied.Populated() {
			return state.Hint(fmt.Errorf("%s: is orphaned: its processes live on: %w", name, state.ErrBusy), "croft stop "+name)
		}
		if err := e.finish(name, lost(in.Applied), 0); err != nil {
			return err
		}
	}
	if in, err = e.Dir.BeginRename(name, to, e.trigger(in, image.TriggerRename)); err != nil {
		return err
	}
	return e.finishRename(in.Rename)
}

// settleRename ends a rename of in that was interrupted; the caller has the claim. ErrNotExist when in was the old name.
func (e *Engine) settleRename(in *state.Instance) error {
	r := in.Rename
	if r == nil {
		return nil
	}
	to, err := e.Dir.Get(r.To)
	if err != nil && !errors.Is(err, state.ErrNotExist) {
		return err
	}
	if err != nil || to.UUID != in.UUID { // it did not come to a record under the new name
		return e.Dir.ForgetRename(in.Spec.Name)
	}
	if err := e.finishRename(r); err != nil || in.Spec.Name == r.To {
		return err
	}
	return fmt.Errorf("%s: is called %s now: %w", r.From, r.To, state.ErrNotExist)
}

// finishRename moves what bears the old name and is kept outside of the record, and the old record last. Neither name
// can be started before, so that what lies at the new one while the old one is there is nobody's.
func (e *Engine) finishRename(r *state.Rename) error {
	return e.Dir.Still(func() error {
		in, err := e.Dir.Get(r.To)
		if err != nil || in.Rename == nil { // done meanwhile, by a start of the new name for one
			return err
		}
		// The old record goes last: all has moved, and what bears the old name now is another machine's.
		was, err := e.Dir.Get(r.From)
		if errors.Is(err, state.ErrNotExist) || err == nil && was.UUID != in.UUID {
			return e.Dir.ForgetRename(r.To)
		}
		if err != nil {
			return err
		}
		if old := e.Dir.RootOf(r.From); exists(old) {
			if err := (rootfs.Overlay{}).Remove(rootfs.Root{Dir: e.Dir.RootOf(r.To)}); err != nil {
				return err
			}
			if err := os.Rename(old, e.Dir.RootOf(r.To)); err != nil {
				return err
			}
		}
		if err := state.SyncDir(e.Dir.Roots()); err != nil {
			return err
		}
		if err := e.inherit(in, r.From); err != nil {
			return err
		}
		if err := e.rehome(r.From, r.To); err != nil {
			return err
		}
		e.forget(r.From)
		return e.Dir.EndRename(r)
	})
}

// inherit makes the ids that are reserved for the old name those of in.
func (e *Engine) inherit(in *state.Instance, from string) error {
	host, err := state.OpenHost()
	if err != nil {
		return err
	}
	defer host.Close()
	old := e.owner(in)
	old.Name = from
	if who, ok := host.Owner(in.Facts.Range); !ok || who != old {
		return nil // given away meanwhile, or done
	}
	return host.Take(in.Facts.Range, e.owner(in))
}
