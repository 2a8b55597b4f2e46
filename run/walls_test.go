package run

import "testing"

// A wall that the kernel does not know of is none, whatever the plan was.
func TestSeen(t *testing.T) {
	planned := func() []Wall {
		return []Wall{{"system calls", WallHolds, ""}, {"no new privileges", WallHolds, ""}, {"capabilities", WallLoosened, ""}, {"ids", WallHolds, ""}}
	}
	granted := []string{"CAP_CHOWN", "CAP_KILL"} // 1<<0 | 1<<5
	for _, c := range []struct{ status, open string }{
		{"Name:\tx\nCapBnd:\t0000000000000021\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n", ""},
		{"Name:\tx\nCapBnd:\t0000000000000001\nNoNewPrivs:\t1\nSeccomp:\t2\n", ""},
		{"Name:\tx\nCapBnd:\t0000000000000023\nNoNewPrivs:\t1\nSeccomp:\t2\n", "capabilities"},
		{"Name:\tx\nCapBnd:\t0000000000000021\nNoNewPrivs:\t0\nSeccomp:\t2\n", "no new privileges"},
		{"Name:\tx\nCapBnd:\t0000000000000021\nNoNewPrivs:\t1\nSeccomp:\t0\nSeccomp_filters:\t2\n", "system calls"},
		{"Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t2\n", "capabilities"},
	} {
		open := ""
		for _, w := range seen(planned(), granted, c.status, "") {
			if w.State == WallOpen {
				open += w.Name
			}
		}
		if open != c.open {
			t.Errorf("%q: open is %q, want %q", c.status, open, c.open)
		}
	}
}

func TestSeenAppArmor(t *testing.T) {
	for label, want := range map[string]string{
		"croft-web//&:lxc-croft-web:unconfined (enforce)\n":     WallHolds,
		"croft-web//&:lxc-croft-web:/usr/bin/init (enforce)\n":  WallHolds, // its own policy's matter
		"croft-web (enforce)\n":                                 WallHolds,
		"croft-website//&:lxc-croft-web:unconfined (enforce)\n": WallOpen,
		":lxc-croft-web:unconfined\n":                           WallOpen,
		"unconfined\n":                                          WallOpen,
		"":                                                      WallOpen,
	} {
		all := seen([]Wall{{"AppArmor", WallHolds, "croft-web//&:lxc-croft-web:unconfined"}}, nil, "", label)
		if all[0].State != want {
			t.Errorf("%q: %s", label, all[0].State)
		}
	}
}
