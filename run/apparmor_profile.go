package run

import (
	"fmt"
	"slices"
	"strings"
)

// appArmorProfile is the AppArmor profile of a machine, as apparmor_parser reads it. The machine's user namespace is what
// keeps it from the host; this is a second wall behind that one, and the first in front of what the kernel does not keep
// apart by namespace. It goes by path and name: a root that mounts another /proc elsewhere walks around the rules about files.
//
// A machine is a whole system, so all is allowed, and then some of it denied.
func appArmorProfile(name string, nesting, newParser bool) string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, "  "+format+",\n", a...) }
	fmt.Fprintf(&b, "profile %q flags=(attach_disconnected,mediate_deleted) {\n", name)
	for _, all := range [...]string{"capability", "network", "file", "mount", "remount", "umount", "pivot_root", "dbus", "unix"} {
		line("%s", all)
	}
	if newParser { // 4.0 and later; what an older one does not know of, its kernel policy leaves alone
		for _, all := range [...]string{"userns", "mqueue", "io_uring"} {
			line("%s", all)
		}
	}
	// The host may do what it likes to a machine, a machine nothing to the host. All machines are one here: which process
	// of another one it could name, its pid namespace decides.
	line("signal (receive)")
	line("signal (send) peer=%s*", profilePrefix)
	line("ptrace (readby, tracedby)")
	line("ptrace (read, trace) peer=%s*", profilePrefix)
	if !nesting {
		for _, denied := range appArmorDenied() {
			line("deny %s", denied)
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// appArmorDenied is what a machine may not do that runs no containers. Those see /proc and /sys below other names, and have
// been denied what is theirs by rules such as these; and their virtual machines talk over vsock.
func appArmorDenied() []string {
	all := []string{
		// Addresses of these reach the hypervisor, a modem, a reader of cards: whatever network namespace they are asked in.
		"network vsock", "network qipcrtr", "network nfc",
		"/proc/kcore rwlk", "/proc/sysrq-trigger rwlk", "/proc/acpi/** rwlk", "/proc/bus/** wl",
		"/sys/kernel/debug/** rwlk", "/sys/kernel/tracing/** rwlk", "/sys/kernel/config/** rwlk", "/sys/firmware/efi/efivars/** rwlk",
	}
	for _, path := range slices.Concat(
		// What the kernel has for each namespace, or asks the owner of one for.
		allBut("/proc/sys", "net", "user", "fs/binfmt_misc", "fs/mqueue", "kernel/shm*", "kernel/sem*", "kernel/msg*", "kernel/hostname", "kernel/domainname"),
		allBut("/sys", "class/net", "devices/virtual/net", "fs/cgroup", "fs/bpf", "kernel/security/apparmor"),
	) {
		all = append(all, path+" wl")
	}
	return all
}

// allBut are patterns of AppArmor for everything below dir that is neither one of keep, nor below nor above one. A name at
// the end of keep may end in *.
func allBut(dir string, keep ...string) []string {
	below := map[string][]string{} // first name -> what is kept below it; nothing: all
	for _, path := range keep {
		first, rest, more := strings.Cut(path, "/")
		below[first] = slices.Clip(below[first])
		if more {
			below[first] = append(below[first], rest)
		}
	}
	var names []string
	for name := range below {
		names = append(names, name)
	}
	slices.Sort(names)
	all := otherNames(dir+"/", "", names)
	for _, name := range names {
		if rest := below[name]; len(rest) > 0 {
			all = append(all, allBut(dir+"/"+name, rest...)...)
		}
	}
	return all
}

// otherNames are patterns for the names in a directory that begin with start and are none of names, which do so too; and
// for all below. There is no other way to say "not" in AppArmor.
func otherNames(dir, start string, names []string) []string {
	next := map[byte][]string{}
	ends := false // start itself is one of them
	for _, name := range names {
		rest := name[len(start):]
		switch {
		case rest == "*":
			return nil
		case rest == "":
			ends = true
		default:
			next[rest[0]] = append(next[rest[0]], name)
		}
	}
	var letters []byte
	for letter := range next {
		letters = append(letters, letter)
	}
	slices.Sort(letters)
	other := "[^/" + string(letters) + "]*"
	if start != "" && !ends {
		other = "{," + other + "}"
	}
	all := []string{dir + start + other + "{,/**}"}
	for _, letter := range letters {
		all = append(all, otherNames(dir, start+string(letter), next[letter])...)
	}
	return all
}
