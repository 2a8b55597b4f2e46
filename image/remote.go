package image

import (
	_ "embed" // for the publishers' keys
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/image/fetch"
	"croft/image/simplestreams"
	"croft/state"
)

// Protocols that a remote may speak.
const (
	ProtocolStreams = "simplestreams"
	ProtocolOCI     = "oci"
)

// Remote is a place that images come from.
type Remote struct {
	Name     string   `json:"-"`
	URL      string   `json:"url"` // https://HOST[/PATH]
	Protocol string   `json:"protocol"`
	Mirrors  []string `json:"mirrors,omitempty"` // URLs that have the same, asked when the first fails
	CA       string   `json:"ca,omitempty"`      // a file of PEM certificates; "" for the host's own

	// Whether what it offers has to be signed: where neither is set, when a key of its is known.
	Unsigned bool `json:"unsigned,omitempty"`
	Signed   bool `json:"signed,omitempty"`
}

// shipped are the remotes that there are until somebody says otherwise.
func shipped() map[string]*Remote {
	return map[string]*Remote{
		"images":       {URL: "https://images.linuxcontainers.org", Protocol: ProtocolStreams},
		"ubuntu":       {URL: "https://cloud-images.ubuntu.com/releases", Protocol: ProtocolStreams},
		"ubuntu-daily": {URL: "https://cloud-images.ubuntu.com/daily", Protocol: ProtocolStreams},
		"docker":       {URL: "https://docker.io", Protocol: ProtocolOCI},
	}
}

// defaultRemote is the one that a name without a remote belongs to until somebody says otherwise.
const defaultRemote = "images"

// Remotes are the remotes of this host. What differs from those that croft comes with stands in one file.
type Remotes struct {
	Default string // the one that a name without a remote belongs to; "" when there is none
	Dir     string // of the host's settings: remotes.json, and keys/NAME/ with the keys of each

	all map[string]*Remote
}

// remotesFile holds what was changed. A remote that is null was removed.
type remotesFile struct {
	Default *string            `json:"default,omitempty"`
	Remotes map[string]*Remote `json:"remotes"`
}

const remotesName = "remotes.json"

// OpenRemotes reads the remotes from the directory of the host's settings; no file there says nothing.
func OpenRemotes(dir string) (*Remotes, error) {
	r := &Remotes{Default: defaultRemote, Dir: dir, all: shipped()}
	changes, err := r.changes()
	if err != nil {
		return nil, err
	}
	maps.Copy(r.all, changes.Remotes)
	maps.DeleteFunc(r.all, func(_ string, one *Remote) bool { return one == nil })
	if changes.Default != nil {
		r.Default = *changes.Default
	}
	for name, one := range r.all {
		one.Name = name
		if err := one.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", r.file(), err)
		}
	}
	return r, nil
}

func (r *Remotes) file() string { return filepath.Join(r.Dir, remotesName) }

func (r *Remotes) changes() (c remotesFile, err error) {
	data, err := os.ReadFile(r.file())
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", r.file(), err)
	}
	if c.Remotes == nil {
		c.Remotes = map[string]*Remote{}
	}
	return c, err
}

// change edits the file, one at a time.
func (r *Remotes) change(edit func(*remotesFile) error) error {
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return err
	}
	lock, err := state.Lock(filepath.Join(r.Dir, ".remotes.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	c, err := r.changes()
	if err != nil {
		return err
	}
	if err := edit(&c); err != nil {
		return err
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return state.Replace(r.file(), append(data, '\n'), 0o644)
}

// check says what is wrong with a remote.
func (r Remote) check() error {
	if r.Name == "" || strings.ContainsFunc(r.Name, func(c rune) bool { return !alnum(c) && c != '-' }) || !alnum(rune(r.Name[0])) {
		return fmt.Errorf("remote %q %w: its name has letters, digits and -", r.Name, state.ErrMisnamed)
	}
	if r.Protocol != ProtocolStreams && r.Protocol != ProtocolOCI {
		return fmt.Errorf("remote %s: protocol %q %w: it is %s or %s", r.Name, r.Protocol, state.ErrMisnamed, ProtocolStreams, ProtocolOCI)
	}
	if r.Unsigned && r.Signed {
		return fmt.Errorf("remote %s %w: signatures are either required or not", r.Name, state.ErrMisnamed)
	}
	if r.Protocol == ProtocolOCI {
		switch {
		case len(r.Mirrors) > 0:
			return state.Hint(fmt.Errorf("remote %s: a mirror of a registry %w", r.Name, state.ErrUnsupported), "write it into /etc/containers/registries.conf")
		case r.Signed || r.Unsigned:
			return r.signedElsewhere()
		}
	}
	for _, url := range append([]string{r.URL}, r.Mirrors...) {
		if _, err := fetch.CheckURL(url); err != nil {
			return fmt.Errorf("remote %s: %w", r.Name, err)
		}
	}
	return nil
}

// signedElsewhere refuses what would not count: what of a registry has to be signed says policy.json.
func (r Remote) signedElsewhere() error {
	err := fmt.Errorf("remote %s: a rule for the signatures of a registry %w", r.Name, state.ErrUnsupported)
	return state.Hint(err, "write it into /etc/containers/policy.json")
}

// The keys that the known publishers sign with. Whose they are is told by the fingerprint, which their own pages name.
var (
	//go:embed keys/linuxcontainers.asc
	linuxcontainersKey []byte // E7FB0CAEC8173D669066514CBAEFF88C22F6E216
	//go:embed keys/ubuntu.asc
	ubuntuKey []byte // D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81
)

// publishers are the servers of which croft knows the keys.
func publishers() map[string][]byte {
	return map[string][]byte{
		"https://images.linuxcontainers.org/": linuxcontainersKey,
		"https://cloud-images.ubuntu.com/":    ubuntuKey,
	}
}

// keysName is the directory beside the remotes that has a directory for each of them, with its keys.
const keysName = "keys"

// Keys are the keys that what a remote offers has to be signed by; nil when it need not be.
func (r *Remotes) Keys(one Remote) (*simplestreams.Keys, error) {
	if one.Unsigned || one.Protocol != ProtocolStreams {
		return nil, nil
	}
	keys, known := &simplestreams.Keys{}, false
	for url, key := range publishers() {
		if strings.HasPrefix(one.URL+"/", url) {
			known = true
			if err := keys.Add(key); err != nil {
				return nil, err
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(r.Dir, keysName, one.Name, "*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil {
			err = keys.Add(data)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		known = true
	}
	if !known && one.Signed {
		err := fmt.Errorf("remote %s: there is no key of its, and what it offers has to be signed: %w", one.Name, state.ErrNotExist)
		return nil, state.Hint(err, "put one into "+filepath.Join(r.Dir, keysName, one.Name))
	}
	if !known {
		return nil, nil
	}
	return keys, nil
}

// addKeys takes the keys in the files for a remote's, whose others are forgotten.
func (r *Remotes) addKeys(name string, files []string) error {
	dir := filepath.Join(r.Dir, keysName, name)
	if err := os.RemoveAll(dir); err != nil || len(files) == 0 {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for n, file := range files {
		data, err := os.ReadFile(file)
		if err == nil {
			err = (&simplestreams.Keys{}).Add(data)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := state.Replace(filepath.Join(dir, fmt.Sprintf("%d.key", n+1)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// List gives all remotes by name.
func (r *Remotes) List() []Remote {
	var all []Remote
	for _, name := range slices.Sorted(maps.Keys(r.all)) {
		all = append(all, *r.all[name])
	}
	return all
}

// Get finds a remote by its name.
func (r *Remotes) Get(name string) (Remote, error) {
	if one := r.all[name]; one != nil {
		return *one, nil
	}
	err := fmt.Errorf("remote %s: %w", name, state.ErrNotExist)
	if near := nearest(name, r.all, 3); near != "" {
		return Remote{}, state.Hint(err, "use "+near)
	}
	return Remote{}, state.Hint(err, "croft remote list")
}

// Add writes a new remote down, with the files that hold its keys.
func (r *Remotes) Add(one Remote, keys []string) error {
	if err := one.check(); err != nil {
		return err
	}
	if one.Protocol == ProtocolOCI && len(keys) > 0 {
		return one.signedElsewhere()
	}
	if _, err := one.client(); err != nil { // with its authorities
		return fmt.Errorf("remote %s: %w", one.Name, err)
	}
	return r.change(func(c *remotesFile) error {
		now := shipped()
		maps.Copy(now, c.Remotes)
		if now[one.Name] != nil {
			return state.Hint(fmt.Errorf("remote %s: %w", one.Name, state.ErrExist), "croft remote rm "+one.Name)
		}
		c.Remotes[one.Name] = &one
		return r.addKeys(one.Name, keys)
	})
}

// Remove takes a remote away, and its keys: another of that name is not to be trusted for them. The images that came from
// it stay.
func (r *Remotes) Remove(name string) error {
	if _, err := r.Get(name); err != nil {
		return err
	}
	return r.change(func(c *remotesFile) error {
		if delete(c.Remotes, name); shipped()[name] != nil {
			c.Remotes[name] = nil
		}
		if r.Default == name {
			none := ""
			c.Default = &none
		}
		return r.addKeys(name, nil)
	})
}

// SetDefault makes names without a remote belong to the one that is named; "" is none.
func (r *Remotes) SetDefault(name string) error {
	if name != "" {
		if _, err := r.Get(name); err != nil {
			return err
		}
	}
	return r.change(func(c *remotesFile) error {
		c.Default = &name
		return nil
	})
}
