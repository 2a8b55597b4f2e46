package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"croft/state"
)

const (
	chunkSize = 512 << 10

	// maxPadding is how many zeros may follow an archive's end mark. tar fills its last record with them.
	maxPadding = 64 << 20
)

// ahead reads a stream in a goroutine of its own, so that decompressing and hashing go on while files are written. It
// never waits for that goroutine, which may hang in a read of a terminal or pipe: each message carries all there is to
// know, and nothing else is shared.
type ahead struct {
	ctx    context.Context
	full   chan chunk
	free   chan []byte
	quit   chan struct{}
	once   sync.Once
	now    chunk
	rest   []byte
	err    error  // why the stream ended, nil at its proper end
	digest string // hex sha256 of the whole stream, at its proper end
}

type chunk struct {
	data   []byte
	err    error // io.EOF at the proper end
	digest string
}

// readAhead starts reading r, an archive or the file of a filesystem, at most limit bytes (0 is no limit); diagnose explains r's errors.
func readAhead(ctx context.Context, r io.Reader, diagnose func(error) error, limit int64) *ahead {
	a := &ahead{ctx: ctx, full: make(chan chunk, 2), free: make(chan []byte, 4), quit: make(chan struct{})}
	for range 3 {
		a.free <- make([]byte, chunkSize)
	}
	go a.pump(r, diagnose, limit)
	return a
}

func (a *ahead) stop() { a.once.Do(func() { close(a.quit) }) }

func (a *ahead) pump(r io.Reader, diagnose func(error) error, limit int64) {
	sum := sha256.New()
	var total int64
	for {
		buf, ok := a.buffer()
		if !ok {
			return
		}
		n, err := fillBuffer(r, buf)
		sum.Write(buf[:n])
		total += int64(n)
		c := chunk{data: buf[:n], err: err}
		switch {
		case limit > 0 && total > limit:
			c = chunk{err: fmt.Errorf("an image of more than %d bytes %w", limit, state.ErrInvalid)}
		case err == io.EOF:
			c.digest = hex.EncodeToString(sum.Sum(nil))
		case err != nil:
			c.err = diagnose(err)
		}
		if !a.send(c) || c.err != nil {
			return
		}
	}
}

func (a *ahead) buffer() ([]byte, bool) {
	select {
	case buf := <-a.free:
		return buf[:chunkSize], true
	case <-a.quit:
		return nil, false
	}
}

func (a *ahead) send(c chunk) bool {
	select {
	case a.full <- c:
		return true
	case <-a.quit:
		return false
	}
}

// fillBuffer is io.ReadFull with the reader's own error: a stream may end where it likes, and io.EOF says it did.
func fillBuffer(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if err := a.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// next waits for the next chunk, and gives the used one back.
func (a *ahead) next() error {
	if a.now.err != nil {
		return a.now.err
	}
	if a.now.data != nil {
		a.free <- a.now.data // never blocks: there are fewer buffers than places
	}
	select {
	case a.now = <-a.full:
	case <-a.ctx.Done():
		a.now = chunk{err: a.ctx.Err()}
	}
	a.rest, a.digest = a.now.data, a.now.digest
	if a.now.err != io.EOF {
		a.err = a.now.err
	}
	if len(a.rest) == 0 {
		return a.now.err
	}
	return nil
}

// drain reads what follows the archive's end mark, so that the digest is of the whole stream and the compressor's
// checksum is compared. Only zeros may follow.
func (a *ahead) drain() error {
	buf, total := make([]byte, 32<<10), 0
	for {
		n, err := a.Read(buf)
		total += n
		if len(bytes.Trim(buf[:n], "\x00")) > 0 || total > maxPadding {
			return &sentence{"archive is corrupt: data after its end", state.ErrInvalid}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// cause is what stopped an import: what the stream said of itself explains better than what Unpack made of it.
func (a *ahead) cause(err error) error {
	switch {
	case a.err != nil:
		return a.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &sentence{"archive is truncated", errors.Join(state.ErrInvalid, err)}
	case errors.Is(err, tar.ErrHeader):
		return &sentence{"archive is corrupt: a damaged tar header", errors.Join(state.ErrInvalid, err)}
	}
	return err
}
