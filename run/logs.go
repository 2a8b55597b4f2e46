package run

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
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
			data = data[offsetAt(strings.Replace(part, ".log", ".times", 1), since, len(data)):]
		}
		all = append(all, data...)
	}
	return all, end, nil
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

// lastLines are the last n lines that the console printed, without terminal controls.
func (e *Engine) lastLines(name string, n int) ([]string, error) {
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
