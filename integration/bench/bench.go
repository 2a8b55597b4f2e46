package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run: its tools, its place on the host and what it has found so far.
type bench struct {
	options
	croft *croft
	runcs []*runc // Debian's first
	place string  // name of this run's cgroup in every hierarchy
	work  string  // directory that goes at the end
	log   *os.File
	null  *os.File
	rows  []row
	notes []string
}

func newBench(o options) (*bench, error) {
	b := &bench{options: o, place: os.Getenv(envPlace), work: workDir()}
	if err := os.MkdirAll(b.work, 0o755); err != nil {
		return nil, err
	}
	var err error
	b.log, err = os.OpenFile(filepath.Join(b.work, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if b.null, err = openNull(); err != nil {
		return nil, err
	}
	if b.croft, err = newCroft(b); err != nil {
		return nil, err
	}
	return b, b.addRuncs()
}

func (b *bench) addRuncs() error {
	debian, err := newRunc(b, "/usr/sbin/runc")
	if err != nil {
		return err
	}
	binary, err := builtRunc()
	if err != nil {
		return err
	}
	built, err := newRunc(b, binary)
	if err != nil {
		return err
	}
	b.runcs = []*runc{debian, built}
	return nil
}

// close ends the machines that an error left. Everything else ends with the namespace.
func (b *bench) close() { b.croft.removeAll() }

// interleave calls each of the functions once per iteration, another one first each time.
func interleave(n int, each ...func(i int) error) error {
	for i := range n {
		for k := range each {
			if err := each[(i+k)%len(each)](i); err != nil {
				return err
			}
		}
	}
	return nil
}

// await calls ready about once a millisecond until it says yes.
func await(what string, limit time.Duration, ready func() bool) error {
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if ready() {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("no %s within %v", what, limit)
		}
	}
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
