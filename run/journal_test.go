package run

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"croft/state"
)

func TestLogProperties(t *testing.T) {
	in, _ := trixie()
	var lines []string
	for _, p := range logProperties("croft-web.service", DefaultRoot, in) {
		lines = append(lines, fmt.Sprint(p.Name, " ", p.Value.Signature(), " ", p.Value))
	}
	golden(t, "unit.log.properties", lines)
	if f := LogFields("/srv/croft", in); f[len(f)-1] != "CROFT_ROOT=/srv/croft" {
		t.Errorf("the lines of a machine of another root have the fields %q", f)
	}
}

func TestJournalArgs(t *testing.T) {
	in := &state.Instance{UUID: "0123"}
	got := strings.Join(journalArgs(in, time.Time{}, time.Unix(20, 0).Add(-time.Microsecond)), " ")
	if want := "--quiet --no-pager --output=cat --all --until=@19.999999 CROFT_UUID=0123 _TRANSPORT=stdout"; got != want {
		t.Errorf("all is\n%s, not\n%s", got, want)
	}
	got = strings.Join(journalArgs(in, time.Unix(10, 5000), time.Unix(20, 0)), " ")
	if !strings.Contains(got, "--since=@10.000005 --until=@20.000000 ") {
		t.Errorf("from a time on it is %s", got)
	}
}

// The place in the journal where the files go on is known by the files' first whole lines, as the journal has them: without
// the terminal's line ends and escape sequences, and without empty lines.
func TestWhereTheFilesGoOn(t *testing.T) {
	first, rest := firstLines([]byte("f a line\r\n\r\n\x1b[32mone\x1b[0m\r\n two\r\nthree\r\nfour\r\n"))
	if got := strings.Join(first, ","); got != "one,two,three" || !bytes.HasPrefix(rest, []byte("\r\n\x1b[32mone")) {
		t.Fatalf("they begin with %q, %q", first, rest)
	}
	var held [][]byte
	for _, line := range []string{"one", "half a line", "one", "two", "three"} {
		if endsIn(held, first) {
			t.Errorf("found too early, behind %q", held)
		}
		held = append(held, []byte(line+"\n"))
	}
	if !endsIn(held, first) {
		t.Errorf("not found in %q", held)
	}
	if first, rest := firstLines([]byte("no end")); first != nil || rest != nil || endsIn(held, first) {
		t.Errorf("half a line is known by %q, then %q", first, rest)
	}
}

func TestLogBegin(t *testing.T) {
	e := testEngine(t)
	dir := e.Dir.Of("web")
	if from, whole := e.logBegin("web"); whole || time.Since(from) > time.Minute {
		t.Errorf("without files they are %t from %v on", whole, from)
	}
	entry := func(name string, second uint64) {
		data, _ := os.ReadFile(times(t, second, 0, second+7, 100))
		put(t, filepath.Join(dir, name), string(data))
	}
	put(t, filepath.Join(dir, "console.log"), "new\n")
	entry("console.times", 200)
	if _, whole := e.logBegin("web"); !whole {
		t.Error("a log that was never turned is not whole")
	}
	put(t, filepath.Join(dir, "console.log.1"), "old\n")
	entry("console.times.1", 100)
	if from, whole := e.logBegin("web"); whole || from.Unix() != 100 {
		t.Errorf("a turned log is %t, from %v on", whole, from)
	}
	put(t, filepath.Join(dir, "console.times.1"), "")
	if _, whole := e.logBegin("web"); !whole {
		t.Error("where nothing tells when the files begin the journal would repeat them")
	}
}

func TestTail(t *testing.T) {
	keep := tail{most: 2}
	for i := range 9 {
		fmt.Fprintf(&keep, "%d\n", i)
	}
	if got := string(lastLines(bytes.Join(keep.lines, nil), 2)); got != "7\n8\n" {
		t.Errorf("the last two of nine are %q", got)
	}
}
