package run

import (
	"slices"

	"croft/state"

	"golang.org/x/sys/unix"
)

// withheld are the capabilities that a machine's root lacks, in its own user namespace: they would reach things that the kernel
// does not keep apart by namespace (modules, raw I/O, the clock, the kernel's log), or are younger than what a system needs.
var withheld = [...]string{
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capabilities are those of a machine's root, in the kernel's order.
func capabilities(s *state.Security, a state.AppArmor) (names []string) {
	for _, name := range state.Capabilities {
		has := !slices.Contains(withheld[:], name) || name == "CAP_MAC_ADMIN" && a.Namespace != "" && !s.Privileged // which has its own policy
		switch {
		case slices.Contains(s.CapAdd, name):
			has = true
		case slices.Contains(s.CapDrop, name):
			has = false
		case slices.Contains(s.CapAdd, state.AllCapabilities):
			has = true
		case slices.Contains(s.CapDrop, state.AllCapabilities):
			has = false
		}
		if has {
			names = append(names, name)
		}
	}
	return names
}

// capabilityMask is such a set as bits, for a process that enters later.
func capabilityMask(names []string) (mask uint64) {
	for i, name := range state.Capabilities {
		if slices.Contains(names, name) {
			mask |= 1 << i
		}
	}
	return mask
}

// masked are the paths of /proc and /sys that anybody in a machine could read of the host and of its other machines, and that no
// system needs (docs/decisions/039). A mask forbids a new /proc in a user namespace of the machine's own, so there is
// none where containers run in it.
func (p *Plan) masked() []string {
	if p.Instance.Spec.Security.Nesting {
		return nil
	}
	paths := []string{
		"/proc/cmdline", "/proc/bootconfig", "/sys/firmware", // how the host boots, credentials for its systemd included
		"/proc/locks",              // inode numbers of files that anybody has locked
		"/proc/fs", "/proc/asound", // options and counters of the host's filesystems, what it plays
		"/sys/kernel/vmcoreinfo", // an address
	}
	if !slices.ContainsFunc(p.Nodes, func(n Node) bool { return n.Type == unix.S_IFBLK }) { // whose tools look there
		paths = append(paths, "/sys/devices/virtual/block") // the files behind loop devices, names of volumes
	}
	if p.Instance.Spec.Security.Privileged {
		paths = append(paths, maskedFromRoot()...)
	}
	return paths
}

// checkSecurity wants what a machine was asked to be confined by to be there.
func checkSecurity(s *state.Security) error {
	if err := checkFilter(s); err != nil {
		return err
	}
	return checkLabels(s)
}

// noNewPrivileges says whether no program of the machine can have more rights than the one that executes it. A whole
// system has its su and its sudo; a single program that boots nothing seldom does.
func noNewPrivileges(s *state.Spec, f *state.Facts) bool {
	if asked := s.Security.NoNewPrivileges; asked != nil {
		return *asked
	}
	return f.Init.Mode == state.InitPayload
}
