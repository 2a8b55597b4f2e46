package state

import (
	"strings"
	"testing"
)

func TestCheckDevices(t *testing.T) {
	spec := func(devices ...Device) error {
		s := &Spec{Name: "web", Image: "i", Mounts: []Mount{{Source: "/srv", Target: "/dev/data"}}, Devices: devices}
		return s.Check()
	}
	if err := spec(Device{Class: "tun"}, Device{Path: "/dev/snd", Optional: true}, Device{Path: "/dev/sda", Target: "/dev/x", Access: "wr", Mode: "0660"}, Device{CDI: "a.b/c=d"}); err != nil {
		t.Error(err)
	}
	for say, devices := range map[string][]Device{
		`"tap" is no class of devices`:                      {{Class: "tap"}},
		`path "dev/sda" is not absolute`:                    {{Path: "dev/sda"}},
		`path "x" is not absolute`:                          {{Path: "/dev/sda", Target: "x"}},
		"/dev/sda: access \"rr\" is none of":                {{Path: "/dev/sda", Access: "rr"}},
		"/dev/sda: access \"x\" is none of":                 {{Path: "/dev/sda", Access: "x"}},
		"/dev/sda: mode \"1777\" is none from 0 to 777":     {{Path: "/dev/sda", Mode: "1777"}},
		"/dev/sda is given twice":                           {{Path: "/dev/sda"}, {Path: "/dev/sdb", Target: "/dev/sda"}},
		"fuse is given twice":                               {{Class: "fuse"}, {Class: "fuse"}},
		"/dev/data is given twice":                          {{Path: "/dev/sda", Target: "/dev/data"}},
		"target /dev/null belongs to the machine":           {{Path: "/dev/sda", Target: "/dev/null"}},
		"target /dev/shm/x belongs to the machine":          {{Path: "/dev/sda", Target: "/dev/shm/x"}},
		"target /dev belongs to the machine":                {{Path: "/dev"}},
		"target /proc/x is in a filesystem of the machine":  {{Path: "/dev/sda", Target: "/proc/x"}},
		"tun: a path, a class and a CDI name exclude each ": {{Class: "tun", Path: "/dev/sda"}},
	} {
		if err := spec(devices...); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", say, err)
		}
	}
}
