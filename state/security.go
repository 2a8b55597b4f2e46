package state

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// Security is how a machine's confinement differs from the usual one.
type Security struct {
	Privileged bool `json:"privileged,omitempty"` // without a user namespace: its root is the host's
	Nesting    bool `json:"nesting,omitempty"`    // containers run in it
	// Capabilities that its root has beside the usual ones, and those it lacks; "CAP_X", or AllCapabilities, which a name
	// in the other list is an exception from.
	CapAdd  []string `json:"cap_add,omitempty"`
	CapDrop []string `json:"cap_drop,omitempty"`
	// NoNewPrivileges: no program gives whoever executes it more than it had, sudo included; nil: where no init boots.
	NoNewPrivileges *bool  `json:"no_new_privileges,omitempty"`
	Seccomp         string `json:"seccomp,omitempty"`  // "": croft's own filter; Unconfined, or the absolute path of an OCI profile
	AppArmor        string `json:"apparmor,omitempty"` // "": a profile of its own where there is AppArmor; Unconfined; or the name of a loaded one
	// SELinux: the type of its processes' label, or all of that; "": as croft's own.
	SELinux string            `json:"selinux,omitempty"`
	IDMap   []IDMap           `json:"idmap,omitempty"`   // of its volumes
	Sysctls map[string]string `json:"sysctls,omitempty"` // of the machine's own namespaces, set before its init runs
}

// Unconfined is the word for a wall that is taken down.
const Unconfined = "unconfined"

// SeccompFile is the path of the profile that filters the machine's system calls; "" where that is croft's own, or none.
func (s *Security) SeccompFile() string {
	if s.Seccomp == Unconfined {
		return ""
	}
	return s.Seccomp
}

// AllCapabilities stands for every capability in CapAdd and CapDrop.
const AllCapabilities = "ALL"

// Capabilities are the names of the kernel's capabilities; a capability's number is its place.
var Capabilities = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
	"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// CapabilityName writes a capability as the record has it: "net_admin" is CAP_NET_ADMIN.
func CapabilityName(word string) string {
	name := strings.ToUpper(word)
	if name == AllCapabilities || strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

func (s *Spec) checkSecurity(say func(field, format string, a ...any)) {
	sec := &s.Security
	if sec.Privileged && sec.Nesting {
		say("security.privileged", "the machine has the host's ids, and so none of its own to give to machines in it (nesting)")
	}
	s.checkIDMaps(say)
	known := func(field, name string) {
		if name != AllCapabilities && !slices.Contains(Capabilities[:], name) {
			say(field, "%q is no capability", name)
		}
	}
	for _, name := range sec.CapAdd {
		known("security.cap_add", name)
		if slices.Contains(sec.CapDrop, name) {
			say("security.cap_add", "%s is dropped as well", name)
		}
	}
	for _, name := range sec.CapDrop {
		known("security.cap_drop", name)
	}
	if file := sec.SeccompFile(); file != "" && !path.IsAbs(file) || strings.ContainsAny(file, "\x00\n") {
		say("security.seccomp", "%q is neither %s nor the absolute path of a profile", file, Unconfined)
	}
	if strings.ContainsAny(sec.AppArmor, "\x00\n") {
		say("security.apparmor", "%q is no profile", sec.AppArmor)
	}
	if colons := strings.Count(sec.SELinux, ":"); strings.ContainsAny(sec.SELinux, "\x00\n \"") || colons > 0 && colons < 3 {
		say("security.selinux", "%q is neither a type nor USER:ROLE:TYPE:LEVEL", sec.SELinux)
	}
	for _, key := range slices.Sorted(maps.Keys(sec.Sysctls)) {
		switch {
		case strings.ContainsAny(key, "/\x00\n") || strings.ContainsAny(sec.Sysctls[key], "\x00\n"):
			say("security.sysctls", "%q is no sysctl", key)
		case !ownSysctl(key):
			say("security.sysctls", "%q is none that a machine has for itself", key)
		case strings.HasPrefix(key, "user.") && sec.Privileged:
			say("security.sysctls", "%s is the host's: a privileged machine has no user namespace", key)
		case strings.HasPrefix(key, "net.") && s.SharesNetwork():
			say("security.sysctls", "%s belongs to a network that is not the machine's own", key)
		}
	}
}

// ownSysctl says whether the kernel keeps the sysctl for each network, IPC or user namespace.
func ownSysctl(key string) bool {
	for _, prefix := range [...]string{"net.", "user.", "fs.mqueue."} {
		if name, found := strings.CutPrefix(key, prefix); found {
			return name != ""
		}
	}
	switch key {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return true
	}
	return false
}
