package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"time"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/pkg/blobinfocache/none"
	"github.com/containers/image/v5/types"

	"croft/state"
)

// blobsName is the directory of layers that have not come whole: the next pull goes on where the last one ended.
const blobsName = "blobs"

// patience is how long a pull puts up with a registry.
type patience struct {
	tries int           // in a row without a byte
	pause time.Duration // before the second; doubled before each further one
	stall time.Duration // without a byte
}

func usualPatience() patience {
	return patience{tries: 5, pause: time.Second / 2, stall: 30 * time.Second}
}

// retry calls do until it succeeds, fails for good, or patience ends.
func (p patience) retry(ctx context.Context, do func() error) error {
	pause := p.pause
	for try := 1; ; try++ {
		err := do()
		if err == nil || try >= p.tries || !transient(err) {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause *= 2
	}
}

// within has do, which asks for a few small things, no longer than a connection may be silent: the transport itself would wait
// for ever.
func (p patience) within(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.stall, errStalled)
	defer cancel()
	err := do(ctx)
	if err != nil && context.Cause(ctx) == errStalled {
		return errStalled
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// errStalled is a connection that stays open and gives nothing.
var errStalled = errors.New("the registry stopped sending")

// transient tells what may be over at the next try: a connection that broke or stalled, and a server with troubles of its
// own. What a server refuses (4xx) it refuses again; to 429 the transport has listened already.
func transient(err error) bool {
	var status docker.UnexpectedHTTPStatusError
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &status):
		return status.StatusCode >= 500
	case errors.As(err, &dns):
		return dns.IsTemporary
	case errors.Is(err, errStalled), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return true
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return true
	}
	return errors.As(err, &timeout) && timeout.Timeout()
}

// blob reads one blob of a registry from the beginning to the end, however often the connection breaks in between. What
// comes is kept in a file until all of it is verified, and what the file has from an earlier pull is not asked for again.
type blob struct {
	ctx      context.Context
	src      ociSource
	info     types.BlobInfo
	patience patience

	kept *os.File // nil for an image of this host, whose blobs are files already
	have int64    // bytes of it that were there at the beginning
	off  int64    // of the next byte to give

	body   io.ReadCloser // nil: not connected
	cancel context.CancelCauseFunc
	watch  *time.Timer
	fails  int // in a row
}

// Read gives no more bytes than the manifest says: a longer blob is an error.
func (b *blob) Read(p []byte) (int, error) {
	if b.off < b.have {
		n, err := b.kept.ReadAt(p[:min(int64(len(p)), b.have-b.off)], b.off)
		b.off += int64(n)
		return n, err
	}
	for {
		n, err := b.receive(p)
		if n > 0 || err == io.EOF {
			return n, err
		}
		b.disconnect()
		b.fails++
		if err == nil {
			continue
		}
		if !transient(err) || b.fails >= b.patience.tries {
			return 0, err
		}
		if err := sleep(b.ctx, b.patience.pause<<(b.fails-1)); err != nil {
			return 0, err
		}
	}
}

// receive gets some bytes, connecting first where that is needed.
func (b *blob) receive(p []byte) (int, error) {
	if b.body == nil && b.off == b.info.Size {
		return 0, io.EOF // all of it was there
	}
	if b.body == nil {
		if err := b.connect(); err != nil {
			return 0, err
		}
	}
	b.watch.Reset(b.patience.stall)
	n, err := b.body.Read(p)
	b.watch.Stop()
	if n > 0 {
		b.fails = 0
		return n, b.keep(p[:n])
	}
	switch {
	case err == io.EOF && b.off < b.info.Size:
		err = io.ErrUnexpectedEOF
	case err == io.EOF || err == nil:
	case b.ctx.Err() != nil:
		err = b.ctx.Err()
	case errors.Is(err, context.Canceled):
		err = errStalled
	}
	return 0, err
}

// keep takes what has come.
func (b *blob) keep(p []byte) error {
	b.off += int64(len(p))
	if b.off > b.info.Size {
		return &sentence{fmt.Sprintf("has more than the %d bytes that its manifest says", b.info.Size), state.ErrInvalid}
	}
	if b.kept == nil {
		return nil
	}
	_, err := b.kept.Write(p)
	return err
}

// connect asks for the rest of the blob.
func (b *blob) connect() error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	b.cancel = cancel
	b.watch = time.AfterFunc(b.patience.stall, func() { cancel(errStalled) })
	body, err := b.rest(ctx)
	b.watch.Stop()
	if err != nil && context.Cause(ctx) == errStalled {
		err = errStalled
	}
	b.body = body
	return err
}

// rest gives a stream of the blob from b.off on.
func (b *blob) rest(ctx context.Context) (io.ReadCloser, error) {
	if b.off > 0 {
		if r, err := partOf(ctx, b.src, b.info, b.off); r != nil || err != nil {
			return r, err
		}
	}
	r, _, err := b.src.GetBlob(ctx, b.info, none.NoCache)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, b.off); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// partOf gives the part of a blob from off on, or nothing where the transport has no parts. The docker transport has them
// for its own callers: the method can be called, but the type of its last argument cannot be written down here.
func partOf(ctx context.Context, src ociSource, info types.BlobInfo, off int64) (io.ReadCloser, error) {
	method := reflect.ValueOf(src).MethodByName("GetBlobAt")
	supports, ok := src.(interface{ SupportsGetBlobAt() bool })
	if !ok || !supports.SupportsGetBlobAt() || !method.IsValid() || method.Type().NumIn() != 3 {
		return nil, nil
	}
	chunks := reflect.MakeSlice(method.Type().In(2), 1, 1)
	chunks.Index(0).FieldByName("Offset").SetUint(uint64(off))
	chunks.Index(0).FieldByName("Length").SetUint(math.MaxUint64) // to the end
	out := method.Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(info), chunks})
	if err, failed := out[2].Interface().(error); failed {
		return nil, err
	}
	streams, errs := out[0].Interface().(chan io.ReadCloser), out[1].Interface().(chan error)
	select {
	case r, ok := <-streams:
		if ok {
			return r, nil
		}
	case err, ok := <-errs:
		if ok {
			return nil, err
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return nil, io.ErrUnexpectedEOF
}

func (b *blob) disconnect() {
	if b.body != nil {
		b.body.Close()
	}
	if b.cancel != nil {
		b.watch.Stop()
		b.cancel(nil)
	}
	b.body, b.cancel = nil, nil
}

// claimBlob takes the file of what has come of a blob, and waits for another process that has it: the one that comes second
// finds the layer in the store.
func (s *Store) claimBlob(ctx context.Context, hex string) (*state.Claim, error) {
	dir := filepath.Join(s.Dir, blobsName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for {
		claim, err := state.ClaimFile(filepath.Join(dir, hex))
		if !errors.Is(err, state.ErrRunning) {
			return claim, err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// abandonedBlobs lists the files of layers that nobody downloads at this moment.
func (s *Store) abandonedBlobs() (paths []string, err error) {
	dir := filepath.Join(s.Dir, blobsName)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); !held(path) {
			paths = append(paths, path)
		}
	}
	return paths, err
}

// forget empties the file of a download whose bytes turned out to be wrong.
func forget(f *os.File) error {
	if f == nil {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}
