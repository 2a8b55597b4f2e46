package run

import (
	"fmt"
	"testing"

	"croft/state"
)

// What systemd is told of a machine stands in testdata, as for plans.
func TestUnitProperties(t *testing.T) {
	in, _ := trixie()
	in.Spec.Timeouts.Stop = 30
	var lines []string
	for _, p := range unitProperties(in, "/usr/bin/croft", []string{"CROFT_ROOT=/var/lib/croft"}) {
		lines = append(lines, fmt.Sprint(p.Name, " ", p.Value))
	}
	golden(t, "unit.properties", lines)
	in.Spec.Remove = true
	for _, p := range unitProperties(in, "/usr/bin/croft", nil) {
		if p.Name == "CollectMode" && p.Value.Value() != "inactive-or-failed" {
			t.Errorf("a unit of a machine made with --rm stays when it fails: %s", p.Value)
		}
	}
}

func TestUnitNames(t *testing.T) {
	usual := &Engine{Dir: &state.Dir{Root: DefaultRoot}}
	other := &Engine{Dir: &state.Dir{Root: "/srv/croft"}}
	if got := usual.Unit("web"); got != "croft-web.service" {
		t.Errorf("the unit of the usual root is %s", got)
	}
	if usual.Unit("web") == other.Unit("web") {
		t.Error("two roots share a unit")
	}
}
