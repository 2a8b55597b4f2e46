package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// files are the images of measureCache: busybox and as many megabytes of random bytes, as a filesystem.
var files = []struct {
	alias, tool string
	after       bool // the tool wants the file after the directory
}{
	{"squashfs", "mksquashfs", true},
	{"erofs", "mkfs.erofs", false},
}

const cacheMegs = 64

func fileOf(alias string) string { return filepath.Join(benchDir(), "cache."+alias) }

// makeFiles makes them once.
func makeFiles() error {
	base, err := guest("busybox")
	if err != nil {
		return err
	}
	dir := filepath.Join(benchDir(), "cache.tree")
	defer os.RemoveAll(dir)
	for _, f := range files {
		if _, err := os.Stat(fileOf(f.alias)); err == nil {
			continue
		}
		if err := makeTree(dir, base); err != nil {
			return err
		}
		last := []string{dir, fileOf(f.alias) + ".new"}
		if !f.after {
			last[0], last[1] = last[1], last[0]
		}
		os.Remove(fileOf(f.alias) + ".new")
		if _, err := tool(f.tool, last...); err != nil {
			return err
		}
		if err := os.Rename(fileOf(f.alias)+".new", fileOf(f.alias)); err != nil {
			return err
		}
	}
	return nil
}

func makeTree(dir, base string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := tool("tar", "--numeric-owner", "-xpf", base, "-C", dir); err != nil {
		return err
	}
	_, err := tool("dd", "status=none", "if=/dev/urandom", "of="+filepath.Join(dir, "srv-random"), "bs=1M", fmt.Sprintf("count=%d", cacheMegs))
	return err
}

// measureCache: ten machines that read all of one image raise the page cache as much as one of them does.
func measureCache(b *bench) error {
	for _, f := range files {
		if err := b.croft.imageOf(f.alias, fileOf(f.alias)); err != nil {
			return err
		}
		if err := b.cacheOf(f.alias); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) cacheOf(alias string) error {
	// What the import and earlier runs have read is no page of the first machine's. Others use the host meanwhile, and the
	// page cache is everybody's.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		return err
	}
	var grown [machines]int
	before := cached()
	for i := range grown {
		name := fmt.Sprintf("%s%d", alias, i)
		if _, err := b.output(b.croft.do("run", "--network", "none", "-d", "--name", name, "--no-boot", alias, "sleep", "infinity")); err != nil {
			return err
		}
		if _, err := b.output(b.croft.do("exec", name, "sh", "-c", "cat /srv-random >/dev/null")); err != nil {
			return err
		}
		grown[i] = cached() - before
	}
	first, last := grown[0], grown[machines-1]
	b.limit(fmt.Sprintf("page cache after %d machines have read one %s of %d MB", machines, alias, cacheMegs),
		fmt.Sprintf("%d MB; after the first %d MB", last>>10, first>>10), "<= 1.5 times; ten copies would be 10", 2*last <= 3*first)
	b.croft.removeAll()
	return nil
}

// cached is the page cache in KB.
func cached() int {
	text, _ := os.ReadFile("/proc/meminfo")
	return field(text, "Cached:")
}
