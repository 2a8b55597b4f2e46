package cli

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

func sourceOf(t *testing.T, origin, text string) source {
	t.Helper()
	f, err := parseProfile([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	f.origin = origin
	return f
}

func TestExpand(t *testing.T) {
	host, err := hostSettings{StopTimeout: 9}.source()
	if err != nil {
		t.Fatal(err)
	}
	web := sourceOf(t, "web", "memory: 1GiB\nenv: [A=1, B=1]\nread-only: true\nnetwork: [lan, lab]\nlimits.cpu: 1\nstop-timeout: 5s")
	big := sourceOf(t, "big", "limits.memory: 2GiB\nenvironment.B: 2\nread-only: false\nuser.note: x\nenv: [C=2]\nhostname:")
	s := state.Spec{Name: "m", Image: "i", Env: []string{"C=own", "D=own"}, Limits: state.Limits{PIDs: 99}}
	s.Own("restart", true)
	own := s
	check := func(sources []source, want map[string][]string, origins map[string]string) {
		t.Helper()
		for range 2 { // the second time changes nothing
			if err := expand(&s, sources); err != nil {
				t.Fatal(err)
			}
			for key, values := range want {
				if n, err := settingOf(key); err != nil || !slices.Equal(n.get(&s), values) {
					t.Errorf("%s is %q, not %q (%v)", key, n.get(&s), values, err)
				}
			}
			if !maps.Equal(s.Origins, origins) {
				t.Errorf("origins %v, not %v", s.Origins, origins)
			}
		}
	}
	check([]source{host, web, big}, map[string][]string{
		"memory": {"2GiB"}, "env": {"A=1", "B=2", "C=own", "D=own"}, "read-only": nil, "network": {"lan", "lab"}, "cpus": {"1"},
		"stop-timeout": {"5s"}, "pids-limit": {"99"}, "label": {"user.note=x"},
	}, map[string]string{
		"memory": "big", "env.A": "web", "env.B": "big", "read-only": "big", "network": "web", "cpus": "web", "stop-timeout": "web",
		"label.user.note": "big", "restart": "",
	})
	check([]source{host, big, web}, map[string][]string{
		"memory": {"1GiB"}, "env": {"B=1", "C=own", "A=1", "D=own"}, "read-only": {"true"},
	}, map[string]string{
		"memory": "web", "env.A": "web", "env.B": "web", "read-only": "web", "network": "web", "cpus": "web", "stop-timeout": "web",
		"label.user.note": "big", "restart": "",
	})
	check([]source{host}, map[string][]string{"network": {state.DefaultNetwork}, "stop-timeout": {"9s"}}, map[string]string{
		"network": "host", "stop-timeout": "host", "restart": "",
	})
	other, err := hostSettings{StopTimeout: 7, Network: networkWish{"none"}}.source()
	if err != nil {
		t.Fatal(err)
	}
	check([]source{other}, map[string][]string{"network": {state.DefaultNetwork}, "stop-timeout": {"9s"}}, map[string]string{
		"network": "host", "stop-timeout": "host", "restart": "",
	})
	s.NICs, s.Timeouts, s.Origins = nil, state.Timeouts{}, own.Origins
	if !reflect.DeepEqual(s, own) {
		t.Errorf("%+v\nis not\n%+v", s, own)
	}
}

func TestExpandKeepsPins(t *testing.T) {
	host, err := hostSettings{}.source()
	if err != nil {
		t.Fatal(err)
	}
	s := state.Spec{NICs: []state.NIC{{Network: "lan", IP: "10.9.0.5"}}, Origins: map[string]string{"network": "web"}}
	if err := expand(&s, []source{host, sourceOf(t, "web", "network: lab")}); err != nil || s.NICs[0] != (state.NIC{Network: "lab", IP: "10.9.0.5"}) {
		t.Errorf("%+v, %v", s.NICs, err)
	}
	if err := expand(&s, []source{host, sourceOf(t, "web", "network: none")}); err == nil {
		t.Errorf("an address in no network: %+v", s.NICs)
	}
}

func TestRewritten(t *testing.T) {
	for _, c := range []struct {
		text string
		say  []string
		gone []string
		want string
	}{
		{"", []string{"memory=1GiB"}, nil, "memory: 1GiB\n"},
		{"# why\n", []string{"env=A=1", "env=B=2"}, nil, "# why\n\nenv:\n  - A=1\n  - B=2\n"},
		{"# why\nmemory: 1GiB # so\ncpus: 1\n", []string{"memory=2GiB"}, []string{"cpus"}, "# why\nmemory: 2GiB # so\n"},
		{"limits.memory: 1GiB\n", []string{"memory=2GiB"}, nil, "memory: 2GiB\n"},
		{"memory: 1GiB\ncpus: 1\n", nil, []string{"limits.memory", "limits.cpu"}, ""},
		{"env: A=1\nenvironment.B: 1\n", []string{"env.A=2", "env=B=2"}, nil, "env:\n  - A=2\n  - B=2\n"},
		{"env: [A=1, B=1] # both\nenvironment.C: 1\n", nil, []string{"env.B", "env.C"}, "env: [A=1] # both\n"},
		{"env: [A=1]\n", []string{"env=", "env=Z=1"}, nil, "env:\n  - Z=1\n"},
		{"network: lan\n", []string{"network=lab", "network=lan"}, nil, "network:\n  - lab\n  - lan\n"},
		{"memory: 1GiB\n", []string{"memory="}, nil, ""},
		{"cpus: 1\n", []string{"read-only=false"}, nil, "cpus: 1\nread-only: \"false\"\n"},
	} {
		said, err := assignments(pflag.NewFlagSet("", pflag.ContinueOnError), nil, c.say)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := settingsOf(c.gone)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := rewritten([]byte(c.text), said, gone); err != nil || string(got) != c.want {
			t.Errorf("%q, %q, %q: %q, not %q (%v)", c.text, c.say, c.gone, got, c.want, err)
		}
	}
}

func TestProfileRefuses(t *testing.T) {
	for _, text := range []string{
		"memry: 1GiB", "memory: much", "memory: [1GiB, 2GiB]", "- memory", "words", "env: [A=1", "env: {A: 1}", "memory: 1GiB\nmemory: 2GiB",
		"profile: web", "name: web", "image: x", "boot: true", "env: HOME", "volume: src:/src", "ip: 10.9.0.5",
	} {
		var misuse *man.Misuse
		if f, err := parseProfile([]byte(text)); !errors.As(err, &misuse) {
			t.Errorf("%q: %+v, %v", text, f, err)
		}
	}
	if _, err := parseProfile([]byte("rm: true\nrestart: always")); !errors.As(err, new(state.Violations)) {
		t.Error(err)
	}
}
