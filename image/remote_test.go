package image

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"croft/state"
)

func names(t *testing.T, dir string) (names []string, byDefault string) {
	t.Helper()
	r, err := OpenRemotes(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range r.List() {
		names = append(names, one.Name)
	}
	return names, r.Default
}

func TestRemotes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "croft")
	shipped := []string{"docker", "images", "ubuntu", "ubuntu-daily"}
	if got, byDefault := names(t, dir); !slices.Equal(got, shipped) || byDefault != "images" {
		t.Errorf("shipped are %q, by default %s", got, byDefault)
	}
	r, err := OpenRemotes(dir)
	if err != nil {
		t.Fatal(err)
	}
	corp := Remote{Name: "corp", URL: "https://images.example.com", Protocol: ProtocolStreams, Mirrors: []string{"https://mirror.example.com/a"}}
	if err := r.Add(corp, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(corp, nil); !errors.Is(err, state.ErrExist) {
		t.Errorf("added twice: %v", err)
	}
	if err := r.Remove("images"); err != nil {
		t.Fatal(err)
	}
	if got, byDefault := names(t, dir); !slices.Equal(got, []string{"corp", "docker", "ubuntu", "ubuntu-daily"}) || byDefault != "" {
		t.Errorf("%q, by default %q", got, byDefault)
	}
	if err := r.Add(Remote{Name: "images", URL: "https://elsewhere.example.com", Protocol: ProtocolStreams}, nil); err != nil {
		t.Errorf("one that was removed cannot be added: %v", err)
	}
	if r, err = OpenRemotes(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Get("corp"); err != nil || got.URL != corp.URL || !slices.Equal(got.Mirrors, corp.Mirrors) {
		t.Errorf("%+v: %v", got, err)
	}
	if err := r.SetDefault("nobody"); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("nobody is the default: %v", err)
	}
	if err := errors.Join(r.SetDefault("corp"), r.Remove("ubuntu")); err != nil {
		t.Fatal(err)
	}
	if _, byDefault := names(t, dir); byDefault != "corp" {
		t.Errorf("the default is %q", byDefault)
	}
}

func TestBadRemotes(t *testing.T) {
	r, err := OpenRemotes(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const url = "https://images.example.com"
	for _, bad := range []Remote{
		{Name: "", URL: url, Protocol: ProtocolStreams},
		{Name: "a/b", URL: url, Protocol: ProtocolStreams},
		{Name: "..", URL: url, Protocol: ProtocolStreams},
		{Name: "a", URL: url},
		{Name: "a", URL: url, Protocol: "lxd"},
		{Name: "a", URL: "http://images.example.com", Protocol: ProtocolStreams},
		{Name: "a", URL: url, Protocol: ProtocolStreams, Mirrors: []string{"file:///srv"}},
		{Name: "a", URL: url, Protocol: ProtocolStreams, Signed: true, Unsigned: true},
	} {
		if err := r.Add(bad, nil); !errors.Is(err, state.ErrMisnamed) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, text := range []string{"{", `{"remotes":{"a":{"url":"https://images.example.com","protocol":"x"}}}`, `{"remotes":{"../a":{"url":"https://images.example.com","protocol":"oci"}}}`} {
		if err := os.WriteFile(r.file(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenRemotes(r.Dir); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

// TestKeysOfRemotes: who is asked for a signature.
func TestKeysOfRemotes(t *testing.T) {
	r, err := OpenRemotes(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		remote Remote
		keys   int // -1: none are asked for
		err    error
	}{
		{Remote{Name: "images", URL: "https://images.linuxcontainers.org"}, 1, nil},
		{Remote{Name: "images", URL: "https://images.linuxcontainers.org", Unsigned: true}, -1, nil},
		{Remote{Name: "minimal", URL: "https://cloud-images.ubuntu.com/minimal/releases"}, 1, nil},
		{Remote{Name: "images", URL: "https://images.linuxcontainers.org.example.com"}, -1, nil},
		{Remote{Name: "corp", URL: "https://images.example.com"}, -1, nil},
		{Remote{Name: "corp", URL: "https://images.example.com", Signed: true}, -1, state.ErrNotExist},
		{Remote{Name: "own", URL: "https://images.example.com"}, 1, nil},
		{Remote{Name: "own", URL: "https://images.linuxcontainers.org"}, 2, nil},
		{Remote{Name: "damaged", URL: "https://images.example.com"}, -1, state.ErrInvalid},
	} {
		c.remote.Protocol = ProtocolStreams
		for name, key := range map[string][]byte{"own": ubuntuKey, "damaged": []byte("no key")} {
			dir := filepath.Join(r.Dir, keysName, name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "1.key"), key, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		keys, err := r.Keys(c.remote)
		n := -1
		if keys != nil {
			n = len(keys.Fingerprints())
		}
		if n != c.keys || !errors.Is(err, c.err) {
			t.Errorf("%+v: %d keys: %v", c.remote, n, err)
		}
	}
}
