package run

// #include "payload.h"
import "C"

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"croft/state"
)

// A trial machine is made of croft alone: its image is one program out of this binary. It has a croft root of its own
// below the one that was asked for, so that it is made, started and removed on the very filesystems that machines use.
const (
	trialDir  = ".trial"
	trialName = "trial"
	trialInit = "/bin/trial"
)

// Try makes a machine of croft alone, starts it, runs a command in it, stops it and removes it, and gives the time that
// each took. Nothing is left of it, whatever came of it; a trial that was killed is cleared by the next, or by Repair.
func (e *Engine) Try(ctx context.Context) (steps []Timing, err error) {
	lock, err := state.Lock(e.trialLock())
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	defer os.Remove(e.trialLock())
	if err := e.clearTrial(ctx); err != nil {
		return nil, fmt.Errorf("clear an earlier trial: %w", err)
	}
	defer func() { // also when ctx has ended: that is what somebody's ctrl-c does
		err = errors.Join(err, e.clearTrial(context.Background()))
	}()
	t, err := Open(e.trialRoot())
	if err != nil {
		return nil, err
	}
	t.Pool = e.Pool
	return t.try(ctx)
}

func (e *Engine) trialRoot() (root, run string) {
	return filepath.Join(e.Dir.Root, trialDir), filepath.Join(e.Dir.Run, trialDir)
}

func (e *Engine) trialLock() string { return filepath.Join(e.Dir.Root, trialDir+"-lock") }

// try is a machine's whole life.
func (e *Engine) try(ctx context.Context) (steps []Timing, err error) {
	var in *state.Instance
	var started *Started
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"import", func() error {
			archive, err := trialImage()
			if err == nil {
				_, err = e.Images.Import(ctx, ImportOptions{Source: "-", Stdin: archive, Aliases: []string{trialName}})
			}
			return err
		}},
		{"create", func() error {
			in, err = e.Draft(state.Spec{Name: trialName, Image: trialName, Init: state.Init{Mode: state.InitPayload, Args: []string{trialInit}}})
			if err == nil {
				err = e.Create(in)
			}
			return err
		}},
		{"start", func() error {
			started, err = e.Start(ctx, in)
			return err
		}},
		{"enter", func() error { return e.enterTrial(ctx, in) }},
		{"stop", func() error { return e.Stop(ctx, in, 10*time.Second) }},
		{"remove", func() error { return e.Delete(ctx, trialName, false) }},
	} {
		began := time.Now()
		if err := s.do(); err != nil {
			return steps, fmt.Errorf("%s: %w", s.name, err)
		}
		if s.name == "start" {
			defer started.Close()
			for _, t := range started.Timings {
				steps = append(steps, Timing{"start: " + t.Step, t.Took})
			}
			continue
		}
		steps = append(steps, Timing{s.name, time.Since(began)})
	}
	return steps, nil
}

// enterTrial runs the machine's one program with an operand, which is how it ends at once.
func (e *Engine) enterTrial(ctx context.Context, in *state.Instance) error {
	status, err := e.Exec(ctx, in, Exec{Args: []string{trialInit, "once"}, NoStdin: true, Stdout: os.Stderr, Stderr: os.Stderr})
	if err == nil && status != 0 {
		err = status
	}
	return err
}

// trialImage is the archive of a root filesystem with one program.
func trialImage() (io.Reader, error) {
	p := C.croft_payload()
	if p.size == 0 {
		return nil, fmt.Errorf("a machine made of croft alone: the program for it is not written for this architecture: %w", state.ErrUnsupported)
	}
	body := program(unsafe.Slice((*byte)(p.code), int(p.size)), uint64(p.trial))
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755}) // a Buffer takes everything
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/trial", Mode: 0o755, Size: int64(len(body))})
	w.Write(body)
	return &out, w.Close()
}

// clearTrial removes what there is of a trial: the machine first, in whatever state, then its directories.
func (e *Engine) clearTrial(ctx context.Context) error {
	root, runDir := e.trialRoot()
	if _, err := os.Lstat(root); os.IsNotExist(err) {
		return nil
	}
	t, err := Open(root, runDir)
	if err != nil {
		return err
	}
	if err := t.Delete(ctx, trialName, true); err != nil && !errors.Is(err, state.ErrNotExist) {
		return err
	}
	if _, err := t.Repair(ctx); err != nil { // frees ids that were taken for a record that never came
		return err
	}
	return errors.Join(os.RemoveAll(runDir), os.RemoveAll(root)) // the root last: it is the one that is looked for
}

// sweepTrial clears what a killed trial or examination has left. One that goes on is left alone.
func (e *Engine) sweepTrial(ctx context.Context) (did []string, err error) {
	swept, err := sweepScratch(e.Dir.Root)
	for _, dir := range swept {
		did = append(did, "removed "+dir+" of an interrupted doctor")
	}
	root, _ := e.trialRoot()
	if _, e := os.Lstat(root); err != nil || e != nil {
		return did, err
	}
	lock, err := state.ClaimFile(e.trialLock())
	if errors.Is(err, state.ErrRunning) {
		return did, nil
	}
	if err != nil {
		return did, err
	}
	defer lock.Release()
	defer os.Remove(e.trialLock())
	return append(did, "removed an interrupted trial machine"), e.clearTrial(ctx)
}
