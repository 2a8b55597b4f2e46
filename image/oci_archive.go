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

	"github.com/containers/image/v5/directory"
	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/oci/layout"
	"github.com/containers/image/v5/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"croft/state"
)

// What tells the directories that hold OCI images.
const (
	layoutMark     = "oci-layout"
	dockerManifest = "manifest.json" // of an archive of docker save, unpacked, and of skopeo's directories
	skopeoVersion  = "version"       // of skopeo's directories
)

// holdsOCI tells a directory with an OCI image in it, in any of its forms, from a root filesystem and from all else.
func holdsOCI(dir string) bool {
	for _, name := range []string{"etc", "usr", "bin"} {
		if exists(filepath.Join(dir, name)) {
			return false
		}
	}
	return exists(filepath.Join(dir, layoutMark)) || exists(filepath.Join(dir, dockerManifest))
}

// importOCI takes the image in a directory into the store, which may be an unpacked archive.
func (s *Store) importOCI(ctx context.Context, dir string, o ImportOptions) (Image, error) {
	requirements, err := policy(formOf(dir, o.Source))
	if err == nil {
		err = permitted(requirements)
	}
	if err != nil {
		return Image{}, err
	}
	src, err := openOCI(ctx, dir, "")
	if errors.Is(err, layout.ErrMoreThanOneImage) {
		transport, _ := formOf(dir, o.Source)
		err = state.Hint(several(err), "croft image pull "+transport+":"+o.Source+":TAG")
	}
	if err != nil {
		return Image{}, err
	}
	defer src.Close()
	found, err := readOCI(ctx, src, "", registryContext(false))
	if err == nil {
		err = checkPolicy(ctx, requirements, src, found, nil)
	}
	if err != nil {
		return Image{}, err
	}
	return s.take(ctx, src, found, taking{local: true, PullOptions: PullOptions{
		Aliases: o.Aliases, Reuse: o.Reuse, Progress: o.Progress, MaxBytes: o.MaxBytes, patience: usualPatience(),
	}})
}

// formOf gives the transport of containers/image that reads what was in source and is in dir, and what a policy may call source.
func formOf(dir, source string) (transport string, scopes []string) {
	switch {
	case exists(filepath.Join(dir, layoutMark)):
		transport = "oci"
	case exists(filepath.Join(dir, skopeoVersion)):
		transport = "dir"
	default:
		transport = "docker"
	}
	path, err := filepath.Abs(source)
	if dir != source {
		transport += "-archive"
	}
	if err != nil || source == "-" {
		return transport, nil
	}
	return transport, pathScopes(path)
}

// pathScopes are the names that a policy may have for what lies at an absolute path: that, and the directories above it.
func pathScopes(path string) (scopes []string) {
	for ; path != "/"; path = filepath.Dir(path) {
		scopes = append(scopes, path)
	}
	return scopes
}

// unpackArchive unpacks a file with an OCI image in it.
func (s *Store) unpackArchive(ctx context.Context, file, tree string, maxBytes int64) error {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return &sentence{"is a directory, and no archive", state.ErrInvalid}
	}
	src, err := s.open(ctx, ImportOptions{}, file)
	if err != nil {
		return err
	}
	defer src.Close()
	if _, _, err := s.unpackSource(ctx, src, tree, ImportOptions{MaxBytes: maxBytes}); err != nil {
		return err
	}
	if !holdsOCI(tree) {
		return &sentence{"holds no OCI image", state.ErrInvalid}
	}
	return checkParts(tree)
}

// openUnpacked opens the image in an unpacked archive, which holds one of either kind. What docker saves nowadays is both kinds of archive in one, with tags of
// its own for each.
func openUnpacked(ctx context.Context, transport, tree, tag string) (ociSource, error) {
	switch isLayout := exists(filepath.Join(tree, layoutMark)); {
	case transport == transportTar && isLayout:
		return openOCI(ctx, tree, tag)
	case transport == transportSaved && exists(filepath.Join(tree, dockerManifest)):
		return openSaved(tree, tag)
	case isLayout:
		return nil, state.Hint(&sentence{"is no archive of docker save", state.ErrInvalid}, "croft image pull "+transportTar+":FILE")
	}
	return nil, state.Hint(&sentence{"is no archive of an OCI layout", state.ErrInvalid}, "croft image pull "+transportSaved+":FILE")
}

// several is the error of an image that is not named where there is more than one.
func several(err error) error {
	return &sentence{"holds more than one image", errors.Join(state.ErrInvalid, err)}
}

// openOCI opens the image in a directory.
func openOCI(ctx context.Context, dir, tag string) (ociSource, error) {
	var ref types.ImageReference
	var err error
	switch {
	case exists(filepath.Join(dir, layoutMark)):
		ref, err = layout.NewReference(dir, tag)
	case exists(filepath.Join(dir, skopeoVersion)):
		ref, err = directory.NewReference(dir)
	default:
		return openSaved(dir, tag)
	}
	if err != nil {
		return nil, err
	}
	src, err := ref.NewImageSource(ctx, registryContext(false))
	var untagged layout.ImageNotFoundError
	if errors.As(err, &untagged) {
		return nil, &sentence{fmt.Sprintf("holds no image called %q", tag), errors.Join(state.ErrNotExist, err)}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, layout.ErrMoreThanOneImage) {
		err = &sentence{"OCI layout is damaged: " + shown(err.Error()), errors.Join(state.ErrInvalid, err)}
	}
	return src, err
}

// checkParts refuses an unpacked archive with anything in it but directories and files of its own: what is read of an image by
// name must not lead out of it. docker save makes links of layers that are there twice.
func checkParts(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if info, err := root.Stat(name); err == nil && info.Mode().IsRegular() {
			return nil // a link within it
		}
		return &sentence{fmt.Sprintf("is no image: %q is neither a file nor a directory of its own", shown(name)), state.ErrInvalid}
	})
}

// dockerArchive is an unpacked archive of docker save from before those were OCI layouts.
type dockerArchive struct {
	root     *os.File
	manifest []byte
	files    map[digest.Digest]string // of the blobs that the manifest names
}

// savedImage is one image in it: names of files, but for the tags.
type savedImage struct {
	Config           string
	RepoTags, Layers []string
}

// isCalled compares names as docker does, for which nginx is docker.io/library/nginx:latest.
func (s savedImage) isCalled(tag string) bool {
	whole := func(name string) string {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return name
		}
		return reference.TagNameOnly(named).String()
	}
	return slices.ContainsFunc(s.RepoTags, func(has string) bool { return has == tag || whole(has) == whole(tag) })
}

// openSaved makes a manifest of the archive's own, which has neither digests nor sizes: the configuration has digests of
// the layers, and the files have sizes.
func openSaved(dir, tag string) (*dockerArchive, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	s := &dockerArchive{root: root, files: map[digest.Digest]string{}}
	if err := s.read(tag); err != nil {
		root.Close()
		return nil, err
	}
	return s, nil
}

func (s *dockerArchive) read(tag string) error {
	damaged := func(what string, err error) error {
		return &sentence{what + " is damaged: " + shown(err.Error()), errors.Join(state.ErrInvalid, err)}
	}
	var all []savedImage
	if err := json.Unmarshal(head(s.root, dockerManifest, maxOCIConfig), &all); err != nil {
		return damaged(dockerManifest, err)
	}
	if tag != "" {
		all = slices.DeleteFunc(all, func(one savedImage) bool { return !one.isCalled(tag) })
	}
	switch {
	case len(all) == 0 && tag != "":
		return &sentence{fmt.Sprintf("holds no image called %q", tag), state.ErrNotExist}
	case len(all) == 0:
		return &sentence{"holds no image", state.ErrInvalid}
	case len(all) > 1:
		return layout.ErrMoreThanOneImage
	}
	text := head(s.root, all[0].Config, maxOCIConfig)
	var config imgspec.Image
	if err := json.Unmarshal(text, &config); err != nil {
		return damaged(fmt.Sprintf("configuration %q", shown(all[0].Config)), err)
	}
	if len(config.RootFS.DiffIDs) != len(all[0].Layers) {
		return &sentence{fmt.Sprintf("has %d layers and its configuration %d", len(all[0].Layers), len(config.RootFS.DiffIDs)), state.ErrInvalid}
	}
	m := imgspec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspec.MediaTypeImageManifest}
	m.Config = imgspec.Descriptor{MediaType: imgspec.MediaTypeImageConfig, Digest: digest.FromBytes(text), Size: int64(len(text))}
	s.files[m.Config.Digest] = all[0].Config
	for i, file := range all[0].Layers {
		f, err := s.open(file)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		f.Close()
		if err != nil {
			return err
		}
		layer := imgspec.Descriptor{MediaType: imgspec.MediaTypeImageLayer, Digest: config.RootFS.DiffIDs[i], Size: info.Size()}
		m.Layers = append(m.Layers, layer)
		s.files[layer.Digest] = file
	}
	var err error
	s.manifest, err = json.Marshal(m)
	return err
}

// open opens a file of the archive, whose links lead nowhere else.
func (s *dockerArchive) open(name string) (*os.File, error) {
	fd, err := unix.Openat2(int(s.root.Fd()), strings.TrimPrefix(name, "/"), &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: shown(name), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// GetManifest gives the manifest that was made.
func (s *dockerArchive) GetManifest(context.Context, *digest.Digest) ([]byte, string, error) {
	return s.manifest, imgspec.MediaTypeImageManifest, nil
}

// GetBlob opens one of the files that the manifest names.
func (s *dockerArchive) GetBlob(_ context.Context, info types.BlobInfo, _ types.BlobInfoCache) (io.ReadCloser, int64, error) {
	f, err := s.open(s.files[info.Digest])
	return f, info.Size, err
}

// Close gives the directory back.
func (s *dockerArchive) Close() error { return s.root.Close() }
