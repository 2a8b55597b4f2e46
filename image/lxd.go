package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gopkg.in/yaml.v3"

	"croft/state"
)

const (
	lxdMetadata  = "metadata.yaml"
	lxdTemplates = "templates"

	maxMetadataFile    = 1 << 20  // of metadata.yaml
	maxMetadataArchive = 64 << 20 // of a split image's first part, unpacked
)

// isLXD tells an unpacked LXD or Incus image, or the metadata of one, from a root filesystem that happens to have a file
// of that name.
func isLXD(tree string) bool {
	info, err := os.Lstat(filepath.Join(tree, lxdMetadata))
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	for _, name := range []string{"etc", "usr", "bin"} {
		if exists(filepath.Join(tree, name)) {
			return false
		}
	}
	return true
}

// unified makes an arrival of an unpacked unified image: metadata.yaml, templates and rootfs.
func (w *work) unified(layer Layer, fingerprint string) (*arrival, error) {
	rootfs := filepath.Join(w.tree, "rootfs")
	info, err := os.Lstat(rootfs)
	switch {
	case errors.Is(err, fs.ErrNotExist) && exists(filepath.Join(w.tree, "rootfs.img")):
		return nil, fmt.Errorf("the image of a virtual machine %w", state.ErrUnsupported)
	case errors.Is(err, fs.ErrNotExist):
		err := &sentence{"is the metadata of an LXD or Incus image, without its root filesystem", state.ErrInvalid}
		return nil, state.Hint(err, "croft image import METADATA ROOTFS")
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, &sentence{"an LXD or Incus image whose rootfs is no directory", state.ErrInvalid}
	}
	img, err := describe(rootfs)
	if err != nil {
		return nil, err
	}
	img.Size, img.Layers = layer.Size, []Layer{layer}
	came := &arrival{image: img, layer: rootfs}
	return came, came.addMetadata(w.tree, fingerprint)
}

// importPair takes a split image: the archive of the metadata, then the root filesystem. The fingerprint is LXD's, the
// digest of both one after the other.
func (s *Store) importPair(ctx context.Context, w *work, o ImportOptions) (*arrival, error) {
	sum := sha256.New()
	metadata := filepath.Join(w.dir, "metadata")
	if err := s.importMetadata(ctx, metadata, sum, o); err != nil {
		return nil, importError(o.Source, err)
	}
	src, err := s.open(ctx, o, o.Rootfs)
	if err != nil {
		return nil, importError(o.Rootfs, err)
	}
	defer src.Close()
	src.sum = sum
	came, err := s.fill(ctx, w, src, o)
	if err == nil && came.metadata != "" {
		err = &sentence{"is a unified LXD or Incus image, which has its own metadata", state.ErrInvalid}
	}
	if err != nil {
		return nil, importError(o.Rootfs, err)
	}
	return came, importError(o.Source, came.addMetadata(metadata, src.fingerprint("")))
}

// importMetadata unpacks the first part of a split image into dir.
func (s *Store) importMetadata(ctx context.Context, dir string, sum hash.Hash, o ImportOptions) error {
	src, err := s.open(ctx, o, o.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	src.sum = sum
	head, err := src.peek()
	if err != nil {
		return err
	}
	hint := "croft image import METADATA ROOTFS"
	if _, err := os.Stat(o.Rootfs); os.IsNotExist(err) && o.Rootfs != "-" { // LXD's own takes an alias there
		hint = "croft image import --alias " + o.Rootfs + " " + o.Source
	}
	none := state.Hint(&sentence{"is no metadata of an LXD or Incus image", state.ErrInvalid}, hint)
	if filesystem(head) != "" {
		return none
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	o.MaxBytes = maxMetadataArchive
	if _, _, err := s.unpackSource(ctx, src, dir, o); err != nil {
		return err
	}
	if !isLXD(dir) {
		return none
	}
	return nil
}

// addMetadata makes an LXD image of what came, with what metadata.yaml in dir says. What is in the root filesystem itself
// counts more: that is what will run.
func (a *arrival) addMetadata(dir, fingerprint string) error {
	meta, err := readMetadata(filepath.Join(dir, lxdMetadata))
	if err != nil {
		return err
	}
	img := &a.image
	img.Kind, img.Fingerprint, a.metadata = KindLXD, fingerprint, dir
	if img.Architecture == "" {
		img.Architecture = architectureNamed(meta.Architecture)
	}
	if at, ok := date(meta.Created); ok {
		img.Created = at
	}
	if at, ok := date(meta.Expires); ok {
		img.Expires = &at
	}
	img.Properties = map[string]string{}
	for name, value := range meta.Properties {
		img.Properties[shown(name)] = shown(value)
	}
	if err := needs(img.requirements()); err != nil {
		return err
	}
	if img.OS == "" {
		img.OS = img.Properties["os"]
	}
	if img.Release == "" {
		img.Release = img.Properties["release"]
	}
	if said := img.Properties["description"]; said != "" {
		img.Description = said // it has the build's date, which os-release has not
	}
	return nil
}

// date gives the time of so many seconds since 1970; ok is false for none, and for one that JSON cannot hold.
func date(seconds int64) (at time.Time, ok bool) {
	return time.Unix(seconds, 0).UTC(), seconds > 0 && seconds <= lastSecond
}

// metadata is what croft reads and writes of metadata.yaml.
type metadata struct {
	Architecture string            `yaml:"architecture"`
	Created      int64             `yaml:"creation_date"`
	Expires      int64             `yaml:"expiry_date,omitempty"`
	Properties   map[string]string `yaml:"properties"`

	Templates map[string]templateRow `yaml:"templates,omitempty"` // by the path in the machine
}

func readMetadata(path string) (metadata, error) {
	data, err := readRegular(path, maxMetadataFile)
	if err != nil {
		return metadata{}, err
	}
	return parseMetadata(data)
}

// parseMetadata reads the text of a metadata.yaml.
func parseMetadata(data []byte) (m metadata, err error) {
	err = yaml.Unmarshal(data, &m)
	var mistyped *yaml.TypeError
	if errors.As(err, &mistyped) {
		err = errors.New(mistyped.Errors[0]) // all of them have a line each
	}
	if err != nil {
		return m, &sentence{shown(lxdMetadata + ": " + err.Error()), errors.Join(state.ErrInvalid, err)}
	}
	return m, nil
}

// architectureNamed gives the word of `uname -m` for what LXD, Incus and Debian call an architecture; "" is one that
// nobody knows.
func architectureNamed(name string) string {
	switch name {
	case "x86_64", "amd64":
		return "x86_64"
	case "i686", "i586", "i386", "x86":
		return "i686"
	case "aarch64", "arm64":
		return "aarch64"
	case "armv7l", "armhf", "armv8l":
		return "armv7l"
	case "armv5tel", "armv6l", "armel", "arm":
		return "armv5tel"
	case "ppc64le", "ppc64el":
		return "ppc64le"
	case "loongarch64", "loong64":
		return "loongarch64"
	case "ppc64", "s390x", "riscv64", "riscv32", "mips", "mips64":
		return name
	}
	return ""
}

// moveMetadata moves what LXD's image had beside its root filesystem from one directory into another.
func moveMetadata(from, to string) error {
	if from == "" {
		return nil
	}
	if err := os.Rename(filepath.Join(from, lxdMetadata), filepath.Join(to, lxdMetadata)); err != nil {
		return err
	}
	err := os.Rename(filepath.Join(from, lxdTemplates), filepath.Join(to, lxdTemplates))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
