package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// runc is the peer for everything but a boot: a bundle prepared beforehand on a tree whose owners are shifted, with a user namespace.
type runc struct {
	b      *bench
	binary string
	name   string // as printed
	state  string
}

func newRunc(b *bench, binary string) (*runc, error) {
	r := &runc{b: b, binary: binary}
	version, err := b.output(command{args: []string{binary, "--version"}})
	if err != nil {
		return nil, err
	}
	r.name = strings.Replace(strings.SplitN(version, "\n", 2)[0], "version ", "", 1)
	if binary != "/usr/sbin/runc" {
		v, err := runcVersion()
		if err != nil {
			return nil, err
		}
		r.name = "runc " + strings.TrimPrefix(v, "v") + ", built"
	}
	r.state = "/run/" + b.place + "/runc-" + filepath.Base(filepath.Dir(binary))
	return r, nil
}

func (r *runc) do(args ...string) command {
	return command{args: append([]string{r.binary, "--root", r.state}, args...)}
}

// bundle writes a bundle whose payload is args: runc's own example with a user namespace and without a terminal.
func (r *runc) bundle(dir string, args ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config := filepath.Join(dir, "config.json")
	os.Remove(config)
	if _, err := r.b.output(r.do("spec", "--bundle", dir)); err != nil {
		return err
	}
	data, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		return err
	}
	tree, err := shiftedTree("busybox")
	if err != nil {
		return err
	}
	r.adapt(spec, tree, args)
	if data, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(config, data, 0o644)
}

// adapt makes of the example what croft's machine is: namespaces of everything, a root that can be written, a cgroup of this run.
func (r *runc) adapt(spec map[string]any, tree string, args []string) {
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, args
	delete(process, "rlimits") // needs CAP_SYS_RESOURCE, which not every host of ours has
	spec["root"] = map[string]any{"path": tree, "readonly": false}
	linux := spec["linux"].(map[string]any)
	var kinds []any
	for _, kind := range []string{"pid", "network", "ipc", "uts", "mount", "cgroup", "user"} {
		kinds = append(kinds, map[string]any{"type": kind})
	}
	ids := []any{map[string]any{"containerID": 0, "hostID": shiftBase, "size": shiftSize}}
	linux["namespaces"], linux["uidMappings"], linux["gidMappings"] = kinds, ids, ids
	linux["cgroupsPath"] = "/" + r.b.place + "/" + strings.ReplaceAll(filepath.Base(r.state), ".", "-")
}
