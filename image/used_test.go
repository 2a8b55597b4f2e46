package image

import (
	"testing"
	"time"
)

// What images share is nobody's alone, and a layer that one image has twice lies on disk once.
func TestUnique(t *testing.T) {
	base, a, b := Layer{Digest: "base", Size: 100}, Layer{Digest: "a", Size: 10}, Layer{Digest: "b", Size: 1}
	got := Unique([]Image{
		{Fingerprint: "base", Layers: []Layer{base}},
		{Fingerprint: "one", Layers: []Layer{base, a}},
		{Fingerprint: "two", Layers: []Layer{base, b, b}},
		{Fingerprint: "damaged"},
	})
	for fingerprint, want := range map[string]int64{"base": 0, "one": 10, "two": 1, "damaged": 0} {
		if got[fingerprint] != want {
			t.Errorf("%s: %d, not %d", fingerprint, got[fingerprint], want)
		}
	}
}

func TestUse(t *testing.T) {
	s := testStore(t)
	img := mustImport(t, s, rootfsTar(t, "used"))
	if _, ok := s.LastUsed(img.Fingerprint); ok {
		t.Error("used by nobody")
	}
	for range 2 {
		if err := s.Use(img.Fingerprint); err != nil {
			t.Fatal(err)
		}
	}
	if at, ok := s.LastUsed(img.Fingerprint); !ok || time.Since(at) > time.Minute {
		t.Error(at, ok)
	}
	if again, err := s.Get(img.Fingerprint); err != nil || !again.Imported.Equal(img.Imported) {
		t.Error(again, err)
	}
	if err := s.Use("gone"); err != nil {
		t.Error(err)
	}
}
