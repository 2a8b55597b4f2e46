package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"croft/state"

	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"
)

// cdiDirs are where the files of the Container Device Interface stand, by which vendors say what a container needs for a
// device. What a later one has counts before what an earlier one has.
var cdiDirs = [...]string{"/etc/cdi", "/var/run/cdi"}

// cdiVersions are those of the files that are understood: they differ by what may be in one.
var cdiVersions = [...]string{"0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"}

// The parts of a CDI file.
type (
	cdiFile struct {
		Version     string            `yaml:"cdiVersion"`
		Kind        string            `yaml:"kind"`
		Annotations map[string]string `yaml:"annotations"` // for others
		Devices     []cdiDevice       `yaml:"devices"`
		Edits       cdiEdits          `yaml:"containerEdits"`

		path     string
		priority int
	}
	cdiDevice struct {
		Name        string            `yaml:"name"`
		Annotations map[string]string `yaml:"annotations"`
		Edits       cdiEdits          `yaml:"containerEdits"`
	}
	cdiEdits struct {
		Env      []string   `yaml:"env"`
		Nodes    []cdiNode  `yaml:"deviceNodes"`
		Hooks    []cdiHook  `yaml:"hooks"`
		Mounts   []cdiMount `yaml:"mounts"`
		Groups   []uint32   `yaml:"additionalGids"`
		IntelRDT any        `yaml:"intelRdt"`
	}
	cdiNode struct {
		Path        string `yaml:"path"`
		HostPath    string `yaml:"hostPath"`
		Type        string `yaml:"type"`
		Major       uint32 `yaml:"major"`
		Minor       uint32 `yaml:"minor"`
		FileMode    uint32 `yaml:"fileMode"`
		Permissions string `yaml:"permissions"`
		UID         uint32 `yaml:"uid"`
		GID         uint32 `yaml:"gid"`
	}
	cdiMount struct {
		HostPath      string   `yaml:"hostPath"`
		ContainerPath string   `yaml:"containerPath"`
		Options       []string `yaml:"options"`
		Type          string   `yaml:"type"`
	}
	cdiHook struct {
		Name    string   `yaml:"hookName"`
		Path    string   `yaml:"path"`
		Args    []string `yaml:"args"`
		Env     []string `yaml:"env"`
		Timeout int      `yaml:"timeout"`
	}
)

// injection is all that the CDI devices of a machine bring it.
type injection struct {
	nodes  []Node
	mounts []state.Mount
	hooks  map[configs.HookName][]state.Hook
	env    []string
	groups []uint32
}

// injectionOf is what the files of this host say of the machine's CDI devices.
func injectionOf(devices []state.Device) (in injection, err error) {
	var files []cdiFile
	var broken error
	applied := map[string]bool{} // what a file says of all its devices is for a machine once
	for i := range devices {
		d := &devices[i]
		if d.CDI == "" {
			continue
		}
		if files == nil {
			files, broken = readCDI()
		}
		file, device, err := findCDI(files, d.CDI)
		if errors.Is(err, state.ErrNotExist) && broken != nil { // it may be in there
			return in, fmt.Errorf("device %s: %w", d.CDI, broken)
		}
		if errors.Is(err, state.ErrNotExist) && d.Optional {
			continue
		}
		if err != nil {
			return in, fmt.Errorf("device %s: %w", d.CDI, err)
		}
		edits := []*cdiEdits{&file.Edits, &device.Edits}
		if applied[file.path] {
			edits = edits[1:]
		}
		err = (&injection{}).add(edits...) // to see whether the host has all of it
		if errors.Is(err, state.ErrNotExist) && d.Optional {
			continue
		}
		if err == nil {
			err = in.add(edits...)
		}
		if err != nil {
			return in, fmt.Errorf("device %s: %s: %w", d.CDI, file.path, err)
		}
		applied[file.path] = true
	}
	return in, nil
}

// cdiDevices are those of a spec that CDI files tell of.
func cdiDevices(s *state.Spec) []state.Device {
	return slices.DeleteFunc(slices.Clone(s.Devices), func(d state.Device) bool { return d.CDI == "" })
}

// sameCDI refuses to change them while the machine runs.
func sameCDI(was, s *state.Spec) error {
	old, now := cdiDevices(was), cdiDevices(s)
	if slices.Equal(old, now) {
		return nil
	}
	name := append(slices.DeleteFunc(now, func(d state.Device) bool { return slices.Contains(old, d) }), old...)[0].CDI
	err := fmt.Errorf("device %s: the programs of its CDI file are run when a machine starts: %w", name, state.ErrRunning)
	return state.Hint(err, "croft stop "+s.Name+", before")
}

// readCDI reads all files that there are. What is wrong with one matters to who misses something.
func readCDI() (files []cdiFile, broken error) {
	for i, dir := range cdiDirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			broken = err
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); ext != ".json" && ext != ".yaml" {
				continue
			}
			path := filepath.Join(dir, e.Name())
			text, err := os.ReadFile(path)
			var f cdiFile
			if err == nil {
				f, err = parseCDI(text)
			}
			if err != nil {
				broken = fmt.Errorf("%s: %w", path, err)
				continue
			}
			f.path, f.priority = path, i
			files = append(files, f)
		}
	}
	return files, broken
}

// parseCDI reads a file, of JSON or YAML: the one is the other as well. A field that nobody knows might be what keeps
// something closed.
func parseCDI(text []byte) (f cdiFile, err error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := yaml.Unmarshal(text, &struct {
		Version *string `yaml:"cdiVersion"`
	}{&f.Version}); err != nil {
		return f, err
	}
	if !slices.Contains(cdiVersions[:], f.Version) {
		return f, fmt.Errorf("is of version %q of CDI, and not of one from %s to %s: %w", f.Version, cdiVersions[0], cdiVersions[len(cdiVersions)-1], state.ErrUnsupported)
	}
	d.KnownFields(true)
	var wrong *yaml.TypeError
	if err = d.Decode(&f); errors.As(err, &wrong) {
		text, _, _ := strings.Cut(wrong.Errors[0], " in type ")
		err = fmt.Errorf("%s: %w", text, state.ErrInvalid)
	}
	return f, err
}

// findCDI finds a device. In files of the same directory it may be once.
func findCDI(files []cdiFile, name string) (file *cdiFile, device *cdiDevice, err error) {
	kind, name, _ := strings.Cut(name, "=")
	var others []string
	for i := range files {
		f := &files[i]
		if f.Kind != kind {
			continue
		}
		for j := range f.Devices {
			others = append(others, f.Devices[j].Name)
			switch {
			case f.Devices[j].Name != name || file != nil && f.priority < file.priority:
			case file != nil && f.priority == file.priority:
				return nil, nil, fmt.Errorf("is in %s and in %s: %w", file.path, f.path, state.ErrInvalid)
			default:
				file, device = f, &f.Devices[j]
			}
		}
	}
	switch {
	case file != nil:
		return file, device, nil
	case others != nil:
		slices.Sort(others)
		return nil, nil, fmt.Errorf("the CDI files of this host have %s of %s alone: %w", strings.Join(slices.Compact(others), ", "), kind, state.ErrNotExist)
	}
	vendor, _, _ := strings.Cut(kind, "/")
	hint := "a tool of " + vendor + "'s writes it, to " + cdiDirs[0]
	if vendor == "nvidia.com" {
		hint = "nvidia-ctk cdi generate --output=" + cdiDirs[0] + "/nvidia.yaml"
	}
	return nil, nil, state.Hint(fmt.Errorf("no CDI file in %s tells of %s: %w", strings.Join(cdiDirs[:], " or "), kind, state.ErrNotExist), hint)
}

// beside gives nodes, and of its own those for whose place there is none among them.
func (in *injection) beside(nodes []Node) []Node {
	for _, n := range in.nodes {
		if !slices.ContainsFunc(nodes, func(other Node) bool { return other.Target == n.Target }) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// add takes in what is to be done. What comes later takes the place of what came before at the same path, or of the same name.
func (in *injection) add(edits ...*cdiEdits) error {
	for _, e := range edits {
		if err := in.edit(e); err != nil {
			return err
		}
	}
	return nil
}

func (in *injection) edit(e *cdiEdits) error {
	if e.IntelRDT != nil {
		return fmt.Errorf("intelRdt, a part of the processor's caches: %w", state.ErrUnsupported)
	}
	for _, kv := range e.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			return fmt.Errorf("env %q is not KEY=VALUE: %w", kv, state.ErrInvalid)
		}
	}
	in.env = overlayEnv(in.env, e.Env)
	for i := range e.Nodes {
		n, err := e.Nodes[i].node()
		if err != nil {
			return fmt.Errorf("deviceNodes: %s: %w", e.Nodes[i].Path, err)
		}
		in.nodes = append(slices.DeleteFunc(in.nodes, func(other Node) bool { return other.Target == n.Target }), n)
	}
	for i := range e.Mounts {
		if err := in.bind(&e.Mounts[i]); err != nil {
			return fmt.Errorf("mounts: %s: %w", e.Mounts[i].ContainerPath, err)
		}
	}
	for i := range e.Hooks {
		name, h, err := e.Hooks[i].hook()
		if err != nil {
			return fmt.Errorf("hooks: %s: %w", e.Hooks[i].Path, err)
		}
		if in.hooks == nil {
			in.hooks = map[configs.HookName][]state.Hook{}
		}
		in.hooks[name] = append(in.hooks[name], h)
	}
	for _, g := range e.Groups {
		if !slices.Contains(in.groups, g) && g != 0 {
			in.groups = append(in.groups, g)
		}
	}
	return nil
}

// node is the device node as the machine gets it. What the file leaves open is as on the host, but for the owner, which is the
// machine's root.
func (n *cdiNode) node() (Node, error) {
	out := Node{Path: n.HostPath, Target: filepath.Clean(n.Path), Mode: n.FileMode & 0o777, UID: n.UID, GID: n.GID, Access: n.Permissions}
	if out.Path == "" {
		out.Path = n.Path
	}
	if !filepath.IsAbs(out.Path) || !filepath.IsAbs(out.Target) {
		return out, fmt.Errorf("is not absolute: %w", state.ErrInvalid)
	}
	if out.Access == "" {
		out.Access = "rwm"
	}
	if strings.Trim(out.Access, "rwm") != "" {
		return out, fmt.Errorf("permissions %q are none of r, w and m: %w", out.Access, state.ErrInvalid)
	}
	kinds := map[string]uint32{"": 0, "c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK}
	kind, known := kinds[n.Type]
	if !known {
		return out, fmt.Errorf("type %q: %w", n.Type, state.ErrUnsupported)
	}
	out.Type, out.Device = kind, unix.Mkdev(n.Major, n.Minor)
	if kind != 0 && out.Device != 0 && n.FileMode != 0 {
		return out, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(out.Path, &st); err != nil {
		return out, lacking(out.Path, err)
	}
	is := st.Mode & unix.S_IFMT
	switch {
	case is != unix.S_IFCHR && is != unix.S_IFBLK:
		return out, fmt.Errorf("%s is no device: %w", out.Path, state.ErrInvalid)
	case kind != 0 && is != kind:
		return out, fmt.Errorf("%s is not of type %q: %w", out.Path, n.Type, state.ErrInvalid)
	}
	out.Type = is
	if out.Device == 0 {
		out.Device = st.Rdev
	}
	if n.FileMode == 0 {
		out.Mode = st.Mode & 0o777
	}
	return out, nil
}

// lacking is the error of something that a file names and that cannot be looked at.
func lacking(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("this host has no %s: %w", path, state.ErrNotExist)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// bind adds a mount as the machine gets it: a volume, nosuid and nodev whatever the file says.
func (in *injection) bind(m *cdiMount) error {
	out := state.Mount{Source: m.HostPath, Target: filepath.Clean(m.ContainerPath)}
	if m.Type != "" && m.Type != "bind" && m.Type != "none" {
		return fmt.Errorf("type %q: %w", m.Type, state.ErrUnsupported)
	}
	if !filepath.IsAbs(out.Source) || !filepath.IsAbs(out.Target) {
		return fmt.Errorf("is not absolute: %w", state.ErrInvalid)
	}
	if _, err := os.Stat(out.Source); err != nil {
		return lacking(out.Source, err)
	}
	for _, o := range m.Options {
		switch o {
		case "ro":
			out.ReadOnly = true
		case "noexec":
			out.NoExec = true
		case "bind":
			out.Shallow = !slices.Contains(m.Options, "rbind")
		case "slave", "rslave":
			out.Slave = true
		case "rw", "rbind", "private", "rprivate", "nosuid", "nodev", "exec", "relatime": // they are so anyway
		default:
			return fmt.Errorf("option %q: %w", o, state.ErrUnsupported)
		}
	}
	in.mounts = append(slices.DeleteFunc(in.mounts, func(other state.Mount) bool { return other.Target == out.Target }), out)
	return nil
}

// hook is a program as it will be run, and when.
func (h *cdiHook) hook() (configs.HookName, state.Hook, error) {
	out := state.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout}
	names := []configs.HookName{configs.Prestart, configs.CreateRuntime, configs.CreateContainer, configs.StartContainer, configs.Poststart, configs.Poststop}
	i := slices.IndexFunc(names, func(n configs.HookName) bool { return string(n) == h.Name })
	switch {
	case i < 0:
		return "", out, fmt.Errorf("hookName %q: %w", h.Name, state.ErrUnsupported)
	case !filepath.IsAbs(h.Path):
		return "", out, fmt.Errorf("is not absolute: %w", state.ErrInvalid)
	case h.Timeout < 0:
		return "", out, fmt.Errorf("timeout %d is negative: %w", h.Timeout, state.ErrInvalid)
	}
	if len(out.Args) == 0 {
		out.Args = []string{h.Path}
	}
	if len(out.Env) == 0 { // or it would have what libcontainer has for itself
		out.Env = []string{defaultPath}
	}
	return names[i], out, nil
}

// command is the hook in libcontainer's words.
func command(h state.Hook) configs.CommandHook {
	c := &configs.Command{Path: h.Path, Args: h.Args, Env: h.Env}
	if h.Timeout > 0 {
		limit := time.Duration(h.Timeout) * time.Second
		c.Timeout = &limit
	}
	return configs.NewCommandHook(c)
}

// lasting is what outlives the start; nil: nothing.
func (in *injection) lasting() *state.CDI {
	c := &state.CDI{Env: in.env, Groups: in.groups, Poststop: in.hooks[configs.Poststop]}
	if len(c.Env)+len(c.Groups)+len(c.Poststop) == 0 {
		return nil
	}
	return c
}

// annotationName is what a machine's name is called among the annotations that hooks see: the id in there is the same for all.
const annotationName = "croft.name"

// bundleOf is the directory in which hooks look for what they are told of: the OCI spec.
func bundleOf(runDir string) string { return filepath.Join(runDir, "bundle") }

// hooked gives libcontainer the hooks, each of which it runs where and when the OCI runtime specification says, with the
// machine's state on stdin; those of the end are ours (poststop). They find the machine's spec as they are used to.
func (l *launch) hooked(config *configs.Config, spec *specs.Spec) error {
	if len(l.cdi.hooks) == 0 {
		return nil
	}
	for name, hooks := range l.cdi.hooks {
		for _, h := range hooks {
			config.Hooks[name] = append(config.Hooks[name], command(h))
		}
	}
	bundle := bundleOf(l.RunDir)
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.MkdirAll(bundle, 0o711) // some hooks are the machine's root
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644)
	}
	config.Labels = slices.DeleteFunc(config.Labels, func(l string) bool { return strings.HasPrefix(l, "bundle=") })
	config.Labels = append(config.Labels, "bundle="+bundle, annotationName+"="+l.Instance.Spec.Name)
	return err
}

// hookNamed says which hook it is that libcontainer knows by its number.
func (in *injection) hookNamed(err error) error {
	_, rest, found := strings.Cut(err.Error(), "error running ")
	name, rest, _ := strings.Cut(rest, " hook #")
	number, rest, _ := strings.Cut(rest, ": ")
	hooks := in.hooks[configs.HookName(name)]
	i, bad := strconv.Atoi(number)
	if !found || bad != nil || i >= len(hooks) {
		return err
	}
	return &shortened{fmt.Sprintf("%s hook %s: %s", name, strings.Join(hooks[i].Args, " "), strings.TrimSpace(rest)), err}
}

// poststop runs the hooks of a machine's end. One that fails keeps the others from nothing.
func (e *Engine) poststop(a *state.Applied) {
	if a.CDI == nil {
		return
	}
	s := &specs.State{
		Version: specs.Version, ID: containerID, Status: specs.StateStopped, Bundle: bundleOf(a.Run),
		Annotations: map[string]string{annotationName: a.Spec.Name},
	}
	for _, h := range a.CDI.Poststop {
		if err := command(h).Run(s); err != nil && e.Log != nil {
			e.Log(fmt.Sprintf("%s: poststop hook %s: %v", a.Spec.Name, strings.Join(h.Args, " "), err))
		}
	}
}

// groups are those of an account, and with them those that the machine's devices are open to.
func (a *account) groups(c *state.CDI) []int {
	all := slices.Clone(a.Sgids)
	if c != nil {
		for _, g := range c.Groups {
			all = append(all, int(g))
		}
	}
	return all
}

// environ is what CDI files have everything in the machine find.
func environ(c *state.CDI) []string {
	if c == nil {
		return nil
	}
	return c.Env
}
