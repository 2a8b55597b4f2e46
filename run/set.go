package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"

	"croft/state"
)

// Reconfigure changes what was asked of an instance, and gives its record before and after. When change fails, or the
// whole of the new spec is not valid, nothing is written. What runs is as it was started, but for its limits, volumes and
// devices: these change with the record, or neither does.
func (e *Engine) Reconfigure(name string, change func(*state.Spec) error) (before, after *state.Instance, err error) {
	if before, err = e.Dir.Get(name); err == nil {
		_, err = e.settleShares(context.Background(), before) // what a killed one has left
	}
	if err != nil {
		return nil, nil, err
	}
	before, after, err = e.respec(name, change)
	if err == nil {
		_, err = e.settleShares(context.Background(), after)
	}
	if err == nil && (e.enabled(name) || after.Spec.Boot.Always() && booted()) {
		err = e.arrange(context.Background(), func() (bool, error) {
			if reflect.DeepEqual(before.Spec.Boot.Autostart, after.Spec.Boot.Autostart) {
				return false, nil // who has enabled it by systemctl alone meant it
			}
			return e.enable(name)
		})
	}
	return before, after, err
}

// respec is Reconfigure but for the files of the host's start.
func (e *Engine) respec(name string, change func(*state.Spec) error) (before, after *state.Instance, err error) {
	after, err = e.Dir.Edit(name, func(in *state.Instance) error {
		if in.Rename != nil && in.Rename.From == name { // the record under the new name has been written
			return fmt.Errorf("%s: is being renamed to %s: %w", name, in.Rename.To, state.ErrBusy)
		}
		was := *in
		before = &was
		if err := change(&in.Spec); err != nil {
			return err
		}
		if err := in.Spec.Check(); err != nil {
			return err
		}
		if err := errors.Join(checkCredentials(&in.Spec), checkNetworks(&in.Spec)); err != nil {
			return err
		}
		if !sameShares(&in.Spec, &before.Spec) { // what the host has lost is no reason to refuse something else
			if err := checkVolumes(&in.Spec); err != nil {
				return err
			}
		}
		if !reflect.DeepEqual(in.Spec.NICs, before.Spec.NICs) {
			if err := e.relink(in); err != nil {
				return err
			}
		}
		if _, err := e.hostNames(&in.Spec); err != nil {
			return err
		}
		if !reflect.DeepEqual(in.Spec.Ports, before.Spec.Ports) {
			if err := e.republish(in); err != nil {
				return err
			}
		}
		if !reflect.DeepEqual(in.Spec.Security, before.Spec.Security) {
			if err := checkSecurity(&in.Spec.Security); err != nil {
				return err
			}
		}
		if reflect.DeepEqual(in.Spec.Limits, before.Spec.Limits) {
			return nil
		}
		if err := e.checkLimits(&in.Spec.Limits); err != nil {
			return err
		}
		if in.Spec.Limits.Disk == before.Spec.Limits.Disk {
			return e.relimit(in)
		}
		if err := e.resize(in); err != nil {
			return err
		}
		if err := e.relimit(in); err != nil {
			return errors.Join(err, e.resize(before))
		}
		return nil
	})
	return before, after, err
}

// checkVolumes wants the host to have what is to be bound, and the devices.
func checkVolumes(s *state.Spec) error {
	for _, m := range s.Mounts {
		st, err := os.Stat(m.Source)
		if err != nil {
			return fmt.Errorf("volume: %w", err)
		}
		if st.Mode()&os.ModeDevice != 0 {
			err := fmt.Errorf("volume %s: is a device, and could not be opened: %w", m.Source, state.ErrInvalid)
			return state.Hint(err, "--device "+m.Source+":"+m.Target)
		}
	}
	_, err := nodesOf(s.Devices)
	if err == nil {
		_, err = injectionOf(s.Devices)
	}
	return err
}
