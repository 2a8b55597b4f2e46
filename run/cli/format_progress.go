package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"croft/run"
)

// progress tells on stderr how far a long piece of work is: on a terminal as
// one line that is written over, elsewhere as a plain line now and then, and
// with quiet not at all. Calls may come from several goroutines.
type progress struct {
	mu     sync.Mutex
	out    io.Writer
	screen int // columns of the terminal; 0 when out is none
	quiet  bool
	now    func() time.Time

	what    string    // the work on show, "" for none
	done    int64     // bytes
	total   int64     // bytes; 0 or less when unknown
	parts   string    // how far the parts of it are, "" for one that has none
	started time.Time // of this work
	told    time.Time // when the last line was written
	line    string    // what stands on the terminal's line
}

// newProgress reports to out, a terminal of so many columns, or 0 for no terminal.
func newProgress(out io.Writer, columns int, quiet bool) *progress {
	return &progress{out: out, screen: columns, quiet: quiet, now: time.Now}
}

// report says that done of total bytes of what ("pull debian/13") are there.
// The same what again is the same work; another one ends the last.
func (p *progress) report(what string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if what != p.what {
		p.finish()
		p.what, p.started, p.told = what, p.now(), p.now()
		if p.screen > 0 {
			p.told = time.Time{}
		}
	}
	p.done, p.total = done, total
	if p.now().Sub(p.told) >= p.pause() && (p.screen > 0 || done != total) {
		p.tell(p.state())
	}
}

// layers says how far each layer is of the work that is reported next: a few by themselves, many by their number.
func (p *progress) layers(all []run.LayerProgress) {
	const few = 8
	var each []string
	come := 0
	for _, l := range all {
		switch {
		case l.Here:
			continue
		case l.Done >= l.Total:
			come++
			each = append(each, "done")
		default:
			each = append(each, fmt.Sprintf("%d%%", l.Done*100/l.Total))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(each) < 2:
		p.parts = ""
	case len(each) > few:
		p.parts = fmt.Sprintf("; %d of %d layers", come, len(each))
	default:
		p.parts = "; layers " + strings.Join(each, " ")
	}
}

// end says that the work on show is done, in a last line that stays, or clears the line when it failed.
func (p *progress) end(done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if done {
		p.finish()
	} else if p.line != "" {
		_, _ = fmt.Fprint(p.out, "\r\x1b[K")
	}
	p.what, p.line, p.parts = "", "", ""
}

// Write lets other notes through without mixing them into the line.
func (p *progress) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line == "" {
		return p.out.Write(text)
	}
	n, err := fmt.Fprintf(p.out, "\r\x1b[K%s%s", text, p.line)
	return min(n, len(text)), err
}

func (p *progress) finish() {
	if p.what == "" {
		return
	}
	took := p.now().Sub(p.started)
	p.tell(fmt.Sprintf("%s: %s in %s", p.what, sizeText(p.done), durationText(took.Round(time.Second/10))))
	if p.line != "" {
		_, _ = fmt.Fprintln(p.out)
	}
	p.what, p.line = "", ""
}

// pause is how long a line must stand before the next.
func (p *progress) pause() time.Duration {
	if p.screen > 0 {
		return time.Second / 10
	}
	return 5 * time.Second
}

// tell writes a line; a stderr that is gone is no reason to stop working.
func (p *progress) tell(text string) {
	p.told = p.now()
	switch {
	case p.quiet:
	case p.screen > 0:
		p.line = clipLine(text, p.screen-1)
		_, _ = fmt.Fprintf(p.out, "\r\x1b[K%s", p.line)
	default:
		_, _ = fmt.Fprintln(p.out, text)
	}
}

// state is "pull debian/13: 12MiB of 96MiB, 12%, 4MiB/s, 21s left", and behind that what is said of its parts.
func (p *progress) state() string {
	text := p.what + ": " + sizeText(p.done)
	if p.total > 0 {
		text += fmt.Sprintf(" of %s, %d%%", sizeText(p.total), min(100, p.done*100/p.total))
	}
	took := p.now().Sub(p.started).Seconds()
	if took < 1 || p.done == 0 {
		return text + p.parts
	}
	rate := float64(p.done) / took
	text += ", " + sizeText(int64(rate)) + "/s"
	if p.total > p.done {
		left := time.Duration(float64(p.total-p.done) / rate * float64(time.Second))
		text += ", " + durationText(left.Round(time.Second)) + " left"
	}
	return text + p.parts
}

// clipLine cuts text to so many columns: a longer line would scroll at each update.
func clipLine(text string, width int) string {
	n := 0
	for i, r := range text {
		if n += runeWidth(r); n > width {
			return text[:i]
		}
	}
	return text
}
