package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"

	"croft/state"
)

// Backup is what a backup of `lxc export` or `incus export` says of the instance in it.
type Backup struct {
	Name      string
	Ephemeral bool
	Config    map[string]string            // the instance's own and that of its profiles
	Devices   map[string]map[string]string // as well
	Snapshots []string                     // which are not taken
}

// backupIndex is backup/index.yaml; newer ones hold what backup.yaml holds as well.
type backupIndex struct {
	Name      string        `yaml:"name"`
	Type      string        `yaml:"type"`
	Backend   string        `yaml:"backend"`
	Optimized bool          `yaml:"optimized"`
	Snapshots []string      `yaml:"snapshots"`
	Config    *backupConfig `yaml:"config"`
}

// backupConfig is backup/container/backup.yaml.
type backupConfig struct {
	Container *backupInstance `yaml:"container"`
	Instance  *backupInstance `yaml:"instance"` // as LXD 6 calls it
}

type backupInstance struct {
	Type            string                       `yaml:"type"`
	Ephemeral       bool                         `yaml:"ephemeral"`
	Config          map[string]string            `yaml:"config"`
	Devices         map[string]map[string]string `yaml:"devices"`
	ExpandedConfig  map[string]string            `yaml:"expanded_config"`
	ExpandedDevices map[string]map[string]string `yaml:"expanded_devices"`
}

const (
	backupTop     = "backup/"
	backupRoot    = "backup/container/"
	backupIndexed = "backup/index.yaml"
	backupYAML    = "backup/container/backup.yaml"
)

// ImportBackup makes an image of the newest state of the container in a backup, and tells what else is in it. check is asked
// as soon as that is known, before anything is unpacked; its error is the end.
func (s *Store) ImportBackup(ctx context.Context, o ImportOptions, check func(Backup) error) (Image, Backup, error) {
	w, err := s.newWork()
	if err != nil {
		return Image{}, Backup{}, importError(o.Source, err)
	}
	defer w.remove()
	b := &backupReader{check: check}
	came, err := s.fillBackup(ctx, w, b, o)
	if err != nil {
		return Image{}, Backup{}, importError(o.Source, err)
	}
	img, err := s.keep(ctx, came, o)
	return img, b.backup, importError(o.Source, err)
}

func (s *Store) fillBackup(ctx context.Context, w *work, b *backupReader, o ImportOptions) (*arrival, error) {
	src, err := s.open(ctx, o, o.Source)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	src.sum = sha256.New()
	in, err := src.decompress(ctx, o.MaxBytes)
	if err != nil {
		return nil, err
	}
	defer in.stop()
	layer, _, err := s.unpackPacked(ctx, func(to io.Writer) error {
		err := b.filter(in, tar.NewWriter(to))
		if err == nil {
			err = in.drain()
		}
		return err
	}, w.tree, 0)
	if err != nil {
		return nil, in.cause(err)
	}
	if !isLXD(w.tree) { // a container that was made without an image has no metadata
		return nil, &sentence{"holds no container: " + lxdMetadata + " is missing", state.ErrInvalid}
	}
	return w.unified(layer, src.fingerprint(""))
}

// backupReader reads a backup from its beginning to its end.
type backupReader struct {
	check  func(Backup) error
	backup Backup
	known  bool // what the instance is
	ids    []idRange
	seen   bool // the container's root directory
}

// idRange is a part of the map that LXD had shifted the files of a container with.
type idRange struct {
	UIDs  bool  `json:"Isuid"`
	GIDs  bool  `json:"Isgid"`
	Host  int64 `json:"Hostid"`
	Guest int64 `json:"Nsid"`
	Size  int64 `json:"Maprange"`
}

// filter copies what belongs to the container's newest state, as a unified image: metadata.yaml, templates and rootfs.
func (b *backupReader) filter(r io.Reader, to *tar.Writer) error {
	for from := tar.NewReader(r); ; {
		h, err := from.Next()
		if err == io.EOF {
			return b.end(to)
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		switch {
		case name == backupIndexed || name == backupYAML:
			err = b.describe(name, from)
		case name == backupTop+"container.bin" || name == backupTop+"snapshots.bin":
			err = b.optimized("")
		case !strings.HasPrefix(name, backupTop) && name+"/" != backupTop:
			err = &sentence{"is no backup of LXD or Incus", state.ErrInvalid}
		case strings.HasPrefix(name, backupRoot):
			err = b.entry(strings.TrimPrefix(name, backupRoot), h, from, to)
		}
		if err != nil {
			return err
		}
	}
}

func (b *backupReader) end(to *tar.Writer) error {
	if !b.known || !b.seen {
		return &sentence{"is no backup of LXD or Incus: it holds no container", state.ErrInvalid}
	}
	return to.Close()
}

func (b *backupReader) optimized(backend string) error {
	if backend != "" {
		backend = " of " + shown(backend)
	}
	err := fmt.Errorf("a backup in the format%s itself (--optimized-storage) %w", backend, state.ErrUnsupported)
	return state.Hint(err, "export it without --optimized-storage")
}

// describe reads one of the files that say what the instance is; the first that does is believed.
func (b *backupReader) describe(name string, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, 16<<20)) // it has a copy of each snapshot's configuration
	if err != nil {
		return err
	}
	var config *backupConfig
	if name == backupYAML {
		config = &backupConfig{}
		err = yaml.Unmarshal(data, config)
	} else {
		var index backupIndex
		err = yaml.Unmarshal(data, &index)
		config = index.Config
		b.backup.Name, b.backup.Snapshots = index.Name, index.Snapshots
		switch {
		case err != nil:
		case index.Optimized:
			return b.optimized(index.Backend)
		case index.Type != "" && index.Type != "container":
			return fmt.Errorf("a backup of a %s %w", shown(index.Type), state.ErrUnsupported)
		}
	}
	if err != nil {
		return &sentence{shown(name + ": " + err.Error()), errors.Join(state.ErrInvalid, err)}
	}
	if config == nil || b.known {
		return nil
	}
	if config.Container == nil {
		config.Container = config.Instance
	}
	if config.Container == nil {
		return nil
	}
	return b.know(config.Container)
}

func (b *backupReader) know(in *backupInstance) error {
	b.known = true
	b.backup.Ephemeral, b.backup.Config, b.backup.Devices = in.Ephemeral, in.ExpandedConfig, in.ExpandedDevices
	if b.backup.Config == nil {
		b.backup.Config = in.Config
	}
	if b.backup.Devices == nil {
		b.backup.Devices = in.Devices
	}
	if text := b.backup.Config["volatile.last_state.idmap"]; text != "" {
		if err := json.Unmarshal([]byte(text), &b.ids); err != nil {
			return &sentence{shown("volatile.last_state.idmap: " + err.Error()), errors.Join(state.ErrInvalid, err)}
		}
	}
	return b.check(b.backup)
}

// entry copies one entry of the container's directory.
func (b *backupReader) entry(name string, h *tar.Header, content io.Reader, to *tar.Writer) error {
	if top, _, _ := strings.Cut(name, "/"); top != lxdMetadata && top != lxdTemplates && top != "rootfs" {
		return nil
	}
	if !b.known {
		return &sentence{"is no backup of LXD or Incus: its files come before what they belong to", state.ErrInvalid}
	}
	if name == "rootfs" {
		b.root(h)
	}
	h.Name = name
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if h.Typeflag == tar.TypeLink {
		target, ok := strings.CutPrefix(path.Clean(h.Linkname), backupRoot)
		if !ok {
			return &sentence{shown(h.Name) + ": a hard link out of the container", state.ErrInvalid}
		}
		h.Linkname = target
	}
	b.unshift(h)
	h.Format = tar.FormatPAX
	if err := to.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(to, content)
	return err
}

// root looks at the container's root directory. Its owner tells whether the files are shifted: LXD undoes it on the way out,
// and who packed the directory by hand did not.
func (b *backupReader) root(h *tar.Header) {
	b.seen = true
	if guest, _ := b.guest(int64(h.Uid), true); h.Uid == 0 || guest != 0 {
		b.ids = nil
	}
}

// guest is the container's id for one of the host's.
func (b *backupReader) guest(id int64, uid bool) (guest int64, ok bool) {
	for _, r := range b.ids {
		if (uid && r.UIDs || !uid && r.GIDs) && id >= r.Host && id-r.Host < r.Size {
			return r.Guest + id - r.Host, true
		}
	}
	const nobody = 65534
	return nobody, false
}

// unshift gives an entry the owners that the container sees.
func (b *backupReader) unshift(h *tar.Header) {
	if b.ids == nil {
		return
	}
	uid, _ := b.guest(int64(h.Uid), true)
	gid, _ := b.guest(int64(h.Gid), false)
	h.Uid, h.Gid = int(uid), int(gid)
	const prefix = "SCHILY.xattr."
	for key, value := range h.PAXRecords {
		switch strings.TrimPrefix(key, prefix) {
		case "security.capability":
			h.PAXRecords[key] = string(plainCapability([]byte(value)))
		case "system.posix_acl_access", "system.posix_acl_default":
			h.PAXRecords[key] = string(b.acl([]byte(value)))
		}
	}
}

// plainCapability makes file capabilities that count for the root of one user namespace those of whoever is root
// (linux/capability.h, vfs_ns_cap_data): version 3 without its last word is version 2.
func plainCapability(value []byte) []byte {
	const size3, revisions, revision2 = 24, 0xff000000, 0x02000000
	if len(value) != size3 {
		return value
	}
	out := append([]byte(nil), value[:size3-4]...)
	binary.LittleEndian.PutUint32(out, binary.LittleEndian.Uint32(out)&^uint32(revisions)|revision2)
	return out
}

// acl changes the ids of named users and groups (linux/posix_acl_xattr.h): a head of four bytes, then entries of tag,
// permissions and id.
func (b *backupReader) acl(value []byte) []byte {
	const head, entry, user, group = 4, 8, 0x02, 0x08
	out := append([]byte(nil), value...)
	for at := head; at+entry <= len(out); at += entry {
		if tag := binary.LittleEndian.Uint16(out[at:]); tag == user || tag == group {
			id, _ := b.guest(int64(binary.LittleEndian.Uint32(out[at+4:])), tag == user)
			binary.LittleEndian.PutUint32(out[at+4:], uint32(id))
		}
	}
	return out
}

// ReadIn reads a small regular file of a layer that is a tree, by its path in there; nothing when there is none.
func (s *Store) ReadIn(l Layer, name string) []byte {
	root, err := openTree(s.LayerPath(l))
	if err != nil {
		return nil
	}
	defer root.Close()
	return head(root, filepath.Clean(name), 1<<20)
}
