package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"croft/integration/imageserver"
)

// squashed is the archive of alias as a squashfs that compresses nothing: the time of a launch shall not be that of zlib.
func squashed(alias string) string { return filepath.Join(benchDir(), alias+".squashfs") }

// makeSquashed makes those of all archives, once, and the metadata that goes with them.
func makeSquashed() error {
	for _, a := range archives {
		if _, err := os.Stat(squashed(a.alias)); err == nil {
			continue
		}
		aside := squashed(a.alias) + ".new"
		if err := os.RemoveAll(aside); err != nil {
			return err
		}
		if _, err := tool("sh", "-ec", `sqfstar -quiet -no-progress -noI -noD -noF -noX "$1" <"$2"`, "sh", aside, archive(a.alias)); err != nil {
			return err
		}
		if err := os.Rename(aside, squashed(a.alias)); err != nil {
			return err
		}
	}
	return nil
}

// measureArrival: from the moment that a squashfs has been downloaded a launch takes as long for a large one as for a small one, and
// little longer than one of an image that is here. The machine runs true, and its end is what is timed.
func measureArrival(b *bench) error {
	server, err := b.serveSquashed()
	if err != nil {
		return err
	}
	defer server.Close()
	c := *b.croft
	c.root = filepath.Join(b.work, "arrival")
	do := func(args ...string) command {
		cmd := c.do(args...)
		cmd.env = append(cmd.env, "CROFT_CONFIG="+filepath.Join(b.work, "croft.toml"))
		return cmd
	}
	ca := filepath.Join(b.work, "ca.pem")
	for name, text := range map[string]string{ca: string(server.CA), filepath.Join(b.work, "croft.toml"): ""} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := b.output(do("remote", "add", "--ca", ca, "here", server.URL)); err != nil {
		return err
	}
	came, cached := make([]samples, len(archives)), samples{}
	var each []func(int) error
	for k, a := range archives {
		launch := do("run", "--network", "none", "--rm", "--no-boot", "here:"+a.alias, "true")
		each = append(each, func(int) error {
			took, err := b.sinceDownloaded(launch, filepath.Join(c.root, "images", "downloads", "*", "root*"), squashed(a.alias))
			if err != nil {
				return err
			}
			came[k].add(took)
			if err := b.timed(&cached, launch); err != nil {
				return err
			}
			_, err = b.output(do("image", "rm", "here:"+a.alias))
			return err
		})
	}
	if err := interleave(max(3, b.n/4), each...); err != nil {
		return err
	}
	small, large := came[0], came[1]
	b.limit("from a squashfs downloaded to the end of true in it: 2 GB beside 200 MB", large.ms()+" beside "+small.ms(), "within 10 % or 2 ms",
		large.median()-small.median() <= max(2, small.median()/10))
	b.compare("the same of 2 GB", large, "launch of an image that is here", cached, 1.3)
	return nil
}

// sinceDownloaded is the time from when a file that fits pattern is as large as the one it comes from, to the end of the command.
func (b *bench) sinceDownloaded(c command, pattern, from string) (time.Duration, error) {
	whole, err := os.Stat(from)
	if err != nil {
		return 0, err
	}
	settle()
	end := make(chan error, 1)
	go func() {
		_, err := b.run(c)
		end <- err
	}()
	err = await("whole "+pattern, time.Minute, func() bool {
		files, _ := filepath.Glob(pattern)
		return slices.ContainsFunc(files, func(file string) bool {
			info, err := os.Stat(file)
			return err == nil && info.Size() >= whole.Size()
		})
	})
	begin := time.Now()
	err = errors.Join(err, <-end)
	return time.Since(begin), err
}

// serveSquashed is a server that has the archives, each as the product of its name.
func (b *bench) serveSquashed() (*imageserver.Server, error) {
	metadata := filepath.Join(b.work, "metadata.yaml")
	if err := os.WriteFile(metadata, fmt.Appendf(nil, "architecture: %s\ncreation_date: %d\n", runtime.GOARCH, time.Now().Unix()), 0o644); err != nil {
		return nil, err
	}
	meta := filepath.Join(b.work, "meta.tar.xz")
	if _, err := tool("tar", "-C", b.work, "-cJf", meta, "metadata.yaml"); err != nil {
		return nil, err
	}
	var images []imageserver.Image
	for _, a := range archives {
		images = append(images, imageserver.Image{Aliases: a.alias, OS: a.alias, Release: "1", Arch: runtime.GOARCH, Serial: "20260101", Files: []string{meta, squashed(a.alias)}})
	}
	web := filepath.Join(b.work, "web-squashfs")
	if err := imageserver.Write(web, images); err != nil {
		return nil, err
	}
	return imageserver.Start(web)
}
