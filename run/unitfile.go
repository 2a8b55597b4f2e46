package run

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"croft/state"
)

// Program is the path of this croft for the units that execute it: of what is there by now, should it have been replaced
// since it was started. One that has executed itself out of memory (mounts.c) is where it was called.
func Program() (string, error) {
	path, err := os.Executable()
	if err == nil && !strings.HasPrefix(path, "/memfd:") {
		return path, nil
	}
	if path, err = exec.LookPath(os.Args[0]); err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// UnitFile writes a service unit of the host's administrator that holds in, with program as croft: systemd.service(5).
// It is pure, but for the engine's places.
func (e *Engine) UnitFile(in *state.Instance, program string) string {
	s := in.Spec
	var u unitText
	u.line("# %s.service: made by croft generate unit. See croft help units.", s.Name)
	u.section("Unit")
	u.text("Description", "machine "+s.Name+" of "+s.Image)
	u.line("After=network.target")
	if s.HostNetwork() {
		u.line("Wants=network-online.target")
		u.line("After=network-online.target")
	}
	u.set("RequiresMountsFor", e.Dir.Root)
	for _, m := range s.Mounts {
		u.set("RequiresMountsFor", m.Source)
	}
	e.service(&u, program, s.Name)
	u.set("LogExtraFields", LogFields(e.Dir.Root, in)...)
	u.line("TimeoutStartSec=%d", int(s.Timeouts.ReadyAfter().Seconds()))
	u.line("# Longer than the machine's --stop-timeout: then it is croft that kills it, and clears up.")
	u.line("TimeoutStopSec=%d", int((s.HostStop() + stopMargin).Seconds()))
	if s.Restart.Policy == state.RestartNo {
		u.line("Restart=on-failure")
	} else {
		u.line("# It is croft that starts it again: its --restart is %s.", s.Restart.Policy)
		u.line("Restart=no")
	}
	u.wantedAtBoot()
	return u.String()
}

// service writes what holds in any unit of the administrator's about the start of name in it, a name or a specifier.
func (e *Engine) service(u *unitText, program, name string) {
	u.section("Service")
	u.set("Type", "notify")
	e.places(u)
	u.line("ExecStart=%s start -F %s", unitWord(program), name)
	u.line("# Clears what is left when croft itself was killed.")
	u.line("ExecStopPost=-%s repair %s", unitWord(program), name)
	u.line("# SIGTERM to croft alone, which has the machine's init shut it down.")
	u.line("KillMode=mixed")
	u.line("Delegate=yes")
	u.line("Slice=machine.slice")
	u.line("OOMPolicy=continue")
	u.line("# What the guest prints is text, and no priority of its choice.")
	u.line("SyslogLevelPrefix=no")
}

// places writes where the engine has its things, to be found by any croft of the unit.
func (e *Engine) places(u *unitText) {
	for _, place := range [][3]string{{envRoot, e.Dir.Root, DefaultRoot}, {envRun, e.Dir.Run, DefaultRun}} {
		if place[1] != place[2] {
			u.set("Environment", place[0]+"="+place[1])
		}
	}
}

// SocketFile writes the socket unit that listens at the addresses for the unit of UnitFile: systemd.socket(5).
func SocketFile(in *state.Instance, addresses []string) (string, error) {
	name := in.Spec.Name
	var u unitText
	u.line("# %s.socket: made by croft generate unit. Its service is %[1]s.service.", name)
	if in.Facts.Init.Mode == state.InitBoot {
		u.line("# A systemd in the machine takes it over with a socket unit of its own that has the same ListenStream=.")
	} else {
		u.line("# The machine's command finds it as descriptor 3: sd_listen_fds(3).")
	}
	u.section("Unit")
	u.text("Description", "sockets of machine "+name)
	u.section("Socket")
	for _, a := range addresses {
		if err := checkListen(a); err != nil {
			return "", err
		}
		u.text("ListenStream", a)
	}
	u.section("Install")
	u.line("WantedBy=sockets.target")
	return u.String(), nil
}

// checkListen judges an address of a stream socket as systemd.socket(5) has it.
func checkListen(address string) error {
	if port, err := strconv.ParseUint(address, 10, 16); err == nil && port > 0 {
		return nil
	}
	if _, err := netip.ParseAddrPort(address); err == nil {
		return nil
	}
	named := filepath.IsAbs(address) || len(address) > 1 && address[0] == '@'
	if named && !strings.ContainsFunc(address, unicode.IsControl) {
		return nil
	}
	return fmt.Errorf("socket %q: neither a port, nor IP:PORT, /PATH or @NAME: %w", address, state.ErrInvalid)
}

// unitText is a unit file under way.
type unitText struct{ strings.Builder }

func (u *unitText) line(format string, args ...any) { fmt.Fprintf(u, format+"\n", args...) }

func (u *unitText) section(name string) { u.line("\n[%s]", name) }

// wantedAtBoot ends a unit that the host's start starts once it is enabled.
func (u *unitText) wantedAtBoot() {
	u.section("Install")
	u.line("WantedBy=multi-user.target")
}

// text writes a setting that is taken as it is, but for specifiers.
func (u *unitText) text(key, value string) {
	u.line("%s=%s", key, strings.ReplaceAll(value, "%", "%%"))
}

// set writes a setting made of words; what is no plain word is quoted.
func (u *unitText) set(key string, words ...string) {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = unitWord(w)
	}
	u.line("%s=%s", key, strings.Join(quoted, " "))
}

// unitWord writes a word so that systemd reads it as it is (systemd.syntax(7), "Quoting"): no specifier, no escape, and
// one word. A $ is one in all but the arguments of a command (systemd.service(5), "Command lines"): none of ours has any,
// and in the path of the program it would be wrong to write it twice.
func unitWord(w string) string {
	w = strings.ReplaceAll(w, "%", "%%")
	if !strings.ContainsAny(w, " \t\n\"'\\;#") {
		return w
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(w) + `"`
}
