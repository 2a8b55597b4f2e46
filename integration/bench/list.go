package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// few and lots are the numbers of stopped machines that are listed.
const few, lots = 50, 500

// measureList: list grows with the machines and not faster, and takes no longer than lxc-ls.
func measureList(b *bench) error {
	small, large := *b.croft, *b.croft
	small.root, large.root = filepath.Join(b.work, "few"), filepath.Join(b.work, "lots")
	for _, c := range []struct {
		*croft
		n int
	}{{&small, few}, {&large, lots}} {
		if err := c.fill(c.n); err != nil {
			return err
		}
	}
	containers := filepath.Join(b.work, "lxc")
	if err := lxcContainers(containers, lots); err != nil {
		return err
	}
	var ofFew, ofLots, theirs samples
	err := interleave(b.n,
		func(int) error { return b.timed(&ofFew, small.do("list")) },
		func(int) error { return b.timed(&ofLots, large.do("list")) },
		func(int) error { return b.timed(&theirs, command{args: []string{"lxc-ls", "-P", containers, "-f"}}) })
	if err != nil {
		return err
	}
	for _, c := range []*croft{&small, &large} { // the ids of a root that is only deleted would stay reserved
		if _, err := b.output(c.do("rm", "--filter", "state=stopped")); err != nil {
			return err
		}
	}
	version, err := b.output(command{args: []string{"lxc-ls", "--version"}})
	if err != nil {
		return err
	}
	b.compare(fmt.Sprintf("list of %d stopped machines", lots), ofLots, fmt.Sprintf("croft, %d", few), ofFew, 10)
	b.compare(fmt.Sprintf("list of %d stopped machines", lots), ofLots, "lxc-ls -f "+strings.TrimSpace(version), theirs, 2)
	return nil
}

// fill makes n stopped machines in a root of their own.
func (c *croft) fill(n int) error {
	tar, err := guest("busybox")
	if err != nil {
		return err
	}
	if _, err := c.b.output(c.do("image", "import", "--alias", "busybox", tar)); err != nil {
		return err
	}
	for i := range n {
		if _, err := c.b.output(c.do("create", "--network", "none", "--name", fmt.Sprintf("listed%d", i), "busybox")); err != nil {
			return err
		}
	}
	return nil
}

// lxcContainers makes n stopped containers as lxc-create leaves them.
func lxcContainers(dir string, n int) error {
	for i := range n {
		name := fmt.Sprintf("listed%d", i)
		root := filepath.Join(dir, name, "rootfs")
		if err := os.MkdirAll(root, 0o755); err != nil {
			return err
		}
		config := fmt.Sprintf("lxc.uts.name = %s\nlxc.rootfs.path = dir:%s\nlxc.arch = linux64\nlxc.net.0.type = empty\n", name, root)
		if err := os.WriteFile(filepath.Join(dir, name, "config"), []byte(config), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// measureDelete: delete beside rm -r of a copy of what it deletes, for a machine that has booted and for one with many files.
func measureDelete(b *bench) error {
	for _, m := range []struct {
		what   string
		change string
	}{
		{"that has booted once", "true"},
		{"with 5000 files", "mkdir /srv/f; cd /srv/f; for i in $(seq 5000); do echo $i >$i; done"},
	} {
		var ours, theirs samples
		err := interleave(max(b.n/2, 3), func(i int) error {
			return b.deleteOne(fmt.Sprintf("delete%d", i), m.change, i, &ours, &theirs)
		})
		if err != nil {
			return err
		}
		b.compare("delete of a stopped Debian 13 "+m.what, ours, "rm -r of the same files", theirs, 2)
	}
	return nil
}

func (b *bench) deleteOne(name, change string, i int, ours, theirs *samples) error {
	copied := filepath.Join(b.work, "copy")
	lap := lap{b: b}
	lap.run(b.croft.do("run", "--network", "none", "-d", "--name", name, "trixie"))
	lap.run(b.croft.do("exec", name, "sh", "-c", change))
	lap.run(b.croft.do("stop", name))
	lap.run(command{args: []string{"mkdir", copied}})
	lap.run(command{args: []string{"cp", "-a", filepath.Join(b.croft.root, "instances", name), copied + "/instance"}})
	lap.run(command{args: []string{"cp", "-a", filepath.Join(b.croft.root, "roots", name), copied + "/root"}})
	lap.run(command{args: []string{"sync"}}) // neither shall delete what is still to be written
	each := []func() error{
		func() error { return b.timed(ours, b.croft.do("rm", name)) },
		func() error { return b.timed(theirs, command{args: []string{"rm", "-r", copied}}) },
	}
	for k := range each {
		if lap.err == nil {
			lap.err = each[(i+k)%2]()
		}
	}
	return lap.err
}
