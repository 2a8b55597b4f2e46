package run

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

func TestAppArmorProfile(t *testing.T) {
	lines := func(nesting, newParser bool) []string {
		return strings.Split(appArmorProfile("croft-web", nesting, newParser), "\n")
	}
	golden(t, "profile.apparmor", lines(false, true))
	golden(t, "profile-nesting.apparmor", lines(true, true))
	golden(t, "profile-old.apparmor", lines(true, false))
}

// asRegexp is what AppArmor makes of a pattern (apparmor.d(5), "Globbing").
func asRegexp(pattern string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.NewReplacer("**", ".+", "*", "[^/]*", "{,", "(|", "}", ")", "[^", "[^", ".", `\.`).Replace(pattern) + "$")
}

func TestAllBut(t *testing.T) {
	patterns := allBut("/proc/sys", "net", "fs/mqueue", "kernel/shm*", "kernel/hostname", "kernel/host", "a")
	denied := func(path string) bool {
		for _, p := range patterns {
			if asRegexp(p).MatchString(path) {
				return true
			}
		}
		return false
	}
	for _, kept := range []string{
		"", "/net", "/net/ipv4/ip_forward", "/fs", "/fs/mqueue", "/fs/mqueue/msg_max", "/kernel", "/kernel/shm", "/kernel/shmmax",
		"/kernel/shm/x", "/kernel/hostname", "/kernel/hostname/x", "/kernel/host", "/kernel/host/x", "/a", "/a/x",
	} {
		if denied("/proc/sys" + kept) {
			t.Errorf("%s is denied", kept)
		}
	}
	for _, lost := range []string{
		"/n", "/ne", "/nets", "/nex", "/net2/ipv4", "/vm", "/vm/swappiness", "/f", "/fss", "/fs/mqueues", "/fs/mqueu", "/fs/protected_links",
		"/kernel/sh", "/kernel/sysrq", "/kernel/hostnames", "/kernel/hostnam", "/kernel/hosts", "/kernel/hos", "/kernel/core_pattern",
		"/kernel/random/boot_id", "/b", "/ab", "/ab/c",
	} {
		if !denied("/proc/sys" + lost) {
			t.Errorf("%s is not denied", lost)
		}
	}
}

// A stand-in has the alignment of every name that it stands for, and is one for as few lengths as can be.
func TestStandIn(t *testing.T) {
	all := map[string]bool{}
	for n := 1; n < 200; n++ {
		name := standIn(n)
		if (len(name)-n)%alignment != 0 {
			t.Errorf("%d: %q", n, name)
		}
		all[name] = true
	}
	if len(all) != alignment {
		t.Errorf("there are %d of them", len(all))
	}
}

func TestRenamed(t *testing.T) {
	compiled := []byte("\x04\x08\x00version\x02\x05\x00\x00\x00\x07\x05\x06\x00croft\x00rest")
	got, err := renamed(compiled, "croft", "another")
	want := []byte("\x04\x08\x00version\x02\x05\x00\x00\x00\x07\x05\x08\x00another\x00rest")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, strange := range []string{"", "croft", "\x05\x06\x00croft\x00\x05\x06\x00croft\x00", "\x05\x06\x00croft\x00croft"} {
		if got, err := renamed([]byte(strange), "croft", "another"); err == nil {
			t.Errorf("%q became %q", strange, got)
		}
	}
}
