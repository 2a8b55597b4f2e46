package state

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Spec is what was asked for: plain data, written by faces and never by the engine.
type Spec struct {
	Name     string            `json:"name"`
	Image    string            `json:"image"` // the reference as typed: an alias or a fingerprint
	Hostname string            `json:"hostname,omitempty"`
	Init     Init              `json:"init"`
	Env      []string          `json:"env,omitempty"` // KEY=VALUE, for PID 1 and everything exec'd
	Root     Root              `json:"root"`
	NICs     []NIC             `json:"nics,omitempty"`  // none: loopback only
	Ports    []Port            `json:"ports,omitempty"` // published on the host
	DNS      []string          `json:"dns,omitempty"`   // addresses of servers; none: its networks'
	AddHosts []HostName        `json:"add_hosts,omitempty"`
	Mounts   []Mount           `json:"mounts,omitempty"`
	Tmpfs    []Tmpfs           `json:"tmpfs,omitempty"`
	Devices  []Device          `json:"devices,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Remove   bool              `json:"remove,omitempty"` // machine and record go when it stops
	Restart  Restart           `json:"restart,omitzero"`
	Boot     Boot              `json:"boot,omitzero"`
	Timeouts Timeouts          `json:"timeouts"`
	Limits   Limits            `json:"limits,omitzero"`
	Security Security          `json:"security,omitzero"`

	CloudInit   CloudInit    `json:"cloud_init,omitzero"`
	Credentials []Credential `json:"credentials,omitempty"`

	Supervisor string `json:"supervisor,omitempty"` // "": systemd where it is PID 1

	Profiles []string          `json:"profiles,omitempty"` // what they say is in here, too; later ones come before earlier ones
	Origins  map[string]string `json:"origins,omitempty"`  // of settings that are not the machine's own: KEY or KEY.ENTRY, and its profile or OriginHost
	Protect  bool              `json:"protect,omitempty"`  // it cannot be removed
}

// What can hold a machine's keeper.
const (
	SupervisorSystemd = "systemd" // a unit of it
	SupervisorNone    = "none"    // a process of a session of its own
)

// How PID 1 is chosen.
const (
	InitAuto    = ""        // boot where the image has an init, else as InitPayload
	InitBoot    = "boot"    // the image's own init
	InitPayload = "payload" // Args under croft's tiny init
)

// Init says what PID 1 is. Args, User and Dir serve InitPayload alone.
type Init struct {
	Mode string   `json:"mode,omitempty"`
	Args []string `json:"args,omitempty"`
	User string   `json:"user,omitempty"` // NAME|UID[:GROUP|GID]; "" is root
	Dir  string   `json:"dir,omitempty"`  // "" is /
}

// Root says how the root filesystem is kept.
type Root struct {
	Driver    string `json:"driver,omitempty"`    // "" picks: overlay, else dir
	ReadOnly  bool   `json:"read_only,omitempty"` // but for /run, /tmp and /var/tmp, which are in memory
	Ephemeral bool   `json:"ephemeral,omitempty"` // begins anew at every start
}

// Mount binds a directory or file of the host into the machine.
type Mount struct {
	Source   string `json:"source"` // absolute, on the host
	Target   string `json:"target"` // absolute, in the machine
	ReadOnly bool   `json:"read_only,omitempty"`
	NoExec   bool   `json:"no_exec,omitempty"`
	NoIDMap  bool   `json:"no_idmap,omitempty"` // the host's ids as they are: nobody's, in the machine
	Shallow  bool   `json:"shallow,omitempty"`  // without what is mounted below
	Slave    bool   `json:"slave,omitempty"`    // what the host mounts below later comes, too
}

// Tmpfs is a directory in memory, empty at every start.
type Tmpfs struct {
	Target string `json:"target"`               // absolute, in the machine
	Size   int64  `json:"size_bytes,omitempty"` // 0: the kernel's, half of the memory
	Mode   string `json:"mode,omitempty"`       // octal; "" is 1777
}

// The restart policies: what follows when a machine ends that nobody has asked to stop.
const (
	RestartNo        = "" // nothing
	RestartOnFailure = "on-failure"
	RestartAlways    = "always"
)

// Restart says whether a machine that ended by itself is started again.
type Restart struct {
	Policy string `json:"policy,omitempty"`
	Limit  int    `json:"limit,omitempty"` // of restarts in a row; 0: DefaultRestarts
}

// DefaultRestarts is how often in a row a machine is started again.
const DefaultRestarts = 5

// Most is how often in a row it is started again.
func (r Restart) Most() int {
	if r.Limit == 0 {
		return DefaultRestarts
	}
	return r.Limit
}

// After says whether the policy wants another start after an end with the given code.
func (r Restart) After(code int) bool {
	return r.Policy == RestartAlways || r.Policy == RestartOnFailure && code != 0
}

// Boot says what becomes of the machine when the host starts and when it goes down.
type Boot struct {
	Autostart *bool `json:"autostart,omitempty"`             // nil: what it was when the host went down
	Priority  int   `json:"autostart_priority,omitempty"`    // higher ones start first, those of the same together
	Shutdown  int   `json:"host_shutdown_seconds,omitempty"` // a clean stop by the host may take so long; 0: Timeouts.Stop
}

// Always says whether every start of the host starts the machine.
func (b Boot) Always() bool { return b.Autostart != nil && *b.Autostart }

// Never says whether none does.
func (b Boot) Never() bool { return b.Autostart != nil && !*b.Autostart }

// HostStop is how long a clean stop may take that the host asks for: when it goes down, or by its service manager.
func (s *Spec) HostStop() time.Duration { return seconds(s.Boot.Shutdown, s.Timeouts.StopAfter()) }

// Timeouts in whole seconds; 0 is the default of each.
type Timeouts struct {
	Stop  int `json:"stop_seconds,omitempty"`  // from the stop signal to the kill; default DefaultStop
	Ready int `json:"ready_seconds,omitempty"` // from start to ready; default DefaultReady
	Life  int `json:"life_seconds,omitempty"`  // from start to a stop that nobody has to ask for; default: never
}

// Defaults of Timeouts. A stopping Debian may wait 90 s for a stuck service of its own.
const (
	DefaultStop  = 100 * time.Second
	DefaultReady = 120 * time.Second
)

// StopAfter is how long a clean stop may take.
func (t Timeouts) StopAfter() time.Duration { return seconds(t.Stop, DefaultStop) }

// ReadyAfter is how long the machine may take to become ready.
func (t Timeouts) ReadyAfter() time.Duration { return seconds(t.Ready, DefaultReady) }

// longest is what each may be: the keeper counts them in an int.
const longest = 10 * 366 * 24 * 60 * 60

func seconds(n int, otherwise time.Duration) time.Duration {
	if n == 0 {
		return otherwise
	}
	return time.Duration(n) * time.Second
}

// Host is the machine's host name: its own name unless another was asked for.
func (s *Spec) Host() string {
	if s.Hostname != "" {
		return s.Hostname
	}
	return s.Name
}

// Violations are all complaints about a Spec at once.
type Violations []string

func (v Violations) Error() string { return strings.Join(v, "; ") }

func (v Violations) Unwrap() error { return ErrInvalid }

// Err is v, or nil when there are none.
func (v Violations) Err() error {
	if v == nil {
		return nil
	}
	return v
}

func (v *Violations) say(field, format string, a ...any) {
	*v = append(*v, field+": "+fmt.Sprintf(format, a...))
}

// Check tells every violation, each naming its field; nil means the spec can be decided upon.
func (s *Spec) Check() error {
	var v Violations
	say := v.say
	if err := CheckName(s.Name); err != nil {
		v = append(v, err.Error())
	}
	if s.Image == "" {
		say("image", "is missing")
	}
	if s.Hostname != "" && !validHostname(s.Hostname) {
		say("hostname", "%q is not a host name", s.Hostname)
	}
	s.checkInit(say)
	for _, kv := range s.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" || strings.ContainsRune(kv, 0) {
			say("env", "%q is not KEY=VALUE", kv)
		}
	}
	switch s.Root.Driver {
	case "", "overlay", "dir", "shifted":
	default:
		say("root.driver", "%q is none of overlay, dir and shifted", s.Root.Driver)
	}
	switch s.Supervisor {
	case "", SupervisorSystemd, SupervisorNone:
	default:
		say("supervisor", "%q is neither systemd nor none", s.Supervisor)
	}
	s.checkNICs(say)
	s.checkTargets(say)
	s.checkRestart(say)
	s.Limits.check(say)
	s.checkSecurity(say)
	s.checkBoot(say)
	s.CloudInit.check(say)
	s.checkCredentials(say)
	s.checkProfiles(say)
	if s.Protect && s.Remove {
		say("security.protection.delete", "a machine that is removed when it stops cannot be protected from that")
	}
	for k := range s.Labels {
		if err := CheckLabel(k); err != nil {
			say("labels", "%v", err)
		}
	}
	if s.Timeouts.Stop < 0 || s.Timeouts.Ready < 0 || s.Timeouts.Life < 0 {
		say("timeouts", "must not be negative")
	}
	if max(s.Timeouts.Stop, s.Timeouts.Ready, s.Timeouts.Life) > longest {
		say("timeouts", "must not be more than ten years")
	}
	return v.Err()
}

func (s *Spec) checkInit(say func(field, format string, a ...any)) {
	switch s.Init.Mode {
	case InitAuto, InitBoot, InitPayload:
	default:
		say("init.mode", "%q is neither boot nor payload", s.Init.Mode)
	}
	if s.Init.Mode == InitBoot && len(s.Init.Args) > 0 {
		say("init.args", "the image's own init takes no command")
	}
	if s.Init.Dir != "" && !path.IsAbs(s.Init.Dir) {
		say("init.dir", "%q is not absolute", s.Init.Dir)
	}
	for _, a := range s.Init.Args {
		if strings.ContainsRune(a, 0) {
			say("init.args", "an argument holds a NUL byte")
		}
	}
}

// mountsOfOurs hold what the engine mounts itself: something else there would hide it or be hidden.
var mountsOfOurs = [...]string{"/", "/proc", "/sys", "/dev", "/run", "/run/host", "/run/host/net"}

// checkTargets judges what is mounted into the machine.
func (s *Spec) checkTargets(say func(field, format string, a ...any)) {
	seen := map[string]bool{}
	check := func(field, text string) {
		target := path.Clean(text)
		if !path.IsAbs(text) || strings.ContainsRune(text, 0) {
			say(field, "target %q is not absolute", text)
		}
		for _, ours := range mountsOfOurs {
			if target == ours {
				say(field, "target %s belongs to the machine itself", target)
			}
		}
		if seen[target] {
			say(field, "target %s is given twice", target)
		}
		seen[target] = true
	}
	for _, m := range s.Mounts {
		if !path.IsAbs(m.Source) {
			say("mounts", "source %q is not absolute", m.Source)
		}
		check("mounts", m.Target)
	}
	for _, t := range s.Tmpfs {
		check("tmpfs", t.Target)
		if below(t.Target, "/proc") || below(t.Target, "/sys") || below(t.Target, "/run/host") {
			say("tmpfs", "target %s is in a filesystem of the machine itself", t.Target)
		}
		if t.Size < 0 {
			say("tmpfs", "size %d is negative", t.Size)
		}
		if mode, err := strconv.ParseUint(t.Mode, 8, 32); t.Mode != "" && (err != nil || mode > 0o1777) {
			say("tmpfs", "mode %q is none from 0 to 1777", t.Mode)
		}
	}
	s.checkDevices(say, seen)
}

func below(target, dir string) bool { return strings.HasPrefix(path.Clean(target), dir+"/") }

func (s *Spec) checkRestart(say func(field, format string, a ...any)) {
	switch s.Restart.Policy {
	case RestartNo, RestartOnFailure, RestartAlways:
	default:
		say("restart", "%q is neither on-failure nor always", s.Restart.Policy)
	}
	if s.Restart.Limit < 0 {
		say("restart", "limit %d is negative", s.Restart.Limit)
	}
	if s.Restart.Policy != RestartNo && s.Remove {
		say("restart", "a machine that is removed when it stops cannot start again")
	}
}

// CheckLabel judges the name of a label.
func CheckLabel(name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r == '=' || unicode.IsSpace(r) }) {
		return fmt.Errorf("%q is not a label", name)
	}
	return nil
}

func (s *Spec) checkBoot(say func(field, format string, a ...any)) {
	if s.Boot.Always() && s.Remove {
		say("boot.autostart", "a machine that is removed when it stops cannot start again")
	}
	if s.Boot.Shutdown < 0 || s.Boot.Shutdown > longest {
		say("boot.host_shutdown_timeout", "must not be negative, and not more than ten years")
	}
}

// CheckName judges an instance name: 1-63 letters, digits and '-', not all digits, no '-' at either end.
func CheckName(name string) error {
	if validLabel(name) && strings.Trim(name, "0123456789") != "" {
		return nil
	}
	return fmt.Errorf("name %q: 1-63 letters, digits and '-', not only digits, no '-' at either end: %w", name, ErrMisnamed)
}

func validHostname(h string) bool {
	if len(h) > 64 { // HOST_NAME_MAX of the kernel
		return false
	}
	for _, label := range strings.Split(h, ".") {
		if !validLabel(label) {
			return false
		}
	}
	return true
}

func validLabel(l string) bool {
	if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
		return false
	}
	for _, r := range l {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-') {
			return false
		}
	}
	return true
}
