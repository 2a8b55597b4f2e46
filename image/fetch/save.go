package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"croft/state"
)

// File is a large file of which it is known what it has to be.
type File struct {
	Path   string // relative to the server's URL
	Size   int64  // 0 where nobody knows
	SHA256 string // in hex; "" where nobody knows

	// Combined is the sha256 of the file named Before on this host and this one, one after the other; "" asks for none.
	Before, Combined string
}

// partSuffix is what the name of a file ends in as long as it is not all there.
const partSuffix = ".part"

// Save brings the file to the path to, whole, verified and synced; before that nothing is there. What was broken off lies
// beside it and is gone on with. progress is told how many of its bytes there are; bytes that turn out to be wrong are
// deleted.
func (c *Client) Save(ctx context.Context, f File, to string, progress func(done int64)) error {
	if _, err := os.Lstat(to); err == nil {
		return nil // an earlier Save has verified it
	}
	s, err := openSink(f, to+partSuffix, progress)
	if err != nil {
		return c.about(f.Path, err)
	}
	defer s.file.Close()
	err = c.InTurn(ctx, func(one *Client) error { return one.whole(ctx, f, s) })
	if errors.Is(err, state.ErrInvalid) && s.size == 0 || state.Full(err) { // no use to anybody, and on a full disk in everybody's way
		err = errors.Join(err, os.Remove(s.file.Name()))
	}
	if err != nil {
		return c.about(f.Path, err)
	}
	if err := s.file.Sync(); err != nil {
		return c.about(f.Path, err)
	}
	return os.Rename(s.file.Name(), to)
}

// whole brings all of the file from one server, and compares it with what it has to be. Of what is wrong nothing is kept;
// when some of it had been here before, that may be the wrong part, and all of it is asked for.
func (c *Client) whole(ctx context.Context, f File, s *sink) error {
	for {
		mixed := s.size > 0
		err := c.patiently(ctx, func() int64 { return s.size }, func() error { return c.fill(ctx, f, s) })
		if err == nil {
			err = s.verify(f)
		}
		if !errors.Is(err, state.ErrInvalid) {
			return err
		}
		if err := s.restart(); err != nil {
			return err
		}
		if !mixed || ctx.Err() != nil {
			return err
		}
	}
}

// fill goes on with the file where s ends.
func (c *Client) fill(ctx context.Context, f File, s *sink) error {
	if f.Size > 0 && s.size == f.Size {
		return nil
	}
	header := http.Header{"Accept-Encoding": {"identity"}} // the sums are of the file as it lies there
	if s.size > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", s.size))
	}
	answer, end, err := c.ask(ctx, f.Path, header)
	if err != nil {
		return err
	}
	defer end()
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusRequestedRangeNotSatisfiable && s.size > 0 {
		return &fault{err: errors.New("the server has less of it than was here"), retry: s.restart() == nil}
	}
	if err := check(answer); err != nil {
		return err
	}
	if from := fmt.Sprintf("bytes %d-", s.size); answer.StatusCode != http.StatusPartialContent || !strings.HasPrefix(answer.Header.Get("Content-Range"), from) {
		if answer.StatusCode == http.StatusPartialContent {
			return wrong("the server sends another part of it than was asked for")
		}
		if err := s.restart(); err != nil { // it sends all of it
			return err
		}
	}
	if has := s.size + answer.ContentLength; answer.ContentLength >= 0 && f.Size > 0 && has != f.Size {
		return wrongSize(has, f.Size)
	}
	if f.Size == 0 && answer.ContentLength >= 0 {
		f.Size = s.size + answer.ContentLength
	}
	if err := s.take(answer.Body, f.Size); err != nil {
		return err
	}
	if f.Size > 0 && s.size < f.Size {
		return &fault{err: errors.New("the connection was cut"), retry: true}
	}
	return nil
}

func wrongSize(has, want int64) error {
	return wrongly("it has %d bytes where the index says %d", has, want)
}

// sink is a file that grows, and the sums of what is in it.
type sink struct {
	file     *os.File
	size     int64
	written  int64     // up to here the kernel was told to write it out
	sum      hash.Hash // of the file
	combined hash.Hash // of the one before, and this one
	before   string
	progress func(int64)
}

// openSink goes on with the file at path, or begins it.
func openSink(f File, path string, progress func(int64)) (*sink, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := &sink{file: file, before: f.Before, progress: progress}
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if info, err := file.Stat(); err == nil && f.Size > 0 && info.Size() > f.Size {
		return s, s.restart()
	}
	for buf := make([]byte, chunk); ; {
		n, err := file.Read(buf)
		s.add(buf[:n])
		if err == io.EOF {
			s.written = s.size
			return s, nil
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
}

// chunk is how much is read and written at a time, writeback how much before the kernel is told to bring it to the disk.
const (
	chunk     = 256 << 10
	writeback = 4 << 20
)

// begin starts the sums, the combined one with the file that comes before.
func (s *sink) begin() error {
	s.sum, s.combined, s.size, s.written = sha256.New(), sha256.New(), 0, 0
	if s.before == "" {
		return nil
	}
	before, err := os.Open(s.before)
	if err != nil {
		return err
	}
	defer before.Close()
	_, err = io.Copy(s.combined, before)
	return err
}

// restart throws away what there is.
func (s *sink) restart() error {
	if err := s.file.Truncate(0); err != nil {
		return err
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return s.begin()
}

func (s *sink) add(p []byte) {
	s.sum.Write(p)
	if s.before != "" {
		s.combined.Write(p)
	}
	s.size += int64(len(p))
	if s.progress != nil {
		s.progress(s.size)
	}
}

// take writes all that r gives, of which more than limit bytes in the file are wrong; 0 is no limit.
func (s *sink) take(r io.Reader, limit int64) error {
	for buf := make([]byte, chunk); ; {
		n, err := r.Read(buf)
		if limit > 0 && s.size+int64(n) > limit {
			return wrongSize(s.size+int64(n), limit)
		}
		if _, err := s.file.Write(buf[:n]); err != nil {
			return errors.Join(err, s.file.Truncate(s.size))
		}
		s.add(buf[:n])
		if s.size-s.written >= writeback {
			if err := s.writeOut(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// writeOut has the kernel begin with what came last, and waits for what came before that: however large the file is, the
// sync at its end finds little left to do. An error is told once, here or there.
func (s *sink) writeOut() error {
	fd, before := int(s.file.Fd()), max(0, s.written-writeback)
	err := unix.SyncFileRange(fd, s.written, s.size-s.written, unix.SYNC_FILE_RANGE_WRITE)
	if err == nil && before < s.written {
		err = unix.SyncFileRange(fd, before, s.written-before, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
	}
	s.written = s.size
	return os.NewSyscallError("sync_file_range", err)
}

// verify compares what has come with what had to.
func (s *sink) verify(f File) error {
	if f.Size > 0 && s.size != f.Size {
		return wrongSize(s.size, f.Size)
	}
	if has := hex.EncodeToString(s.sum.Sum(nil)); f.SHA256 != "" && has != f.SHA256 {
		return wrongly("its sha256 is %.12s… where the index says %.12s…", has, f.SHA256)
	}
	if has := hex.EncodeToString(s.combined.Sum(nil)); f.Combined != "" && has != f.Combined {
		return wrongly("together with its metadata its sha256 is %.12s… where the index says %.12s…", has, f.Combined)
	}
	return nil
}

// Saved tells how many bytes of the file are at the path to by now, verified or not.
func Saved(to string) int64 {
	for _, path := range []string{to, to + partSuffix} {
		if info, err := os.Lstat(path); err == nil {
			return info.Size()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return 0
		}
	}
	return 0
}
