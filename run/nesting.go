package run

import (
	"path/filepath"

	"croft/idmap"
	"croft/rootfs"
	"croft/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A machine that runs machines and containers of its own has ids to give them, a place for them on a filesystem that
// carries overlays, and a /proc and a /sys that the kernel takes for whole: it lets a user namespace mount another one
// only of what that can see all of.

// idsOf is how many ids a machine of that spec gets.
func idsOf(s *state.Spec) uint32 {
	if s.Security.Nesting {
		return idmap.NestingSize
	}
	return idmap.Size
}

// nestedMount is where the place is mounted for a start, in the starter's mount namespace alone.
func nestedMount() string { return RootMount() + ".nested" }

// mountNested makes the place.
func (l *launch) mountNested() error {
	if !l.Instance.Spec.Security.Nesting {
		return nil
	}
	return rootfs.MountNested(l.Root, l.userns, l.Instance.Facts.Range, nestedMount())
}

// NestedPlaces are the directories of such a machine in which that place is.
func NestedPlaces() (all []string) {
	for _, store := range rootfs.NestedStores {
		all = append(all, filepath.Join("/var/lib", store))
	}
	return all
}

// nested are the mounts of that place.
func (p *Plan) nested() (m []specs.Mount) {
	if !p.Instance.Spec.Security.Nesting {
		return nil
	}
	for _, at := range NestedPlaces() {
		m = append(m, specs.Mount{Destination: at, Type: "bind", Source: filepath.Join(nestedMount(), filepath.Base(at)), Options: []string{"rbind", "rnodev"}})
	}
	return m
}

// whole are a /proc and a /sys that nothing lies over and that can be written to, for the kernel to see. They are where
// LXC has them: what gives a container all of /dev knows to leave that out. They come before the machine's own /sys,
// which is read-only: the first mount of one decides for all.
func (p *Plan) whole() []specs.Mount {
	spec := &p.Instance.Spec
	if !spec.Security.Nesting {
		return nil
	}
	m := []specs.Mount{{Destination: "/dev/.lxc/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}}
	if !spec.HostNetwork() && spec.NetworkNamespace() == "" { // the kernel refuses one of a network that is not the machine's
		m = append(m, specs.Mount{Destination: "/dev/.lxc/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev"}})
	}
	return m
}

// nestingDevices are what such a machine has of the host's, where the host has it: filesystems that are programs, for
// snaps and overlays of ordinary users, and tunnels, for the networks of these.
func nestingDevices(s *state.Spec) []state.Device {
	if !s.Security.Nesting {
		return nil
	}
	return []state.Device{{Class: "fuse", Optional: true}, {Class: "tun", Optional: true}}
}
