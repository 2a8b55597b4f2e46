package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containers/image/v5/manifest"
	"github.com/containers/image/v5/pkg/blobinfocache/none"
	"github.com/containers/image/v5/types"
	"github.com/opencontainers/go-digest"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"

	"croft/state"
)

const (
	maxOCIConfig = 8 << 20 // bytes of an image's configuration

	// maxOCILayers keeps an image below the 500 layers that overlayfs takes (OVL_MAX_STACK), the generated files and the
	// machine's own changes included.
	maxOCILayers = 490
)

// Config is what an OCI image says about how to run it, in the image's own words: nobody has checked them.
type Config struct {
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        []string          `json:"env,omitempty"` // KEY=VALUE
	User       string            `json:"user,omitempty"`
	Dir        string            `json:"dir,omitempty"`
	StopSignal string            `json:"stop_signal,omitempty"`
	Volumes    []string          `json:"volumes,omitempty"` // directories that it expects to be kept
	Ports      []string          `json:"ports,omitempty"`   // PORT[/PROTOCOL] that it listens on
	Labels     map[string]string `json:"labels,omitempty"`
}

// ociLayer is one layer as it is asked for and as it will be called.
type ociLayer struct {
	blob types.BlobInfo // as it comes, compressed or not
	diff digest.Digest  // of it uncompressed: the layer's name in the store
}

// ociImage is all that has to be known of an image before its layers come.
type ociImage struct {
	fingerprint string         // of the manifest for one architecture
	manifest    []byte         // that manifest
	instance    *digest.Digest // what it is called by in its index; nil when there is none
	layers      []ociLayer
	config      imgspec.Image
}

// ociSource is where the parts of an image come from: a transport of containers/image, or an archive.
type ociSource interface {
	// GetManifest gives the manifest of that digest, nil for the one that the image is called by, and its media type.
	GetManifest(ctx context.Context, instance *digest.Digest) ([]byte, string, error)
	// GetBlob opens a blob and gives its size, -1 where nobody knows.
	GetBlob(ctx context.Context, info types.BlobInfo, cache types.BlobInfoCache) (io.ReadCloser, int64, error)
	Close() error
}

// readOCI reads what src holds for the architecture that sys asks for. Everything in it is checked against its digest, from
// the one that was asked for, if any, down to the list of layers.
func readOCI(ctx context.Context, src ociSource, asked digest.Digest, sys *types.SystemContext) (ociImage, error) {
	blob, kind, err := src.GetManifest(ctx, nil)
	if err != nil {
		return ociImage{}, err
	}
	if asked != "" {
		if err := checkManifest(blob, asked); err != nil {
			return ociImage{}, err
		}
	}
	var instance *digest.Digest
	if manifest.MIMETypeIsMultiImage(manifest.NormalizedMIMEType(kind)) {
		if instance, blob, kind, err = chooseManifest(ctx, src, blob, kind, sys); err != nil {
			return ociImage{}, err
		}
	}
	img, err := parseManifest(ctx, src, blob, kind)
	img.instance = instance
	return img, err
}

func checkManifest(blob []byte, want digest.Digest) error {
	ok, err := manifest.MatchesDigest(blob, want)
	if err == nil && !ok {
		err = &sentence{fmt.Sprintf("manifest %s: what came has another digest", want), state.ErrInvalid}
	}
	return err
}

// chooseManifest takes the manifest of one architecture out of an index.
func chooseManifest(ctx context.Context, src ociSource, index []byte, kind string, sys *types.SystemContext) (*digest.Digest, []byte, string, error) {
	list, err := manifest.ListFromBlob(index, kind)
	if err != nil {
		return nil, nil, "", &sentence{"index is damaged: " + err.Error(), errors.Join(state.ErrInvalid, err)}
	}
	chosen, err := list.ChooseInstance(sys)
	if err != nil {
		return nil, nil, "", fmt.Errorf("no image for this architecture, only for %s: %w", platforms(list), state.ErrNotExist)
	}
	blob, kind, err := src.GetManifest(ctx, &chosen)
	if err != nil {
		return nil, nil, "", err
	}
	if err := checkManifest(blob, chosen); err != nil {
		return nil, nil, "", err
	}
	if manifest.MIMETypeIsMultiImage(manifest.NormalizedMIMEType(kind)) {
		return nil, nil, "", fmt.Errorf("manifest %s: an index within an index %w", chosen, state.ErrUnsupported)
	}
	return &chosen, blob, kind, nil
}

// platforms names what an index has images for.
func platforms(list manifest.List) string {
	names := map[string]bool{}
	for _, d := range list.Instances() {
		one, err := list.Instance(d)
		if err != nil || one.ReadOnly.Platform == nil || one.ReadOnly.Platform.OS == "unknown" {
			continue // BuildKit's attestations call themselves unknown
		}
		name := one.ReadOnly.Platform.Architecture
		if one.ReadOnly.Platform.OS != "linux" {
			name = one.ReadOnly.Platform.OS + "/" + name
		}
		names[shown(name)] = true
	}
	if len(names) == 0 {
		return "none at all"
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}

// parseManifest reads the manifest and the configuration that it names.
func parseManifest(ctx context.Context, src ociSource, blob []byte, kind string) (ociImage, error) {
	bad := func(format string, a ...any) error {
		return &sentence{"manifest " + fmt.Sprintf(format, a...), state.ErrInvalid}
	}
	m, err := manifest.FromBlob(blob, kind)
	if err != nil {
		return ociImage{}, bad("is damaged: %s", shown(err.Error()))
	}
	info := m.ConfigInfo()
	if info.Digest == "" {
		return ociImage{}, fmt.Errorf("a manifest of docker's retired schema 1 %w", state.ErrUnsupported)
	}
	if t := info.MediaType; t != imgspec.MediaTypeImageConfig && t != manifest.DockerV2Schema2ConfigMediaType {
		return ociImage{}, &sentence{fmt.Sprintf("is no image of a root filesystem, but %q", shown(t)), state.ErrUnsupported}
	}
	img := ociImage{fingerprint: digest.FromBytes(blob).Encoded(), manifest: blob}
	data, err := smallBlob(ctx, src, info)
	if err != nil {
		return ociImage{}, fmt.Errorf("configuration %s: %w", info.Digest, err)
	}
	if err := json.Unmarshal(data, &img.config); err != nil {
		return ociImage{}, &sentence{fmt.Sprintf("configuration %s is damaged: %v", info.Digest, err), errors.Join(state.ErrInvalid, err)}
	}
	if os := img.config.OS; os != "" && os != "linux" {
		return ociImage{}, fmt.Errorf("an image for %s %w", shown(os), state.ErrUnsupported)
	}
	layers, diffs := m.LayerInfos(), img.config.RootFS.DiffIDs
	switch {
	case len(layers) == 0:
		return ociImage{}, bad("has no layers")
	case len(layers) != len(diffs):
		return ociImage{}, bad("has %d layers and its configuration %d", len(layers), len(diffs))
	}
	for i, l := range layers {
		one := ociLayer{l.BlobInfo, diffs[i]}
		if err := one.check(); err != nil {
			return ociImage{}, err
		}
		img.add(one)
	}
	if len(img.layers) > maxOCILayers {
		return ociImage{}, fmt.Errorf("an image of %d layers %w: at most %d", len(img.layers), state.ErrUnsupported, maxOCILayers)
	}
	return img, nil
}

// add puts a layer on top. Overlayfs takes no layer twice, and what the lower one of two has or removes, the upper one has or
// removes as well: the lower one goes.
func (i *ociImage) add(l ociLayer) {
	i.layers = slices.DeleteFunc(i.layers, func(below ociLayer) bool { return below.diff == l.diff })
	i.layers = append(i.layers, l)
}

// check refuses what cannot be taken in, before anything is downloaded. Digests become names of files: they are checked to
// the letter.
func (l ociLayer) check() error {
	for _, d := range []digest.Digest{l.blob.Digest, l.diff} {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return &sentence{fmt.Sprintf("layer digest %q is no sha256", shown(string(d))), state.ErrInvalid}
		}
	}
	switch {
	case l.blob.Size < 0:
		return &sentence{fmt.Sprintf("layer %s has no size", l.blob.Digest), state.ErrInvalid}
	case strings.HasSuffix(l.blob.MediaType, "+encrypted"):
		return fmt.Errorf("layer %s: an encrypted layer %w", l.blob.Digest, state.ErrUnsupported)
	case len(l.blob.URLs) > 0:
		return fmt.Errorf("layer %s: a layer that is kept elsewhere %w", l.blob.Digest, state.ErrUnsupported)
	}
	return nil
}

// smallBlob reads a blob into memory, checked.
func smallBlob(ctx context.Context, src ociSource, info types.BlobInfo) ([]byte, error) {
	if err := info.Digest.Validate(); err != nil {
		return nil, &sentence{"is no digest", state.ErrInvalid}
	}
	if info.Size > maxOCIConfig {
		return nil, &sentence{fmt.Sprintf("has more than %d bytes", maxOCIConfig), state.ErrInvalid}
	}
	r, _, err := src.GetBlob(ctx, info, none.NoCache)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxOCIConfig+1))
	switch {
	case err != nil:
		return nil, err
	case info.Size >= 0 && int64(len(data)) != info.Size:
		return nil, &sentence{fmt.Sprintf("has another size than the %d bytes that its manifest says", info.Size), state.ErrInvalid}
	case digest.FromBytes(data) != info.Digest:
		return nil, &sentence{"what came has another digest", state.ErrInvalid}
	}
	return data, nil
}

// describeOCI makes the record of the image out of what its configuration says.
func describeOCI(config imgspec.Image) Image {
	c := config.Config
	img := Image{Kind: KindOCI, Architecture: architectureOCI(config.Architecture, config.Variant)}
	img.Config = &Config{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, Dir: c.WorkingDir, StopSignal: c.StopSignal,
		Volumes: slices.Sorted(maps.Keys(c.Volumes)), Ports: slices.Sorted(maps.Keys(c.ExposedPorts)), Labels: c.Labels,
	}
	if config.Created != nil && config.Created.Unix() > 0 && config.Created.Unix() <= lastSecond {
		img.Created = config.Created.UTC()
	}
	img.Description = shown(c.Labels[imgspec.AnnotationTitle])
	return img
}

// architectureOCI gives the word of `uname -m` for Go's name of an architecture and its variant.
func architectureOCI(name, variant string) string {
	switch name {
	case "386":
		return "i686"
	case "arm":
		if variant == "" || variant >= "v7" {
			return "armv7l"
		}
		return "armv5tel"
	}
	return architectureNamed(name)
}

// platformOCI is the other way round: Go's name and variant for any name of an architecture.
func platformOCI(arch string) (name, variant string, err error) {
	switch known := architectureNamed(arch); known {
	case "x86_64":
		return "amd64", "", nil
	case "i686":
		return "386", "", nil
	case "aarch64":
		return "arm64", "", nil
	case "armv7l":
		return "arm", "v7", nil
	case "armv5tel":
		return "arm", "v6", nil
	case "loongarch64":
		return "loong64", "", nil
	case "":
		return "", "", fmt.Errorf("architecture %q: %w", arch, state.ErrNotExist)
	default:
		return known, "", nil
	}
}

// SameArchitecture says whether two names are of one architecture.
func SameArchitecture(a, b string) bool {
	return a == b || a != "" && architectureNamed(a) == architectureNamed(b)
}
