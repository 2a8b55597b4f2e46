package run

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/state"
)

// shippedProfiles is where a package of a distribution may put profiles, below those of the host's own settings.
const shippedProfiles = "/usr/share/croft/profiles"

// builtin are the profiles that there are without any file.
//
//go:embed profiles/*.yaml
var builtin embed.FS

// Profile is a fragment of settings with a name: text for a face to read.
type Profile struct {
	Name string
	Path string // of its file; "" for one that is built in
	Text []byte
	Ours bool // its file is among the host's settings, where it can be changed
}

// Where says where it stands, for people.
func (p Profile) Where() string {
	if p.Path == "" {
		return "built into croft"
	}
	return p.Path
}

func (e *Engine) profileDir() string { return filepath.Join(e.Settings, "profiles") }

const profileExt = ".yaml"

// Profile reads one: what the host's settings say comes before what a package has put there, and that before what is built in.
func (e *Engine) Profile(name string) (Profile, error) {
	if err := state.CheckProfile(name); err != nil {
		return Profile{}, err
	}
	path := filepath.Join(e.profileDir(), name+profileExt)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return shipped(name)
	}
	if err != nil {
		return Profile{}, fmt.Errorf("profile %s: %w", name, err)
	}
	return Profile{name, path, text, true}, nil
}

// shipped is one that comes with croft.
func shipped(name string) (Profile, error) {
	path := filepath.Join(shippedProfiles, name+profileExt)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = ""
		text, err = builtin.ReadFile("profiles/" + name + profileExt)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = state.ErrNotExist
	}
	if err != nil {
		return Profile{}, fmt.Errorf("profile %s: %w", name, err)
	}
	return Profile{name, path, text, false}, nil
}

// Profiles names all that there are, sorted.
func (e *Engine) Profiles() ([]string, error) {
	found := map[string]bool{}
	take := func(entries []fs.DirEntry, err error) error {
		for _, entry := range entries {
			if name, ok := strings.CutSuffix(entry.Name(), profileExt); ok && state.CheckProfile(name) == nil {
				found[name] = true
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	err := errors.Join(take(builtin.ReadDir("profiles")), take(os.ReadDir(shippedProfiles)), take(os.ReadDir(e.profileDir())))
	return slices.Sorted(maps.Keys(found)), err
}

// ProfileUsers names the machines that have it.
func (e *Engine) ProfileUsers(name string) ([]string, error) {
	all, _, err := e.Dir.List()
	var names []string
	for _, in := range all {
		if slices.Contains(in.Spec.Profiles, name) {
			names = append(names, in.Spec.Name)
		}
	}
	return names, err
}

// CreateProfile makes a new one.
func (e *Engine) CreateProfile(name string, text []byte) error {
	return e.withProfiles(func() error {
		old, err := e.Profile(name)
		switch {
		case err == nil:
			return state.Hint(fmt.Errorf("profile %s: %w: %s", name, state.ErrExist, old.Where()), "croft profile edit "+name)
		case !errors.Is(err, state.ErrNotExist):
			return err
		}
		return e.writeProfile(name, text)
	})
}

// ChangeProfile gives one another text. One that is not among the host's settings comes there by that.
func (e *Engine) ChangeProfile(name string, change func(Profile) ([]byte, error)) error {
	return e.withProfiles(func() error {
		old, err := e.Profile(name)
		if err != nil {
			return err
		}
		text, err := change(old)
		if err != nil {
			return err
		}
		return e.writeProfile(name, text)
	})
}

// RemoveProfile removes one from the host's settings. Where it stood in the place of a shipped one, that counts again, and
// machines may go on having it; else it must be without users.
func (e *Engine) RemoveProfile(name string) (back bool, err error) {
	err = e.withProfiles(func() error {
		p, err := e.Profile(name)
		if err != nil {
			return err
		}
		if !p.Ours {
			return state.Hint(fmt.Errorf("profile %s: comes with croft and stays", name), "croft profile edit "+name+", to have it say something else")
		}
		_, err = shipped(name)
		if back = err == nil; !back && !errors.Is(err, state.ErrNotExist) {
			return err
		}
		users, err := e.ProfileUsers(name)
		if err != nil {
			return err
		}
		if len(users) > 0 && !back {
			return state.Hint(fmt.Errorf("profile %s: %w: %s", name, state.ErrBusy, strings.Join(users, ", ")), "croft set "+users[0]+" profile="+state.DefaultProfile)
		}
		if err := os.Remove(p.Path); err != nil {
			return err
		}
		return state.SyncDir(e.profileDir())
	})
	return back, err
}

func (e *Engine) writeProfile(name string, text []byte) error {
	return state.Replace(filepath.Join(e.profileDir(), name+profileExt), text, 0o644)
}

// withProfiles does what changes profiles, one at a time.
func (e *Engine) withProfiles(do func() error) error {
	if err := os.MkdirAll(e.profileDir(), 0o755); err != nil {
		return err
	}
	lock, err := state.Lock(filepath.Join(e.profileDir(), ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	return do()
}
