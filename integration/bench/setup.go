package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// cacheDir is what the tests use too; benchDir is the benchmark's part of it, and survives a run; workDir does not.
func cacheDir() string {
	if dir := os.Getenv("CROFT_TEST_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err == nil {
			return abs
		}
	}
	return "/var/tmp/croft-test"
}

func benchDir() string { return filepath.Join(cacheDir(), "bench") }
func workDir() string  { return filepath.Join(benchDir(), "work") }

// shiftBase is the host id of root in the peers' user namespaces; their trees are owned by it.
const (
	shiftBase = 2000000000
	shiftSize = 65536
)

// prepare makes what takes long and outlives a run: packages, runc of our version, guests, the peers' trees.
func prepare(o options) error {
	if _, err := tool("integration/install-deps", "runc", "systemd-container", "lxc", "squashfs-tools", "erofs-utils", "jq", "docker-registry", "skopeo", "umoci",
		"iproute2", "nftables", "iperf3"); err != nil {
		return err
	}
	if err := buildRunc(); err != nil {
		return err
	}
	if _, err := shiftedTree("busybox"); err != nil {
		return err
	}
	if o.boots() {
		if _, err := shiftedTree("trixie"); err != nil {
			return err
		}
	}
	if o.wants("unit") {
		if _, err := tool("integration/host/build", "trixie"); err != nil {
			return err
		}
	}
	if o.wants("cache") {
		if err := makeFiles(); err != nil {
			return err
		}
	}
	if o.wants("registry") {
		if err := makeLayout(); err != nil {
			return err
		}
	}
	if o.wants("image") || o.wants("arrival") {
		if err := makeArchives(); err != nil {
			return err
		}
	}
	if o.wants("arrival") {
		return makeSquashed()
	}
	return nil
}

// tool runs a command of the set-up and gives what it printed; its complaints go to stderr.
func tool(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// runcVersion is that of go.mod.
func runcVersion() (string, error) { return tool("go", "list", "-m", "-f", "{{.Version}}", runcModule) }

const runcModule = "github.com/opencontainers/runc"

func builtRunc() (string, error) {
	v, err := runcVersion()
	return filepath.Join(benchDir(), "runc-"+v), err
}

// buildRunc builds the runc of go.mod as croft is built: static, trimmed, with seccomp.
func buildRunc() error {
	binary, err := builtRunc()
	if err != nil {
		return err
	}
	if _, err := os.Stat(binary); err == nil {
		return nil
	}
	source, err := tool("go", "list", "-m", "-f", "{{.Dir}}", runcModule)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "seccomp urfave_cli_no_docs netgo osusergo runc_nocriu",
		"-ldflags", "-s -w -extldflags -static", "-o", binary, ".")
	cmd.Dir, cmd.Stderr = source, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build runc: %w", err)
	}
	return nil
}

// guest is the tar of a guest, made on the first call of its recipe.
func guest(name string) (string, error) { return tool("integration/guests/build", name) }

// shiftedTree is a guest unpacked, with all its owners moved up by shiftBase.
func shiftedTree(name string) (string, error) {
	tar, err := guest(name)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(benchDir(), strings.TrimSuffix(filepath.Base(tar), ".tar"))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	aside := dir + ".new"
	if err := os.RemoveAll(aside); err != nil {
		return "", err
	}
	if err := os.MkdirAll(aside, 0o755); err != nil {
		return "", err
	}
	if _, err := tool("tar", "--numeric-owner", "-xpf", tar, "-C", aside); err != nil {
		return "", err
	}
	if err := filepath.WalkDir(aside, shift); err != nil {
		return "", err
	}
	return dir, os.Rename(aside, dir)
}

// shift is a walk's function. A change of owner takes the setuid bits away, so they are given back.
func shift(path string, e fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	info, err := e.Info()
	if err != nil {
		return err
	}
	uid, gid := owner(info)
	if err := os.Lchown(path, shiftBase+uid, shiftBase+gid); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(path, info.Mode())
}
