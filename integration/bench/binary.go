package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// measureBinary: how large croft is, and how long it takes to do next to nothing.
func measureBinary(b *bench) error {
	path, err := filepath.EvalSymlinks(b.croft.binary)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	b.limit("binary", fmt.Sprintf("%.1f MB", float64(info.Size())/1e6), "<= 20 MB", info.Size() <= 20e6)
	var floor, ours samples
	theirs := make([]samples, len(b.runcs))
	each := []func(int) error{
		func(int) error { return b.timed(&floor, command{args: []string{"/bin/true"}}) },
		func(int) error { return b.timed(&ours, b.croft.do("version")) },
	}
	for k, r := range b.runcs {
		each = append(each, func(int) error { return b.timed(&theirs[k], command{args: []string{r.binary, "--version"}}) })
	}
	if err := interleave(2*b.n, each...); err != nil {
		return err
	}
	for k, r := range b.runcs {
		b.compare("version", ours, r.name, theirs[k], 2)
	}
	b.note("spawn and wait of the host's /bin/true, in every figure: %s", floor.ms())
	return nil
}
