package man

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestPages(t *testing.T) {
	pages := sample(&did{}).Pages()
	again := sample(&did{}).Pages()
	names := slices.Sorted(maps.Keys(pages))
	want := []string{"croft-completion.1", "croft-cp.1", "croft-exec.1", "croft-help.1", "croft-image.1", "croft-images.7",
		"croft-list.1", "croft-run.1", "croft-stop.1", "croft-version.1", "croft.1"}
	if !slices.Equal(names, want) {
		t.Errorf("got pages %q", names)
	}
	for name, page := range pages {
		if !bytes.Equal(page, again[name]) {
			t.Errorf("%s: differs from one time to the next", name)
		}
	}
	for _, name := range []string{"croft.1", "croft-run.1", "croft-image.1", "croft-images.7"} {
		golden(t, "pages/"+name, pages[name])
	}
}

// TestPagesLint asks mandoc and groff whether the pages are well formed.
func TestPagesLint(t *testing.T) {
	dir := t.TempDir()
	for name, page := range sample(&did{}).Pages() {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, page, 0o644); err != nil {
			t.Fatal(err)
		}
		checked := false
		for _, tool := range [][]string{
			{"mandoc", "-T", "lint", "-W", "warning"},
			{"groff", "-man", "-ww", "-z", "-Tutf8"},
		} {
			if _, err := exec.LookPath(tool[0]); err != nil {
				continue
			}
			checked = true
			out, err := exec.Command(tool[0], append(tool[1:], file)...).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%s: %s: %v\n%s", name, tool[0], err, out)
			}
		}
		if !checked {
			t.Skip("neither mandoc nor groff is installed")
		}
	}
}

func TestEscape(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`a-b\c`, `a\-b\ec`}, {"'`^~", `\(aq\(ga\(ha\(ti`}, {"café", `caf\[u00E9]`}, {"plain.", "plain."},
	} {
		if got := escape(test.text); got != test.want {
			t.Errorf("%s: got %s, want %s", test.text, got, test.want)
		}
	}
}
