package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"croft/image/fetch"
	"croft/state"
)

// source is what is imported, as a stream of bytes that counts itself.
type source struct {
	ctx      context.Context
	r        io.Reader
	close    func() error
	done     int64
	total    int64 // 0 where nobody knows
	progress func(done, total int64)
	err      error         // why the source itself could not be read on
	tail     []byte        // its last bytes so far
	raw      *bufio.Reader // reads this source
	sum      hash.Hash     // of all of it as it came; nil while nobody wants that
}

// Read looks for an end of the context at each call, so that ^C ends an import in the middle of a file.
func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.err = err
		return 0, err
	}
	n, err := s.r.Read(p)
	s.done += int64(n)
	s.tail = append(s.tail, p[max(0, n-tailSize):n]...)
	s.tail = s.tail[max(0, len(s.tail)-tailSize):]
	if err != nil && err != io.EOF {
		s.err = err
	}
	if s.progress != nil {
		s.progress(s.done, s.total)
	}
	return n, err
}

func (s *source) Close() error { return s.close() }

// open finds out what name is: standard input, a URL, a directory, which is packed as it is read, or a file.
func (s *Store) open(ctx context.Context, o ImportOptions, name string) (*source, error) {
	src := &source{ctx: ctx, progress: o.Progress, close: func() error { return nil }}
	src.raw = bufio.NewReaderSize(src, 256<<10)
	if name == "-" {
		src.r = o.Stdin
		return src, nil
	}
	if strings.HasPrefix(name, "https://") || strings.HasPrefix(name, "http://") {
		body, size, err := fetch.Open(ctx, name, agent)
		if err != nil {
			return nil, err
		}
		src.r, src.close, src.total = body, body.Close, max(size, 0)
		return src, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.Unwrap(err) // the caller names the file
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		f.Close()
		return src, s.openDir(src, name)
	}
	if err == nil && info.Mode().IsRegular() {
		src.total = info.Size()
	}
	src.r, src.close = f, f.Close
	return src, err
}

func (s *Store) openDir(src *source, dir string) error {
	if err := s.checkOutside(dir); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(s.Pack(src.ctx, dir, w)) }()
	src.r, src.close = r, r.Close
	return nil
}

// checkOutside refuses a directory that the store lies in: the copy would be copied, and that copy too.
func (s *Store) checkOutside(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	at, err := filepath.Abs(s.Dir)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(at); err == nil {
		at = real
	}
	for {
		if here, err := os.Stat(at); err == nil && os.SameFile(info, here) {
			return fmt.Errorf("a directory that holds croft's own images %w", state.ErrInvalid)
		}
		if at == filepath.Dir(at) {
			return nil
		}
		at = filepath.Dir(at)
	}
}

// maxWindow is how much of its past a zstd archive may make us remember. The archive says how much it wants: `zstd -22`
// 128 MiB, `--long=31` 2 GiB.
const maxWindow = 256 << 20

// peek gives the first bytes, which tell what it is; no bytes are an error.
func (s *source) peek() ([]byte, error) {
	head, err := s.raw.Peek(2048)
	if s.err != nil {
		return nil, s.err
	}
	if len(head) == 0 {
		return nil, &sentence{"is empty", errors.Join(state.ErrInvalid, err)}
	}
	return head, nil
}

// decompress tells the source's kind by its first bytes and starts reading it as a plain tar.
func (s *source) decompress(ctx context.Context, limit int64) (*ahead, error) {
	head, err := s.peek()
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte("QFI\xfb")) {
		return nil, fmt.Errorf("a qcow2, the disk of a virtual machine, %w", state.ErrUnsupported)
	}
	sum := s.sum
	if sum == nil {
		sum = sha256.New()
	}
	raw := io.TeeReader(s.raw, sum)
	plain, err := s.decoder(head, raw)
	if err != nil {
		return nil, s.diagnose(err)
	}
	if plain == raw && s.sum == nil {
		plain = s.raw // what it is as it came is what it is uncompressed, and that will be summed up anyway
	} else {
		s.sum = sum
	}
	tar := bufio.NewReaderSize(plain, 512)
	if head, err = tar.Peek(512); err != nil && err != io.EOF {
		return nil, s.diagnose(err)
	}
	if !isTar(head) {
		// A damaged archive may come out as anything: the compressor's checksum has a word to say first.
		if _, err := io.CopyN(io.Discard, tar, maxPadding); err != nil && err != io.EOF {
			return nil, s.diagnose(err)
		}
		return nil, &sentence{"is no root filesystem: neither a tar, compressed or not, nor a squashfs or EROFS", state.ErrInvalid}
	}
	return readAhead(ctx, tar, s.diagnose, limit), nil
}

// fingerprint is the digest of the source as it came, all of which has been read: a decoder ends where its source does.
// plain is the digest of the source uncompressed.
func (s *source) fingerprint(plain string) string {
	if s.sum == nil {
		return plain
	}
	return hex.EncodeToString(s.sum.Sum(nil))
}

// decoder undoes the compression that the first bytes show; what shows none is read as it is.
func (s *source) decoder(head []byte, r io.Reader) (io.Reader, error) {
	starts := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case starts("\x1f\x8b"):
		return gzip.NewReader(r)
	case starts("\xfd7zXZ\x00"):
		plain, err := xz.NewReader(r)
		return &xzReader{plain, s}, err
	case starts("\x28\xb5\x2f\xfd"), len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18":
		// One decoder: it works in the goroutine that reads, which is beside the one that unpacks anyway.
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	case starts("BZh"):
		return bzip2.NewReader(r), nil
	}
	return r, nil
}

// tailSize is enough for what ends an xz stream, and some padding after it.
const tailSize = 64

// xzReader knows the end of an xz stream from the end of a file that was cut off between two of its parts, which
// ulikunitz/xz takes for the same.
type xzReader struct {
	r   io.Reader
	src *source
}

func (x *xzReader) Read(p []byte) (int, error) {
	n, err := x.r.Read(p)
	if err == io.EOF && !endsXZ(x.src.tail) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// endsXZ checks the stream footer (xz-file-format 2.1.2): CRC32, six bytes that it is of, "YZ"; then padding by fours.
func endsXZ(tail []byte) bool {
	for len(tail) >= 4 && string(tail[len(tail)-4:]) == "\x00\x00\x00\x00" {
		tail = tail[:len(tail)-4]
	}
	if len(tail) < 12 {
		return len(tail) == 0 // more padding than we remember
	}
	f := tail[len(tail)-12:]
	return string(f[10:]) == "YZ" && binary.LittleEndian.Uint32(f) == crc32.ChecksumIEEE(f[4:10])
}

// isTar checks the first header's checksum, which every tar since 1979 has; an archive may begin with its end.
func isTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	var sum, field int64
	for i, b := range head[:512] {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
	}
	_, err := fmt.Sscanf(strings.Trim(string(head[148:156]), " \x00"), "%o", &field)
	return err == nil && sum == field || len(bytes.Trim(head[:512], "\x00")) == 0
}

// diagnose says why the stream ended early: its source could not be read, it was cut off, or it is not what was packed.
func (s *source) diagnose(err error) error {
	switch {
	case s.err != nil:
		return s.err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &sentence{"archive is truncated", errors.Join(state.ErrInvalid, err)}
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("zstd with a window of more than %d MiB %w", maxWindow>>20, state.ErrUnsupported)
	}
	return &sentence{"archive is corrupt: " + err.Error(), errors.Join(state.ErrInvalid, err)}
}

// sentence is an error whose cause matters to errors.Is and not to the reader.
type sentence struct {
	text  string
	cause error
}

func (s *sentence) Error() string { return s.text }

func (s *sentence) Unwrap() error { return s.cause }
