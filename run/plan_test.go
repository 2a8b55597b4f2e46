package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// plans are the starts whose every detail stands in testdata: what a machine sees and how it is confined changes
// with a diff there and in no other way. UPDATE=1 writes them anew.
func plans() map[string]*Plan {
	all := map[string]*Plan{}
	add := func(name, root string, hold Hold, change func(*state.Instance, *host)) {
		in, h := trixie()
		change(in, &h)
		dir := &state.Dir{Root: root, Run: DefaultRun}
		layers := []string{root + "/images/layers/a", root + "/images/layers/b"}
		all[name] = NewPlan(dir, in, layers, h, hold)
	}
	payload := func(in *state.Instance, _ *host) {
		in.Facts.Init = state.Init{Mode: state.InitPayload, Args: []string{"/bin/sh", "-c", "make"}, User: "33:33", Dir: "/srv"}
		in.Facts.Notify, in.Facts.StopSignal = false, 15
		in.Spec.Env = []string{"CI=1"}
	}
	add("boot", DefaultRoot, HeldByNone, func(*state.Instance, *host) {})
	add("payload", DefaultRoot, HeldByNone, payload)
	add("payload-foreground", DefaultRoot, HeldByCaller, payload)
	add("boot-foreground", DefaultRoot, HeldByCaller, func(*state.Instance, *host) {})
	add("host-network", DefaultRoot, HeldByNone, func(in *state.Instance, h *host) {
		in.Spec.NICs = []state.NIC{{Network: state.NetworkHost}}
		in.Spec.Hostname = "web.example.org"
	})
	add("networks", DefaultRoot, HeldByNone, func(in *state.Instance, h *host) {
		in.Spec.NICs = []state.NIC{{Network: "lan"}}
		in.Facts.Links = []state.Link{{
			Name: "eth0", Network: "lan", Kind: state.NetworkBridge, Managed: true, IP: netip.MustParsePrefix("10.9.0.2/24"), Gateway: netip.MustParseAddr("10.9.0.1"),
		}}
		h.resolv.text = "nameserver 127.0.0.53\nsearch example.org\n"
	})
	add("volumes", DefaultRoot, HeldByNone, func(in *state.Instance, h *host) {
		in.Spec.Mounts = []state.Mount{{Source: "/srv", Target: "/srv"}, {Source: "/home/joe/src", Target: "/src/", ReadOnly: true}}
		h.owners = map[string]Owner{"/srv": {UID: 0, GID: 0}, "/home/joe/src": {UID: 1000, GID: 1001, Nested: true}}
	})
	add("memory", DefaultRoot, HeldByNone, func(in *state.Instance, h *host) {
		in.Spec.Root = state.Root{ReadOnly: true}
		in.Spec.Tmpfs = []state.Tmpfs{{Target: "/src/out", Size: 1 << 20, Mode: "700"}, {Target: "/tmp", Mode: "755"}}
		in.Spec.Mounts = []state.Mount{{Source: "/home/joe/src", Target: "/src"}, {Source: "/srv", Target: "/tmp/x"}}
		h.lxcfs = []string{"/proc/meminfo", "/sys/devices/system/cpu/online"}
	})
	add("devices", DefaultRoot, HeldByNone, func(in *state.Instance, h *host) {
		in.Spec.Mounts = []state.Mount{{Source: "/srv", Target: "/srv"}}
		h.nodes = []Node{
			{Path: "/dev/net/tun", Target: "/dev/net/tun", Type: unix.S_IFCHR, Device: unix.Mkdev(10, 200), Mode: 0o666, Access: "rwm"},
			{Path: "/dev/sdb", Target: "/dev/disk", Type: unix.S_IFBLK, Device: unix.Mkdev(8, 16), Mode: 0o640, UID: 1000, GID: 6, Access: "r"},
		}
	})
	add("payload-read-only", DefaultRoot, HeldByNone, func(in *state.Instance, h *host) {
		payload(in, h)
		in.Spec.Root = state.Root{ReadOnly: true}
	})
	add("security", DefaultRoot, HeldByNone, func(in *state.Instance, _ *host) {
		in.Spec.Security = state.Security{
			CapAdd: []string{"CAP_SYSLOG"}, CapDrop: []string{"CAP_NET_RAW", "CAP_SYS_BOOT"}, Seccomp: state.Unconfined,
			Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
		}
	})
	add("apparmor", DefaultRoot, HeldByNone, func(_ *state.Instance, h *host) { h.noAppArmor = nil })
	add("apparmor-other-root", "/srv/croft", HeldByNone, func(_ *state.Instance, h *host) { h.noAppArmor = nil })
	add("labels", DefaultRoot, HeldByNone, func(in *state.Instance, h *host) {
		h.noAppArmor = nil
		in.Spec.Security.AppArmor, in.Spec.Security.SELinux = "lxc-container-default", "container_t"
	})
	add("nesting", DefaultRoot, HeldByNone, func(in *state.Instance, _ *host) {
		in.Spec.Security.Nesting, in.Facts.Range.Size = true, 1<<20
	})
	add("privileged", DefaultRoot, HeldByNone, func(in *state.Instance, h *host) {
		in.Spec.Security.Privileged, in.Facts.Range = true, state.Range{Size: math.MaxUint32}
		h.sysctls, h.bounding = []string{"fs", "kernel", "net"}, 1<<unix.CAP_CHOWN|1<<unix.CAP_SYS_TIME|1<<unix.CAP_SYS_ADMIN
	})
	divided := func(in *state.Instance, h *host) {
		h.cgroups, h.hybrid, h.unit = []string{"/sys/fs/cgroup"}, false, "web.service"
		h.own = []string{"/sys/fs/cgroup/system.slice/web.service"}
		h.divided = h.own[0]
	}
	add("unit", DefaultRoot, HeldByUnit, divided)
	add("unit-subgroup", DefaultRoot, HeldByUnit, func(in *state.Instance, h *host) {
		divided(in, h)
		h.own = []string{h.divided + "/supervisor"}
	})
	add("job", DefaultRoot, HeldByJob, divided)
	add("unit-undivided", DefaultRoot, HeldByCaller, func(in *state.Instance, h *host) {
		divided(in, h)
		h.divided = ""
	})
	add("other-root", "/srv/croft", HeldByNone, func(*state.Instance, *host) {})
	return all
}

// trixie is a Debian as decided and the host that it starts on.
func trixie() (*state.Instance, host) {
	in := &state.Instance{
		Schema: 1, UUID: "0123456789ab4def8123456789abcdef", Created: time.Unix(1e9, 0).UTC(),
		Spec: state.Spec{Name: "web", Image: "debian/13"},
		Facts: state.Facts{
			Fingerprint: "f00", Layers: []string{"a", "b"}, Driver: "overlay", Range: state.Range{Base: 524288, Size: 65536},
			Init: state.Init{Mode: state.InitBoot, Args: []string{"/sbin/init"}}, StopSignal: 38, Notify: true,
		},
	}
	return in, host{
		resolv: resolv{text: "nameserver 192.0.2.1\n"}, cgroups: []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"},
		noAppArmor: state.ErrUnsupported,
		own:        []string{"/sys/fs/cgroup/unified/job", "/sys/fs/cgroup/memory/other/job"}, hybrid: true,
	}
}

func TestPlans(t *testing.T) {
	for name, p := range plans() {
		p.Instance.Created = time.Unix(0, 0).UTC()
		golden(t, name+".plan", struct {
			*Plan
			Environment       []string
			RootMount, Socket string
		}{p, p.Environment(), RootMount(), p.Socket()})
		spec := p.OCI()
		if spec.Linux.Seccomp != nil {
			spec.Linux.Seccomp.Architectures = nil // of the machine that tests
		}
		golden(t, name+".oci", spec)
	}
}

// golden compares what v looks like with testdata.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE") == "1" {
		put(t, path, string(got)+"\n")
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	} else if !bytes.Equal(append(got, '\n'), want) {
		t.Errorf("%s (UPDATE=1 accepts it):\n%s", path, firstDifference(string(want), string(got)+"\n"))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range g {
		if i >= len(w) || w[i] != g[i] {
			return fmt.Sprintf("line %d was\n%s\nand is\n%s", i+1, strings.Join(w[min(i, len(w)):min(i+3, len(w))], "\n"), strings.Join(g[i:min(i+3, len(g))], "\n"))
		}
	}
	return "the end is missing"
}

// Planning twice gives the same, and changes nothing of what it was given.
func TestPlanIsPure(t *testing.T) {
	in, h := trixie()
	before, _ := json.Marshal(in)
	dir := &state.Dir{Root: "/no/such", Run: "/no/run"}
	first, _ := json.Marshal(NewPlan(dir, in, nil, h, HeldByNone).OCI())
	second, _ := json.Marshal(NewPlan(dir, in, nil, h, HeldByNone).OCI())
	after, _ := json.Marshal(in)
	if !bytes.Equal(first, second) || !bytes.Equal(before, after) {
		t.Error("it is not")
	}
}

// What must hold of every machine, whatever else the goldens say.
func TestConfinement(t *testing.T) {
	for name, p := range plans() {
		spec := p.OCI()
		for _, c := range spec.Process.Capabilities.Bounding {
			if contains(p.Instance.Spec.Security.CapAdd, c) || c == "CAP_MAC_ADMIN" && p.AppArmor.Namespace != "" {
				continue
			}
			switch c {
			case "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_SYSLOG", "CAP_MAC_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_WAKE_ALARM":
				t.Errorf("%s: has %s", name, c)
			}
		}
		if len(spec.Process.Capabilities.Inheritable)+len(spec.Process.Capabilities.Ambient) > 0 {
			t.Errorf("%s: capabilities pass on to other users' programs", name)
		}
		for _, m := range spec.Mounts {
			// What is bound with all below it is confined with all below it, or was before.
			staged := strings.HasPrefix(m.Source, stageDir()) || strings.HasPrefix(m.Source, nestedMount())
			if contains(m.Options, "rbind") && !staged && !contains(m.Options, "rnosuid", "rnodev") {
				t.Errorf("%s: %s has only %v", name, m.Destination, m.Options)
			}
			if m.Destination == "/sys" && !contains(m.Options, "ro") && !contains(m.Options, "rro") {
				t.Errorf("%s: /sys is %v", name, m.Options)
			}
		}
		for _, s := range p.shares() {
			b, v := s.bind(), s.volume
			if b.Attr&unix.MOUNT_ATTR_NOSUID == 0 || b.Attr&unix.MOUNT_ATTR_NODEV == 0 || v.ReadOnly != (b.Attr&unix.MOUNT_ATTR_RDONLY != 0) || b.Propagation != unix.MS_PRIVATE && !v.Slave {
				t.Errorf("%s: %s is %+v", name, v.Target, b)
			}
		}
	}
}

func contains(all []string, wanted ...string) bool {
	for _, w := range wanted {
		if !strings.Contains(","+strings.Join(all, ",")+",", ","+w+",") {
			return false
		}
	}
	return true
}

func TestCapabilities(t *testing.T) {
	usual := capabilities(&state.Security{}, state.AppArmor{})
	if len(usual)+len(withheld) != len(state.Capabilities) {
		t.Errorf("%d are granted and %d withheld of %d", len(usual), len(withheld), len(state.Capabilities))
	}
	for _, c := range []struct {
		add, drop []string
		want      uint64
	}{
		{nil, []string{"ALL"}, 0},
		{[]string{"CAP_CHOWN", "CAP_SYSLOG"}, []string{"ALL"}, 1<<unix.CAP_CHOWN | 1<<unix.CAP_SYSLOG},
		{[]string{"ALL"}, []string{"CAP_CHOWN"}, 1<<(unix.CAP_LAST_CAP+1) - 1 - 1<<unix.CAP_CHOWN},
		{[]string{"CAP_BPF"}, []string{"CAP_MKNOD"}, (capabilityMask(usual) | 1<<unix.CAP_BPF) &^ (1 << unix.CAP_MKNOD)},
	} {
		if got := capabilityMask(capabilities(&state.Security{CapAdd: c.add, CapDrop: c.drop}, state.AppArmor{})); got != c.want {
			t.Errorf("with %v without %v: %x, want %x", c.add, c.drop, got, c.want)
		}
	}
}

func TestTag(t *testing.T) {
	if got := tag(DefaultRoot); got != "" {
		t.Errorf("the usual root has the tag %q", got)
	}
	seen := map[string]string{}
	for _, root := range []string{"/", "/srv/croft", "/srv/croft2", "/var/lib/croft/", "/var/lib/Croft", ""} {
		got := tag(root)
		if len(got) != 7 || got[0] != '-' || strings.Trim(got[1:], "0123456789abcdefghijklmnopqrstuv") != "" {
			t.Errorf("tag(%q) = %q", root, got)
		}
		if seen[got] != "" {
			t.Errorf("%q and %q have the same tag", root, seen[got])
		}
		seen[got] = root
	}
}

func TestUUIDOf(t *testing.T) {
	if got := uuidOf("0123456789ab4def8123456789abcdef"); got != "01234567-89ab-4def-8123-456789abcdef" {
		t.Error(got)
	}
	if got := uuidOf("short"); got != "short" {
		t.Error(got)
	}
}
