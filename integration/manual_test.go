package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
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

// TestManualUnits holds the unit files that docs/systemd.md prints to those that its script starts: each begins with its name.
func TestManualUnits(t *testing.T) {
	chapter, err := os.ReadFile("../docs/systemd.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := txtar.ParseFile("testdata/systemd/chapter.txtar")
	if err != nil {
		t.Fatal(err)
	}
	printed := map[string]string{}
	for _, block := range regexp.MustCompile("(?s)```ini\n(# (In the machine: )?([^:\n]+).*?)```").FindAllSubmatch(chapter, -1) {
		where := "host/"
		if len(block[2]) > 0 {
			where = "machine/"
		}
		printed[where+string(block[3])] = string(block[1])
	}
	tested := map[string]string{}
	for _, file := range script.Files {
		if strings.Contains(file.Name, "/") {
			tested[file.Name] = string(file.Data)
		}
	}
	for name, text := range printed {
		if tested[name] != text {
			t.Errorf("testdata/systemd/chapter.txtar has another %s than docs/systemd.md, which prints\n%s", name, text)
		}
	}
	for name := range tested {
		if _, ok := printed[name]; !ok {
			t.Errorf("docs/systemd.md does not print %s, which its script starts", name)
		}
	}
	if len(printed) < strings.Count(string(chapter), "```ini") {
		t.Errorf("docs/systemd.md prints unit files without their names: %d of %d have one", len(printed), strings.Count(string(chapter), "```ini"))
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
