package run

import (
	"strings"
	"testing"

	"croft/state"
)

// UPDATE=1 writes the units of the host's start anew.
func TestBootUnits(t *testing.T) {
	here := &Engine{Dir: &state.Dir{Root: DefaultRoot, Run: DefaultRun}}
	there := &Engine{Dir: &state.Dir{Root: "/srv/my machines", Run: "/run/mine"}}
	golden(t, "boot-template", strings.Split(here.template("/usr/local/bin/croft"), "\n"))
	golden(t, "boot-returning", strings.Split(there.returning("/opt/a b/croft"), "\n"))
	if now := here.BootUnit("web") + " " + here.returnUnit(); now != "croft@web.service croft.service" {
		t.Errorf("units are %s", now)
	}
	if there.returnUnit() == there.Unit("boot") || strings.Contains(there.returnUnit(), "-") {
		t.Errorf("%s can be the unit of a machine of another root", there.returnUnit())
	}
	var all []*state.Instance
	for name, priority := range map[string]int{"db": 9, "ldap": 9, "web": 0, "last": -1} {
		in := &state.Instance{Spec: state.Spec{Name: name, Boot: state.Boot{Priority: priority}}}
		all = append(all, in)
		if name == "web" {
			in.Spec.Boot.Shutdown = 30
			in.Spec.Mounts = []state.Mount{{Source: `/srv/50% "done"`, Target: "/srv"}}
			defer func() { golden(t, "boot-dropin", strings.Split(here.dropIn(in, all), "\n")) }()
		}
	}
}

// A machine comes back as its boot.autostart says, and else when it ran.
func TestReturns(t *testing.T) {
	yes, no := true, false
	down := &state.Exit{HostDown: true}
	for want, all := range map[bool][]state.Instance{
		true: {{Spec: state.Spec{Boot: state.Boot{Autostart: &yes}}}, {Exit: down}},
		false: {
			{}, {Exit: &state.Exit{}}, {Exit: down, Applied: &state.Applied{}},
			{Exit: down, Spec: state.Spec{Boot: state.Boot{Autostart: &no}}},
		},
	} {
		for _, in := range all {
			if returns(&in) != want {
				t.Errorf("%+v: %v", in, !want)
			}
		}
	}
}
