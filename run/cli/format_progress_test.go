package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"croft/run"
)

// testClock is a time that a test moves.
type testClock struct{ t time.Time }

func (c *testClock) now() time.Time        { return c.t }
func (c *testClock) after(d time.Duration) { c.t = c.t.Add(d) }
func testProgress(out io.Writer, columns int, quiet bool) (*progress, *testClock) {
	p, c := newProgress(out, columns, quiet), &testClock{time.Unix(1000, 0)}
	p.now = c.now
	return p, c
}

// pullReports is a pull of 100 MiB that takes 10 seconds, four times a second.
func pullReports(p *progress, c *testClock) {
	for i := range int64(41) {
		p.report("pull debian/13", i*100<<20/40, 100<<20)
		c.after(time.Second / 4)
	}
	p.end(true)
}

func TestProgressPlain(t *testing.T) {
	var out bytes.Buffer
	p, c := testProgress(&out, 0, false)
	pullReports(p, c)
	fmt.Fprintln(p, "a note")
	p.end(true)
	formatGolden(t, "progress/plain.txt", out.Bytes())
}

func TestProgressTerminal(t *testing.T) {
	var out bytes.Buffer
	p, c := testProgress(&out, 60, false)
	p.report("pull debian/13", 0, 100<<20)
	c.after(50 * time.Millisecond)
	p.report("pull debian/13", 1<<20, 100<<20) // too soon to be seen
	c.after(4950 * time.Millisecond)
	p.report("pull debian/13", 50<<20, 100<<20)
	fmt.Fprintln(p, "a note")
	c.after(time.Second)
	p.report("unpack", 1<<20, 0)
	c.after(2 * time.Second)
	p.report("unpack", 8<<20, -1)
	p.end(true)
	p.end(true)
	formatGolden(t, "progress/terminal.txt", out.Bytes())
}

func TestProgressQuiet(t *testing.T) {
	var out bytes.Buffer
	for _, columns := range []int{0, 80} {
		p, c := testProgress(&out, columns, true)
		pullReports(p, c)
	}
	if out.Len() > 0 {
		t.Errorf("got %q", out.String())
	}
}

func TestProgressShort(t *testing.T) {
	var out bytes.Buffer
	p, _ := testProgress(&out, 10, false)
	p.report("a very long name", 1, 2)
	if got, want := out.String(), "\r\x1b[Ka very lo"; got[:len(want)] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProgressTogether(t *testing.T) {
	p := newProgress(io.Discard, 80, false)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range int64(50) {
				p.report(fmt.Sprint("layer ", i%2), n, 50)
				fmt.Fprintln(p, "note")
			}
		})
	}
	all.Wait()
	p.end(true)
}

// Of a few layers each is told, of many how many have come; what was here already is no news.
func TestProgressLayers(t *testing.T) {
	var out bytes.Buffer
	p, c := testProgress(&out, 120, false)
	few := []run.LayerProgress{{Done: 10, Total: 10, Here: true}, {Done: 5, Total: 10}, {Done: 20, Total: 20}, {Total: 1 << 20}}
	p.layers(few)
	p.report("pull app", 25, 1<<20)
	c.after(time.Second)
	p.layers(append(few, make([]run.LayerProgress, 9)...))
	p.report("pull app", 1<<20, 1<<21)
	c.after(time.Second)
	p.layers(few[:2])
	p.report("pull app", 1<<20, 1<<21)
	for _, want := range []string{"; layers 50% done 0%", "; 10 of 12 layers", "1s left"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %q", want, out.String())
		}
	}
	lines := strings.Split(out.String(), "\r")
	if last := lines[len(lines)-1]; strings.Contains(last, "layer") {
		t.Errorf("one layer is told by itself: %q", last)
	}
}
