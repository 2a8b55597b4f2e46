package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// croft is the subject: a root that keeps the images from run to run, and no machine.
type croft struct {
	b         *bench
	binary    string
	root, run string
	version   string
	apart     uintptr // kinds of new namespaces in which removeAll works: no link of the host's is its business
}

func theCroft(place string) *croft {
	return &croft{binary: os.Getenv("CROFT_BIN"), root: filepath.Join(benchDir(), "root"), run: "/run/" + place + "/croft"}
}

func newCroft(b *bench) (*croft, error) {
	c := theCroft(b.place)
	c.b = b
	if c.binary == "" {
		return nil, fmt.Errorf("CROFT_BIN is not set: run make bench")
	}
	out, err := b.output(c.do("version"))
	if err != nil {
		return nil, err
	}
	c.version = strings.TrimPrefix(out, "croft ")
	b.note("croft %s", c.version)
	return c, c.images()
}

// do is a command line of croft.
func (c *croft) do(args ...string) command {
	return command{args: append([]string{c.binary}, args...), env: []string{"CROFT_ROOT=" + c.root, "CROFT_RUN=" + c.run}}
}

// images makes sure of the images that the wanted tests use. Each bears the name of its archive, so that a new recipe is a new one.
func (c *croft) images() error {
	c.removeAll()
	if _, err := c.b.output(c.do("image", "list", "--format", "json")); err != nil {
		os.RemoveAll(c.root) // a store of another version
	}
	if err := c.image("busybox"); err != nil {
		return err
	}
	if c.b.boots() {
		return c.image("trixie")
	}
	return nil
}

func (c *croft) image(name string) error {
	tar, err := guest(name)
	if err != nil {
		return err
	}
	return c.imageOf(name, tar)
}

// imageOf imports an archive under an alias unless it is there; the fingerprint of what is there is remembered beside it.
func (c *croft) imageOf(alias, tar string) error {
	mark := filepath.Join(c.root, ".bench-"+alias)
	if was, err := os.ReadFile(mark); err == nil && string(was) == tar && c.has(alias) {
		return nil
	}
	c.b.output(c.do("image", "rm", alias))
	if _, err := c.b.output(c.do("image", "import", "--alias", alias, tar)); err != nil {
		return err
	}
	return os.WriteFile(mark, []byte(tar), 0o600)
}

func (c *croft) has(alias string) bool {
	_, err := c.b.output(c.do("image", "info", alias))
	return err == nil
}

// removeAll ends and removes whatever machine there is, and the networks.
func (c *croft) removeAll() {
	remove := func(kind string, args ...string) {
		records, _ := filepath.Glob(filepath.Join(c.root, kind, "*", "*.json"))
		for _, r := range records {
			cmd := c.do(append(args, filepath.Base(filepath.Dir(r)))...)
			p := exec.Command(cmd.args[0], cmd.args[1:]...)
			p.Env, p.SysProcAttr = cmd.env, &syscall.SysProcAttr{Cloneflags: c.apart}
			p.Run() // the next run tries again
		}
	}
	remove("instances", "rm", "-f")
	remove("networks", "network", "rm")
}

// cgroup is the machine's own directory in the version 2 hierarchy.
func (c *croft) cgroup(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(c.root, "instances", name, "instance.json"))
	if err != nil {
		return "", err
	}
	var record struct {
		Applied struct{ Cgroups []string }
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return "", err
	}
	if len(record.Applied.Cgroups) == 0 {
		return "", fmt.Errorf("%s has no cgroup yet", name)
	}
	return record.Applied.Cgroups[0], nil
}
