package run

import (
	"fmt"
	"math"
	"os"
	"slices"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// A privileged machine has no user namespace: its root is the host's (docs/decisions/049). Its range is all ids as they are, so
// that mounts are shifted for it as for any other, by nothing.

// allIDs are the ids of the host.
func allIDs() (state.Range, error) {
	if idmap.Nested() {
		return state.Range{}, fmt.Errorf("a privileged machine has the ids of the host, which a machine has not: %w", state.ErrUnsupported)
	}
	return state.Range{Size: math.MaxUint32}, nil
}

// sysctlDirs are the directories of /proc/sys, which each kernel has others of.
func sysctlDirs() (names []string, err error) {
	entries, err := os.ReadDir("/proc/sys")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// readOnly are what of /proc a privileged machine cannot write to by accident, where it would be the host's: another
// machine's root is nobody there. The sysctls of its network are its own.
func (p *Plan) readOnly() (paths []string) {
	if !p.Instance.Spec.Security.Privileged {
		return nil
	}
	for _, name := range p.sysctls {
		if name != "net" || p.Instance.Spec.SharesNetwork() {
			paths = append(paths, "/proc/sys/"+name)
		}
	}
	return append(paths, "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/acpi")
}

// maskedFromRoot are paths that the host's root alone can read, and a privileged machine's shall not.
func maskedFromRoot() []string {
	return []string{
		"/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/key-users", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup", "/proc/timer_list",
		"/proc/scsi", "/sys/devices/virtual/powercap",
	}
}

// bounding are the capabilities that this process can give away, as bits: some hosts' root lacks some.
func bounding() (mask uint64) {
	for n := range state.Capabilities {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err == nil && has == 1 {
			mask |= 1 << n
		}
	}
	return mask
}

// held are those of names that the host's root has itself: a new user namespace would have all of them.
func (p *Plan) held(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		return p.bounding>>slices.Index(state.Capabilities[:], name)&1 == 0
	})
}
