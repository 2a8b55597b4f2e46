package run

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"croft/state"

	"golang.org/x/sys/unix"
)

const securityFS = "/sys/kernel/security"

// appArmorFiles is where the kernel is told about AppArmor, and tells: to a machine's root of its own namespace alone.
const appArmorFiles = securityFS + "/apparmor"

// profilePrefix begins the names of all machines' profiles.
const profilePrefix = "croft"

// profileOf is the name of a machine's profile.
func profileOf(root, name string) string { return profilePrefix + tag(root) + "-" + name }

// namespaceOf is the namespace of policy that belongs to a profile. By the prefix a guest's apparmor.service and snapd
// know a container that may have profiles of its own.
func namespaceOf(profile string) string { return "lxc-" + profile }

// decideAppArmor decides what a machine is confined by: nothing where there is no AppArmor that we could use.
func decideAppArmor(root string, s *state.Spec, unusable error) state.AppArmor {
	switch asked := s.Security.AppArmor; {
	case asked == state.Unconfined || asked == "" && unusable != nil:
		return state.AppArmor{}
	case asked != "":
		return state.AppArmor{Profile: asked}
	}
	profile := profileOf(root, s.Name)
	return state.AppArmor{Profile: profile, Namespace: namespaceOf(profile)}
}

// label is what a process writes to a file of its own so that a security module confines what it executes.
type label struct{ file, text string }

// labels are those of a process that enters a machine.
func labels(a *state.Applied) (all []label) {
	if a.AppArmor.Profile != "" {
		all = append(all, label{"/proc/thread-self/attr/apparmor/exec", "exec " + a.AppArmor.Label()})
	}
	if a.SELinux != "" {
		all = append(all, label{"/proc/thread-self/attr/exec", a.SELinux}, label{"/proc/thread-self/attr/keycreate", a.SELinux})
	}
	return all
}

// appArmorOn says why no process can be put under a profile here; nil when it can.
func appArmorOn() error {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || strings.TrimSpace(string(on)) != "Y" {
		return state.Hint(fmt.Errorf("this kernel has no AppArmor, or has it switched off: %w", state.ErrUnsupported), "boot with apparmor=1 security=apparmor")
	}
	if !exists(appArmorFiles + "/.replace") {
		return state.Hint(fmt.Errorf("AppArmor cannot be told anything: no securityfs is mounted: %w", state.ErrUnsupported), "mount -t securityfs securityfs /sys/kernel/security")
	}
	own, err := os.ReadFile("/proc/self/attr/apparmor/current")
	if label := strings.TrimSpace(string(own)); err == nil && label != "unconfined" {
		return state.Hint(fmt.Errorf("croft is confined by AppArmor itself, by %s: %w", label, state.ErrUnsupported), "in a container: start it with apparmor=unconfined")
	}
	return err
}

// appArmorUsable says why there is no profile for machines here; nil when there is.
func appArmorUsable() error {
	if err := appArmorOn(); err != nil {
		return err
	}
	if have, err := effective(); err != nil || have&(1<<unix.CAP_MAC_ADMIN) == 0 {
		return errors.Join(err, fmt.Errorf("AppArmor takes no profiles from root without CAP_MAC_ADMIN: %w", state.ErrUnsupported))
	}
	_, err := parser()
	return err
}

// parser is the compiler of profiles.
func parser() (string, error) {
	for _, dir := range [...]string{"/usr/sbin", "/sbin", "/usr/bin"} {
		if path := filepath.Join(dir, "apparmor_parser"); exists(path) {
			return path, nil
		}
	}
	return "", state.Hint(errNoParser, "apt-get install apparmor")
}

var errNoParser = errors.New("AppArmor is on, and there is no apparmor_parser to compile a profile")

// confine loads the machine's own profile and makes its namespace.
func confine(ctx context.Context, l *launch) error {
	a := l.AppArmor
	switch {
	case errors.Is(l.noAppArmor, errNoParser):
		l.report.warn(l.Instance.Spec.Name + ": " + errNoParser.Error() + ": it runs without one")
		return nil
	case a.Namespace == "":
		return nil
	}
	policy, err := l.engine.policy(ctx, a.Profile, l.Instance.Spec.Security.Nesting)
	if err != nil {
		return err
	}
	if err := os.WriteFile(appArmorFiles+"/.replace", policy, 0); err != nil {
		return err
	}
	if err := os.Mkdir(namespaceDir(a.Namespace), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func namespaceDir(name string) string { return appArmorFiles + "/policy/namespaces/" + name }

// unconfine takes back what confine has loaded.
func unconfine(_ *Engine, a *state.Applied) error {
	if a.AppArmor.Namespace == "" || a.BootID != state.BootID() {
		return nil
	}
	if err := os.Remove(namespaceDir(a.AppArmor.Namespace)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := os.WriteFile(appArmorFiles+"/.remove", []byte(a.AppArmor.Profile), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// loaded says whether the kernel has a profile of that name.
func loaded(profile string) error {
	if err := appArmorOn(); err != nil {
		return fmt.Errorf("profile %s: %w", profile, err)
	}
	all, err := os.ReadFile(appArmorFiles + "/profiles") // "NAME (enforce)" each
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(all)) {
		if name, _, _ := strings.Cut(line, " ("); name == profile {
			return nil
		}
	}
	return state.Hint(fmt.Errorf("profile %s: is not loaded: %w", profile, state.ErrNotExist), "aa-status")
}

// policy is the compiled profile of that name. To compile one takes longer than the rest of a start, so that it is done for
// any name of this length and kept, and the name written into it then.
func (e *Engine) policy(ctx context.Context, profile string, nesting bool) ([]byte, error) {
	stand := standIn(len(profile))
	source := func(newParser bool) string { return appArmorProfile(stand, nesting, newParser) }
	cache := filepath.Join(e.Dir.Run, ".apparmor-"+strconv.Itoa(len(stand))+"-"+hash(Version+source(true)))
	compiled, err := os.ReadFile(cache)
	if err != nil {
		if compiled, err = compileProfile(ctx, source); err != nil {
			return nil, err
		}
		if err := keep(cache, compiled); err != nil {
			return nil, err
		}
	}
	return renamed(compiled, stand, profile)
}

// alignment is that of the automata in a compiled profile, counted from its beginning.
const alignment = 8

// standIn is a name that stands for those of length n: it moves nothing that comes after it out of its alignment.
func standIn(n int) string {
	const name = "croft-any-machine"
	for n < len(name) {
		n += alignment
	}
	return name + strings.Repeat("-", (n-len(name))%alignment)
}

// renamed gives a compiled profile another name (unpack_profile in the kernel's security/apparmor/policy_unpack.c): a byte
// that says string, its length with the NUL, and the name.
func renamed(compiled []byte, from, to string) ([]byte, error) {
	const isString = 5
	entry := func(name string) []byte {
		return append(append(binary.LittleEndian.AppendUint16([]byte{isString}, uint16(len(name)+1)), name...), 0)
	}
	if bytes.Count(compiled, []byte(from)) != 1 || bytes.Count(compiled, entry(from)) != 1 {
		return nil, fmt.Errorf("apparmor_parser: the profile does not have its name in one place: %w", state.ErrUnsupported)
	}
	return bytes.Replace(compiled, entry(from), entry(to), 1), nil
}

// compileProfile has a profile compiled for the running kernel.
func compileProfile(ctx context.Context, source func(newParser bool) string) ([]byte, error) {
	path, err := parser()
	if err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, path, "--version").Output() // "AppArmor parser version 4.1.0", and a copyright
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", path, err)
	}
	_, number, _ := strings.Cut(string(version), "version ")
	number, _, _ = strings.Cut(number, ".")
	major, _ := strconv.Atoi(number)
	cmd := exec.CommandContext(ctx, path, "--skip-kernel-load", "--skip-cache", "--ofile", "/dev/stdout")
	cmd.Stdin = strings.NewReader(source(major >= 4))
	var said bytes.Buffer
	cmd.Stderr = &said
	compiled, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(said.String()))
	}
	return compiled, nil
}
