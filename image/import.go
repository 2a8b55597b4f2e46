package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"croft/state"
)

// ImportOptions say what to import and what to call it.
type ImportOptions struct {
	Source  string    // a file, a directory, an https URL, or "-" for Stdin; what it holds is told by content, never by name
	Rootfs  string    // the root filesystem, as Source may be, when Source is the metadata of an LXD or Incus image
	Stdin   io.Reader // read for "-"
	Aliases []string
	Reuse   bool // take aliases away from the images that have them

	// Progress is told how many bytes of the source have been read, of how many; total is 0 where nobody knows. It is
	// called from another goroutine, one call at a time, and not after Import returns but for a source that blocks.
	Progress func(done, total int64)

	MaxBytes   int64 // most bytes of the uncompressed archive or of the filesystem's file, counted as they arrive; 0 is no limit
	MaxEntries int64 // most entries of the archive; 0 is no limit

	pulled *pulled // what the remote says of it; nil for what is no pull
}

// Import takes a root filesystem into the store and gives its image. What is in the store already is only given the
// aliases: content decides, not the compression it came in. Until all of it is on disk nothing of it can be seen, and
// an import that ends early leaves nothing but a directory that the next one deletes.
func (s *Store) Import(ctx context.Context, o ImportOptions) (Image, error) {
	if err := s.checkAliases(o.Aliases, "", o.Reuse); err != nil { // before an hour's work, and again after it
		return Image{}, importError(o.Source, err)
	}
	if o.Rootfs == "" && holdsOCI(o.Source) {
		img, err := s.importOCI(ctx, o.Source, o)
		return img, importError(o.Source, err)
	}
	work, err := s.newWork()
	if err != nil {
		return Image{}, importError(o.Source, err)
	}
	defer work.remove()
	var came *arrival
	if o.Rootfs == "" {
		came, err = s.importOne(ctx, work, o)
	} else {
		came, err = s.importPair(ctx, work, o)
	}
	if err != nil {
		return Image{}, err
	}
	var img Image
	if came.oci != "" {
		img, err = s.importOCI(ctx, came.oci, o)
	} else {
		img, err = s.keep(ctx, came, o)
	}
	return img, importError(o.Source, err)
}

// importError says what could not be imported; nil stays nil.
func importError(source string, err error) error {
	if err == nil {
		return nil
	}
	if source == "-" {
		source = "standard input"
	}
	return fmt.Errorf("import %s: %w", source, err)
}

// arrival is what has come, complete, but not yet in its place.
type arrival struct {
	image    Image
	layer    string // the tree or the file that becomes the image's layer
	metadata string // the directory with LXD's metadata.yaml and templates; "" when there is none
	oci      string // the directory with an OCI image, whose layers have yet to be taken out; "" for all else
}

func (s *Store) importOne(ctx context.Context, w *work, o ImportOptions) (*arrival, error) {
	src, err := s.open(ctx, o, o.Source)
	if err != nil {
		return nil, importError(o.Source, err)
	}
	defer src.Close()
	came, err := s.fill(ctx, w, src, o)
	return came, importError(o.Source, err)
}

// fill takes what src holds into w and describes it.
func (s *Store) fill(ctx context.Context, w *work, src *source, o ImportOptions) (*arrival, error) {
	head, err := src.peek()
	if err != nil {
		return nil, err
	}
	if kind := filesystem(head); kind != "" {
		return s.fillFile(ctx, w, src, kind, o)
	}
	return s.fillTree(ctx, w, src, o)
}

// sync makes what has come survive a power cut. The file of a filesystem was synced by whoever wrote it; to sync all that
// is on the disk would take the longer the more has just been written.
func (a *arrival) sync() error {
	if a.image.Layers[0].Format == "" {
		return state.SyncFilesystem(a.layer)
	}
	if a.metadata == "" {
		return nil
	}
	return filepath.WalkDir(a.metadata, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() && !d.IsDir() {
			return err
		}
		return syncFile(path)
	})
}

// syncFile brings a file or a directory to the disk.
func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// fillTree unpacks the archive in src: a root filesystem, or LXD's unified image around one.
func (s *Store) fillTree(ctx context.Context, w *work, src *source, o ImportOptions) (*arrival, error) {
	digest, size, err := s.unpackSource(ctx, src, w.tree, o)
	if err != nil {
		return nil, err
	}
	layer := Layer{Digest: "sha256:" + digest, Size: size}
	if isLXD(w.tree) {
		return w.unified(layer, src.fingerprint(digest))
	}
	if holdsOCI(w.tree) {
		return &arrival{oci: w.tree}, checkParts(w.tree)
	}
	img, err := describe(w.tree)
	if err != nil {
		return nil, err
	}
	img.Kind, img.Fingerprint, img.Size, img.Layers = KindRootfs, digest, size, []Layer{layer}
	return &arrival{image: img, layer: w.tree}, nil
}

// unpackSource unpacks the archive in src and gives the digest of it uncompressed and the bytes of its files.
func (s *Store) unpackSource(ctx context.Context, src *source, tree string, o ImportOptions) (digest string, size int64, err error) {
	in, err := src.decompress(ctx, o.MaxBytes)
	if err != nil {
		return "", 0, err
	}
	defer in.stop()
	size, entries, err := s.Unpack(ctx, in, tree)
	if err == nil {
		err = in.drain()
	}
	if err != nil {
		return "", 0, in.cause(err)
	}
	if o.MaxEntries > 0 && entries > o.MaxEntries {
		return "", 0, fmt.Errorf("an archive of more than %d entries %w", o.MaxEntries, state.ErrInvalid)
	}
	return in.digest, size, nil
}

// keep moves what has come to its place and publishes the image. The layer stays where it is, to be deleted, when it is
// in the store already: by an earlier import, or by another that was faster.
func (s *Store) keep(ctx context.Context, came *arrival, o ImportOptions) (Image, error) {
	if err := came.sync(); err != nil {
		return Image{}, err
	}
	img := came.image
	img.Schema, img.Imported = schema, time.Now().UTC().Truncate(time.Second)
	o.pulled.describe(&img)
	err := s.locked(func() (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.checkAliases(o.Aliases, img.Fingerprint, o.Reuse); err != nil {
			return err
		}
		if img.Layers[0], err = s.adopt(came.layer, img.Layers[0]); err != nil {
			return err
		}
		img.Size = img.Layers[0].Size
		if err := s.publish(img, came.metadata); err != nil {
			return err
		}
		if err := s.follow(o.pulled, img.Fingerprint); err != nil {
			return err
		}
		return s.addAliases(img.Fingerprint, o.Aliases, o.Reuse)
	})
	if err != nil {
		return Image{}, err
	}
	return s.Get(img.Fingerprint)
}

// adopt moves a layer to its place, and gives it as it is there: an earlier import may have unpacked what now is a file. That it
// stays there is publish's.
func (s *Store) adopt(from string, l Layer) (Layer, error) {
	home := s.LayerPath(l)
	if exists(home) {
		return s.recorded(l)
	}
	return l, os.Rename(from, home)
}

// recorded gives l as the image has it that brought it.
func (s *Store) recorded(l Layer) (Layer, error) {
	all, err := s.fingerprints()
	if err != nil {
		return l, err
	}
	for _, fingerprint := range all {
		img, err := s.load(fingerprint)
		if err != nil {
			continue // damaged: the next may have it
		}
		if i := slices.IndexFunc(img.Layers, func(has Layer) bool { return has.Digest == l.Digest }); i >= 0 {
			return img.Layers[i], nil
		}
	}
	return l, nil
}

// work is the place where one import unpacks: a directory closed to everybody, for its tree has set-user-id programs
// and world-writable directories of an archive that nobody has looked at, and the lock that shows we live.
type work struct {
	dir  string
	tree string // where archives are unpacked: an empty directory
	lock *os.File
}

// newWork makes a place to unpack in. It deletes what dead imports left: now is when the space is needed.
func (s *Store) newWork() (*work, error) {
	w := &work{}
	var dead []string
	err := s.locked(func() (err error) {
		if dead, err = s.leftovers(); err != nil {
			return err
		}
		// With the store locked no sweep can come between the directory and its lock.
		if w.dir, err = os.MkdirTemp(filepath.Join(s.Dir, layersName), newPrefix); err != nil {
			return err
		}
		w.tree = filepath.Join(w.dir, "tree")
		if w.lock, err = state.Lock(filepath.Join(w.dir, lockName)); err != nil {
			return err
		}
		if err := os.Mkdir(w.tree, 0o755); err != nil {
			return err
		}
		return os.Chmod(w.tree, 0o755)
	})
	if err != nil {
		return nil, errors.Join(err, w.remove())
	}
	_ = removeTrees(dead) // what cannot be deleted is no reason not to import; Sweep says why
	return w, nil
}

func (w *work) remove() error {
	if w.lock != nil {
		defer w.lock.Close() // last: until then nobody else deletes it
	}
	if w.dir == "" {
		return nil
	}
	return removeTree(w.dir)
}
