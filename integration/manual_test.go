package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestManualIsUpToDate compares docs/man with the pages that the binary under test writes: `make manual` brings them up to date.
func TestManualIsUpToDate(t *testing.T) {
	binary := os.Getenv("CROFT_BIN")
	if binary == "" {
		t.Skip("CROFT_BIN names no binary")
	}
	dir := t.TempDir()
	cmd := exec.Command(binary, "__manual", dir)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "CROFT_") })
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("croft __manual: %v: %s", err, out)
	}
	want, have := pages(t, dir), pages(t, "../docs/man")
	for name, page := range want {
		switch is, ok := have[name]; {
		case !ok:
			t.Errorf("docs/man lacks %s: make manual", name)
		case !bytes.Equal(is, page):
			t.Errorf("docs/man/%s is not what the table says: make manual", name)
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/man/%s describes nothing that there is", name)
		}
	}
}

func pages(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	all := map[string][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = text
	}
	return all
}
