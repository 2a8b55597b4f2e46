package cli

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

// Flags and keys are the same words: what can be said when a machine is made can be read and changed afterwards. LXD's keys
// that are no flags say themselves what they mean.
func TestSettingsAreFlags(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	bindSettings(fs, new(specFlags))
	words := []string{"image"} // an operand
	fs.VisitAll(func(f *pflag.Flag) { words = append(words, f.Name) })
	words = slices.DeleteFunc(words, func(w string) bool { return w == "env-file" || w == "mount" || w == "quiet" }) // of this command, not of the machine
	slices.Sort(words)
	var keys []string
	for _, s := range settings() {
		if s.says == "" {
			keys = append(keys, s.name)
		}
	}
	slices.Sort(keys)
	if !slices.Equal(words, keys) {
		t.Errorf("flags %q\nkeys  %q", words, keys)
	}
}

func full() state.Spec {
	never, always := false, true
	return state.Spec{
		Name: "web", Image: "debian/13", Hostname: "tower", Env: []string{"A=1", "B=x=y"}, Root: state.Root{Driver: "dir", ReadOnly: true, Ephemeral: true},
		NICs: []state.NIC{
			{Network: "lan", Name: "wan0", IP: "10.9.0.5", IP6: "fd00:9::5", MAC: "02:00:00:00:00:05"},
			{Network: "macvlan:enp3s0", IP: "192.0.2.7/24", Gateway: "192.0.2.1", MAC: "02:00:00:00:00:06"}, {Network: "lab", IP6: "fd00:7::5"},
		},
		Ports: []state.Port{
			{Proto: "tcp", Host: 8080, Guest: 80}, {Proto: "udp", IP: "::1", Host: 53, Guest: 53}, {Proto: "tcp", IP: "192.0.2.1", Host: 8000, Guest: 9000, Count: 11},
			{Proto: "tcp", Guest: 80}, {Proto: "udp", IP: "127.0.0.1", Guest: 80},
		},
		DNS: []string{"9.9.9.9", "2620:fe::fe"}, AddHosts: []state.HostName{{Name: "db", Address: "10.9.0.2"}, {Name: "db", Address: "fd00:9::2"}},
		Mounts: []state.Mount{{Source: "/srv", Target: "/srv"}, {Source: "/etc/a", Target: "/b", ReadOnly: true}, {Source: "/c", Target: "/c", NoExec: true, NoIDMap: true, Shallow: true, Slave: true}},
		Labels: map[string]string{"tier": "front", "user.note": "a b"}, Remove: true, Timeouts: state.Timeouts{Stop: 90, Ready: 61, Life: 90061},
		Devices: []state.Device{{Class: "tun"}, {Path: "/dev/sdb", Target: "/dev/disk", Access: "r", Mode: "640", UID: 1000, GID: 6}, {Path: "/dev/snd", Optional: true}},
		Tmpfs:   []state.Tmpfs{{Target: "/a"}, {Target: "/b", Size: 1 << 20, Mode: "755"}}, Restart: state.Restart{Policy: state.RestartOnFailure, Limit: 3}, Supervisor: state.SupervisorNone,
		Limits: state.Limits{
			Memory: 1234567890, MemorySoftPercent: 30, Disk: 5 << 30, Swap: new(int64), CPUs: 1.25, CPUSet: "0-1", CPUWeight: 50, PIDs: state.Unlimited, IOWeight: 500,
			HugePages: []state.HugePage{{Size: "2MB", Bytes: 64 << 20}},
			Ulimits:   []state.Ulimit{{Name: "nofile", Soft: 1024, Hard: 4096}, {Name: "core", Soft: state.Unlimited, Hard: state.Unlimited}},
			IOMax:     []state.IOMax{{Device: "/dev/disk/by-path/pci-0:1", ReadBytes: 1 << 20, WriteOps: 7}, {Device: "/srv", WriteBytes: 1000}},
		},
		Profiles: []string{"small", "web"}, Protect: true,
		Boot: state.Boot{Autostart: &never, Priority: -1, Shutdown: 30},
		Security: state.Security{
			Nesting: true, IDMap: []state.IDMap{{Kind: "both", Host: 1000, Guest: 1000, Count: 1}, {Kind: "gid", Host: 2000, Guest: 3000, Count: 10}},
			CapAdd: []string{"CAP_SYSLOG"}, CapDrop: []string{"CAP_NET_RAW", "ALL"}, NoNewPrivileges: &always, Seccomp: state.Unconfined, AppArmor: "lxc-container-default", SELinux: "container_t",
			Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "kernel.sem": "1 2 3 4"},
		},
		Credentials: []state.Credential{{Name: "login.motd", Value: "a=b: c"}, {Name: "tmpfiles.extra", File: "/srv/a=b:c"}, {Name: "empty"}},
		CloudInit:   state.CloudInit{UserData: "#!/bin/sh\n: a\n", VendorData: "#cloud-config\n", NetworkConfig: "version: 2\n"},
	}
}

// What get tells, put takes, and it is the same again; none is what was never said.
func TestSettingsRoundTrip(t *testing.T) {
	was, empty := full(), state.Spec{Name: "web", Image: "debian/13", Root: state.Root{Driver: "dir"}}
	is := empty
	for _, s := range settings() {
		if s.fixed != "" {
			continue
		}
		if err := s.put(&is, s.get(&was)); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if len(s.get(&was)) == 0 {
			t.Errorf("%s is not in the example", s.name)
		}
	}
	if !reflect.DeepEqual(is, was) {
		t.Errorf("%+v\nis not\n%+v", is, was)
	}
	for _, s := range settings() {
		if s.fixed == "" {
			s.put(&is, nil)
		}
	}
	if !reflect.DeepEqual(is, empty) {
		t.Errorf("unset all of it leaves %+v", is)
	}
}

func TestSet(t *testing.T) {
	for _, c := range []struct {
		word  string
		value []string
		key   string
		want  []string
	}{
		{"env", []string{"A=2"}, "env", []string{"A=2", "B=x=y"}},
		{"env", []string{"C=", "A=3"}, "env", []string{"A=3", "B=x=y", "C="}},
		{"env.B", []string{"1"}, "env", []string{"A=1", "B=1"}},
		{"environment.C", []string{"c"}, "env", []string{"A=1", "B=x=y", "C=c"}},
		{"cap-drop", []string{"all", "sys_boot"}, "cap-drop", []string{"CAP_NET_RAW", "ALL", "CAP_SYS_BOOT"}},
		{"sysctl.kernel.sem", []string{"5"}, "sysctl", []string{"kernel.sem=5", "net.ipv4.ip_forward=1"}},
		{"security.nesting", []string{"false"}, "nesting", nil},
		{"raw.idmap", []string{"uid 7 8"}, "idmap", []string{"both 1000 1000", "gid 2000-2009 3000-3009", "uid 7 8"}},
		{"linux.sysctl.kernel.sem", nil, "sysctl.kernel.sem", []string{"1 2 3 4"}},
		{"environment.A", nil, "env.A", []string{"1"}},
		{"env", []string{"", "Z=1"}, "env", []string{"Z=1"}},
		{"user.note", []string{"new"}, "label", []string{"tier=front", "user.note=new"}},
		{"volume", []string{"/tmp:/srv:ro"}, "volume", []string{"/tmp:/srv:ro", "/etc/a:/b:ro", "/c:/c:noexec,noidmap,bind,rslave"}},
		{"volume./b", []string{"/x:/b/"}, "volume./b", []string{"/x:/b/"}},
		{"device", []string{"/dev/sdc:/dev/disk", "fuse"}, "device", []string{"tun", "/dev/sdc:/dev/disk", "/dev/snd,required=false", "fuse"}},
		{"device.tun", []string{""}, "device", []string{"/dev/sdb:/dev/disk:r,mode=640,uid=1000,gid=6", "/dev/snd,required=false"}},
		{"volume./b", []string{""}, "volume", []string{"/srv:/srv", "/c:/c:noexec,noidmap,bind,rslave"}},
		{"network", []string{"none"}, "network", nil},
		{"network", []string{"lan,ip=10.9.0.6", "lab"}, "network", []string{"lan", "lab"}},
		{"network", []string{"lan,ip=10.9.0.6"}, "ip", []string{"10.9.0.6"}},
		{"ip", nil, "network", []string{"lan,name=wan0", "macvlan:enp3s0,ip=192.0.2.7/24,gateway=192.0.2.1,mac=02:00:00:00:00:06", "lab,ip6=fd00:7::5"}},
		{"mac", []string{""}, "mac", nil},
		{"publish.8080", []string{""}, "publish", []string{"[::1]:53:53/udp", "192.0.2.1:8000-8010:9000-9010", "80", "127.0.0.1::80/udp"}},
		{"publish", []string{"8080:81", "443"}, "publish", []string{"8080:81", "[::1]:53:53/udp", "192.0.2.1:8000-8010:9000-9010", "80", "127.0.0.1::80/udp", "443"}},
		{"publish.[::1]:53/udp", []string{"[::1]:53:5353/udp"}, "publish.[::1]:53/udp", []string{"[::1]:53:5353/udp"}},
		{"publish.:80", []string{""}, "publish.:80", nil},
		{"publish.127.0.0.1::80/udp", []string{""}, "publish.127.0.0.1::80/udp", nil},
		{"publish", []string{"", "0.0.0.0:8080:80/tcp"}, "publish", []string{"8080:80"}},
		{"dns", []string{"192.0.2.53,192.0.2.54"}, "dns", []string{"192.0.2.53", "192.0.2.54"}},
		{"add-host", []string{"web:10.9.0.9"}, "add-host", []string{"db:10.9.0.2", "db:fd00:9::2", "web:10.9.0.9"}},
		{"add-host.db:10.9.0.2", []string{""}, "add-host", []string{"db:fd00:9::2"}},
		{"hostname", []string{"", "b"}, "hostname", []string{"b"}},
		{"rm", []string{"false"}, "rm", nil},
		{"stop-timeout", []string{"1m"}, "stop-timeout", []string{"1m"}},
		{"stop-timeout", []string{""}, "stop-timeout", nil},
		{"memory", []string{"2G"}, "limits.memory", []string{"2GiB"}},
		{"limits.processes", []string{"99"}, "pids-limit", []string{"99"}},
		{"pids-limit", []string{""}, "pids-limit", nil},
		{"limits.cpu", []string{"2"}, "cpus", []string{"2"}},
		{"limits.cpu", []string{"2"}, "cpu-set", nil},
		{"limits.cpu", []string{"1-1"}, "cpu-set", []string{"1-1"}},
		{"limits.cpu", []string{"1-1"}, "cpus", nil},
		{"cpus", []string{".5"}, "limits.cpu", []string{"0-1"}}, // what LXD's key says first
		{"io-max./srv", []string{"/srv:riops=1"}, "io-max", []string{"/dev/disk/by-path/pci-0:1:rbps=1MiB,wiops=7", "/srv:riops=1"}},
		{"memory", []string{"50%"}, "limits.memory", []string{"50%"}},
		{"memory", []string{"unlimited"}, "memory", nil},
		{"memory-soft", []string{"0"}, "memory-soft", nil},
		{"limits.memory.enforce", []string{"soft"}, "memory-soft", []string{"1234567890"}},
		{"limits.memory.enforce", []string{"soft"}, "memory", nil},
		{"limits.memory.enforce", []string{"hard"}, "limits.memory.enforce", []string{"hard"}},
		{"swap", []string{"1G"}, "limits.memory.swap", []string{"1GiB"}},
		{"limits.memory.swap", []string{"true"}, "swap", nil},
		{"limits.memory.swap", []string{"0"}, "swap", []string{"false"}},
		{"root.size", []string{"10GiB"}, "disk", []string{"10GiB"}},
		{"disk", []string{"unlimited"}, "disk", nil},
		{"cpus", []string{"5ms/20ms"}, "cpus", []string{"5ms/20ms"}},
		{"cpus", []string{"25ms/100ms"}, "cpus", []string{"0.25"}},
		{"cpus", []string{"0"}, "cpus", nil},
		{"limits.cpu.allowance", []string{"25ms/100ms"}, "limits.cpu.allowance", []string{"25ms/100ms"}},
		{"limits.cpu.allowance", []string{"40%"}, "cpu-weight", []string{"40"}},
		{"limits.cpu.allowance", []string{"40%"}, "cpus", nil},
		{"limits.cpu.priority", []string{"5"}, "cpu-weight", []string{"95"}},
		{"limits.disk.priority", []string{"5"}, "io-weight", []string{"100"}},
		{"limits.disk.priority", []string{"0"}, "limits.disk.priority", []string{"0"}},
		{"ulimit", []string{"nofile=9000", "nproc=7:unlimited"}, "ulimit", []string{"nofile=9000", "core=unlimited", "nproc=7:unlimited"}},
		{"limits.kernel.nofile", []string{"99:100"}, "ulimit.nofile", []string{"99:100"}},
		{"ulimit.core", []string{""}, "limits.kernel.core", nil},
		{"limits.hugepages.1GB", []string{"2G"}, "huge-pages", []string{"2MB=64MiB", "1GB=2GiB"}},
		{"name", []string{"web"}, "name", []string{"web"}},
	} {
		s := full()
		n, err := settingOf(c.word)
		if err == nil {
			err = n.set(&s, c.value)
		}
		if err != nil {
			t.Errorf("%s %q: %v", c.word, c.value, err)
			continue
		}
		if n, _ = settingOf(c.key); !slices.Equal(n.values(&s), c.want) {
			t.Errorf("%s %q: %s is %q, not %q", c.word, c.value, c.key, n.values(&s), c.want)
		}
		if other := full(); len(s.Env) == 2 && &other.Env[0] == &s.Env[0] {
			t.Error("the old spec was changed")
		}
	}
}

func TestSetRefuses(t *testing.T) {
	for word, value := range map[string]string{
		"name": "other", "image": "other", "storage": "overlay", "boot": "true", "rm": "perhaps", "stop-timeout": "soon",
		"volume": "/only", "volume./b": "/x:/c", "memory": "-1", "cpus": "1e3", "cpu-weight": "0", "pids-limit": "none", "limits.cpu": "x",
		"memory-soft": "101%", "swap": "perhaps", "limits.cpu.allowance": "101%", "limits.cpu.priority": "11", "limits.disk.priority": "-1",
		"limits.memory.enforce": "perhaps", "ulimit": "nofiles=1", "ulimit.nofile": "x", "limits.kernel.files": "1", "huge-pages": "2MB", "huge-pages.2MB": "x",
		"io-max": "/srv", "io-max./srv": "/srv:rbps=0", "limits.processes": "0",
		"network": "lan,ip", "publish": "80:x", "publish.80": "81:80", "add-host": "db",
	} {
		s := full()
		n, err := settingOf(word)
		if err != nil {
			t.Fatal(err)
		}
		var misuse *man.Misuse
		if err := n.set(&s, []string{value}); !errors.As(err, &misuse) {
			t.Errorf("%s=%s: %v", word, value, err)
		}
	}
	for word, hint := range map[string]string{"hostnme": "hostname", "environment": "", "hostname.x": "hostname", "env.": "env", "volumes": "volume", "limits.memory.enforced": "limits.memory.enforce", "": ""} {
		_, err := settingOf(word)
		var misuse *man.Misuse
		if !errors.As(err, &misuse) || misuse.Hint != hint {
			t.Errorf("%q: %v, hint %q", word, err, hintOf(err))
		}
	}
}

// What edit shows is what it takes, also of values that YAML reads as something else.
func TestYAMLRoundTrip(t *testing.T) {
	hard := full()
	hard.Env = []string{"A=yes", "B=two\nlines", "C= x # y", "D=: [", "E='\"", "F=\u00e9\x7f"}
	hard.Hostname, hard.Labels = "0123", map[string]string{"a": "null", "b": "~"}
	empty := state.Spec{Name: "web", Image: "debian/13"}
	for name, was := range map[string]state.Spec{"full": full(), "hard": hard, "empty": empty} {
		text, err := toYAML(&was)
		if err != nil {
			t.Fatal(err)
		}
		is := full()
		is.Root = was.Root
		if _, err := fromYAML(&is, text); err != nil || !reflect.DeepEqual(is, was) {
			t.Errorf("%s: %v\n%+v\nis not\n%+v\n%s", name, err, is, was, text)
		}
	}
}

func TestYAMLRefuses(t *testing.T) {
	for _, text := range []string{
		"hostnme: x", "hostname: x\nhostname: y", "env: {A: 1}", "env: [[A=1]]", "- env", "just words", "hostname: [a, b]",
		"name: other", "rm: maybe", "stop-timeout: soon", "env: [A=1", "? [a]\n: b", "volume: [/only]",
	} {
		s := full()
		var misuse *man.Misuse
		if _, err := fromYAML(&s, []byte(text)); !errors.As(err, &misuse) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
