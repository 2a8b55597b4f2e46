package state

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestCheckName(t *testing.T) {
	good := []string{"a", "web", "Web-1", "1a", "a1", "0-0a", strings.Repeat("a", 63)}
	bad := []string{
		"", "1", "123", "-a", "a-", "-", "a.b", "a_b", "a b", "a/b", "..", ".", ".new-x", "a\n", "a\x00", "ä",
		"\xff", "a:b", strings.Repeat("a", 64),
	}
	for _, name := range good {
		if err := CheckName(name); err != nil {
			t.Errorf("%q is refused: %v", name, err)
		}
	}
	for _, name := range bad {
		if err := CheckName(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", name, err)
		}
	}
}

// right is a spec with every field in use and nothing wrong with it.
func right() Spec {
	return Spec{
		Name: "web", Image: "debian/13", Hostname: "web.example.org",
		Init: Init{Mode: InitPayload, Args: []string{"/bin/true"}, User: "www-data:33", Dir: "/srv"},
		Env:  []string{"A=1", "B=", "C=x=y"},
		Root: Root{Driver: "overlay"}, NICs: []NIC{{Network: NetworkHost}},
		Mounts:   []Mount{{Source: "/srv", Target: "/data", ReadOnly: true}, {Source: "/srv", Target: "/run/x"}},
		Tmpfs:    []Tmpfs{{"/tmp", 1 << 20, "1777"}, {"/dev/shm", 0, ""}},
		Labels:   map[string]string{"team": "a b", "org.example/x": ""},
		Restart:  Restart{RestartOnFailure, 3},
		Timeouts: Timeouts{1, 2, 3},
		Limits:   Limits{Memory: 1 << 30, CPUs: 1.5, CPUSet: "0-1,3", CPUWeight: 10000, PIDs: 100, IOMax: []IOMax{{"/dev/vda", 1, 2, 3, 4}, {"/srv", 0, 1, 0, 0}}, IOWeight: 1},
		Security: Security{
			Nesting: true, CapAdd: []string{"CAP_SYSLOG", "ALL"}, CapDrop: []string{"CAP_SYS_BOOT"}, NoNewPrivileges: new(bool), Seccomp: Unconfined, AppArmor: "mine", SELinux: "u:r:t:s0",
			Sysctls: map[string]string{"kernel.shmmax": "1", "user.max_user_namespaces": "0", "fs.mqueue.msg_max": "9"},
		},
	}
}

func TestSpecCheckAccepts(t *testing.T) {
	full := right()
	for _, s := range []*Spec{&full, {Name: "a", Image: "b"}, {Name: "a", Image: "b", Init: Init{Args: []string{"x"}}}} {
		if err := s.Check(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// Each row breaks one thing: the complaint must name that field, and be the only one.
func TestSpecCheckNamesTheField(t *testing.T) {
	for _, c := range []struct {
		field  string
		damage func(*Spec)
	}{
		{"name", func(s *Spec) { s.Name = "-" }},
		{"image", func(s *Spec) { s.Image = "" }},
		{"hostname", func(s *Spec) { s.Hostname = "a..b" }},
		{"hostname", func(s *Spec) { s.Hostname = "a\nb" }},
		{"hostname", func(s *Spec) { s.Hostname = strings.Repeat("a.", 32) + "b" }},
		{"init.mode", func(s *Spec) { s.Init.Mode = "x" }},
		{"init.args", func(s *Spec) { s.Init.Mode = InitBoot }},
		{"init.args", func(s *Spec) { s.Init.Args = []string{"a\x00b"} }},
		{"init.dir", func(s *Spec) { s.Init.Dir = "srv" }},
		{"security.cap_add", func(s *Spec) { s.Security.CapAdd = []string{"CAP_FLY"} }},
		{"security.idmap", func(s *Spec) { s.Security.IDMap = []IDMap{{"root", 1, 1, 1}} }},
		{"security.idmap", func(s *Spec) { s.Security.IDMap = []IDMap{{"both", 1, 1, 0}} }},
		{"security.idmap", func(s *Spec) { s.Security.IDMap = []IDMap{{"both", 1<<32 - 5, 1, 6}} }},
		{"security.idmap", func(s *Spec) { s.Security.IDMap = []IDMap{{"uid", 1, 5, 1}, {"gid", 2, 5, 1}, {"both", 3, 5, 1}} }},
		{"security.idmap", func(s *Spec) { s.Security.IDMap = make([]IDMap, MaxIDMaps+1) }},
		{"security.cap_add", func(s *Spec) { s.Security.CapAdd = []string{"CAP_SYS_BOOT"} }},
		{"security.cap_drop", func(s *Spec) { s.Security.CapDrop = []string{"chown"} }},
		{"security.privileged", func(s *Spec) { s.Security.Privileged, s.Security.Sysctls = true, nil }}, // and nesting
		{"security.sysctls", func(s *Spec) { s.Security.Privileged, s.Security.Nesting = true, false }},  // of its own user namespace
		{"security.seccomp", func(s *Spec) { s.Security.Seccomp = "no" }},
		{"security.apparmor", func(s *Spec) { s.Security.AppArmor = "a\n" }},
		{"security.selinux", func(s *Spec) { s.Security.SELinux = "container t" }},
		{"security.selinux", func(s *Spec) { s.Security.SELinux = "system_u:system_r:container_t" }},
		{"security.sysctls", func(s *Spec) { s.Security.Sysctls = map[string]string{"kernel.panic": "1"} }},
		{"security.sysctls", func(s *Spec) { s.Security.Sysctls = map[string]string{"net": "1"} }},
		{"security.sysctls", func(s *Spec) { s.Security.Sysctls = map[string]string{"net.": "1"} }},
		{"security.sysctls", func(s *Spec) { s.Security.Sysctls = map[string]string{"net./../kernel/panic": "1"} }},
		{"security.sysctls", func(s *Spec) { s.Security.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"} }}, // of the host's network
		{"security.sysctls", func(s *Spec) { s.Security.Sysctls = map[string]string{"kernel.sem": "1\n"} }},
		{"env", func(s *Spec) { s.Env = []string{"A"} }},
		{"env", func(s *Spec) { s.Env = []string{"=1"} }},
		{"env", func(s *Spec) { s.Env = []string{"A=\x00"} }},
		{"root.driver", func(s *Spec) { s.Root.Driver = "btrfs" }},
		{"network", func(s *Spec) { s.NICs = []NIC{{Network: "croft 0"}} }},
		{"network", func(s *Spec) { s.NICs = []NIC{{Network: NetworkNone}, {Network: NetworkHost}} }},
		{"add-host", func(s *Spec) { s.AddHosts = []HostName{{"db", "gateway"}} }},
		{"add-host", func(s *Spec) { s.NICs, s.AddHosts = nil, []HostName{{"host", HostGateway}} }},
		{"add-host", func(s *Spec) {
			s.NICs, s.AddHosts = []NIC{{Network: "macvlan:eth0"}}, []HostName{{"host", HostGateway}}
		}},
		{"publish", func(s *Spec) { s.NICs, s.Ports = nil, []Port{{Proto: TCP, Host: 80, Guest: 80}} }},
		{"mounts", func(s *Spec) { s.Mounts[0].Source = "srv" }},
		{"mounts", func(s *Spec) { s.Mounts[0].Target = "data" }},
		{"mounts", func(s *Spec) { s.Mounts[0].Target = "/" }},
		{"mounts", func(s *Spec) { s.Mounts[0].Target = "/x/../dev/" }},
		{"mounts", func(s *Spec) { s.Mounts[0].Target = "/run/./x" }}, // the other one's
		{"mounts", func(s *Spec) { s.Mounts[0].Target = "/data\x00" }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Target = "tmp" }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Target = "/run/" }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Target = "/run/x" }}, // a volume's
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Target = "/dev/./shm" }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Target = "/proc/sys" }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Target = "/sys/fs/cgroup" }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Target = "/run/host/x" }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Size = -1 }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Mode = "8" }},
		{"tmpfs", func(s *Spec) { s.Tmpfs[0].Mode = "4755" }},
		{"restart", func(s *Spec) { s.Restart.Policy = "sometimes" }},
		{"restart", func(s *Spec) { s.Restart.Limit = -1 }},
		{"restart", func(s *Spec) { s.Remove = true }},
		{"limits.memory", func(s *Spec) { s.Limits.Memory = -1 }},
		{"limits.memory", func(s *Spec) { s.Limits.Memory = LeastMemory - 1 }},
		{"limits.cpus", func(s *Spec) { s.Limits.CPUs = 0.001 }},
		{"limits.cpus", func(s *Spec) { s.Limits.CPUs = math.NaN() }},
		{"limits.cpus", func(s *Spec) { s.Limits.CPUs = 1e9 }},
		{"limits.cpu_set", func(s *Spec) { s.Limits.CPUSet = "3-1" }},
		{"limits.cpu_set", func(s *Spec) { s.Limits.CPUSet = "0,,1" }},
		{"limits.cpu_set", func(s *Spec) { s.Limits.CPUSet = "0-99999" }},
		{"limits.cpu_set", func(s *Spec) { s.Limits.CPUSet = "0\n" }},
		{"limits.cpu_weight", func(s *Spec) { s.Limits.CPUWeight = 10001 }},
		{"limits.io_weight", func(s *Spec) { s.Limits.IOWeight = -1 }},
		{"limits.pids", func(s *Spec) { s.Limits.PIDs = -2 }},
		{"limits.pids", func(s *Spec) { s.Limits.PIDs = 1 << 23 }},
		{"limits.io_max", func(s *Spec) { s.Limits.IOMax[0].Device = "vda" }},
		{"limits.io_max", func(s *Spec) { s.Limits.IOMax[0].Device = "/srv/" }}, // the other one's
		{"limits.io_max", func(s *Spec) { s.Limits.IOMax[0].ReadOps = -1 }},
		{"limits.io_max", func(s *Spec) { s.Limits.IOMax[0] = IOMax{Device: "/dev/vda"} }},
		{"labels", func(s *Spec) { s.Labels["a=b"] = "" }},
		{"labels", func(s *Spec) { s.Labels[""] = "" }},
		{"labels", func(s *Spec) { s.Labels["a b"] = "" }},
		{"timeouts", func(s *Spec) { s.Timeouts.Stop = -1 }},
		{"timeouts", func(s *Spec) { s.Timeouts.Ready = -1 }},
		{"timeouts", func(s *Spec) { s.Timeouts.Life = -1 }},
		{"timeouts", func(s *Spec) { s.Timeouts.Stop = 1 << 31 }},
		{"timeouts", func(s *Spec) { s.Timeouts.Ready = 1 << 31 }},
		{"timeouts", func(s *Spec) { s.Timeouts.Life = 1 << 31 }},
	} {
		s := right()
		c.damage(&s)
		err := s.Check()
		var v Violations
		if !errors.As(err, &v) || !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want a violation", c.field, err)
			continue
		}
		if len(v) != 1 || !strings.HasPrefix(v[0], c.field+" ") && !strings.HasPrefix(v[0], c.field+":") {
			t.Errorf("%s: complaints are %q", c.field, []string(v))
		}
	}
}

func TestSpecCheckTellsAllAtOnce(t *testing.T) {
	s := Spec{
		Name: "1", Hostname: "-", Init: Init{Mode: "x", Dir: "x"}, Env: []string{"x"}, Root: Root{Driver: "x"}, NICs: []NIC{{Network: "1"}},
		Mounts: []Mount{{Source: "x", Target: "x"}}, Labels: map[string]string{"": ""}, Timeouts: Timeouts{Stop: -1},
		Tmpfs: []Tmpfs{{Target: "x"}}, Restart: Restart{Policy: "x"}, Limits: Limits{Memory: -1, CPUs: -1, CPUSet: "x", CPUWeight: -1, PIDs: -2, IOMax: []IOMax{{}}, IOWeight: -1},
	}
	err := s.Check()
	for _, field := range []string{
		"name ", "image:", "hostname:", "init.mode:", "init.dir:", "env:", "root.driver:", "network:", "mounts: source", "mounts: target",
		"labels:", "timeouts:", "tmpfs:", "restart:",
		"limits.memory:", "limits.cpus:", "limits.cpu_set:", "limits.cpu_weight:", "limits.pids:", "limits.io_max:", "limits.io_weight:",
	} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("nothing about %q in: %v", field, err)
		}
	}
}

func TestTimeouts(t *testing.T) {
	none, some := Timeouts{}, Timeouts{Stop: 3, Ready: 4}
	got := []time.Duration{none.StopAfter(), none.ReadyAfter(), some.StopAfter(), some.ReadyAfter()}
	if want := []time.Duration{DefaultStop, DefaultReady, 3 * time.Second, 4 * time.Second}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestRestartAfter(t *testing.T) {
	for _, c := range []struct {
		policy string
		code   int
		want   bool
	}{
		{RestartNo, 1, false}, {RestartOnFailure, 0, false}, {RestartOnFailure, 1, true}, {RestartAlways, 0, true}, {RestartAlways, 137, true},
	} {
		if got := (Restart{Policy: c.policy}).After(c.code); got != c.want {
			t.Errorf("%q after %d: %v", c.policy, c.code, got)
		}
	}
	if (Restart{}).Most() != DefaultRestarts || (Restart{Limit: 2}).Most() != 2 {
		t.Error("the limit is not the one asked for")
	}
}
