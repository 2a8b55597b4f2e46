package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"croft/state"
)

// What a start of the host starts, beside what units of their own start (atboot.go), is known from the records: a machine
// that boot.autostart says nothing of comes back when it ran until the host went down. Of a crash that is seen by the
// boot id of what is applied. At a clean end the undo asks systemd why it has been asked to stop.

// goesDown says whether in, which has ended for that cause, is to come back with the host: it was not stopped for its own
// sake.
func (e *Engine) goesDown(in *state.Instance, cause Cause) bool {
	bound := hold() == HeldByCaller || in.Applied != nil && in.Applied.Bound
	if cause != CauseAsked || bound || in.Spec.Remove || in.Spec.Boot.Autostart != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), busLimit)
	defer cancel()
	bus, err := e.Bus(ctx)
	if err != nil {
		return false
	}
	defer bus.Close()
	now, err := bus.SystemStateContext(ctx)
	return err == nil && now.Value.Value() == "stopping"
}

// LetGo makes a machine that ends with k go on without it.
func (e *Engine) LetGo(in *state.Instance, k *Keeper) error {
	if err := k.Unbind(); err != nil {
		return err
	}
	_, err := e.Dir.Edit(in.Spec.Name, func(in *state.Instance) error {
		if in.Applied != nil {
			in.Applied.Bound = false
		}
		return nil
	})
	return err
}

// BringBack has start start the machines that are to be started now that the host has been: in the order of the priorities, and
// as many at once as keep the processors busy, for a start waits, too. failed is told of each error as it comes, one at a time.
func (e *Engine) BringBack(start func(name string) error, failed func(error)) {
	var telling sync.Mutex
	tell := func(err error) {
		if err != nil {
			telling.Lock()
			defer telling.Unlock()
			failed(err)
		}
	}
	groups, err := e.broughtBack()
	tell(err)
	slots := make(chan struct{}, atOnce*runtime.NumCPU())
	for _, group := range groups {
		var starts sync.WaitGroup
		for _, name := range group {
			slots <- struct{}{}
			starts.Go(func() {
				tell(start(name))
				<-slots
			})
		}
		starts.Wait()
	}
}

// atOnce is how many machines start at a time for each processor.
const atOnce = 4

// broughtBack names the machines that are to be started now that the host has been, those of the highest priority first and
// those of the same together. Before that it ends what went down with the host, so that what was made to be removed is; but
// nothing of those that units of their own are starting meanwhile.
func (e *Engine) broughtBack() (groups [][]string, err error) {
	all, _, err := e.Dir.List()
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, in := range all {
		if in.Applied != nil && in.Applied.BootID != state.BootID() && !e.enabled(in.Spec.Name) {
			if _, err := e.repairOne(in.Spec.Name); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", in.Spec.Name, err))
			}
		}
	}
	if all, _, err = e.Dir.List(); err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(in *state.Instance) bool { return !returns(in) || e.enabled(in.Spec.Name) })
	slices.SortStableFunc(all, func(a, b *state.Instance) int {
		return cmp.Compare(b.Spec.Boot.Priority, a.Spec.Boot.Priority)
	})
	for i, in := range all {
		if i == 0 || all[i-1].Spec.Boot.Priority != in.Spec.Boot.Priority {
			groups = append(groups, nil)
		}
		last := &groups[len(groups)-1]
		*last = append(*last, in.Spec.Name)
	}
	return groups, errors.Join(failed...)
}

// returns says whether the host's start is to start in.
func returns(in *state.Instance) bool {
	if in.Spec.Boot.Autostart != nil {
		return *in.Spec.Boot.Autostart
	}
	return in.Applied == nil && in.Exit != nil && in.Exit.HostDown
}
