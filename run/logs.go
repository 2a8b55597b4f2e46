package run

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"croft/state"
)

// logParts are the files of the instance's console log: the turned one first, then the running one.
func (e *Engine) logParts(name string) []string {
	return []string{filepath.Join(e.Dir.Of(name), "console.log.1"), filepath.Join(e.Dir.Of(name), "console.log")}
}

// ConsoleLog gives what the console of name printed since the given time; the zero time means all that is kept.
// end is how far the running part of the log was read.
func (e *Engine) ConsoleLog(name string, since time.Time) (all []byte, end int64, err error) {
	for _, part := range e.logParts(name) {
		data, err := os.ReadFile(part)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		end = int64(len(data))
		if !since.IsZero() {
			data = data[offsetAt(timesOf(part), since, len(data)):]
		}
		all = append(all, data...)
	}
	return all, end, nil
}

// PrintLog writes what the console of in printed since the given time: the last n lines of it, or all when n is negative.
// What the files of it no longer have comes from the journal. end is where Follow goes on.
func (e *Engine) PrintLog(ctx context.Context, in *state.Instance, since time.Time, n int, w io.Writer) (end int64, err error) {
	from, whole := e.logBegin(in.Spec.Name) // first: what is turned meanwhile is then found in the journal
	data, end, err := e.ConsoleLog(in.Spec.Name, since)
	if err != nil {
		return 0, err
	}
	last := lastLines(data, n)
	switch {
	case whole, !since.Before(from), n >= 0 && len(last) < len(data), n == 0:
		data = last
	case n < 0:
		lines := bufio.NewWriter(w)
		data, err = olderLog(ctx, in, since, from, data, lines)
		err = errors.Join(err, lines.Flush())
	default:
		var older tail
		older.most = n
		data, err = olderLog(ctx, in, since, from, data, &older)
		data = lastLines(append(bytes.Join(older.lines, nil), data...), n)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	return end, err
}

// tail keeps the last lines of those written to it, each by a call of its own.
type tail struct {
	lines [][]byte
	most  int
}

func (t *tail) Write(line []byte) (int, error) {
	t.lines = append(t.lines, bytes.Clone(line))
	if len(t.lines) >= 2*t.most {
		t.lines = slices.Clone(t.lines[len(t.lines)-t.most:])
	}
	return len(line), nil
}

// lastLines is the end of data, n lines of it; all of it when n is negative.
func lastLines(data []byte, n int) []byte {
	if n < 0 {
		return data
	}
	end := len(data)
	if end > 0 && data[end-1] == '\n' {
		end--
	}
	if n == 0 {
		return nil
	}
	for i := end - 1; i >= 0; i-- {
		if data[i] == '\n' {
			if n--; n == 0 {
				return data[i+1:]
			}
		}
	}
	return data
}

// timesOf is the file that tells when the bytes of a file of the log came.
func timesOf(part string) string {
	dir, file := filepath.Split(part)
	return dir + strings.Replace(file, ".log", ".times", 1)
}

// firstTime is the first entry of console.times; zero when there is none.
func firstTime(file string) time.Time {
	data, err := os.ReadFile(file)
	if err != nil || len(data) < 16 {
		return time.Time{}
	}
	return time.Unix(int64(binary.NativeEndian.Uint64(data)), 0)
}

// offsetAt reads from console.times where the bytes begin that were printed at or after since. Its entries are
// pairs of seconds and offset, written when the first byte of a second came (keeper.c).
func offsetAt(file string, since time.Time, size int) int {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for ; len(data) >= 16; data = data[16:] {
		if int64(binary.NativeEndian.Uint64(data)) >= since.Unix() {
			return int(min(binary.NativeEndian.Uint64(data[8:]), uint64(size)))
		}
	}
	return size
}

// lastWords are the last n lines that the console printed, without terminal controls.
func (e *Engine) lastWords(name string, n int) ([]string, error) {
	data, _, err := e.ConsoleLog(name, time.Time{})
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, l := range bytes.Split(data, []byte("\n")) {
		if text := strings.TrimSpace(plain(l)); text != "" {
			lines = append(lines, text)
		}
	}
	return lines[max(0, len(lines)-n):], nil
}

// plain takes escape sequences and controls out of a line.
func plain(line []byte) string {
	var out []byte
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == 0x1b && i+1 < len(line) && line[i+1] == '[':
			for i += 2; i < len(line) && (line[i] < '@' || line[i] > '~'); i++ {
			}
		case c < ' ' || c == 0x7f:
		default:
			out = append(out, c)
		}
	}
	// What is left may be a control only now that what stood in the middle of it is gone: U+009B is ESC [ to a terminal.
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(out))
}

// Follow copies what the console prints behind from until ended says so. What was printed by then is copied.
func (e *Engine) Follow(name string, from int64, w io.Writer, ended func() bool) error {
	path := filepath.Join(e.Dir.Of(name), "console.log")
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	f.Seek(from, io.SeekStart)
	for {
		over := ended() // asked before the copy, so that what came until then is copied
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		if over {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
		if next, err := os.Open(path); err == nil {
			if turned(f, next) {
				io.Copy(w, f)
				f.Close()
				f = next
				continue
			}
			next.Close()
		}
	}
}

func turned(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && !os.SameFile(x, y)
}
