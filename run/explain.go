package run

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"croft/netsetup"
	"croft/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Explanation is what a machine amounts to on this host: the plan of its start, in words for people and programs. Its
// JSON names are a promise (docs/json.md).
type Explanation struct {
	Name         string              `json:"name"`
	Running      bool                `json:"running"`         // then it is the machine as it was started
	Unit         string              `json:"unit"`            // of systemd, that holds it; "": none does
	Properties   []string            `json:"unit_properties"` // NAME=VALUE, of a unit that croft makes
	Init         []string            `json:"init"`
	Environment  []string            `json:"environment"`
	Image        string              `json:"image"` // fingerprint
	Driver       string              `json:"driver"`
	Layers       []string            `json:"layers"`  // directories, lowest first
	Changes      string              `json:"changes"` // directory of what the machine writes
	ReadOnly     bool                `json:"read_only"`
	Ephemeral    bool                `json:"ephemeral"` // what the machine writes goes at its next start
	Files        []string            `json:"generated_files"`
	Mounts       []ExplainedMount    `json:"mounts"`
	IDs          state.Range         `json:"ids"`
	Privileged   bool                `json:"privileged"` // its root is the host's
	Namespaces   []string            `json:"namespaces"`
	Network      string              `json:"network"`
	Links        []state.Link        `json:"links"`
	Ports        []string            `json:"ports"` // as -p takes them
	Rules        []string            `json:"rules"` // what the packet filter has of it: FAMILY TABLE SET: ELEMENT
	Cgroups      []string            `json:"cgroups"`
	Limits       state.Limits        `json:"limits"`
	Capabilities []string            `json:"capabilities"`
	Refused      []string            `json:"refused_syscalls"`  // outright; of others some arguments alone may be (seccomp)
	Seccomp      *specs.LinuxSeccomp `json:"seccomp"`           // as --seccomp takes it; nil: none
	Masked       []string            `json:"masked_paths"`      // those of them that this kernel has are empty
	NoNewPrivs   bool                `json:"no_new_privileges"` // no program of it raises its rights
	Walls        []Wall              `json:"walls"`
	Sysctls      map[string]string   `json:"sysctls"` // as asked
	StopSignal   int                 `json:"stop_signal"`
	StopCommand  []string            `json:"stop_command,omitempty"`
	StopSeconds  int                 `json:"stop_seconds"`
	Removed      bool                `json:"removed_when_stopped"`
	LifeSeconds  int                 `json:"life_seconds"` // from its start to a stop; 0: it has no end
	Restart      state.Restart       `json:"restart"`
	Later        []string            `json:"at_next_start"` // settings that differ from those in force
}

// ExplainedMount is a mount that the machine finds when it starts.
type ExplainedMount struct {
	Target  string   `json:"target"`
	Type    string   `json:"type"`
	Source  string   `json:"source"`
	Options []string `json:"options"`
}

// Explain tells what in amounts to: as it was started when it runs, else as it would be.
func (e *Engine) Explain(in *state.Instance) (Explanation, error) {
	held, err := e.Dir.Claimed(in.Spec.Name)
	if err != nil {
		return Explanation{}, err
	}
	running := held && in.Applied != nil
	as := *in
	if running {
		as.Spec, as.Facts = in.Applied.Spec, in.Applied.Facts
		if as.Spec.Security.SeccompFile() != "" {
			as.Spec.Security.Seccomp = keptFilter(in.Applied.Run)
		}
	}
	layers, err := e.layers(&as)
	if err != nil {
		return Explanation{}, err
	}
	h, err := e.look(&as, layers)
	if err != nil {
		return Explanation{}, err
	}
	x := NewPlan(e.Dir, &as, layers, h, HeldByNone).explain()
	x.Rules = append(x.Rules, e.table().Describe(netsetup.Member{Name: as.Spec.Name, Links: as.Facts.Links, Ports: as.Facts.Ports})...)
	if booted() && as.Spec.Supervisor != state.SupervisorNone {
		x.Unit = e.Unit(as.Spec.Name)
	}
	if x.Running = running; running {
		x.Cgroups, x.Unit = in.Applied.Cgroups, in.Applied.Unit // in the foreground it lies elsewhere
	}
	if x.Unit == e.Unit(as.Spec.Name) {
		program, err := Program()
		if err != nil {
			return Explanation{}, err
		}
		for _, p := range e.properties(&as, program) {
			if text := propertyText(p.Value.Value()); text != "" {
				x.Properties = append(x.Properties, p.Name+"="+text)
			}
		}
	}
	// These are read when the machine stops, and not as they were when it was started.
	x.StopSeconds, x.Removed, x.Restart = int(in.Spec.Timeouts.StopAfter().Seconds()), in.Spec.Remove, in.Spec.Restart
	return x, nil
}

// propertyText writes a property's value about as a unit file has it.
func propertyText(value any) string {
	switch v := value.(type) {
	case [][]byte:
		return string(bytes.Join(v, []byte(" ")))
	case []string:
		return strings.Join(v, " ")
	case uint64:
		if v == math.MaxUint64 {
			return "infinity"
		}
	}
	return strings.Trim(fmt.Sprint(value), "[]")
}

// explain writes the plan down for people. It is pure.
func (p *Plan) explain() Explanation {
	in, oci := p.Instance, p.OCI()
	x := Explanation{
		Name: in.Spec.Name, Init: in.Facts.Init.Args, Environment: oci.Process.Env, Image: in.Facts.Fingerprint,
		Driver: in.Facts.Driver, Layers: p.Root.Layers, Changes: p.Root.Dir,
		ReadOnly: in.Spec.Root.ReadOnly, Ephemeral: in.Spec.Root.Ephemeral, LifeSeconds: in.Spec.Timeouts.Life, Restart: in.Spec.Restart,
		IDs: in.Facts.Range, Privileged: in.Spec.Security.Privileged, Network: state.NetworkNone, Cgroups: p.Cgroups, Limits: in.Spec.Limits,
		Capabilities: oci.Process.Capabilities.Bounding, Refused: []string{}, NoNewPrivs: oci.Process.NoNewPrivileges, Sysctls: map[string]string{}, Walls: p.walls(), Masked: append([]string{}, oci.Linux.MaskedPaths...), Seccomp: p.seccomp, StopSignal: in.Facts.StopSignal, StopCommand: in.Facts.StopCommand,
		StopSeconds: int(in.Spec.Timeouts.StopAfter().Seconds()), Removed: in.Spec.Remove,
		Links: append([]state.Link{}, in.Facts.Links...), Ports: []string{}, Rules: []string{},
		Files: slices.Sorted(maps.Keys(p.Files)), Namespaces: []string{}, Mounts: []ExplainedMount{}, Properties: []string{}, Later: []string{},
	}
	var networks []string
	for _, n := range in.Spec.NICs {
		networks = append(networks, n.Network)
	}
	if networks != nil {
		x.Network = strings.Join(networks, " ")
	}
	for _, port := range in.Facts.Ports {
		x.Ports = append(x.Ports, port.String())
	}
	if oci.Linux.Seccomp != nil {
		for _, rule := range oci.Linux.Seccomp.Syscalls {
			if rule.Args == nil && rule.Action != specs.ActAllow {
				x.Refused = append(x.Refused, rule.Names...)
			}
		}
	}
	maps.Copy(x.Sysctls, oci.Linux.Sysctl)
	if !in.Spec.Security.Privileged {
		x.Namespaces = append(x.Namespaces, "user")
	}
	for _, n := range oci.Linux.Namespaces {
		x.Namespaces = append(x.Namespaces, string(n.Type))
	}
	shares := p.shares()
	for _, m := range oci.Mounts {
		e := ExplainedMount{m.Destination, m.Type, m.Source, m.Options}
		if i := slices.IndexFunc(shares, func(s share) bool { return s.target == m.Destination }); i >= 0 {
			e = shares[i].explain()
		}
		x.Mounts = append(x.Mounts, e)
	}
	return x
}
