package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"croft/state"
)

const (
	recordName = "image.json"
	layersName = "layers"
	lockName   = ".lock"
	newPrefix  = ".new-"  // being made: not there yet
	gonePrefix = ".gone-" // being removed: not there any more
)

// Store is the images of one croft root:
//
//	Dir/FINGERPRINT/image.json   the record of an image, written last and never changed
//	               /metadata.yaml templates/   of an LXD or Incus image, as they came: nobody has checked them
//	Dir/layers/HEX               a layer: an unpacked tree, or the file of a squashfs or EROFS
//	Dir/aliases.json             alias -> fingerprint
//	Dir/.lock                    held for every change, for moments only; readers never wait
//
// The zero value but for its fields is ready to use; Dir is made when something is first imported.
type Store struct {
	Dir string // <root>/images

	// Unpack extracts an uncompressed tar into an existing empty directory and Pack writes a directory as one; both
	// are rootfs's. How much may be unpacked at most is Unpack's to enforce while it streams.
	Unpack func(ctx context.Context, r io.Reader, dir string) (bytes, entries int64, err error)
	Pack   func(ctx context.Context, dir string, w io.Writer) error

	// Mount mounts the filesystem in a file where nobody sees it, until root is closed; root's Name is a path to it.
	// asLayer says whether machines can have the file as it is; otherwise it has to be unpacked. It is rootfs's, too.
	Mount func(file string) (root *os.File, asLayer bool, err error)

	// Merge gives the tree that layers make, lowest first, where nobody sees it, as Mount does; OpenLayer that of one layer
	// as it is, with what it says of those below it. They are rootfs's.
	Merge     func(layers []string) (root *os.File, err error)
	OpenLayer func(layer string) (root *os.File, err error)
}

// LayerPath is where the layer lies: a directory, or the file of a filesystem. It is shared and read-only to everybody.
func (s *Store) LayerPath(l Layer) string { return filepath.Join(s.Dir, layersName, l.hex()) }

// Get finds the image that ref calls: an alias, a reference to an OCI image however it is spelled, a fingerprint, or the
// first six or more digits of one. None is ErrNotExist, with a hint at what was probably meant.
func (s *Store) Get(ref string) (Image, error) {
	aliases, err := s.Aliases()
	if err != nil {
		return Image{}, err
	}
	alias := spelled(aliases, ref)
	fingerprint := aliases[alias]
	if alias == "" {
		fingerprint, err = s.match(ref)
	}
	if errors.Is(err, state.ErrNotExist) {
		return Image{}, unknown(ref, aliases)
	}
	if err != nil {
		return Image{}, err
	}
	img, err := s.load(fingerprint)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, unknown(ref, aliases) // an alias that outlived its image by a crash
	}
	img.Aliases, img.Alias = aliasesOf(aliases)[fingerprint], alias
	return img, err
}

// match finds the one fingerprint that begins with ref.
func (s *Store) match(ref string) (string, error) {
	if len(ref) < 6 || !isHex(ref) {
		return "", state.ErrNotExist
	}
	all, err := s.fingerprints()
	if err != nil {
		return "", err
	}
	all = slices.DeleteFunc(all, func(f string) bool { return !strings.HasPrefix(f, ref) })
	switch len(all) {
	case 0:
		return "", state.ErrNotExist
	case 1:
		return all[0], nil
	}
	return "", fmt.Errorf("image %s: %d fingerprints begin so, which %w", ref, len(all), state.ErrInvalid)
}

// fingerprints lists the images by their directories, sorted.
func (s *Store) fingerprints() ([]string, error) { return digests(s.Dir) }

// digests lists the entries of dir that are named by a digest, sorted; no directory is none.
func digests(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if isDigest(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// List gives all images, those with names first and by name, then by fingerprint. A damaged image is one with
// Damaged set; it does not keep the others from being listed.
func (s *Store) List() ([]Image, error) {
	all, err := s.fingerprints()
	if err != nil {
		return nil, err
	}
	aliases, err := s.Aliases()
	if err != nil {
		return nil, err
	}
	of := aliasesOf(aliases)
	var list []Image
	for _, fingerprint := range all {
		img, err := s.load(fingerprint)
		if errors.Is(err, fs.ErrNotExist) && !exists(filepath.Join(s.Dir, fingerprint)) {
			continue // removed since we looked
		}
		if err != nil {
			img = Image{Fingerprint: fingerprint, Damaged: err.Error()}
		}
		img.Aliases = of[fingerprint]
		list = append(list, img)
	}
	slices.SortStableFunc(list, byName)
	return list, nil
}

func byName(a, b Image) int {
	if (len(a.Aliases) == 0) != (len(b.Aliases) == 0) {
		return len(b.Aliases) - len(a.Aliases)
	}
	return strings.Compare(a.Name(), b.Name())
}

// Remove takes an image away as `docker rmi` does: called by one of several aliases, only that alias goes; called by
// its last alias or by fingerprint, the image goes with all its aliases, and its layers unless another image has them.
// inUse names the instances made from an image; with any, the image stays and Remove is ErrBusy. nil is none.
func (s *Store) Remove(ref string, inUse func(fingerprint string) []string) error {
	var gone []string
	err := s.locked(func() (err error) {
		aliases, err := s.Aliases()
		if err != nil {
			return err
		}
		img, err := s.Get(ref)
		if err != nil && img.Fingerprint == "" {
			return err
		} // a damaged image can be removed
		if img.Alias != "" && len(img.Aliases) > 1 {
			delete(aliases, img.Alias)
			return s.writeAliases(aliases)
		}
		if err := unused(ref, img.Fingerprint, inUse); err != nil {
			return err
		}
		gone, err = s.retire(img, aliases)
		return err
	})
	return errors.Join(err, removeTrees(gone))
}

// Keep tells whether the image is still there, after any removal that is under way: a caller that has recorded
// itself as a user before can rely on it from then on.
func (s *Store) Keep(fingerprint string) error {
	return s.locked(func() error {
		_, err := s.Get(fingerprint)
		return err
	})
}

func unused(ref, fingerprint string, inUse func(string) []string) error {
	if inUse == nil {
		return nil
	}
	if users := inUse(fingerprint); len(users) > 0 {
		return fmt.Errorf("image %s %w by %s", ref, state.ErrBusy, strings.Join(users, ", "))
	}
	return nil
}

// retire takes the image out of sight and gives what is to be deleted. The record goes first: a crash after it leaves
// an alias that calls nothing and layers that no image has, and Sweep takes both.
func (s *Store) retire(img Image, aliases map[string]string) (gone []string, err error) {
	dir, err := setAside(s.Dir, img.Fingerprint)
	if err != nil {
		return nil, err
	}
	gone = append(gone, dir)
	for _, alias := range img.Aliases {
		delete(aliases, alias)
	}
	if len(img.Aliases) > 0 { // writing needs room, which a full disk has not
		if err := s.writeAliases(aliases); err != nil {
			return gone, err
		}
	}
	layers, err := s.setAsideUnreferenced()
	return append(gone, layers...), err
}

// setAsideUnreferenced renames the layers that no image has.
func (s *Store) setAsideUnreferenced() (gone []string, err error) {
	names, err := s.unreferenced()
	for _, layer := range names {
		aside, err := setAside(filepath.Join(s.Dir, layersName), layer)
		if err != nil {
			return gone, err
		}
		gone = append(gone, aside)
	}
	return gone, err
}

// unreferenced names the layers that no image has. Where a record cannot be read nobody knows what it has, and none is.
func (s *Store) unreferenced() ([]string, error) {
	used, err := s.usedLayers()
	if used == nil {
		return nil, err
	}
	all, err := digests(filepath.Join(s.Dir, layersName))
	return slices.DeleteFunc(all, func(layer string) bool { return used[layer] }), err
}

// usedLayers gives the layers of all images, and of those that are being pulled, by directory name; nil when a damaged image
// hides some.
func (s *Store) usedLayers() (map[string]bool, error) {
	all, err := s.fingerprints()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	pulled, err := s.usedByPulls()
	if err != nil {
		return nil, err
	}
	for _, hex := range pulled {
		used[hex] = true
	}
	for _, fingerprint := range all {
		img, err := s.load(fingerprint)
		if err != nil {
			return nil, nil
		}
		for _, l := range img.Layers {
			used[l.hex()] = true
		}
	}
	return used, nil
}

// publish makes the image visible: first its layers' names exist, then its record, then its aliases. What metadata holds
// of LXD's lies beside the record. The store is locked.
func (s *Store) publish(img Image, metadata string) error {
	layers := filepath.Join(s.Dir, layersName)
	if _, err := s.load(img.Fingerprint); err == nil {
		return state.SyncDir(layers) // imported before; one of them may have been lost
	}
	dir, err := os.MkdirTemp(s.Dir, newPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := moveMetadata(metadata, dir); err != nil {
		return err
	}
	if err := s.writeRecord(dir, img); err != nil {
		return err
	}
	// After the record: a filesystem with a journal has written the layers' names with it, and this costs nothing.
	if err := state.SyncDir(layers); err != nil {
		return err
	}
	home := filepath.Join(s.Dir, img.Fingerprint)
	if exists(home) { // a damaged record
		aside, err := setAside(s.Dir, img.Fingerprint)
		if err != nil {
			return err
		}
		defer os.RemoveAll(aside)
	}
	if err := os.Rename(dir, home); err != nil {
		return err
	}
	return state.SyncDir(s.Dir)
}

// writeRecord writes the record of an image into its directory.
func (s *Store) writeRecord(dir string, img Image) error {
	data, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return err
	}
	return state.Replace(filepath.Join(dir, recordName), append(data, '\n'), 0o644)
}

func exists(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil
}
