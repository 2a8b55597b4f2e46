package run

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"croft/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// OCI writes the plan as an OCI runtime spec: what the machine sees, and all of its confinement. The user
// namespace is missing in it, since it is made before and joined (container.go). It is pure.
func (p *Plan) OCI() *specs.Spec {
	in := p.Instance
	granted := capabilities(&in.Spec.Security, p.AppArmor)
	if in.Spec.Security.Privileged {
		granted = p.held(granted)
	}
	var oom *int // as its starter has it
	if p.Hold == HeldByUnit {
		oom = new(int) // and not as the keeper
	}
	return &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: RootMount()},
		Hostname: in.Spec.Host(),
		Mounts:   p.mounts(),
		Process: &specs.Process{
			Terminal:        !p.Stdio,
			Args:            in.Facts.Init.Args,
			Env:             p.Environment(),
			Cwd:             "/",
			Capabilities:    &specs.LinuxCapabilities{Bounding: granted, Effective: granted, Permitted: granted},
			NoNewPrivileges: noNewPrivileges(&in.Spec, &in.Facts),
			ApparmorProfile: p.AppArmor.Label(),
			SelinuxLabel:    p.SELinux,
			OOMScoreAdj:     oom,
		},
		Linux: &specs.Linux{
			CgroupsPath: p.Cgroup,
			MountLabel:  mountLabel(p.SELinux),
			Namespaces:  namespaces(&in.Spec),
			Resources:   &specs.LinuxResources{Devices: deviceRules(p.Nodes)},
			Seccomp:     p.seccomp,
			Sysctl:      in.Spec.Security.Sysctls,
			MaskedPaths: p.masked(), ReadonlyPaths: p.readOnly(),
			// All of it shared, as a booting systemd would make it: its sandboxed services, the credentials of its
			// services and machinectl bind rely on it.
			RootfsPropagation: "rshared",
		},
	}
}

func namespaces(s *state.Spec) []specs.LinuxNamespace {
	kinds := []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.CgroupNamespace,
	}
	var all []specs.LinuxNamespace
	for _, k := range kinds {
		all = append(all, specs.LinuxNamespace{Type: k})
	}
	if !s.HostNetwork() {
		all = append(all, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: s.NetworkNamespace()})
	}
	return all
}

func (p *Plan) mounts() []specs.Mount {
	m := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "mode=1777"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	m = append(append(m, p.whole()...), p.sys(),
		// The v2 tree on every host: on a hybrid one it has no controllers, but a systemd needs no more than it.
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup2", Source: "cgroup2", Options: []string{"nosuid", "noexec", "nodev", "relatime"}})
	m = append(m, p.seen()...)
	if p.AppArmor.Namespace != "" {
		// The kernel mounts it in no user namespace; what is in it shows each its own policy.
		m = append(m, specs.Mount{Destination: securityFS, Type: "bind", Source: securityFS, Options: []string{"bind", "nosuid", "noexec", "nodev"}})
	}
	if p.Boot {
		m = append(m,
			specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755"}},
			specs.Mount{Destination: "/run/host", Type: "bind", Source: p.HostFiles(), Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
	}
	return append(m, p.asked()...)
}

// asked are the mounts that the machine's spec and its unit want, those that a read-only root needs, and the directory of its
// hosts file, parents before what lies in them.
func (p *Plan) asked() []specs.Mount {
	m := append(p.nested(), p.given()...) // a volume in the place of one of those is meant
	for _, t := range p.Instance.Spec.Tmpfs {
		m = append(m, tmpfs(t))
	}
	if p.Instance.Spec.Root.ReadOnly {
		for _, t := range p.writable() {
			if !slices.ContainsFunc(m, func(other specs.Mount) bool { return other.Destination == t.Target }) {
				m = append(m, tmpfs(t))
			}
		}
	}
	m = append(m, specs.Mount{Destination: guestNet, Type: "bind", Source: netMount(), Options: []string{"bind", "nosuid", "nodev", "noexec"}})
	if p.hasCredentials() {
		m = append(m, specs.Mount{Destination: guestCredentials, Type: "bind", Source: p.credentialsMount(), Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
	}
	slices.SortStableFunc(m, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return m
}

// writable are the directories that programs need to write to while they run. An init has its /run anyway.
func (p *Plan) writable() []state.Tmpfs {
	all := []state.Tmpfs{{Target: "/tmp"}, {Target: "/var/tmp"}}
	if !p.Boot {
		all = append(all, state.Tmpfs{Target: "/run", Mode: "755"})
	}
	if p.Notify { // systemd: its logind does not start where it cannot make its directory
		all = append(all, state.Tmpfs{Target: "/var/lib/systemd", Mode: "755"})
	}
	return all
}

func tmpfs(t state.Tmpfs) specs.Mount {
	mode := t.Mode
	if mode == "" {
		mode = "1777"
	}
	m := specs.Mount{Destination: filepath.Clean(t.Target), Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=" + mode}}
	if t.Size > 0 {
		m.Options = append(m.Options, "size="+strconv.FormatInt(t.Size, 10))
	}
	return m
}

// sys is read-only: that is how udev and systemd know that the hardware is not theirs. A network namespace of somebody
// else's does not belong to the guest's user namespace, so the kernel refuses a new sysfs of it: bind one.
func (p *Plan) sys() specs.Mount {
	m := specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "rnosuid", "rnoexec", "rnodev", "rro"}}
	switch {
	case p.Instance.Spec.NetworkNamespace() != "":
		m.Source = sysMount()
	case !p.Instance.Spec.HostNetwork():
		m = specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
	}
	return m
}
