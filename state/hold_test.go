package state

import (
	"errors"
	"testing"
)

func TestHolds(t *testing.T) {
	d, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Create(&Instance{Spec: Spec{Name: "web", Image: "i"}}, func(*Instance) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := d.HoldRunning("none"); !errors.Is(err, ErrNotExist) {
		t.Errorf("hold of what is not there: %v", err)
	}

	// Those of a stopped one: alone, and nobody can claim it, which it is not.
	alone, err := d.HoldStopped("web")
	if err != nil {
		t.Fatal(err)
	}
	_, stopped := d.HoldStopped("web")
	_, running := d.HoldRunning("web")
	_, claim := d.Claim("web")
	for _, err := range []error{stopped, running, claim} {
		if !errors.Is(err, ErrBusy) {
			t.Errorf("held: %v", err)
		}
	}
	if held, err := d.Claimed("web"); held || err != nil {
		t.Errorf("a hold is no claim: %v, %v", held, err)
	}
	if err := alone.Release(); err != nil {
		t.Fatal(err)
	}

	// Those of a running one: several, and none as of a stopped one.
	c, err := d.Claim("web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.HoldStopped("web"); !errors.Is(err, ErrRunning) {
		t.Errorf("claimed: %v", err)
	}
	one, err1 := d.HoldRunning("web")
	two, err2 := d.HoldRunning("web")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if err := d.Unheld("web"); !errors.Is(err, ErrBusy) {
		t.Errorf("two holds: %v", err)
	}
	if err := errors.Join(one.Release(), two.Release(), d.Unheld("web"), c.Release()); err != nil {
		t.Error(err)
	}
}
