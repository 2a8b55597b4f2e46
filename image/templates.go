package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"croft/image/template"
	"croft/state"
)

// When a template of an LXD or Incus image is due.
const (
	TriggerCreate = "create" // the first start of a machine that was made of the image
	TriggerCopy   = "copy"   // the first start of a copy of a machine
	TriggerRename = "rename" // the first start under another name
	TriggerStart  = "start"  // every start
)

// FileTemplate is a file that an LXD or Incus image wants made in each machine (LXD's image format, "Templates").
type FileTemplate struct {
	Path       string // in the machine, absolute and clean
	When       []string
	CreateOnly bool // leave a file that is there already
	UID, GID   int  // of a new file
	Mode       fs.FileMode
	Properties map[string]string

	dir, file string // where its text is
}

// maxTemplate is how long the text of a template may be.
const maxTemplate = 1 << 20

// Templates gives the templates of an image, by path; none for an image that has no such thing.
func (s *Store) Templates(fingerprint string) ([]FileTemplate, error) {
	dir := filepath.Join(s.Dir, fingerprint)
	meta, err := readMetadata(filepath.Join(dir, lxdMetadata))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := meta.templates()
	for i := range all {
		all[i].dir = dir
	}
	return all, err
}

// templateRow is one template as metadata.yaml has it: numbers are texts there.
type templateRow struct {
	When       []string          `yaml:"when"`
	CreateOnly bool              `yaml:"create_only,omitempty"`
	Template   string            `yaml:"template"`
	Properties map[string]string `yaml:"properties,omitempty"`
	UID        string            `yaml:"uid,omitempty"`
	GID        string            `yaml:"gid,omitempty"`
	Mode       string            `yaml:"mode,omitempty"`
}

func (m metadata) templates() (all []FileTemplate, err error) {
	for _, name := range slices.Sorted(maps.Keys(m.Templates)) {
		t, err := m.Templates[name].parse(name)
		if err != nil {
			return nil, fmt.Errorf("template %q: %w", name, err)
		}
		all = append(all, t)
	}
	return all, nil
}

func (r templateRow) parse(name string) (t FileTemplate, err error) {
	t = FileTemplate{Path: path.Clean("/" + name), When: r.When, CreateOnly: r.CreateOnly, Properties: r.Properties, file: r.Template}
	switch {
	case t.Path == "/" || strings.HasSuffix(name, "/") || strings.ContainsRune(name, 0):
		return t, fmt.Errorf("that is no file, which %w", state.ErrInvalid)
	case r.Template == "" || path.Base(r.Template) != r.Template || r.Template == "." || r.Template == "..":
		return t, fmt.Errorf("%q is no name of a file in %s: it %w", r.Template, lxdTemplates, state.ErrInvalid)
	}
	const highest = 65535 // as many ids as a machine has
	if t.UID, err = numberIn(r.UID, 10, 0, highest); err != nil {
		return t, fmt.Errorf("uid %w", err)
	}
	if t.GID, err = numberIn(r.GID, 10, 0, highest); err != nil {
		return t, fmt.Errorf("gid %w", err)
	}
	mode, err := numberIn(r.Mode, 8, 0o644, 0o7777)
	if err != nil {
		return t, fmt.Errorf("mode %w", err)
	}
	t.Mode = fs.FileMode(mode)
	return t, nil
}

// numberIn reads a number of the base from 0 to highest; an empty text is otherwise.
func numberIn(text string, base, otherwise, highest int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, base, 32)
	if err != nil || n > uint64(highest) {
		return 0, fmt.Errorf("%q %w", text, state.ErrInvalid)
	}
	return int(n), nil
}

// Due tells whether the template is to be run for the trigger.
func (t FileTemplate) Due(trigger string) bool { return slices.Contains(t.When, trigger) }

// Text evaluates the template.
func (t FileTemplate) Text(values template.Values) (string, error) {
	wrong := func(err error) error { return fmt.Errorf("template %s: %s: %w", t.Path, shown(t.file), err) }
	data, err := t.read()
	if err != nil {
		return "", wrong(err)
	}
	parsed, err := template.Parse(string(data))
	if err != nil {
		return "", wrong(err)
	}
	text, err := parsed.Execute(values)
	if err != nil {
		return "", wrong(err)
	}
	return text, nil
}

// read gives the text. Nobody has checked what the image has beside its metadata: it is a regular file in a real directory,
// or nothing.
func (t FileTemplate) read() ([]byte, error) {
	dir, err := os.OpenFile(t.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), lxdTemplates+"/"+t.file, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	f := os.NewFile(uintptr(fd), t.file)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("what is no regular file %w", state.ErrInvalid))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTemplate+1))
	if err == nil && len(data) > maxTemplate {
		err = fmt.Errorf("a template of more than %d bytes %w", maxTemplate, state.ErrInvalid)
	}
	return data, err
}
