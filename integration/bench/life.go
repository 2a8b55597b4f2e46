package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// life is what measureLife finds of one peer.
type life struct {
	create, start, first, total, exec samples
}

func (l *life) notes(b *bench, name string) {
	b.note("%s: create %s, start %s, first exec %s", name, l.create.ms(), l.start.ms(), l.first.ms())
}

// execs is how often exec is timed in each machine.
const execs = 3

// measureLife: create, start and the first exec returning, with nothing in between; then exec in the running guest.
func measureLife(b *bench) error {
	ours, steps := &life{}, newSteps()
	theirs := make([]*life, len(b.runcs))
	each := []func(int) error{func(i int) error { return b.croftLife(i, ours, steps) }}
	for k, r := range b.runcs {
		theirs[k] = &life{}
		bundle := filepath.Join(b.work, fmt.Sprintf("life-%d", k))
		if err := r.bundle(bundle, "/bin/sleep", "infinity"); err != nil {
			return err
		}
		each = append(each, func(i int) error { return r.life(i, bundle, theirs[k]) })
	}
	if err := interleave(b.n, each...); err != nil {
		return err
	}
	for k, r := range b.runcs {
		b.compare("create + start + first exec", ours.total, r.name, theirs[k].total, 1.2)
	}
	for k, r := range b.runcs {
		b.compare("exec of true in a running guest", ours.exec, r.name, theirs[k].exec, 0.8)
	}
	ours.notes(b, "croft")
	for k, r := range b.runcs {
		theirs[k].notes(b, r.name)
	}
	b.note("croft start, step by step: %s", steps)
	return nil
}

func (b *bench) croftLife(i int, l *life, steps *steps) error {
	name := fmt.Sprintf("life%d", i)
	from, err := b.log.Seek(0, 2)
	if err != nil {
		return err
	}
	err = b.oneLife(l,
		b.croft.do("create", "--network", "none", "--name", name, "--no-boot", "busybox", "sleep", "infinity"),
		b.croft.do("start", "--timings", name),
		b.croft.do("exec", name, "true"),
		b.croft.do("rm", "-f", name))
	steps.read(b.said(from))
	return err
}

func (r *runc) life(i int, bundle string, l *life) error {
	name := fmt.Sprintf("life%d", i)
	return r.b.oneLife(l,
		r.do("create", "--bundle", bundle, name),
		r.do("start", name),
		r.do("exec", name, "true"),
		r.do("delete", "-f", name))
}

func (b *bench) oneLife(l *life, create, start, exec, remove command) error {
	settle()
	lap := lap{b: b}
	l.create.add(lap.run(create))
	l.start.add(lap.run(start))
	l.first.add(lap.run(exec))
	l.total.add(lap.total)
	for range execs {
		settle()
		l.exec.add(lap.run(exec))
	}
	lap.run(remove)
	return lap.err
}

// measureRun: a machine for one command, gone afterwards.
func measureRun(b *bench) error {
	var ours samples
	theirs := make([]samples, len(b.runcs))
	each := []func(int) error{func(int) error {
		return b.timed(&ours, b.croft.do("run", "--network", "none", "--rm", "--no-boot", "busybox", "true"))
	}}
	for k, r := range b.runcs {
		bundle := filepath.Join(b.work, fmt.Sprintf("run-%d", k))
		if err := r.bundle(bundle, "/bin/true"); err != nil {
			return err
		}
		each = append(each, func(i int) error {
			return b.timed(&theirs[k], r.do("run", "--bundle", bundle, fmt.Sprintf("run%d", i)))
		})
	}
	if err := interleave(b.n, each...); err != nil {
		return err
	}
	for k, r := range b.runcs {
		b.compare("run --rm --no-boot of true", ours, r.name, theirs[k], 1.2)
	}
	return nil
}

// timed adds the time of one command that starts on a quiet host.
func (b *bench) timed(to *samples, c command) error {
	settle()
	took, err := b.run(c)
	to.add(took)
	return err
}

// steps are the figures of croft start --timings, by step, in the order of the steps.
type steps struct {
	order []string
	took  map[string]*samples
}

func newSteps() *steps { return &steps{took: map[string]*samples{}} }

// timing is a line such as "rootfs          0.7 ms".
var timing = regexp.MustCompile(`(?m)^(\S.*?) +([0-9.]+) ms$`)

func (s *steps) read(text string) {
	for _, m := range timing.FindAllStringSubmatch(text, -1) {
		ms, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			continue
		}
		if !slices.Contains(s.order, m[1]) {
			s.order, s.took[m[1]] = append(s.order, m[1]), &samples{}
		}
		s.took[m[1]].add(time.Duration(ms * float64(time.Millisecond)))
	}
}

func (s *steps) String() string {
	text := ""
	for _, name := range s.order {
		text += fmt.Sprintf("%s %.1f, ", name, s.took[name].median())
	}
	return text + "in ms, medians"
}
