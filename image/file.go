package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"croft/state"
)

const (
	squashfsMagic = "hsqs"
	erofsMagic    = "\xe2\xe1\xf5\xe0"
	erofsAt       = 1024 // where the superblock is

	// wholeBlocks is what a file is filled up to with zeros: a loop device leaves out the last part of a block.
	wholeBlocks = 4096
)

// filesystem tells files that hold a filesystem by their first bytes, and gives the kind of image that they are.
func filesystem(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte(squashfsMagic)):
		return KindSquashfs
	case len(head) >= erofsAt+4 && string(head[erofsAt:erofsAt+4]) == erofsMagic:
		return KindEROFS
	}
	return ""
}

// claimedSize is how many bytes the superblock in head says that the filesystem has; ok is false when head is too short
// to tell.
func claimedSize(kind string, head []byte) (size uint64, ok bool) {
	switch {
	case kind == KindSquashfs && len(head) >= 96:
		return binary.LittleEndian.Uint64(head[40:]), true // bytes_used
	case kind == KindEROFS && len(head) >= erofsAt+128:
		blockBits, blocks := head[erofsAt+12], binary.LittleEndian.Uint32(head[erofsAt+36:])
		if blockBits > 31 {
			return math.MaxUint64, true
		}
		return uint64(blocks) << blockBits, true
	}
	return 0, false
}

// checkClaim compares what the superblock says of the size with what has come. The kernel mounts what lacks its end, and
// it would be a machine that finds out.
func checkClaim(kind string, head []byte, size int64) error {
	claimed, ok := claimedSize(kind, head)
	switch {
	case !ok:
		return &sentence{kind + " is truncated", state.ErrInvalid}
	case claimed == 0:
		return &sentence{kind + " is damaged: it says that it has no bytes", state.ErrInvalid}
	case claimed > uint64(size):
		return &sentence{fmt.Sprintf("%s is truncated: it says that it has %d bytes, and has %d", kind, claimed, size), state.ErrInvalid}
	}
	return nil
}

// fillFile takes the file of a filesystem into w, and describes what is in it. Where machines cannot have it as it is,
// it is unpacked.
func (s *Store) fillFile(ctx context.Context, w *work, src *source, kind string, o ImportOptions) (*arrival, error) {
	head, err := src.peek()
	if err != nil {
		return nil, err
	}
	head = bytes.Clone(head)
	file := filepath.Join(w.dir, "file")
	digest, size, err := src.save(ctx, file, o.MaxBytes)
	if err != nil {
		return nil, err
	}
	return s.takeFile(ctx, w, file, Layer{Digest: "sha256:" + digest, Size: size, Format: kind}, head, o)
}

// takeFile makes an arrival of a filesystem's file that lies in w, begins with head and will be the layer.
func (s *Store) takeFile(ctx context.Context, w *work, file string, layer Layer, head []byte, o ImportOptions) (*arrival, error) {
	kind := layer.Format
	if err := checkClaim(kind, head, layer.Size); err != nil {
		return nil, err
	}
	root, asLayer, err := s.Mount(file)
	if err != nil {
		return nil, cannotMount(kind, err)
	}
	defer root.Close()
	img, err := describe(root.Name())
	if err != nil {
		return nil, err
	}
	if !asLayer {
		if layer.Size, err = s.unpackMounted(ctx, root.Name(), w.tree, o.MaxBytes); err != nil {
			return nil, err
		}
		file, layer.Format = w.tree, ""
	}
	img.Kind, img.Fingerprint, img.Size, img.Layers = kind, layer.hex(), layer.Size, []Layer{layer}
	return &arrival{image: img, layer: file}, nil
}

// cannotMount adds the remedy that there may be: the kernel's filesystem knows less than the tools that make it, or
// the file is damaged.
func cannotMount(kind string, err error) error {
	var hinted *state.Hinted
	if errors.As(err, &hinted) {
		return err // the host lacks something, and the hint says what
	}
	unpack := map[string]string{KindSquashfs: "unsquashfs -d DIR FILE", KindEROFS: "fsck.erofs --extract=DIR FILE"}[kind]
	return state.Hint(err, unpack+" && croft image import DIR")
}

// unpackMounted copies the mounted filesystem at root into tree, as an archive that nobody sees.
func (s *Store) unpackMounted(ctx context.Context, root, tree string, limit int64) (size int64, err error) {
	layer, _, err := s.unpackPacked(ctx, func(w io.Writer) error { return s.Pack(ctx, root, w) }, tree, limit)
	return layer.Size, err
}

// unpackPacked unpacks into tree the tar that pack writes, and gives the layer that it makes.
func (s *Store) unpackPacked(ctx context.Context, pack func(io.Writer) error, tree string, limit int64) (layer Layer, entries int64, err error) {
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(pack(w))
	}()
	defer func() {
		r.Close()
		<-packed // it reads what the caller takes away
	}()
	in := readAhead(ctx, r, func(err error) error { return err }, limit)
	defer in.stop()
	size, entries, err := s.Unpack(ctx, in, tree)
	if err == nil {
		err = in.drain()
	}
	if err != nil {
		return Layer{}, 0, in.cause(err)
	}
	return Layer{Digest: "sha256:" + in.digest, Size: size}, entries, nil
}

// save writes the source as it is to path, filled up to whole blocks, and gives its digest and size.
func (s *source) save(ctx context.Context, path string, limit int64) (digest string, size int64, err error) {
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", 0, err
	}
	defer out.Close()
	to, from := io.Writer(out), io.Reader(s.raw)
	if in, ok := s.r.(*os.File); ok && s.total > 0 && unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		s.again(out) // the blocks are shared: what is left to do is to sum up what we have got
		to = io.Discard
	}
	if s.sum != nil {
		from = io.TeeReader(from, s.sum)
	}
	in := readAhead(ctx, from, s.diagnose, limit)
	defer in.stop()
	if size, err = io.Copy(to, in); err != nil {
		return "", 0, in.cause(err)
	}
	if err := out.Truncate(inBlocks(size)); err != nil {
		return "", 0, err
	}
	return in.digest, size, out.Sync()
}

func inBlocks(size int64) int64 { return (size + wholeBlocks - 1) / wholeBlocks * wholeBlocks }

// again has the source read from the beginning of r, which is what it was read from so far.
func (s *source) again(r io.Reader) {
	s.r, s.done = r, 0
	s.raw.Reset(s)
}
