package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"croft/state"
)

// ImportOptions say what to import and what to call it.
type ImportOptions struct {
	Source  string    // a file, a directory, or "-" for Stdin; what it holds is told by content, never by name
	Stdin   io.Reader // read when Source is "-"
	Aliases []string
	Reuse   bool // take aliases away from the images that have them

	// Progress is told how many bytes of the source have been read, of how many; total is 0 where nobody knows. It is
	// called from another goroutine, one call at a time, and not after Import returns but for a source that blocks.
	Progress func(done, total int64)

	MaxBytes   int64 // most bytes of the uncompressed archive, counted as they arrive; 0 is no limit
	MaxEntries int64 // most entries of the archive; 0 is no limit
}

// Import takes a root filesystem into the store and gives its image. What is in the store already is only given the
// aliases: content decides, not the compression it came in. Until all of it is on disk nothing of it can be seen, and
// an import that ends early leaves nothing but a directory that the next one deletes.
func (s *Store) Import(ctx context.Context, o ImportOptions) (Image, error) {
	img, err := s.take(ctx, o)
	if err != nil {
		name := o.Source
		if name == "-" {
			name = "standard input"
		}
		return Image{}, fmt.Errorf("import %s: %w", name, err)
	}
	return img, nil
}

func (s *Store) take(ctx context.Context, o ImportOptions) (Image, error) {
	if err := s.checkAliases(o); err != nil {
		return Image{}, err // before an hour's work, and again after it
	}
	src, err := s.open(ctx, o)
	if err != nil {
		return Image{}, err
	}
	defer src.Close()
	work, err := s.newWork()
	if err != nil {
		return Image{}, err
	}
	defer work.remove()
	img, err := s.fill(ctx, work.tree, src, o)
	if err != nil {
		return Image{}, err
	}
	return s.keep(ctx, work.tree, img, o)
}

func (s *Store) checkAliases(o ImportOptions) error {
	aliases, err := s.Aliases()
	if err != nil {
		return err
	}
	for _, alias := range o.Aliases {
		// Which image it will be nobody knows yet, so that a taken alias may turn out to be right.
		if err := free(aliases, alias, "", o.Reuse); err != nil {
			return err
		}
	}
	return nil
}

// fill unpacks src into tree and describes what came.
func (s *Store) fill(ctx context.Context, tree string, src *source, o ImportOptions) (Image, error) {
	in, err := src.decompress(ctx, o.MaxBytes)
	if err != nil {
		return Image{}, err
	}
	defer in.stop()
	bytes, entries, err := s.Unpack(ctx, in, tree)
	if err == nil {
		err = in.drain()
	}
	if err != nil {
		return Image{}, in.cause(err)
	}
	if o.MaxEntries > 0 && entries > o.MaxEntries {
		return Image{}, fmt.Errorf("an archive of more than %d entries %w", o.MaxEntries, state.ErrInvalid)
	}
	img, err := describe(tree)
	if err != nil {
		return Image{}, err
	}
	img.Schema, img.Kind, img.Fingerprint = schema, KindRootfs, in.digest
	img.Size, img.Imported = bytes, time.Now().UTC().Truncate(time.Second)
	img.Layers = []Layer{{Digest: "sha256:" + in.digest, Size: bytes}}
	return img, syncTree(tree)
}

// keep moves the finished tree to its place and publishes the image. The tree stays where it is, to be deleted, when
// the layer is in the store already: by an earlier import, or by another that was faster.
func (s *Store) keep(ctx context.Context, tree string, img Image, o ImportOptions) (Image, error) {
	err := s.locked(func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		aliases, err := s.Aliases()
		if err != nil {
			return err
		}
		for _, alias := range o.Aliases {
			if err := free(aliases, alias, img.Fingerprint, o.Reuse); err != nil {
				return err
			}
		}
		if err := s.adopt(tree, img.Layers[0]); err != nil {
			return err
		}
		if err := s.publish(img); err != nil {
			return err
		}
		return s.addAliases(img.Fingerprint, o.Aliases, o.Reuse)
	})
	if err != nil {
		return Image{}, err
	}
	return s.Get(img.Fingerprint)
}

func (s *Store) adopt(tree string, l Layer) error {
	home := s.LayerDir(l)
	if exists(home) {
		return nil
	}
	if err := os.Rename(tree, home); err != nil {
		return err
	}
	return state.SyncDir(filepath.Dir(home))
}

// work is the place where one import unpacks: a directory closed to everybody, for its tree has set-user-id programs
// and world-writable directories of an archive that nobody has looked at, and the lock that shows we live.
type work struct {
	dir, tree string
	lock      *os.File
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
