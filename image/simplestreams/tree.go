package simplestreams

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"croft/state"
)

// Tree is a directory that any web server can serve as an image server: the two lists, and the files that they name. croft
// refuses to change one that something else has written into, whose notes it would lose.
type Tree struct{ Dir string }

// TreeImage is one build in a tree.
type TreeImage struct {
	Aliases     []string `json:"aliases"`
	OS          string   `json:"os"`
	Release     string   `json:"release"`
	Variant     string   `json:"variant"`
	Arch        string   `json:"architecture"` // as Debian says it: amd64
	Serial      string   `json:"serial"`
	Type        string   `json:"type"` // Squashfs or Tar
	Fingerprint string   `json:"fingerprint"`
	Size        int64    `json:"size"`
	Files       []string `json:"files"` // in the tree: metadata, then the root filesystem

	Requirements map[string]string `json:"-"`
}

const (
	treeList  = "streams/v1/images.json"
	treeFiles = "images"
)

// What is written of the lists; both begin with what says what they are.
type (
	writtenIndex struct {
		Format string                  `json:"format"`
		Index  map[string]writtenEntry `json:"index"`
	}
	writtenEntry struct {
		DataType string   `json:"datatype"`
		Format   string   `json:"format"`
		Path     string   `json:"path"`
		Products []string `json:"products"`
	}
	writtenList struct {
		ContentID string                     `json:"content_id"`
		DataType  string                     `json:"datatype"`
		Format    string                     `json:"format"`
		Products  map[string]*writtenProduct `json:"products"`
	}
	writtenProduct struct {
		Aliases      string                   `json:"aliases"`
		Arch         string                   `json:"arch"`
		OS           string                   `json:"os"`
		Release      string                   `json:"release"`
		Title        string                   `json:"release_title"`
		Requirements map[string]string        `json:"requirements,omitempty"`
		Variant      string                   `json:"variant"`
		Versions     map[string]*writtenBuild `json:"versions"`
	}
	writtenBuild struct {
		Items map[string]*writtenItem `json:"items"`
	}
	writtenItem struct {
		Type             string `json:"ftype"`
		Path             string `json:"path"`
		Size             int64  `json:"size"`
		SHA256           string `json:"sha256"`
		Combined         string `json:"combined_sha256,omitempty"`
		CombinedRootXZ   string `json:"combined_rootxz_sha256,omitempty"`
		CombinedSquashfs string `json:"combined_squashfs_sha256,omitempty"`
	}
)

// Add puts a build into the tree: the two files, which are moved, with what image says of them but for files, size and
// fingerprint. An alias that calls another product of the same architecture is taken away from it. A build that is there
// already is given the aliases and nothing else.
func (t Tree) Add(image TreeImage, metadata, root string) (TreeImage, error) {
	err := t.locked(func() error {
		list, err := t.read()
		if err != nil {
			return err
		}
		image, err = t.add(list, image, metadata, root)
		if err != nil {
			return err
		}
		return t.write(list)
	})
	return image, err
}

func (t Tree) add(list *writtenList, image TreeImage, metadata, root string) (TreeImage, error) {
	key := strings.Join([]string{slug(image.OS), slug(image.Release), slug(image.Arch), slug(image.Variant)}, ":")
	dir := path.Join(treeFiles, strings.ReplaceAll(key, ":", "/"), image.Serial)
	if err := checkPath(dir); err != nil || strings.Count(dir, "/") != 5 {
		return image, fmt.Errorf("%s of %s: a name in it %w", image.Serial, printable(key), state.ErrInvalid)
	}
	p := list.Products[key]
	if p == nil {
		p = &writtenProduct{Arch: image.Arch, Variant: image.Variant, Versions: map[string]*writtenBuild{}}
		list.Products[key] = p
	}
	name, ftype := "rootfs.tar.xz", "root.tar.xz"
	if image.Type == Squashfs {
		name, ftype = "rootfs.squashfs", "squashfs"
	}
	combined := sha256.New()
	meta, err := describe(metadata, path.Join(dir, "incus.tar.xz"), combined)
	if err != nil {
		return image, err
	}
	fs, err := describe(root, path.Join(dir, name), combined)
	if err != nil {
		return image, err
	}
	image.Fingerprint, image.Size, image.Files = hexOf(combined), meta.Size+fs.Size, []string{meta.Path, fs.Path}
	for serial, b := range p.Versions {
		if old := b.images(p, serial)[0]; old.Fingerprint == image.Fingerprint {
			list.call(key, image.Aliases)
			old.Aliases = aliasesOf(p.Aliases)
			return old, nil
		}
	}
	if p.Versions[image.Serial] != nil {
		return image, fmt.Errorf("%s of %s: %w in the tree", image.Serial, key, state.ErrExist)
	}
	if err := errors.Join(t.place(metadata, meta), t.place(root, fs)); err != nil {
		return image, err
	}
	p.OS, p.Release, p.Title, p.Requirements = image.OS, image.Release, image.Release, image.Requirements
	list.call(key, image.Aliases)
	image.Aliases = aliasesOf(p.Aliases)
	fs.Type = ftype
	if image.Type == Squashfs {
		meta.CombinedSquashfs = image.Fingerprint
	} else {
		meta.Combined, meta.CombinedRootXZ = image.Fingerprint, image.Fingerprint
	}
	build := &writtenBuild{Items: map[string]*writtenItem{ftype: fs}}
	for _, t := range metadataTypes { // what describes it is the same for both
		is := *meta
		is.Type = t
		build.Items[t] = &is
	}
	p.Versions[image.Serial] = build
	return image, nil
}

// call gives a product names, and takes them away from others of its architecture.
func (l *writtenList) call(key string, names []string) {
	for other, p := range l.Products {
		aliases := aliasesOf(p.Aliases)
		if other == key {
			aliases = append(aliases, names...)
		} else if p.Arch == l.Products[key].Arch {
			aliases = slices.DeleteFunc(aliases, func(a string) bool { return slices.Contains(names, a) })
		}
		slices.Sort(aliases)
		p.Aliases = strings.Join(slices.Compact(aliases), ",")
	}
}

func aliasesOf(text string) []string {
	return slices.DeleteFunc(strings.Split(text, ","), func(a string) bool { return a == "" })
}

// slug is a name as a part of a path and of a key.
func slug(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	if name = strings.Trim(name, ".-"); name == "" {
		return "none"
	}
	return name
}

// describe says of a file that will be called name in the tree what the list says.
func describe(file, name string, combined hash.Hash) (*writtenItem, error) {
	sum, size, err := sumOf(file, combined)
	return &writtenItem{Path: name, Size: size, SHA256: sum}, err
}

// place moves a file to where the list says that it is.
func (t Tree) place(from string, item *writtenItem) error {
	to := filepath.Join(t.Dir, item.Path)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// sumOf reads a regular file, for its own digest and for one of several.
func sumOf(file string, combined hash.Hash) (sum string, size int64, err error) {
	info, err := os.Lstat(file)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: what is no regular file %w", file, state.ErrInvalid)
	}
	if err != nil {
		return "", 0, err
	}
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	own := sha256.New()
	size, err = io.Copy(io.MultiWriter(own, combined), f)
	return hexOf(own), size, err
}

func hexOf(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func (t Tree) exists() error {
	_, err := os.Stat(t.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", t.Dir, state.ErrNotExist)
	}
	return err
}

// locked runs change while nobody else changes the tree.
func (t Tree) locked(change func() error) error {
	if err := os.MkdirAll(filepath.Join(t.Dir, filepath.Dir(treeList)), 0o755); err != nil {
		return err
	}
	lock, err := state.Lock(filepath.Join(t.Dir, ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	return change()
}

// read gives the list of the tree; that of an empty one is empty.
func (t Tree) read() (*writtenList, error) {
	list := &writtenList{ContentID: "images", DataType: imageDownloads, Format: "products:1.0", Products: map[string]*writtenProduct{}}
	file := filepath.Join(t.Dir, treeList)
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d := json.NewDecoder(io.LimitReader(f, maxList))
	d.DisallowUnknownFields() // they would be lost
	if err := d.Decode(list); err != nil {
		return nil, fmt.Errorf("%s: it is not as croft writes it: %s: it %w", file, printable(err.Error()), state.ErrInvalid)
	}
	for key, p := range list.Products {
		if p == nil || p.Versions == nil {
			return nil, fmt.Errorf("%s: product %s %w", file, printable(key), state.ErrInvalid)
		}
		for serial, b := range p.Versions {
			if b == nil || len(b.images(p, serial)) != 1 {
				return nil, fmt.Errorf("%s: build %s of %s %w", file, printable(serial), printable(key), state.ErrInvalid)
			}
		}
	}
	return list, nil
}

// write writes both lists, the one that names the other last.
func (t Tree) write(list *writtenList) error {
	index := writtenIndex{Format: "index:1.0", Index: map[string]writtenEntry{
		"images": {imageDownloads, list.Format, treeList, slices.Sorted(maps.Keys(list.Products))},
	}}
	for _, one := range []struct {
		name string
		what any
	}{{treeList, list}, {indexPath, index}} {
		data, err := json.MarshalIndent(one.what, "", " ")
		if err != nil {
			return err
		}
		if err := state.Replace(filepath.Join(t.Dir, one.name), append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// images is the build as a list of none or one, with its files in order.
func (b *writtenBuild) images(p *writtenProduct, serial string) []TreeImage {
	image := TreeImage{
		Aliases: aliasesOf(p.Aliases), OS: p.OS, Release: p.Release, Variant: p.Variant, Arch: p.Arch, Serial: serial,
	}
	meta := b.Items[metadataTypes[0]]
	root := b.Items["squashfs"]
	if image.Type = Squashfs; root == nil {
		root, image.Type = b.Items["root.tar.xz"], Tar
	}
	if meta == nil || root == nil || checkPath(meta.Path) != nil || checkPath(root.Path) != nil {
		return nil
	}
	if image.Fingerprint = meta.CombinedSquashfs; image.Type == Tar {
		image.Fingerprint = meta.Combined
	}
	image.Files, image.Size = []string{meta.Path, root.Path}, meta.Size+root.Size
	return []TreeImage{image}
}

// all lists the builds, by their products and newest first.
func (l *writtenList) all() (all []TreeImage) {
	for _, key := range slices.Sorted(maps.Keys(l.Products)) {
		p := l.Products[key]
		for _, serial := range slices.Backward(slices.Sorted(maps.Keys(p.Versions))) {
			all = append(all, p.Versions[serial].images(p, serial)...)
		}
	}
	return all
}

// List gives the builds in the tree.
func (t Tree) List() ([]TreeImage, error) {
	if err := t.exists(); err != nil {
		return nil, err
	}
	list, err := t.read()
	if err != nil {
		return nil, err
	}
	return list.all(), nil
}

// Remove takes away what name calls: an alias all builds of its products, a fingerprint, or the first six or more digits of one, one
// build.
func (t Tree) Remove(name string) error {
	if err := t.exists(); err != nil {
		return err
	}
	return t.locked(func() error {
		list, err := t.read()
		if err != nil {
			return err
		}
		var gone []TreeImage
		for key, p := range list.Products {
			for serial, b := range p.Versions {
				image := b.images(p, serial)[0]
				if slices.Contains(image.Aliases, name) || len(name) >= 6 && strings.HasPrefix(image.Fingerprint, name) {
					gone = append(gone, image)
					delete(p.Versions, serial)
				}
			}
			if len(p.Versions) == 0 {
				delete(list.Products, key)
			}
		}
		if len(gone) == 0 {
			return fmt.Errorf("%s: %w in the tree", printable(name), state.ErrNotExist)
		}
		if err := t.write(list); err != nil {
			return err
		}
		return t.removeFiles(gone)
	})
}

// removeFiles deletes the files of builds that are in no list any more, and the directories that become empty.
func (t Tree) removeFiles(gone []TreeImage) error {
	var all []error
	for _, image := range gone {
		for _, name := range image.Files {
			if err := os.Remove(filepath.Join(t.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				all = append(all, err)
			}
		}
		for dir := path.Dir(image.Files[0]); dir != "." && dir != treeFiles; dir = path.Dir(dir) {
			if os.Remove(filepath.Join(t.Dir, dir)) != nil {
				break // others are in it
			}
		}
	}
	return errors.Join(all...)
}

// Verify reads all files of the tree and gives a sentence for each thing that is wrong.
func (t Tree) Verify() (wrong []string, err error) {
	if err := t.exists(); err != nil {
		return nil, err
	}
	list, err := t.read()
	if err != nil {
		return nil, err
	}
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if err := t.verifyIndex(list); err != nil {
		say("%s: %v", indexPath, err)
	}
	named := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(list.Products)) {
		p := list.Products[key]
		for _, serial := range slices.Sorted(maps.Keys(p.Versions)) {
			combined, whole := sha256.New(), true
			image := p.Versions[serial].images(p, serial)[0]
			for n, name := range image.Files {
				named[name] = true
				item := p.Versions[serial].Items[metadataTypes[0]]
				if n == 1 {
					item = p.Versions[serial].Items[map[string]string{Squashfs: "squashfs", Tar: "root.tar.xz"}[image.Type]]
				}
				sum, size, err := sumOf(filepath.Join(t.Dir, name), combined)
				switch {
				case errors.Is(err, fs.ErrNotExist):
					say("%s: is missing", name)
				case err != nil:
					say("%s: %v", name, err)
				case size != item.Size:
					say("%s: has %d bytes, and the list says %d", name, size, item.Size)
				case sum != item.SHA256:
					say("%s: has the sha256 %s, and the list says %s", name, sum, printable(item.SHA256))
				default:
					continue
				}
				whole = false
			}
			if sum := hexOf(combined); whole && sum != image.Fingerprint {
				say("%s: both files have the sha256 %s, and the list says %s", path.Dir(image.Files[0]), sum, printable(image.Fingerprint))
			}
		}
	}
	strays, err := t.strays(named)
	for _, name := range strays {
		say("%s: is in no list", printable(name))
	}
	return wrong, err
}

// verifyIndex reads the index as any client does.
func (t Tree) verifyIndex(list *writtenList) error {
	f, err := os.Open(filepath.Join(t.Dir, indexPath))
	if errors.Is(err, fs.ErrNotExist) && len(list.Products) == 0 {
		return nil
	}
	if err != nil {
		return errors.Unwrap(err)
	}
	defer f.Close()
	paths, err := parseIndex(f)
	if err == nil && len(list.Products) > 0 && !slices.Contains(paths, treeList) {
		err = fmt.Errorf("does not name %s", treeList)
	}
	return err
}

// strays are files in the tree that are in no list: an interrupted add leaves some.
func (t Tree) strays(named map[string]bool) (strays []string, err error) {
	err = filepath.WalkDir(filepath.Join(t.Dir, treeFiles), func(file string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return nil
		}
		name, rerr := filepath.Rel(t.Dir, file)
		if err = errors.Join(err, rerr); err == nil && !named[name] {
			strays = append(strays, name)
		}
		return err
	})
	return strays, err
}
