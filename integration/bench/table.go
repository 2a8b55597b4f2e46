package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"
)

// samples are the figures of one thing, in the order they came.
type samples []float64

func (s *samples) add(d time.Duration) { *s = append(*s, float64(d.Microseconds())/1000) }

func (s samples) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

func (s samples) min() float64 {
	if len(s) == 0 {
		return 0
	}
	return slices.Min(s)
}

// ms writes median and least of times.
func (s samples) ms() string { return fmt.Sprintf("%.1f / %.1f ms", s.median(), s.min()) }

// row is one line of the table.
type row struct {
	What, Croft, Peer, Ratio, Bar string
	Missed                        bool
	Barred                        bool // there is a bar to miss
}

// compare adds a line whose bar is a ratio to a peer; no bar when it is 0.
func (b *bench) compare(what string, ours samples, peer string, theirs samples, bar float64) {
	ratio := ours.median() / theirs.median()
	r := row{What: what, Croft: ours.ms(), Peer: peer + ": " + theirs.ms(), Ratio: fmt.Sprintf("%.2fx", ratio)}
	if bar > 0 {
		r.Bar, r.Barred, r.Missed = fmt.Sprintf("<= %gx", bar), true, ratio > bar
	}
	b.rows = append(b.rows, r)
}

// compareRates adds a line whose bar is the least part of a peer's rate. Each of ours is held against that of theirs which was
// measured beside it: the pace of a machine changes more from second to second than what is compared differs.
func (b *bench) compareRates(what, unit string, ours samples, peer string, theirs samples, bar float64) {
	var pairs samples
	for i := range ours {
		pairs = append(pairs, ours[i]/theirs[i])
	}
	ratio := pairs.median()
	b.rows = append(b.rows, row{
		What: what, Croft: fmt.Sprintf("%.4g %s", ours.median(), unit), Peer: fmt.Sprintf("%s: %.4g %s", peer, theirs.median(), unit),
		Ratio: fmt.Sprintf("%.2fx", ratio), Bar: fmt.Sprintf(">= %gx", bar), Barred: true, Missed: ratio < bar,
	})
}

// limit adds a line whose bar is a figure.
func (b *bench) limit(what string, ours string, bar string, met bool) {
	b.rows = append(b.rows, row{What: what, Croft: ours, Bar: bar, Barred: true, Missed: !met})
}

func (b *bench) note(format string, a ...any) { b.notes = append(b.notes, fmt.Sprintf(format, a...)) }

func (b *bench) missed() bool {
	return slices.ContainsFunc(b.rows, func(r row) bool { return r.Missed })
}

func (r row) verdict() string {
	switch {
	case !r.Barred:
		return ""
	case r.Missed:
		return "FAIL"
	}
	return "PASS"
}

func (b *bench) report(w io.Writer) {
	fmt.Fprintf(w, "%s, Linux %s, %d CPUs, n = %d; times are median / least\n\n", time.Now().Format(time.DateOnly), kernel(), runtime.NumCPU(), b.n)
	fmt.Fprintln(w, "| what | croft | peer | ratio | bar | |\n|---|---|---|---|---|---|")
	for _, r := range b.rows {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", r.What, r.Croft, r.Peer, r.Ratio, r.Bar, r.verdict())
	}
	fmt.Fprintln(w)
	for _, n := range b.notes {
		fmt.Fprintln(w, "* "+n)
	}
}
