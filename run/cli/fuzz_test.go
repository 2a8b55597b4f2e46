package cli

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"croft/man"
	"croft/state"
)

// What is typed for a size, a time, a volume, a signal or a template is refused in one line, or is a value that the rest
// of croft can bear.
func FuzzValues(f *testing.F) {
	for _, text := range []string{
		"512M", "2GiB", "1.5g", "9e99", "16EiB", "-1", "nan", "0x10", "30s", "1d12h", "65535d9999999h", "1h-2m", "2006-01-02", ".:/src:ro",
		"/a:/b:ro,idmap", "::", "a:b:c:d", "SIGRTMIN+30", "RTMIN+-1", "64", "65", "{{.Name}}", "{{range .}}", "{{join .Names \",\"}}", "name=web", "=",
		"label=a=b", "env.A", "volume./x", "user.a.b",
		"/tmp:size=1g,mode=700", "/x:size=0", "on-failure:3", "always:-1", "no:", "65536-131071", "4294967294-4294967295", "web:/etc/*", ":x", "./a:b",
		"8080:80", "80", "127.0.0.1:8080:80/udp", "[::1]:8000-8010:80-90", "127.0.0.1::80", "::1:80:80", "[::1]:80", "65535-65536:1-2", "localhost:80:80",
		"lan,name=eth1,ip=10.9.0.5,ip6=fd00::5,mac=02:00:00:00:00:01", "ns:/run/netns/x", "bridge:br0,ip=192.0.2.7/24,gateway=192.0.2.1", "none,", ",ip=1", "lan,ip=,",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseSize(text); err == nil && n < 0 {
			t.Errorf("size %q is %d", text, n)
		}
		if d, err := parseDuration(text); err == nil && d < 0 {
			t.Errorf("duration %q is %v", text, d)
		}
		now := time.Unix(1e9, 0)
		if at, err := parseTime(text, now); err == nil && at.Year() == 0 && !strings.HasPrefix(text, "0000") {
			t.Errorf("time %q is %v", text, at)
		}
		var seconds secondsValue
		if err := seconds.Set(text); err == nil && (seconds < 0 || int64(seconds) > math.MaxInt64/int64(time.Second)+1) {
			t.Errorf("%q is %d seconds", text, seconds)
		}
		if m, err := volume(text); err == nil && (!filepath.IsAbs(m.Source) || m.Target == "") {
			t.Errorf("volume %q is %v", text, m)
		}
		if sig, err := parseSignal(text); err == nil && (sig < 1 || sig > 64) {
			t.Errorf("signal %q is %d", text, sig)
		}
		if m, err := tmpfs(text); err == nil && m.Size < 0 {
			t.Errorf("tmpfs %q is %v", text, m)
		}
		var policy, again restartValue
		if policy.Set(text) == nil && policy.Policy != "" && (again.Set(policy.String()) != nil || again != policy || policy.Limit < 0) {
			t.Errorf("restart %q is %v, and read again %v", text, policy, again)
		}
		var pool, same idPool
		if pool.UnmarshalText([]byte(text)) == nil &&
			(pool.Size < smallestID || pool.Base < smallestID || pool.End() > math.MaxUint32 || same.UnmarshalText([]byte(idText(pool.Range))) != nil || same != pool) {
			t.Errorf("pool %q is %v, and read again %v", text, pool, same)
		}
		if p := placeOf(text); p.Machine == "" && p.Path != text || p.Machine != "" && p.Machine+":"+p.Path != text {
			t.Errorf("place %q is %v", text, p)
		}
		if p, err := published(text); err == nil {
			again, err := published(p.String())
			if err != nil || again != p || p.Guest == 0 || int(p.Guest)+p.Len() > 1<<16 || int(p.Host)+p.Len() > 1<<16 {
				t.Errorf("published %q is %v, and read again %v, %v", text, p, again, err)
			}
		} else if near := hintOf(err); near != "" {
			if _, err := published(near); err != nil && hintOf(err) == near {
				t.Errorf("published %q: the hint %q is no better: %v", text, near, err)
			}
		}
		if n, err := attachment(text); err == nil {
			if again, err := attachment(attachmentText(n, false)); err != nil || again != n {
				t.Errorf("attachment %q is %v, and read again %v, %v", text, n, again, err)
			}
		}
		parseTemplate(text)
		filtered([]machine{{Name: "web", Labels: map[string]string{"a": "b"}}}, []string{text})
		settable(t, text)
	})
}

// settable does to a spec what set and unset do with the text as a key and as a value.
func settable(t *testing.T, text string) {
	key, value, _ := strings.Cut(text, "=")
	n, err := settingOf(key)
	if err != nil {
		return
	}
	s := state.Spec{Name: "web", Image: "debian/13", Env: []string{"A=1", "B=2"}, Labels: map[string]string{"a": "b"}}
	if n.set(&s, []string{value}) == nil {
		n.values(&s)
	}
	if err := n.unset(&s); err == nil && len(n.values(&s)) > 0 {
		t.Errorf("after unset %s it is %q", key, n.values(&s))
	}
}

// A command line is understood, or is misuse that can be said in one line.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{
		"run --rm -v .:/src debian/13 make test", "exec -it web -- sh -c true", "list --format json --filter name=web", "image import --alias a - b",
		"help run", "--root", "--root= list", "rm -f", "stop -t 3s web", "wait --for ready web", "cp web:/etc/* .", "completion bash", "-h", "run -", "set web a=b -l x=y",
	} {
		f.Add(strings.ReplaceAll(line, " ", "\n"))
	}
	f.Fuzz(func(t *testing.T, lines string) {
		_, err := (&app{}).program().Parse(strings.Split(lines, "\n"))
		var misuse *man.Misuse
		if err != nil && !errors.As(err, &misuse) {
			t.Errorf("%q: %T: %v", lines, err, err)
		}
	})
}

// A configuration of the host of any bytes is refused in one line that names the file, or is settings that can be used.
func FuzzHostSettings(f *testing.F) {
	f.Add([]byte("root = \"/srv/croft\"\nid_pool = \"600000-1000000\"\n"))
	f.Add([]byte("root = 1\n[a]\nb = 1979-05-27T07:32:00Z\n"))
	f.Add([]byte("x = [[[[\n\"\\u0000\" = '''\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "croft.toml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(envConfig, path)
		_, s, err := readHostSettings()
		if err != nil {
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if p := s.pool(); p.Size < smallestID || p.Base < smallestID {
			t.Errorf("%q: the pool is %v", text, p)
		}
	})
}
