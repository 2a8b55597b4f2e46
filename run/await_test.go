package run

import (
	"slices"
	"strings"
	"testing"
)

// family makes an init and its children out of words: STATE:PROGRAM:COMMAND, the init first.
func family(words ...string) process {
	var all []process
	for _, w := range words {
		f := strings.SplitN(w, ":", 3)
		all = append(all, process{state: f[0][0], program: f[1], args: strings.Fields(f[2])})
	}
	all[0].children = all[1:]
	return all[0]
}

func TestStageByInittab(t *testing.T) {
	const debian = "id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\n~~:S:wait:/sbin/sulogin --force\n" +
		"l2:2:wait:/etc/init.d/rc 2\n#1:2:respawn:/bin/tty1\nco:2345:respawn:/sbin/getty  38400 console\n"
	const alpine = "::sysinit:/sbin/openrc sysinit\n::wait:/sbin/openrc default\n::respawn:/sbin/syslogd -n\n"
	for _, c := range []struct {
		name, kind, inittab string
		init                process
		want                stage
	}{
		{"sysvinit reads its inittab", "sysvinit", debian, family("R:/i:init boot"), booting},
		{"between two entries", "sysvinit", debian, family("S:/i:init boot"), idle},
		{"a copy waits for rcS", "sysvinit", debian, family("S:/i:init boot", "S:/i:init boot"), booting},
		{"of a runlevel it waits itself", "sysvinit", debian, family("S:/i:init [2]", "S:/sh:/bin/sh /etc/init.d/rc 2"), booting},
		{"OpenRC in place of rc", "sysvinit", debian, family("S:/i:init [2]", "S:/o:/usr/sbin/openrc default"), booting},
		{"not reaped yet", "sysvinit", debian, family("S:/i:init [2]", "Z::", "S:/g:/sbin/getty 38400 console"), booting},
		{"up", "sysvinit", debian, family("S:/i:init [2]", "S:/d:/sbin/daemon", "S:/g:/sbin/getty 38400 console"), loggingIn},
		{"about to go on", "sysvinit", debian, family("R:/i:init [2]", "S:/g:/sbin/getty 38400 console"), booting},
		{"a comment is no entry", "sysvinit", debian, family("S:/i:init [2]", "S:/x:/bin/tty1"), idle},
		{"daemons alone", "sysvinit", debian, family("S:/i:init [2]", "S:/d:/sbin/daemon"), idle},
		{"busybox without an inittab", "busybox", "", family("S:/b:init", "S:/b:/bin/sh /etc/init.d/rcS"), booting},
		{"waits for a key", "busybox", "::askfirst:-/bin/sh\n", family("S:/b:init", "S:/b:init"), loggingIn},
		{"has begun to make a child", "busybox", "::askfirst:-/bin/sh\n", family("D:/b:init", "D:/b:init"), booting},
		{"a shell", "busybox", "::respawn:-/bin/sh\n", family("S:/b:init", "S:/b:-/bin/sh"), loggingIn},
		{"alpine boots", "busybox", alpine, family("S:/b:init", "S:/o:/sbin/openrc default"), booting},
		{"alpine is up", "busybox", alpine, family("S:/b:init", "S:/b:/sbin/syslogd -n"), loggingIn},
	} {
		if got := stageByInittab(c.kind, c.init, c.inittab); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCommands(t *testing.T) {
	first, last := commands("# x\n::sysinit:-/a  b\n:::\n::wait:\nl::bootwait:c\n::once:d\n#::wait:e\ntty1::askfirst:-/bin/sh\nnothing\n")
	if want := []string{"/etc/init.d/rcS", "/a b", "c"}; !slices.Equal(first, want) {
		t.Errorf("first %q, want %q", first, want)
	}
	if want := []string{"/bin/sh"}; !slices.Equal(last, want) {
		t.Errorf("last %q, want %q", last, want)
	}
}

func TestOnConsole(t *testing.T) {
	for name, c := range map[string][2]string{
		"debian": {
			"id:2:initdefault:\n1:2345:respawn:/sbin/getty --noclear 38400 tty1\n2:23:respawn:/sbin/getty 38400 tty2\n#T0:23:respawn:/sbin/getty -L ttyS0\n",
			"id:2:initdefault:\n1:2345:respawn:/sbin/getty --noclear 38400 console\n#2:23:respawn:/sbin/getty 38400 tty2\n#T0:23:respawn:/sbin/getty -L ttyS0\n",
		},
		"alpine": {
			"tty1::respawn:/sbin/getty 38400 tty1\ntty2::respawn:/sbin/getty 38400 tty2",
			"console::respawn:/sbin/getty 38400 console\n#tty2::respawn:/sbin/getty 38400 tty2",
		},
		"on the console already": {
			"tty1::respawn:/sbin/getty 38400 tty1\nconsole::respawn:/sbin/getty -L console\n",
			"#tty1::respawn:/sbin/getty 38400 tty1\nconsole::respawn:/sbin/getty -L console\n",
		},
		"a shell there":            {"tty2::askfirst:-/bin/sh\n::askfirst:-/bin/sh\n", "#tty2::askfirst:-/bin/sh\n::askfirst:-/bin/sh\n"},
		"a daemon there":           {"::respawn:/sbin/syslogd -n\ntty1::askfirst:/bin/sh\n", "::respawn:/sbin/syslogd -n\nconsole::askfirst:/bin/sh\n"},
		"a device's path":          {"1:2:respawn:/sbin/mingetty /dev/tty1\n", "1:2:respawn:/sbin/mingetty /dev/console\n"},
		"a serial line":            {"S:2:respawn:/sbin/getty -L ttyAMA0 115200 vt100\n", "S:2:respawn:/sbin/getty -L console 115200 vt100\n"},
		"no terminal in it":        {"x:2:respawn:/bin/tty1-watch --tty\n", "x:2:respawn:/bin/tty1-watch --tty\n"},
		"what does not keep going": {"x:2:wait:/bin/setterm tty1\n", "x:2:wait:/bin/setterm tty1\n"},
		"nothing":                  {"", ""},
	} {
		got := onConsole(c[0])
		if got != c[1] {
			t.Errorf("%s: %q, want %q", name, got, c[1])
		}
		if again := onConsole(got); again != got {
			t.Errorf("%s: a second time %q", name, again)
		}
	}
}
