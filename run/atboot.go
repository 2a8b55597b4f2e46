package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"croft/state"

	"github.com/coreos/go-systemd/v22/dbus"
)

// What systemd needs to start machines with the host, when nothing of croft's runs: a template unit, a link to it for each
// machine that boot.autostart has start always, and beside it a drop-in with what the machine's settings say of its unit.
// What ran as the host went down a unit of its own brings back (boot.go). These are plain files and links: the generators
// of systemd run when nothing but / is mounted.

// hostUnits has the unit files that this host's administrator has made, and now we for him.
const hostUnits = "/etc/systemd/system"

// packagedUnits have those that came in packages.
var packagedUnits = [...]string{"/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// atBoot has the links to what the host's start starts.
const atBoot = hostUnits + "/multi-user.target.wants"

// dropIn is what we call ours among the drop-ins of a unit: others, such as that of systemctl edit, come after it.
const dropIn = "50-croft.conf"

// BootUnit names the unit by which the host's start starts name; it is an instance of the template, which has no name.
func (e *Engine) BootUnit(name string) string {
	return "croft" + tag(e.Dir.Root) + "@" + name + ".service"
}

// returnUnit names the unit that brings back what ran as the host went down. No machine's own unit can have that name.
func (e *Engine) returnUnit() string {
	return "croft" + strings.Replace(tag(e.Dir.Root), "-", ".", 1) + ".service"
}

// Autostart sets boot.autostart of name, and leaves it to Enable what follows from it.
func (e *Engine) Autostart(name string, on bool) error {
	_, _, err := e.respec(name, func(s *state.Spec) error {
		s.Boot.Autostart = &on
		s.Own("boot.autostart", false)
		return nil
	})
	return err
}

// Enable installs what the host's start needs to do with the machines what their boot.autostart says, and removes what it
// does not need.
func (e *Engine) Enable(ctx context.Context, names ...string) error {
	return e.arrange(ctx, func() (changed bool, err error) {
		for _, name := range names {
			did, err := e.enable(name)
			if changed = changed || did; err != nil {
				return changed, err
			}
		}
		return changed, nil
	})
}

// EnableReturn installs what brings back, when the host starts, what ran as it went down.
func (e *Engine) EnableReturn(ctx context.Context) error { return e.arrange(ctx, e.enableReturn) }

// DisableReturn takes that away.
func (e *Engine) DisableReturn(ctx context.Context) error {
	return e.arrange(ctx, func() (bool, error) {
		return several(
			func() (bool, error) { return removed(filepath.Join(atBoot, e.returnUnit())) },
			func() (bool, error) { return removed(filepath.Join(hostUnits, e.returnUnit())) },
			func() (bool, error) {
				if used, err := e.templateUsed(ctx); used || err != nil {
					return false, err
				}
				return removed(filepath.Join(hostUnits, e.BootUnit("")))
			},
		)
	})
}

// templateUsed says whether a machine is enabled, runs in an instance of the template or has failed in one: without its file
// a unit would not know how it is stopped.
func (e *Engine) templateUsed(ctx context.Context) (bool, error) {
	if len(e.enabledNames()) > 0 {
		return true, nil
	}
	used := false
	err := e.onBus(ctx, func(ctx context.Context, bus *dbus.Conn) error {
		units, err := bus.ListUnitsByPatternsContext(ctx, []string{"active", "activating", "deactivating", "failed"}, []string{e.BootUnit("*")})
		used = len(units) > 0
		return err
	})
	return used, err
}

// arrange does something to the unit files while nobody else of this root does.
func (e *Engine) arrange(ctx context.Context, do func() (changed bool, err error)) (err error) {
	var changed bool
	if still := e.Dir.Still(func() error { changed, err = several(do, e.describe); return nil }); still != nil {
		return still
	}
	if changed {
		err = errors.Join(err, e.reread(ctx))
	}
	return err
}

// several does one change after the other, up to the first that fails, and says whether there was any.
func several(do ...func() (changed bool, err error)) (changed bool, err error) {
	for _, one := range do {
		did, err := one()
		if changed = changed || did; err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// reread has systemd read its units anew, where it is there to do so.
func (e *Engine) reread(ctx context.Context) error {
	err := e.onBus(ctx, func(ctx context.Context, bus *dbus.Conn) error { return bus.ReloadContext(ctx) })
	if err != nil {
		return fmt.Errorf("systemd has not read its units anew: %w", err)
	}
	return nil
}

// onBus asks systemd for something that may take it a while; nothing is asked where it is not PID 1.
func (e *Engine) onBus(ctx context.Context, ask func(ctx context.Context, bus *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, busLimit)
	defer cancel()
	bus, err := e.Bus(ctx)
	if errors.Is(err, state.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	defer bus.Close()
	return ask(ctx, bus)
}

// busLimit is how long that may be: it answers nobody while it reads its units.
const busLimit = 30 * time.Second

// enable makes the link of a machine that is to start with the host, and removes it of any other.
func (e *Engine) enable(name string) (changed bool, err error) {
	in, err := e.Dir.Get(name)
	if err != nil {
		return false, err
	}
	if !in.Spec.Boot.Always() {
		return removed(filepath.Join(atBoot, e.BootUnit(name)))
	}
	program, err := Program()
	if err != nil {
		return false, err
	}
	return several(
		func() (bool, error) { return e.install(e.BootUnit(""), e.template(program)) },
		func() (bool, error) { return link(unitPath(e.BootUnit("")), filepath.Join(atBoot, e.BootUnit(name))) },
		e.enableReturn,
	)
}

func (e *Engine) enableReturn() (changed bool, err error) {
	program, err := Program()
	if err != nil {
		return false, err
	}
	return several(
		func() (bool, error) { return e.install(e.returnUnit(), e.returning(program)) },
		func() (bool, error) { return link(unitPath(e.returnUnit()), filepath.Join(atBoot, e.returnUnit())) },
	)
}

// enabled says whether the host's start starts name by a unit, whoever enabled that.
func (e *Engine) enabled(name string) bool { return exists(filepath.Join(atBoot, e.BootUnit(name))) }

// enabledNames are those of which enabled says so, whether there are such machines or not.
func (e *Engine) enabledNames() (names []string) {
	before, after, _ := strings.Cut(e.BootUnit("*"), "*")
	links, _ := filepath.Glob(filepath.Join(atBoot, before+"*"+after))
	for _, l := range links {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(l), before), after))
	}
	return names
}

// ofOurs marks the files that we write: one without it is somebody else's, and stays as it is.
const ofOurs = "# Made by croft, which writes it anew: change it by systemctl edit."

// unitPath is where a unit file is: where a package has put it, else among the administrator's.
func unitPath(unit string) string {
	for _, dir := range packagedUnits {
		if path := filepath.Join(dir, unit); exists(path) {
			return path
		}
	}
	return filepath.Join(hostUnits, unit)
}

// install writes a unit file that no package has put there.
func (e *Engine) install(unit, text string) (changed bool, err error) {
	path := unitPath(unit)
	if filepath.Dir(path) != hostUnits {
		return false, nil
	}
	return written(path, text)
}

// written makes a file of ours what it shall be.
func written(path, text string) (changed bool, err error) {
	is, err := os.ReadFile(path)
	if err == nil && (string(is) == text || !strings.HasPrefix(string(is), ofOurs)) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	return true, state.Replace(path, []byte(text), 0o644)
}

// link makes path a link to target.
func link(target, path string) (changed bool, err error) {
	if is, err := os.Readlink(path); err == nil && is == target {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	if _, err := removed(path); err != nil {
		return false, err
	}
	if err := os.Symlink(target, path); err != nil {
		return true, err
	}
	return true, state.SyncDir(filepath.Dir(path))
}

// removed removes a file or an empty directory; gone is no change.
func removed(path string) (changed bool, err error) {
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// describe writes the drop-in of each enabled machine, and removes those of others.
func (e *Engine) describe() (changed bool, err error) {
	var all []*state.Instance
	for _, name := range e.enabledNames() {
		if in, err := e.Dir.Get(name); err == nil { // else its settings are not known
			all = append(all, in)
		}
	}
	for _, in := range all {
		wrote, err := written(filepath.Join(hostUnits, e.BootUnit(in.Spec.Name)+".d", dropIn), e.dropIn(in, all))
		if changed = changed || wrote; err != nil {
			return changed, err
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(hostUnits, e.BootUnit("*")+".d"))
	for _, dir := range dirs {
		if exists(filepath.Join(atBoot, strings.TrimSuffix(filepath.Base(dir), ".d"))) {
			continue
		}
		gone, err := undescribe(dir)
		if changed = changed || gone; err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// undescribe removes our drop-in from a directory, and the directory with the last of them.
func undescribe(dir string) (changed bool, err error) {
	changed, err = removed(filepath.Join(dir, dropIn))
	if err == nil {
		os.Remove(dir)
	}
	return changed, err
}

// dropIn is what in's settings say of its unit, among all those that are enabled.
func (e *Engine) dropIn(in *state.Instance, all []*state.Instance) string {
	var first []string
	for _, other := range all {
		if other.Spec.Boot.Priority > in.Spec.Boot.Priority {
			first = append(first, e.BootUnit(other.Spec.Name))
		}
	}
	slices.Sort(first)
	var u unitText
	u.line("%s", ofOurs)
	u.section("Unit")
	for _, unit := range first {
		u.set("After", unit)
	}
	for _, m := range in.Spec.Mounts {
		u.set("RequiresMountsFor", m.Source)
	}
	u.section("Service")
	u.set("LogExtraFields", LogFields(e.Dir.Root, in)...)
	u.line("TimeoutStopSec=%d", int((in.Spec.HostStop() + stopMargin).Seconds()))
	return u.String()
}

// disown removes what the host's start has for a machine that is removed.
func (e *Engine) disown(name string) error {
	if !e.enabled(name) {
		return nil
	}
	return e.arrange(context.Background(), func() (bool, error) { return removed(filepath.Join(atBoot, e.BootUnit(name))) })
}

// rehome gives what the host's start has for a machine to its new name, with what else its unit was given. It may have
// been killed at that before. The caller keeps others of this root away.
func (e *Engine) rehome(from, to string) error {
	if !e.enabled(from) && !e.enabled(to) {
		return nil
	}
	old, now := e.BootUnit(from), e.BootUnit(to)
	for _, at := range [][2]string{{hostUnits, ".d"}, {atBoot, ""}} {
		err := os.Rename(filepath.Join(at[0], old+at[1]), filepath.Join(at[0], now+at[1]))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if _, err := e.describe(); err != nil {
		return err
	}
	return e.reread(context.Background())
}

// template is the unit of which BootUnit is an instance, but for what a drop-in has. It sets no limit to a start: many
// start at once with the host, and one that is slow is wanted all the same.
func (e *Engine) template(program string) string {
	u := e.bootUnit("machine %i of croft")
	e.service(u, program, "%i")
	u.line("TimeoutStartSec=infinity")
	u.line("# Longer than any machine's own limit, which its drop-in has.")
	u.line("TimeoutStopSec=%d", int((state.DefaultStop + stopMargin).Seconds()))
	u.wantedAtBoot()
	return u.String()
}

// returning is the unit that brings back what ran. Its processes that stay are the keepers of machines that want no unit
// (--supervisor none).
func (e *Engine) returning(program string) string {
	u := e.bootUnit("machines of croft that ran when the host went down")
	u.section("Service")
	u.line("Type=oneshot")
	e.places(u)
	u.set("ExecStart", program, "start", "--boot")
	u.line("KillMode=process")
	u.wantedAtBoot()
	return u.String()
}

// bootUnit begins a unit of the host's start: what it is, and what machines start after, and so stop before.
func (e *Engine) bootUnit(description string) *unitText {
	u := &unitText{}
	u.line(ofOurs)
	u.section("Unit")
	u.line("Description=%s", description)
	u.line("Documentation=man:croft-enable(1)")
	u.set("After", beforeMachines[:]...)
	u.set("RequiresMountsFor", e.Dir.Root)
	return u
}

// beforeMachines are units of the host that machines, or what is done at their end, may need.
var beforeMachines = [...]string{"network.target", "remote-fs.target", "dbus.service", "systemd-machined.service"}
