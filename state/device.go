package state

import (
	"path"
	"strconv"
	"strings"
)

// Device gives a machine devices of the host: one of Path, Class and CDI says which.
type Device struct {
	Path     string `json:"path,omitempty"`     // of the node on the host, or of a directory of them
	Class    string `json:"class,omitempty"`    // the name of one of DeviceClasses
	CDI      string `json:"cdi,omitempty"`      // VENDOR/CLASS=NAME, of a CDI file
	Target   string `json:"target,omitempty"`   // of Path, absolute, in the machine; "": the same
	Access   string `json:"access,omitempty"`   // of r, w and m; "": all of them
	Mode     string `json:"mode,omitempty"`     // octal, of the node in the machine; "": as on the host
	UID      uint32 `json:"uid,omitempty"`      // who it belongs to, in the machine
	GID      uint32 `json:"gid,omitempty"`      //
	Optional bool   `json:"optional,omitempty"` // the machine starts without it where the host has none
}

// At is where the machine finds it; "" of what is none of one path.
func (d *Device) At() string {
	if d.Target != "" {
		return path.Clean(d.Target)
	}
	return path.Clean(d.Path)
}

// Entry is what a device is called among those of its machine.
func (d *Device) Entry() string {
	switch {
	case d.Class != "":
		return d.Class
	case d.CDI != "":
		return d.CDI
	}
	return d.At()
}

// DeviceClass is a kind of device that is asked for by its name.
type DeviceClass struct {
	Name  string
	Paths []string // of nodes, directories of nodes, or patterns; the host must have the first
	Says  string
}

// DeviceClasses are those that there are.
func DeviceClasses() []DeviceClass {
	return []DeviceClass{
		{"tun", []string{"/dev/net/tun"}, "tunnels: VPNs, user mode networks"},
		{"fuse", []string{"/dev/fuse"}, "filesystems in user space: sshfs, squashfuse, fuse-overlayfs"},
		{"kvm", []string{"/dev/kvm", "/dev/vhost-net"}, "virtual machines in the machine"},
		{"loop", []string{"/dev/loop-control", "/dev/loop[0-9]*"}, "loop devices: the host's own, whoever uses them"},
		{"dri", []string{"/dev/dri"}, "graphics cards"},
		{"snd", []string{"/dev/snd"}, "sound cards"},
		{"ppp", []string{"/dev/ppp"}, "dial-up lines, PPPoE"},
	}
}

// deviceClass finds a class by its name.
func deviceClass(name string) (DeviceClass, bool) {
	for _, c := range DeviceClasses() {
		if c.Name == name {
			return c, true
		}
	}
	return DeviceClass{}, false
}

// Wanted are the paths on the host of what a device may be, those that must be there first, with how many these are.
func (d *Device) Wanted() (paths []string, must int) {
	paths = []string{path.Clean(d.Path)}
	if c, ok := deviceClass(d.Class); ok {
		paths = c.Paths
	}
	if d.Optional {
		return paths, 0
	}
	return paths, 1
}

// checkDevices judges the devices; seen are the targets of the mounts.
func (s *Spec) checkDevices(say func(field, format string, a ...any), seen map[string]bool) {
	for i := range s.Devices {
		d := &s.Devices[i]
		d.check(say)
		entry := d.Entry()
		if seen[entry] {
			say("devices", "%s is given twice", entry)
		}
		seen[entry] = true
	}
}

func (d *Device) check(say func(field, format string, a ...any)) {
	switch {
	case d.Class != "":
		if _, ok := deviceClass(d.Class); !ok {
			say("devices", "%q is no class of devices", d.Class)
		}
	case d.CDI != "":
		d.checkCDI(say)
	default:
		d.checkPath(say)
	}
	if more := d.Path + d.Target; d.Class != "" && more+d.CDI != "" || d.CDI != "" && more != "" {
		say("devices", "%s: a path, a class and a CDI name exclude each other", d.Entry())
	}
	if strings.Trim(d.Access, "rwm") != "" || len(d.Access) > 3 || strings.Count(d.Access, "r") > 1 || strings.Count(d.Access, "w") > 1 || strings.Count(d.Access, "m") > 1 {
		say("devices", "%s: access %q is none of r, w and m", d.Entry(), d.Access)
	}
	if mode, err := strconv.ParseUint(d.Mode, 8, 32); d.Mode != "" && (err != nil || mode > 0o777) {
		say("devices", "%s: mode %q is none from 0 to 777", d.Entry(), d.Mode)
	}
}

// nodesOfOurs are in every machine's /dev.
var nodesOfOurs = [...]string{
	"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "core",
}

func (d *Device) checkPath(say func(field, format string, a ...any)) {
	at := d.At()
	for _, p := range []string{d.Path, at} {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			say("devices", "path %q is not absolute", p)
		}
	}
	for _, ours := range mountsOfOurs {
		if at == ours {
			say("devices", "target %s belongs to the machine itself", at)
		}
	}
	for _, name := range nodesOfOurs {
		if at == "/dev/"+name || below(at, "/dev/"+name) {
			say("devices", "target %s belongs to the machine itself", at)
		}
	}
	if below(at, "/proc") || below(at, "/sys") || below(at, "/run/host") {
		say("devices", "target %s is in a filesystem of the machine itself", at)
	}
}
