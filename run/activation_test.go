package run

import (
	"slices"
	"strings"
	"testing"

	"croft/state"
)

// What a machine is held by must outlast its reboots: with it go its guard, its place in the cgroups and its notifications.
func TestOnwardKeepsTheHold(t *testing.T) {
	const notify = envNotify + "=/run/notify"
	e := &Engine{Dir: &state.Dir{Root: "/r", Run: "/x"}, Pool: DefaultPool()}
	t.Setenv(envNotify, "/run/notify")
	for _, c := range []struct {
		hold     Hold
		notifies bool // the systemd of the unit that it is in
	}{{HeldByNone, false}, {HeldByJob, false}, {HeldByCaller, true}, {HeldByUnit, true}} {
		t.Setenv(envHold, string(c.hold))
		env := e.onward()
		held := ""
		for _, kv := range env {
			if v, ok := strings.CutPrefix(kv, envHold+"="); ok {
				held = v
			}
		}
		if held != string(c.hold) || slices.Contains(env, notify) != c.notifies {
			t.Errorf("held by %q: %q", c.hold, env)
		}
	}
}
