package run

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"croft/state"
)

// A console log of any bytes, with times cut off or lying, as a crash or a full disk leaves them: what is shown is a part
// of it, and its last lines do nothing to a terminal.
// A profile of any bytes is refused in one line, or can be compiled.
func FuzzFilter(f *testing.F) {
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}], "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}`))
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "read", "action": "SCMP_ACT_ERRNO", "errno": "EIO", "args": [{"index": 1}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseFilter(data, nil, "6.1.0")
		if err == nil {
			_, err = compileSeccomp(p)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q", err)
		}
	})
}

func FuzzConsoleLog(f *testing.F) {
	f.Add([]byte("hello\r\n\x1b[31mred\x1b[0m\n"), []byte("\x05\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x1b["), bytes.Repeat([]byte{0xff}, 33))
	f.Add([]byte("\x1b]0;title\x07\x9b31m"), []byte{1})
	f.Fuzz(func(t *testing.T, log, times []byte) {
		e := &Engine{Dir: &state.Dir{Root: t.TempDir()}}
		dir := e.Dir.Of("web")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"console.log": log, "console.times": times} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, since := range []time.Time{{}, time.Unix(5, 0), time.Unix(1<<40, 0)} {
			shown, end, err := e.ConsoleLog("web", since)
			if err != nil || end != int64(len(log)) || !bytes.HasSuffix(log, shown) {
				t.Fatalf("since %v: %q to %d, %v", since, shown, end, err)
			}
		}
		lines, err := e.lastWords("web", 3)
		if err != nil || len(lines) > 3 || strings.ContainsFunc(strings.Join(lines, ""), unicode.IsControl) {
			t.Fatalf("%q, %v", lines, err)
		}
	})
}
