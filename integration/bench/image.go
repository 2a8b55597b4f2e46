package main

import (
	"archive/tar"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// The archives of measureImage: busybox and files of random bytes.
var archives = []struct {
	alias string
	megs  int
}{{"small200m", 200}, {"large2g", 2000}}

const fileMegs = 4 // of each file

func archive(alias string) string { return filepath.Join(benchDir(), alias+".tar") }

// makeArchives makes them once.
func makeArchives() error {
	base, err := guest("busybox")
	if err != nil {
		return err
	}
	for _, a := range archives {
		if _, err := os.Stat(archive(a.alias)); err == nil {
			continue
		}
		if err := makeArchive(archive(a.alias), base, a.megs); err != nil {
			return err
		}
	}
	return nil
}

func makeArchive(path, base string, megs int) error {
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := copyArchive(w, base); err != nil {
		return err
	}
	for i := range megs / fileMegs {
		h := &tar.Header{Name: fmt.Sprintf("srv/random%d", i), Mode: 0o644, Size: fileMegs << 20, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.CopyN(w, rand.Reader, h.Size); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func copyArchive(w *tar.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

// measureImage: a launch copies nothing of its image, and takes as long for a large one as for a small one.
func measureImage(b *bench) error {
	took := make([]samples, len(archives))
	var each []func(int) error
	for k, a := range archives {
		if err := b.croft.imageOf(a.alias, archive(a.alias)); err != nil {
			return err
		}
		launch := b.croft.do("run", "--network", "none", "--rm", "--no-boot", a.alias, "true")
		if _, err := b.output(launch); err != nil { // the first one
			return err
		}
		each = append(each, func(int) error { return b.timed(&took[k], launch) })
	}
	if err := b.measureWritten(archives[len(archives)-1].alias); err != nil {
		return err
	}
	if err := interleave(b.n, each...); err != nil {
		return err
	}
	small, large := took[0], took[1]
	more := large.median() - small.median()
	b.limit("launch of a 2 GB image beside one of 200 MB", large.ms()+" beside "+small.ms(), "within 10 % or 2 ms",
		more <= max(2, small.median()/10))
	return nil
}

// measureWritten looks at a second launch in two ways: what its processes wrote, all of them, and what is on the disk for it.
func (b *bench) measureWritten(alias string) error {
	cmd := exec.Command(b.croft.binary, "run", "--network", "none", "--rm", "--no-boot", alias, "true")
	cmd.Env, cmd.Stdout, cmd.Stderr = b.croft.do().env, b.log, b.log
	if err := cmd.Run(); err != nil {
		return err
	}
	written := cmd.ProcessState.SysUsage().(*syscall.Rusage).Oublock * 512
	before := b.croft.disk()
	if _, err := b.output(b.croft.do("create", "--network", "none", "--name", "second", "--no-boot", alias, "sleep", "infinity")); err != nil {
		return err
	}
	if _, err := b.output(b.croft.do("start", "second")); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	grown := b.croft.disk() - before
	b.limit("second launch of a 2 GB image: written by all its processes; on disk while it runs",
		fmt.Sprintf("%d KB; %d KB", written>>10, grown>>10), "<= 1 MB", max(written, grown) <= 1<<20)
	_, err := b.output(b.croft.do("rm", "-f", "second"))
	return err
}

// disk is what croft's root and run directories take on the disk.
func (c *croft) disk() (bytes int64) {
	for _, top := range []string{c.root, c.run} {
		filepath.WalkDir(top, func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if info, err := e.Info(); err == nil {
				bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return nil
		})
	}
	return bytes
}
