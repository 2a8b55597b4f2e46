package run

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"croft/state"

	"github.com/opencontainers/runc/libcontainer/configs"
)

// A device of the later directory counts, also where both have it; twice in one directory is none.
func TestFindCDI(t *testing.T) {
	file := func(path string, priority int, devices ...string) cdiFile {
		f := cdiFile{Kind: "v.com/c", path: path, priority: priority}
		for _, d := range devices {
			f.Devices = append(f.Devices, cdiDevice{Name: d})
		}
		return f
	}
	files := []cdiFile{file("a", 0, "0", "1", "all"), file("b", 1, "0"), file("c", 0, "1"), file("d", 1, "2")}
	for name, want := range map[string]string{"v.com/c=0": "b", "v.com/c=all": "a", "v.com/c=2": "d"} {
		for range 2 { // in whatever order they are read
			if f, d, err := findCDI(files, name); err != nil || f.path != want || d.Name != name[len("v.com/c="):] {
				t.Errorf("%s: %+v, %v", name, f, err)
			}
			slices.Reverse(files)
		}
	}
	if _, _, err := findCDI(files, "v.com/c=1"); !errors.Is(err, state.ErrInvalid) {
		t.Error(err)
	}
	for _, name := range []string{"v.com/c=3", "v.com/d=0", "w.com/c=0"} {
		if _, _, err := findCDI(files, name); !errors.Is(err, state.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInjection(t *testing.T) {
	edits := func(text string) *cdiEdits {
		f, err := parseCDI([]byte("cdiVersion: 0.6.0\ncontainerEdits:\n " + strings.ReplaceAll(text, "\n", "\n ")))
		if err != nil {
			t.Fatal(err)
		}
		return &f.Edits
	}
	var in injection
	err := in.add(
		edits(`env: [A=1, B=1]
deviceNodes: [{path: /dev/a, hostPath: /dev/null, permissions: r}, {path: /dev/b, type: c, major: 195, minor: 1, fileMode: 0o600, uid: 5}]
mounts: [{hostPath: /etc, containerPath: /x/, options: [noexec]}, {hostPath: /usr, containerPath: /y}]
hooks: [{hookName: poststop, path: /bin/a}, {hookName: prestart, path: /bin/b, args: [b, c], env: [D=1], timeout: 3}]
additionalGids: [4, 0]`),
		edits(`env: [A=2]
deviceNodes: [{path: /dev/a, hostPath: /dev/zero}]
mounts: [{hostPath: /usr, containerPath: /x, options: [ro, rbind]}]
hooks: [{hookName: poststop, path: /bin/d}]
additionalGids: [4, 5]`))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(in.env, []string{"B=1", "A=2"}) && !slices.Equal(in.env, []string{"A=2", "B=1"}) {
		t.Errorf("env %q", in.env)
	}
	if len(in.nodes) != 2 || in.nodes[0].Target != "/dev/b" || in.nodes[0].Mode != 0o600 || in.nodes[0].UID != 5 || in.nodes[1].Path != "/dev/zero" || in.nodes[1].Access != "rwm" {
		t.Errorf("nodes %+v", in.nodes)
	}
	if !slices.Equal(in.mounts, []state.Mount{{Source: "/usr", Target: "/y"}, {Source: "/usr", Target: "/x", ReadOnly: true}}) {
		t.Errorf("mounts %+v", in.mounts)
	}
	if !slices.Equal(in.groups, []uint32{4, 5}) {
		t.Errorf("groups %v", in.groups)
	}
	stop, start := in.hooks[configs.Poststop], in.hooks[configs.Prestart]
	if len(stop) != 2 || stop[0].Args[0] != "/bin/a" || stop[0].Env[0] != defaultPath || len(start) != 1 || start[0].Timeout != 3 || start[0].Env[0] != "D=1" {
		t.Errorf("hooks %+v", in.hooks)
	}
	if nodes := in.beside([]Node{{Target: "/dev/a", Path: "/dev/own"}}); len(nodes) != 2 || nodes[0].Path != "/dev/own" {
		t.Errorf("beside others: %+v", nodes)
	}
	for _, wrong := range []string{
		"env: [A]", "deviceNodes: [{path: dev/a}]", "deviceNodes: [{path: /dev/null, type: p}]", "deviceNodes: [{path: /dev/null, permissions: x}]",
		"deviceNodes: [{path: /etc}]", "deviceNodes: [{path: /dev/no-such}]", "mounts: [{hostPath: etc, containerPath: /x}]", "mounts: [{hostPath: /etc, containerPath: /x, type: nfs}]",
		"mounts: [{hostPath: /etc, containerPath: /x, options: [rshared]}]", "mounts: [{hostPath: /no-such, containerPath: /x}]",
		"hooks: [{hookName: later, path: /bin/a}]", "hooks: [{hookName: prestart, path: a}]", "hooks: [{hookName: prestart, path: /a, timeout: -1}]", "intelRdt: {closID: x}",
	} {
		if err := new(injection).add(edits(wrong)); err == nil {
			t.Errorf("%s: no error", wrong)
		}
	}
}

func TestParseCDI(t *testing.T) {
	for _, text := range []string{"{", "[]", "cdiVersion: 0.2.0", "kind: a/b", "cdiVersion: 1.0.0\nkinds: a/b", "cdiVersion: 1.0.0\ndevices: 3"} {
		if f, err := parseCDI([]byte(text)); err == nil {
			t.Errorf("%q: %+v", text, f)
		}
	}
}
