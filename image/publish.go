package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"croft/state"
)

// PublishOptions say what an image is made of and what to call it.
type PublishOptions struct {
	Base string // fingerprint of the image that the machine was made of

	// Pack writes what the machine has of its own as a tar, a layer over those of its image; or all of it, and whole is
	// set. Nothing written is no change.
	Pack func(ctx context.Context, w io.Writer) (whole bool, err error)

	Properties map[string]string // beside those that its image has; an empty one takes that of the image away
	Aliases    []string
	Reuse      bool // take aliases away from the images that have them
}

// inherited are the properties of an image that hold for what was made of it: not its serial number, nor its variant.
var inherited = [...]string{"os", "release", "architecture"}

// Publish makes an image of a machine: the layers of the machine's image, which it shares, and one of what the machine has
// changed. The templates are those of the machine's image.
func (s *Store) Publish(ctx context.Context, o PublishOptions) (Image, error) {
	if err := s.checkAliases(o.Aliases, "", o.Reuse); err != nil {
		return Image{}, err
	}
	base, err := s.load(o.Base)
	if err != nil {
		return Image{}, err
	}
	w, err := s.newWork()
	if err != nil {
		return Image{}, err
	}
	defer w.remove()
	var whole bool
	layer, entries, err := s.unpackPacked(ctx, func(to io.Writer) error {
		count := &counter{w: to}
		whole, err = o.Pack(ctx, count)
		if err == nil && count.n == 0 {
			_, err = to.Write(make([]byte, 1024)) // the end of an empty tar
		}
		return err
	}, w.tree, 0)
	if err != nil {
		return Image{}, err
	}
	changed := whole || entries > 1 // the root directory is always there
	img := published(base, o.Properties)
	if whole {
		img.Layers = nil
	}
	if changed {
		img.Layers = append(img.Layers, layer)
	}
	for _, l := range img.Layers {
		img.Size += l.Size
	}
	metadata, err := s.copyMetadata(base.Fingerprint, filepath.Join(w.dir, "metadata"))
	if err != nil {
		return Image{}, err
	}
	if err := state.SyncFilesystem(w.dir); err != nil {
		return Image{}, err
	}
	return s.keepPublished(ctx, img, changed, w.tree, metadata, o)
}

// published is the record of an image made of a machine of base, but for its fingerprint and the changes.
func published(base Image, properties map[string]string) Image {
	img := Image{
		Schema: schema, Kind: KindPublished, Architecture: base.Architecture, OS: base.OS, Release: base.Release,
		Description: base.Description, Config: base.Config, Layers: slices.Clone(base.Layers), Properties: map[string]string{},
	}
	for _, name := range inherited {
		if value, ok := base.Properties[name]; ok {
			img.Properties[name] = value
		}
	}
	maps.Copy(img.Properties, properties)
	maps.DeleteFunc(img.Properties, func(_, value string) bool { return value == "" })
	for name, field := range map[string]*string{"os": &img.OS, "release": &img.Release, "description": &img.Description} {
		if value := properties[name]; value != "" {
			*field = value
		}
	}
	img.Created = time.Now().UTC().Truncate(time.Second)
	img.Imported = img.Created
	return img
}

// keepPublished puts the layer to its place and publishes the image.
func (s *Store) keepPublished(ctx context.Context, img Image, changed bool, tree, metadata string, o PublishOptions) (Image, error) {
	err := s.locked(func() (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := s.load(o.Base); err != nil {
			return err // its layers may have gone with it
		}
		if last := len(img.Layers) - 1; changed {
			if img.Layers[last], err = s.adopt(tree, img.Layers[last]); err != nil {
				return err
			}
		}
		if img.Fingerprint, err = fingerprintOf(img); err != nil {
			return err
		}
		if err := s.checkAliases(o.Aliases, img.Fingerprint, o.Reuse); err != nil {
			return err
		}
		if err := s.publish(img, metadata); err != nil {
			return err
		}
		return s.addAliases(img.Fingerprint, o.Aliases, o.Reuse)
	})
	if err != nil {
		return Image{}, err
	}
	return s.Get(img.Fingerprint)
}

// fingerprintOf is that of an image that came as no file: of its record.
func fingerprintOf(img Image) (string, error) {
	img.Fingerprint = ""
	data, err := json.Marshal(img)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), err
}

// copyMetadata copies what an LXD image has beside its root filesystem into a new directory; "" when it has nothing.
func (s *Store) copyMetadata(fingerprint, to string) (string, error) {
	from := filepath.Join(s.Dir, fingerprint)
	text, err := readRegular(filepath.Join(from, lxdMetadata), maxMetadataFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	templates := filepath.Join(to, lxdTemplates)
	if err := os.MkdirAll(templates, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(to, lxdMetadata), text, 0o644); err != nil {
		return "", err
	}
	all, err := s.Templates(fingerprint)
	if err != nil {
		return "", err
	}
	for _, t := range all {
		text, err := t.read()
		if err != nil {
			return "", fmt.Errorf("template %s: %w", shown(t.file), err)
		}
		if err := os.WriteFile(filepath.Join(templates, t.file), text, 0o644); err != nil {
			return "", err
		}
	}
	return to, nil
}

// readRegular reads a regular file of at most limit bytes that nobody has checked.
func readRegular(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &sentence{fmt.Sprintf("%s has more than %d bytes", filepath.Base(path), limit), state.ErrInvalid}
	}
	return data, err
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
