package run

import (
	"strings"
	"testing"

	"croft/state"
)

// UPDATE=1 writes the unit files anew.
func TestUnitFiles(t *testing.T) {
	usual, _ := trixie()
	usual.Spec.NICs = []state.NIC{{Network: state.NetworkHost}}
	other, _ := trixie()
	other.Spec.Timeouts = state.Timeouts{Stop: 600, Ready: 30}
	other.Spec.Restart = state.Restart{Policy: state.RestartAlways}
	other.Spec.Mounts = []state.Mount{{Source: `/srv/50% "done"`, Target: "/srv"}, {Source: "/home/joe", Target: "/home/joe"}}
	here := &Engine{Dir: &state.Dir{Root: DefaultRoot, Run: DefaultRun}}
	there := &Engine{Dir: &state.Dir{Root: "/srv/my machines", Run: "/run/mine"}}
	golden(t, "unitfile", strings.Split(here.UnitFile(usual, "/usr/local/bin/croft"), "\n"))
	golden(t, "unitfile-other", strings.Split(there.UnitFile(other, "/opt/a b/croft"), "\n"))
}

func TestSocketFiles(t *testing.T) {
	in, _ := trixie()
	text, err := SocketFile(in, []string{"80", "[::1]:81", "/run/web %1.sock", "@web"})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "socketfile", strings.Split(text, "\n"))
	for _, bad := range []string{"", "0", "65536", "-1", "80x", "localhost:80", "1.2.3.4", "web.sock", "@", "/run/a\nExecStartPre=x"} {
		if text, err := SocketFile(in, []string{bad}); err == nil {
			t.Errorf("%q: made %q", bad, text)
		}
	}
}
