package netsetup

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"croft/state"
)

// ownCgroup puts this process into a cgroup of its own: programs that are attached to it see nobody else's connections.
func ownCgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			dir := filepath.Join(f[1], fmt.Sprintf("croft-test-%d", os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				os.WriteFile(filepath.Join(f[1], "cgroup.procs"), []byte("0"), 0)
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			})
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	t.Skip("SKIPPED, PROVES NOTHING: no cgroup2 is mounted")
	return ""
}

func TestPortsOnLoopback6(t *testing.T) { portsOnLoopback6(t, false) }

func TestPortsOnLoopback6WithBridgeNetfilter(t *testing.T) { portsOnLoopback6(t, true) }

func portsOnLoopback6(t *testing.T, bridgeNetfilter bool) {
	t.Parallel()
	if !ownHost(t) {
		return
	}
	passBridges(t, bridgeNetfilter)
	w := newWorld(t)
	w.table.Cgroup = ownCgroup(t)
	for _, proto := range []string{state.TCP, state.UDP} {
		w.answer("a", proto, 80)
		w.answer("b", proto, 80)
		w.answer("", proto, 8081)
		w.hearsNot("", proto, "[::1]:8080")
		w.publish("a", state.Port{Proto: proto, Host: 8080, Guest: 80}, state.Port{Proto: proto, IP: "::1", Host: 9090, Guest: 80},
			state.Port{Proto: proto, IP: "2001:db8::1", Host: 9091, Guest: 80})
	}
	for _, proto := range []string{state.TCP, state.UDP} {
		w.hears("", proto, "[::1]:8080", "a fd87::1")
		w.hears("", proto, "[::1]:9090", "a fd87::1")
		w.hears("", proto, "[::1]:8081", " ::1")
		w.hearsNot("", proto, "[::1]:9091")
		w.hearsNot("out", proto, "[2001:db8::1]:9090")
		w.hearsNot("b", proto, "[::1]:8080") // which has a ::1 of its own
	}

	// A socket without a connection hears from whom it has asked.
	for _, asked := range []string{"[::1]:8080", "[fd87::5]:80", "[::1]:9090"} {
		c, err := net.ListenUDP("udp6", nil)
		if err != nil {
			t.Fatal(err)
		}
		address, _ := net.ResolveUDPAddr("udp6", asked)
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.WriteTo([]byte("who is there?"), address); err != nil {
			t.Error(err)
		} else if _, from, err := c.ReadFrom(make([]byte, 100)); err != nil || from.String() != asked {
			t.Errorf("asked %s and hear from %v (%v)", asked, from, err)
		}
		c.Close()
	}

	// Found again by who comes next, with the ports of another machine as well.
	next := Table{Name: w.table.Name, Cgroup: w.table.Cgroup}
	b := w.members["b"]
	b.Ports = []state.Port{{Proto: state.TCP, Host: 8070, Guest: 80}}
	w.members["b"] = b
	if err := next.Add(b); err != nil {
		t.Fatal(err)
	}
	w.hears("", state.TCP, "[::1]:8070", "b fd87::1")
	w.hears("", state.TCP, "[::1]:8080", "a fd87::1")
	if err := next.Remove(w.members["a"]); err != nil {
		t.Fatal(err)
	}
	w.hearsNot("", state.TCP, "[::1]:8080")
	w.hears("", state.TCP, "[::1]:8070", "b fd87::1")
	if err := next.Build([]*state.Network{w.one, w.two}, []Member{w.members["a"]}); err != nil {
		t.Fatal(err)
	}
	w.hearsNot("", state.TCP, "[::1]:8070")
	w.hears("", state.TCP, "[::1]:8080", "a fd87::1")
	if err := errors.Join(next.Delete(), next.Delete()); err != nil {
		t.Fatal(err)
	}
	for _, h := range loopbackHooks() {
		if ports, err := next.hooked(); err != nil || ports != nil {
			t.Errorf("hook %d: left behind (%v)", h.at, err)
		}
	}
	w.hearsNot("", state.TCP, "[::1]:8080")
}

func TestProbeLoopback(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, PROVES NOTHING: loading programs takes root")
	}
	if err := ProbeLoopback(); err != nil {
		t.Error(err)
	}
}
