package state

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A spare becomes the file when asked to, is never a file half written, and is made again.
func TestSpare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	holds := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	if err := useSpare(path, []byte("x"), 0o600); err == nil {
		t.Error("there was no spare")
	}
	for _, want := range []string{"one", "two", ""} {
		if err := ReplaceSpared(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		holds(want)
		want += " on a full disk"
		if err := useSpare(path, []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		holds(want)
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if err := useSpare(path, []byte("again"), 0o600); err == nil {
			t.Error("the spare was used twice")
		}
	}
	if err := KeepSpare(path, 1); err != nil {
		t.Fatal(err)
	}
	if err := useSpare(path, make([]byte, 1<<20), 0o600); !Full(err) {
		t.Errorf("more than there is room for in the spare: %v", err)
	}
	holds(" on a full disk")

	large := bytes.Repeat([]byte("x"), 1<<20) // the spare grows with the file
	if err := ReplaceSpared(path, large, 0o600); err != nil {
		t.Fatal(err)
	}
	large[0] = 'y'
	if err := useSpare(path, large, 0o600); err != nil {
		t.Fatal(err)
	}
	holds(string(large))

	if err := os.WriteFile(spareOf(path), nil, 0o600); err != nil { // of a writer that was killed
		t.Fatal(err)
	}
	if err := KeepSpare(path, 1); err != nil {
		t.Fatal(err)
	}
	if err := useSpare(path, []byte("made again"), 0o600); err != nil {
		t.Fatal(err)
	}
	holds("made again")
}
