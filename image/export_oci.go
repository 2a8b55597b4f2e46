package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	godigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutFile is a file of an OCI layout that is on disk already, or small.
type layoutFile struct {
	imgspec.Descriptor
	file string // "": data
	data []byte
}

// writeOCI writes an image as an OCI archive: an OCI layout (image-spec, "Image Layout") in a tar.
func (s *Store) writeOCI(ctx context.Context, img Image, w io.Writer) error {
	work, err := s.newWork() // a tar wants to know the sizes before
	if err != nil {
		return err
	}
	defer work.remove()
	config, err := ociConfig(img)
	if err != nil {
		return err
	}
	blobs := map[godigest.Digest]layoutFile{}
	add := func(b layoutFile) imgspec.Descriptor {
		blobs[b.Digest] = b
		return b.Descriptor
	}
	manifest := imgspec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspec.MediaTypeImageManifest}
	for n, l := range img.Layers {
		b, diffID, err := s.packLayer(ctx, l, filepath.Join(work.dir, fmt.Sprint("blob-", n)))
		if err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, add(b))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	b, err := jsonBlob(imgspec.MediaTypeImageConfig, config)
	if err != nil {
		return err
	}
	manifest.Config = add(b)
	if b, err = jsonBlob(imgspec.MediaTypeImageManifest, manifest); err != nil {
		return err
	}
	top := add(b)
	top.Platform = &config.Platform
	if names := ownAliases(img); len(names) > 0 {
		top.Annotations = map[string]string{imgspec.AnnotationRefName: names[0]}
	}
	index := imgspec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspec.MediaTypeImageIndex, Manifests: []imgspec.Descriptor{top},
	}
	return writeLayout(tar.NewWriter(w), index, blobs, img.Created)
}

// packLayer packs one layer into file, compressed, and gives it with the digest of the tar as it is.
func (s *Store) packLayer(ctx context.Context, l Layer, file string) (b layoutFile, diffID godigest.Digest, err error) {
	f, err := os.Create(file)
	if err != nil {
		return b, "", err
	}
	defer f.Close()
	root, err := s.OpenLayer(s.LayerPath(l))
	if err != nil {
		return b, "", err
	}
	defer root.Close()
	packed, plain := sha256.New(), sha256.New()
	out := &counter{w: io.MultiWriter(f, packed)}
	err = s.packedFrom(ctx, root, func(r io.Reader) error {
		return compressedTo(out, func(w io.Writer) error {
			_, err := io.Copy(io.MultiWriter(w, plain), r)
			return err
		})
	})
	b = layoutFile{file: file, Descriptor: imgspec.Descriptor{MediaType: imgspec.MediaTypeImageLayerGzip, Digest: digestOf(packed), Size: out.n}}
	return b, digestOf(plain), err
}

func digestOf(h hash.Hash) godigest.Digest {
	return godigest.NewDigestFromEncoded(godigest.SHA256, hex.EncodeToString(h.Sum(nil)))
}

func jsonBlob(mediaType string, v any) (layoutFile, error) {
	data, err := json.Marshal(v)
	b := layoutFile{data: data, Descriptor: imgspec.Descriptor{MediaType: mediaType, Digest: godigest.FromBytes(data), Size: int64(len(data))}}
	return b, err
}

// writeLayout writes the files of an OCI layout, sorted.
func writeLayout(to *tar.Writer, index imgspec.Index, blobs map[godigest.Digest]layoutFile, at time.Time) error {
	const dir = imgspec.ImageBlobsDir
	for _, d := range []string{dir, dir + "/sha256"} {
		if err := to.WriteHeader(dirHeader(d, at)); err != nil {
			return err
		}
	}
	for _, sum := range slices.Sorted(maps.Keys(blobs)) {
		if err := addBlob(to, dir+"/sha256/"+sum.Encoded(), blobs[sum], at); err != nil {
			return err
		}
	}
	text, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := addFile(to, imgspec.ImageIndexFile, text, at); err != nil {
		return err
	}
	if text, err = json.Marshal(imgspec.ImageLayout{Version: imgspec.ImageLayoutVersion}); err != nil {
		return err
	}
	if err := addFile(to, imgspec.ImageLayoutFile, text, at); err != nil {
		return err
	}
	return to.Close()
}

func addBlob(to *tar.Writer, name string, b layoutFile, at time.Time) error {
	if b.file == "" {
		return addFile(to, name, b.data, at)
	}
	f, err := os.Open(b.file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: b.Size, ModTime: at, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(to, f)
	return err
}

// ociConfig is the configuration of an image but for its layers.
func ociConfig(img Image) (imgspec.Image, error) {
	created := img.Created
	c := imgspec.Image{Created: &created, RootFS: imgspec.RootFS{Type: "layers"}}
	c.OS = "linux"
	if img.Architecture != "" { // nobody knows of an image without programs
		var err error
		if c.Architecture, c.Variant, err = platformOCI(img.Architecture); err != nil {
			return c, err
		}
	}
	from := img.Config
	if from == nil { // whoever runs it elsewhere most likely wants what croft does with it
		c.Config.Cmd, c.Config.StopSignal = []string{"/sbin/init"}, "SIGRTMIN+3"
		return c, nil
	}
	c.Config = imgspec.ImageConfig{
		Entrypoint: from.Entrypoint, Cmd: from.Cmd, Env: from.Env, User: from.User, WorkingDir: from.Dir,
		StopSignal: from.StopSignal, Volumes: set(from.Volumes), ExposedPorts: set(from.Ports), Labels: from.Labels,
	}
	return c, nil
}

// set is a list as OCI writes one whose order means nothing; nil when it is empty.
func set(list []string) map[string]struct{} {
	if len(list) == 0 {
		return nil
	}
	words := map[string]struct{}{}
	for _, word := range list {
		words[word] = struct{}{}
	}
	return words
}
