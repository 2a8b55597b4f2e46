package main

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// side is how many starts run side by side.
const side = 8

// measureParallel: as many starts of Debians at the same moment as one after another, each up to its word that it is up.
func measureParallel(b *bench) error {
	var names []string
	for i := range side {
		names = append(names, fmt.Sprintf("side%d", i))
		if _, err := b.output(b.croft.do("create", "--name", names[i], "trixie")); err != nil {
			return err
		}
	}
	var together, apart samples
	err := interleave(max(b.n/4, 3),
		func(int) error { return b.startAll(names, side, &together) },
		func(int) error { return b.startAll(names, 1, &apart) })
	if err != nil {
		return err
	}
	b.compare(fmt.Sprintf("%d starts of Debian 13 side by side", side), together, "croft, one after another", apart, 0.6)
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
