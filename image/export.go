package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"
	"gopkg.in/yaml.v3"

	"croft/state"
)

// The formats of an exported image.
const (
	FormatUnified = "unified" // LXD's and Incus's: metadata, templates and rootfs in one tar
	FormatSplit   = "split"   // LXD's and Incus's: a tar of metadata and templates, and the root filesystem by itself
	FormatOCI     = "oci"     // an OCI layout in a tar, a layer for each of the image's
)

// ExportOptions say what an image is written as, and where to.
type ExportOptions struct {
	Format string
	Target string    // the file, or of a split image what the names of both begin with; "-" is Stdout
	Stdout io.Writer // written to for "-"
}

// Export writes an image as others take it, and gives the files, metadata first. Of the same image it makes the same bytes
// each time. A file that is there is replaced when the new one is complete.
func (s *Store) Export(ctx context.Context, ref string, o ExportOptions) (files []string, err error) {
	img, err := s.Get(ref)
	if err != nil {
		return nil, err
	}
	switch {
	case o.Format == FormatSplit && o.Target == "-":
		return nil, fmt.Errorf("two files on stdout, which %w", state.ErrUnsupported)
	case o.Format == FormatSplit:
		files, err = s.exportSplit(ctx, img, o.Target)
	case o.Format == FormatOCI:
		err = s.exportTo(o, func(w io.Writer) error { return s.writeOCI(ctx, img, w) })
	default:
		err = s.exportTo(o, func(w io.Writer) error { return s.writeUnified(ctx, img, w) })
	}
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", ref, err)
	}
	if files == nil && o.Target != "-" {
		files = []string{o.Target}
	}
	return files, nil
}

// exportTo has write fill the target.
func (s *Store) exportTo(o ExportOptions, write func(io.Writer) error) error {
	if o.Target == "-" {
		return write(o.Stdout)
	}
	return replaceFile(o.Target, func(f *os.File) error { return write(f) })
}

// replaceFile puts what write writes in the place of the file at path, whole, or leaves everything as it was.
func replaceFile(path string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), newPrefix+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("%s: %w", path, errors.Unwrap(err))
	}
	defer os.Remove(f.Name()) // gone by then when all went well
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// compressedTo has write fill w compressed with gzip, without a name and a time.
func compressedTo(w io.Writer, write func(io.Writer) error) error {
	z := gzip.NewWriter(w)
	if err := write(z); err != nil {
		return err
	}
	return z.Close()
}

func (s *Store) writeUnified(ctx context.Context, img Image, w io.Writer) error {
	return compressedTo(w, func(w io.Writer) error {
		archive := tar.NewWriter(w)
		if err := s.addMetadata(archive, img); err != nil {
			return err
		}
		err := s.packed(ctx, img, func(r io.Reader) error { return addTree(archive, r, "rootfs") })
		if err != nil {
			return err
		}
		return archive.Close()
	})
}

// addMetadata writes the metadata of an image as LXD has it.
func (s *Store) addMetadata(to *tar.Writer, img Image) error {
	templates, err := s.Templates(img.Fingerprint)
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(metadataOf(img, templates))
	if err != nil {
		return err
	}
	if err := addFile(to, lxdMetadata, text, img.Created); err != nil {
		return err
	}
	if err := to.WriteHeader(dirHeader(lxdTemplates, img.Created)); err != nil {
		return err
	}
	texts := map[string][]byte{}
	for _, t := range templates { // several may be of one file
		if texts[t.file], err = t.read(); err != nil {
			return fmt.Errorf("template %s: %w", shown(t.file), err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if err := addFile(to, path.Join(lxdTemplates, name), texts[name], img.Created); err != nil {
			return err
		}
	}
	return nil
}

// metadataOf is metadata.yaml of an image.
func metadataOf(img Image, templates []FileTemplate) metadata {
	m := metadata{Architecture: img.Architecture, Created: img.Created.Unix(), Properties: map[string]string{}}
	for name, value := range map[string]string{"architecture": img.Architecture, "os": img.OS, "release": img.Release, "description": img.Description} {
		if value != "" {
			m.Properties[name] = value
		}
	}
	maps.Copy(m.Properties, img.Properties)
	if img.Expires != nil {
		m.Expires = img.Expires.Unix()
	}
	for _, t := range templates {
		if m.Templates == nil {
			m.Templates = map[string]templateRow{}
		}
		m.Templates[t.Path] = templateRow{
			When: t.When, CreateOnly: t.CreateOnly, Template: t.file, Properties: t.Properties,
			UID: strconv.Itoa(t.UID), GID: strconv.Itoa(t.GID), Mode: fmt.Sprintf("%04o", t.Mode),
		}
	}
	return m
}

func dirHeader(name string, at time.Time) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: at, Format: tar.FormatPAX}
}

func addFile(to *tar.Writer, name string, content []byte, at time.Time) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: at, Format: tar.FormatPAX}
	if err := to.WriteHeader(h); err != nil {
		return err
	}
	_, err := to.Write(content)
	return err
}

// packed has read read the tree of an image as a tar.
func (s *Store) packed(ctx context.Context, img Image, read func(io.Reader) error) error {
	root, err := s.merged(img)
	if err != nil {
		return err
	}
	defer root.Close()
	return s.packedFrom(ctx, root, read)
}

// packedFrom has read read the tree at root as a tar.
func (s *Store) packedFrom(ctx context.Context, root *os.File, read func(io.Reader) error) error {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(s.Pack(ctx, root.Name(), w))
	}()
	err := read(r)
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	<-done // it reads the tree
	return err
}

func (s *Store) merged(img Image) (*os.File, error) {
	var paths []string
	for _, l := range img.Layers {
		paths = append(paths, s.LayerPath(l))
	}
	return s.Merge(paths)
}

// addTree copies an archive into another, below dir.
func addTree(to *tar.Writer, r io.Reader, dir string) error {
	for from := tar.NewReader(r); ; {
		h, err := from.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = path.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			h.Name += "/"
		case tar.TypeLink:
			h.Linkname = path.Join(dir, h.Linkname)
		}
		h.Format = tar.FormatPAX
		if err := to.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
	}
}

// exportSplit writes both files of a split image: prefix.tar.gz, and prefix.squashfs or prefix.rootfs.tar.gz.
func (s *Store) exportSplit(ctx context.Context, img Image, prefix string) (files []string, err error) {
	files = []string{prefix + ".tar.gz", prefix + ".squashfs"}
	err = replaceFile(files[1], func(f *os.File) error { return s.writeSquashfs(ctx, img, f) })
	if errors.Is(err, errNoSquashfs) {
		files[1] = prefix + ".rootfs.tar.gz"
		err = replaceFile(files[1], func(f *os.File) error {
			return compressedTo(f, func(w io.Writer) error { return s.writeTree(ctx, img, w) })
		})
	}
	if err != nil {
		return nil, err
	}
	return files, replaceFile(files[0], func(f *os.File) error {
		return compressedTo(f, func(w io.Writer) error { return s.writeMetadata(img, w) })
	})
}

// errNoSquashfs says that nothing here makes one.
var errNoSquashfs = errors.New("no mksquashfs")

// writeMetadata writes the first file of a split image, uncompressed.
func (s *Store) writeMetadata(img Image, w io.Writer) error {
	archive := tar.NewWriter(w)
	if err := s.addMetadata(archive, img); err != nil {
		return err
	}
	return archive.Close()
}

// writeTree writes the root filesystem of an image as a tar.
func (s *Store) writeTree(ctx context.Context, img Image, w io.Writer) error {
	return s.packed(ctx, img, func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// writeSquashfs writes the root filesystem of an image as a squashfs: the one that it has, or one that mksquashfs makes. It is
// errNoSquashfs where there is neither.
func (s *Store) writeSquashfs(ctx context.Context, img Image, to *os.File) error {
	if len(img.Layers) == 1 && img.Layers[0].Format == KindSquashfs {
		from, err := os.Open(s.LayerPath(img.Layers[0]))
		if err != nil {
			return err
		}
		defer from.Close()
		_, err = io.Copy(to, from)
		return err
	}
	tool, err := exec.LookPath("mksquashfs")
	if errors.Is(err, exec.ErrNotFound) {
		return errNoSquashfs
	}
	root, err := s.merged(img)
	if err != nil {
		return err
	}
	defer root.Close()
	cmd := exec.CommandContext(ctx, tool, "/proc/self/fd/3/", to.Name(), "-noappend", "-no-progress", "-quiet",
		"-no-exports", "-no-recovery", "-mkfs-time", strconv.FormatInt(img.Created.Unix(), 10))
	cmd.ExtraFiles = []*os.File{root} // its descriptor 3: where the tree is mounted nobody else sees it
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("mksquashfs: %w: %s", err, shown(string(out)))
	}
	return nil
}
