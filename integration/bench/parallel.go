package main

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// side is how many starts run side by side.
const side = 8

// measureParallel: as many starts at the same moment as one after another, each up to the word that it is up. Those of
// payloads are croft's own work, and nothing of it may wait for the other; a Debian that boots has both processors busy by
// itself, so that side by side saves it less.
func measureParallel(b *bench) error {
	for _, m := range []struct {
		what string
		args []string // of create
		bar  float64
	}{
		{"payloads", []string{"--no-boot", "busybox", "sleep", "infinity"}, 0.6},
		{"Debian 13", []string{"trixie"}, 0},
	} {
		if err := b.sideBySide(m.what, m.args, m.bar); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) sideBySide(what string, args []string, bar float64) error {
	var names []string
	for i := range side {
		names = append(names, fmt.Sprintf("side%d", i))
		if _, err := b.output(b.croft.do(append([]string{"create", "--network", "none", "--name", names[i]}, args...)...)); err != nil {
			return err
		}
	}
	var together, apart samples
	busy := processor()
	err := interleave(max(b.n/2, 3),
		func(int) error { return b.startAll(names, side, &together) },
		func(int) error { return b.startAll(names, 1, &apart) })
	if err != nil {
		return err
	}
	each := (processor() - busy) / time.Duration(2*side*len(together))
	b.compare(fmt.Sprintf("%d starts of %s side by side", side, what), together, "croft, one after another", apart, bar)
	b.note("parallel: one start and kill of %s is %d ms of processor", what, each.Milliseconds())
	_, err = b.output(b.croft.do(append([]string{"rm"}, names...)...))
	return err
}

func (b *bench) startAll(names []string, width int, took *samples) error {
	settle()
	began := time.Now()
	err := atOnce(width, names, func(name string) error {
		_, err := b.run(b.croft.do("start", name))
		return err
	})
	took.add(time.Since(began))
	if err != nil {
		return err
	}
	_, err = b.output(b.croft.do(append([]string{"kill"}, names...)...))
	return err
}

// atOnce calls do for each name, width of them at a time.
func atOnce(width int, names []string, do func(name string) error) error {
	var all sync.WaitGroup
	todo, failed := make(chan string), make(chan error, len(names))
	for range width {
		all.Go(func() {
			for name := range todo {
				failed <- do(name)
			}
		})
	}
	for _, name := range names {
		todo <- name
	}
	close(todo)
	all.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
