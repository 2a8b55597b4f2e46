package run

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"croft/state"
)

// Wall is one of the things that keep a machine apart, and whether it holds (docs/security.md). Its JSON names are a promise.
type Wall struct {
	Name  string `json:"name"`
	State string `json:"state"` // one of the three below
	Text  string `json:"text"`
}

// What a wall can be.
const (
	WallHolds    = "holds"
	WallLoosened = "loosened" // less than usual: it was asked for, or the host cannot do more
	WallOpen     = "open"     // there is none
)

// walls are those of the plan, all of them.
func (p *Plan) walls() (all []Wall) {
	oci, spec, sec := p.OCI(), &p.Instance.Spec, &p.Instance.Spec.Security
	say := func(name, state, text string, a ...any) {
		all = append(all, Wall{name, state, fmt.Sprintf(text, a...)})
	}
	ids := p.Instance.Facts.Range
	if sec.Privileged {
		say("privileged", WallOpen, "its root is the host's root, and can take away all that stands below but the limits")
		say("ids", WallOpen, "they are the host's")
	} else {
		say("ids", WallHolds, "0-%d are %d-%d on the host, and no other machine's", ids.Size-1, ids.Base, ids.End()-1)
	}
	switch {
	case sec.Privileged && !spec.SharesNetwork():
		say("namespaces", WallLoosened, "no user namespace")
	case spec.HostNetwork():
		say("namespaces", WallLoosened, "the network is the host's, with its abstract sockets")
	case spec.NetworkNamespace() != "":
		say("namespaces", WallLoosened, "the network is that of %s", spec.NetworkNamespace())
	default:
		say("namespaces", WallHolds, "%d of its own", 1+len(oci.Linux.Namespaces))
	}
	p.sayCapabilities(say, oci.Process.Capabilities.Bounding)
	if oci.Process.NoNewPrivileges {
		say("no new privileges", WallHolds, "no program has more than the one that executes it")
	} else {
		say("no new privileges", WallOpen, "its su and sudo work")
	}
	p.sayFilter(say)
	switch {
	case p.noAppArmor != nil:
		say("AppArmor", WallOpen, "%v", p.noAppArmor)
	case sec.AppArmor == state.Unconfined:
		say("AppArmor", WallOpen, "it was asked to do without")
	case sec.AppArmor != "" || sec.Nesting:
		say("AppArmor", WallLoosened, "%s", p.AppArmor.Label())
	default:
		say("AppArmor", WallHolds, "%s", p.AppArmor.Label())
	}
	if p.SELinux != "" {
		say("SELinux", WallHolds, "%s", p.SELinux)
	}
	if len(spec.Devices) > 0 {
		var names []string
		for _, d := range spec.Devices {
			names = append(names, d.Entry())
		}
		say("devices", WallLoosened, "%s of the host's as well", strings.Join(names, ", "))
	} else {
		say("devices", WallHolds, "null, zero, full, random, urandom, tty and terminals")
	}
	if paths := oci.Linux.MaskedPaths; len(paths) > 0 {
		say("masked paths", WallHolds, "%s", strings.Join(paths, " "))
	} else {
		say("masked paths", WallOpen, "containers run in it")
	}
	if sec.Privileged {
		say("keyrings", WallLoosened, "its users' keys are those of the host's users with these numbers")
	} else {
		say("keyrings", WallHolds, "a session keyring of its own, for each command too")
	}
	p.sayVolumes(say)
	if spec.SharesNetwork() {
		say("packets", WallOpen, "it sends what it wants")
	} else if slices.ContainsFunc(p.Instance.Facts.Links, func(l state.Link) bool { return !l.Managed }) {
		say("packets", WallLoosened, "not filtered on links that are not croft's")
	} else {
		say("packets", WallHolds, "from its own addresses alone")
	}
	limits := []string{}
	for name, unset := range map[string]bool{"memory": spec.Limits.Memory == 0, "cpus": spec.Limits.CPUs == 0 && spec.Limits.CPUSet == "", "pids": spec.Limits.MostPIDs() == state.Unlimited} {
		if unset {
			limits = append(limits, name)
		}
	}
	if slices.Sort(limits); len(limits) > 0 {
		say("limits", WallLoosened, "none of %s", strings.Join(limits, ", "))
	} else {
		say("limits", WallHolds, "of memory, cpus and pids")
	}
	return all
}

func (p *Plan) sayCapabilities(say func(name, state, text string, a ...any), granted []string) {
	usual := capabilities(&state.Security{}, p.AppArmor)
	if p.Instance.Spec.Security.Privileged {
		say("capabilities", WallLoosened, "%d of %d, on the host", len(granted), len(state.Capabilities))
		return
	}
	more := slices.DeleteFunc(slices.Clone(granted), func(c string) bool { return slices.Contains(usual, c) })
	if len(more) > 0 {
		say("capabilities", WallLoosened, "%d, %s as well", len(granted), strings.Join(more, " "))
	} else {
		say("capabilities", WallHolds, "%d of %d, in its own user namespace", len(granted), len(state.Capabilities))
	}
}

func (p *Plan) sayFilter(say func(name, state, text string, a ...any)) {
	switch {
	case p.seccomp == nil:
		say("system calls", WallOpen, "all of them")
	case p.Instance.Spec.Security.SeccompFile() != "":
		say("system calls", WallLoosened, "as %s has it", p.Instance.Spec.Security.SeccompFile())
	default:
		usual := seccompProfile(&state.Security{})
		if less := len(usual.Syscalls) - len(p.seccomp.Syscalls); less > 0 {
			say("system calls", WallLoosened, "%d rules, %d fewer than usual", len(p.seccomp.Syscalls), less)
			return
		}
		say("system calls", WallHolds, "%d rules refuse", len(p.seccomp.Syscalls))
	}
}

// sayVolumes tells of directories of the host's root that the machine can write to.
func (p *Plan) sayVolumes(say func(name, state, text string, a ...any)) {
	var open []string
	for _, m := range p.Instance.Spec.Mounts {
		if owner, ok := p.Owners[m.Source]; ok && owner.UID == 0 && !m.ReadOnly {
			open = append(open, m.Source)
		}
	}
	if len(open) > 0 {
		say("files", WallLoosened, "it writes as the host's root in %s", strings.Join(open, ", "))
		return
	}
	say("files", WallHolds, "nothing of the host's root")
}

// Walls tells which walls a machine has; of one that runs what the kernel says of its init counts.
func (e *Engine) Walls(ctx context.Context, in *state.Instance) ([]Wall, error) {
	x, err := e.Explain(in)
	if err != nil || !x.Running {
		return x.Walls, err
	}
	k, err := e.Connect(ctx, in)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.PID))
	if err != nil {
		return nil, err
	}
	label, _ := os.ReadFile(fmt.Sprintf("/proc/%d/attr/apparmor/current", k.PID)) // there is none where there is no AppArmor
	return seen(x.Walls, x.Capabilities, string(status), string(label)), nil
}

// seen opens the walls that the kernel does not know of.
func seen(all []Wall, granted []string, status, label string) []Wall {
	says := func(key string) string {
		_, rest, _ := strings.Cut(status, "\n"+key+":\t")
		value, _, _ := strings.Cut(rest, "\n")
		return value
	}
	for i := range all {
		w := &all[i]
		kernel := true
		switch {
		case w.State == WallOpen:
		case w.Name == "system calls":
			kernel = says("Seccomp") == strconv.Itoa(2) // SECCOMP_MODE_FILTER
		case w.Name == "no new privileges":
			kernel = says("NoNewPrivs") == "1"
		case w.Name == "AppArmor":
			profile, _, _ := strings.Cut(w.Text, "//&") // behind it the machine's own policy, which may have changed
			kernel = strings.HasPrefix(label, profile+"//&") || strings.HasPrefix(label, profile+" (")
		case w.Name == "capabilities":
			mask, err := strconv.ParseUint(says("CapBnd"), 16, 64)
			kernel = err == nil && mask&^capabilityMask(granted) == 0
		}
		if !kernel {
			w.State, w.Text = WallOpen, "says the kernel"
		}
	}
	return all
}
