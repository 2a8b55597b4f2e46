package main

import (
	"fmt"
	"syscall"
	"time"
)

// poweroff is SIGRTMIN+4 as systemd counts: both croft and machinectl poweroff send it.
const poweroff = syscall.Signal(34 + 4)

// measureStop: a clean shutdown of a Debian that is up, from the request to the end of all that was the machine. What
// machinectl poweroff sends nspawn's guest is sent to it here, since there is no machined.
func measureStop(b *bench) error {
	tree, err := shiftedTree("trixie")
	if err != nil {
		return err
	}
	var ours, theirs, alone samples
	err = interleave(max(b.n/2, 3),
		func(i int) error { return b.croftStop(fmt.Sprintf("stop%d", i), &ours) },
		func(i int) error { return b.nspawnStop(fmt.Sprintf("stop%d", i), tree, &theirs, &alone) })
	if err != nil {
		return err
	}
	peer, err := b.nspawnVersion()
	if err != nil {
		return err
	}
	b.compare("clean stop of Debian 13, its overlay gone", ours, peer, theirs, 1)
	b.note("stop: nspawn alone, with its overlay still mounted: %s", alone.ms())
	return nil
}

func (b *bench) croftStop(name string, took *samples) error {
	if _, err := b.output(b.croft.do("run", "--network", "none", "-d", "--name", name, "trixie")); err != nil {
		return err
	}
	defer b.output(b.croft.do("rm", "-f", name))
	if err := b.isRunning(func() (string, error) { return b.croft.cgroup(name) }); err != nil {
		return err
	}
	return b.timed(took, b.croft.do("stop", name))
}

func (b *bench) nspawnStop(name, tree string, took, alone *samples) error {
	s := b.newNspawn(name)
	defer s.remove()
	if err := s.prepare(b, tree, name); err != nil {
		return err
	}
	if _, err := s.release.Write([]byte("\n")); err != nil {
		return err
	}
	if err := b.isRunning(func() (string, error) { return s.cgroups[0], nil }); err != nil {
		return fmt.Errorf("systemd-nspawn: %w", err)
	}
	settle()
	began := time.Now()
	if err := s.end(poweroff); err != nil {
		return err
	}
	alone.add(time.Since(began))
	// An overlay writes all of its upper filesystem to the disk when it goes. croft's goes with the machine.
	if err := syscall.Unmount(s.root(), 0); err != nil {
		return fmt.Errorf("umount(%s): %w", s.root(), err)
	}
	took.add(time.Since(began))
	return nil
}
