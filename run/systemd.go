package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"croft/state"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Unit names the transient unit that holds name on a host of systemd's.
func (e *Engine) Unit(name string) string { return "croft" + tag(e.Dir.Root) + "-" + name + ".service" }

// booted says whether systemd is PID 1 of this host (sd_booted(3)).
func booted() bool {
	st, err := os.Lstat("/run/systemd/system")
	return err == nil && st.IsDir()
}

// Bus connects to systemd itself, past any bus, as root may. ErrUnsupported where it is not PID 1.
func (e *Engine) Bus(ctx context.Context) (*dbus.Conn, error) {
	if !booted() {
		return nil, fmt.Errorf("systemd is not PID 1 of this host: %w", state.ErrUnsupported)
	}
	for began := time.Now(); ; {
		bus, err := dbus.NewSystemdConnectionContext(ctx)
		if err == nil {
			return bus, nil
		}
		if time.Since(began) > answerLimit {
			return nil, fmt.Errorf("systemd does not answer: %w", err)
		}
		if err := Sleep(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// answerLimit is how long systemd may not answer: it closes all connections when it is executed again (daemon-reexec).
const answerLimit = 5 * time.Second

// supervisor connects to the systemd that shall hold in; nil when it is to be held by a process alone: because that was
// asked for, because there is no systemd that answers and none was asked for, or because it is bound to a job.
func (e *Engine) supervisor(ctx context.Context, in *state.Instance, job bool) (*dbus.Conn, error) {
	if in.Spec.Supervisor == state.SupervisorNone || in.Spec.Supervisor == "" && job {
		return nil, nil
	}
	bus, err := e.Bus(ctx)
	if err != nil && in.Spec.Supervisor == "" {
		return nil, nil
	}
	return bus, err
}

// startUnit has systemd start the machine in a unit of its own. A systemd that goes away meanwhile, to be executed again,
// is asked anew. It takes bus over.
func (e *Engine) startUnit(ctx context.Context, bus *dbus.Conn, in *state.Instance, client *os.File) (*Started, error) {
	for began := time.Now(); ; {
		s, err := e.tryUnit(ctx, bus, in, client)
		bus.Close()
		if !errors.Is(err, errUnheard) || time.Since(began) > answerLimit {
			return s, err
		}
		if bus, err = e.Bus(ctx); err != nil {
			return nil, fmt.Errorf("start %s: %w", in.Spec.Name, err)
		}
	}
}

// errUnheard: the connection to systemd broke, and it does not do what was asked of it.
var errUnheard = errors.New("systemd has closed the connection")

// tryUnit asks for the unit and waits for its starter. That is the unit's main process and talks to us by a socket that is
// its stdin: client, which may be nil, goes there, and the pipe of its report comes back.
func (e *Engine) tryUnit(ctx context.Context, bus *dbus.Conn, in *state.Instance, client *os.File) (*Started, error) {
	name, unit := in.Spec.Name, e.Unit(in.Spec.Name)
	ours, theirs, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	var rights []byte
	if client != nil {
		rights = unix.UnixRights(int(client.Fd()))
	}
	if err := unix.Sendmsg(int(ours.Fd()), []byte{0}, rights, nil, 0); err != nil {
		theirs.Close()
		return nil, fmt.Errorf("sendmsg: %w", err)
	}
	asked := e.transient(ctx, bus, in, theirs)
	theirs.Close()
	if asked != nil && !errors.Is(asked, errUnheard) {
		return nil, fmt.Errorf("start %s: unit %s: %w", name, unit, asked)
	}
	pipe, err := reportOf(ctx, ours)
	switch {
	case errors.Is(err, errEnded) && asked != nil:
		return nil, fmt.Errorf("start %s: unit %s: %w", name, unit, asked)
	case errors.Is(err, errEnded):
		err = fmt.Errorf("start %s: unit %s: it ended before it began%s", name, unit, resultOf(ctx, bus, unit))
		return nil, state.Hint(err, "journalctl -u "+unit)
	case err != nil:
		return nil, err
	}
	return &Started{name: name, pipe: pipe, log: e.Log}, nil
}

// reportOf takes the pipe of the starter's report off the socket. errEnded when there will be none.
func reportOf(ctx context.Context, conn *os.File) (*os.File, error) {
	var none [1]byte
	_, pipe, err := receiveUntil(ctx, conn, none[:])
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && !errors.Is(err, unix.ECONNRESET):
		return nil, err
	case pipe == nil:
		return nil, errEnded
	}
	return pipe, nil
}

// resultOf is how systemd says that a unit ended, to be put behind a sentence; "" when it says nothing.
func resultOf(ctx context.Context, bus *dbus.Conn, unit string) string {
	result, err := bus.GetServicePropertyContext(ctx, unit, "Result")
	if err != nil {
		return ""
	}
	return fmt.Sprint(": ", result.Value.Value())
}

// transient asks systemd for the unit. One of that name that has failed gives way, and one that is about to end is
// waited for. errUnheard when there is no answer.
func (e *Engine) transient(ctx context.Context, bus *dbus.Conn, in *state.Instance, stdin *os.File) error {
	unit := e.Unit(in.Spec.Name)
	exe, err := Program()
	if err != nil {
		return err
	}
	subgroups := true
	for began := time.Now(); ; {
		var err error
		looked := e.Dir.Look(in.Spec.Name, func(now *state.Instance) error { // who changes limits meanwhile finds the unit
			properties := []dbus.Property{property("StandardInputFileDescriptor", godbus.UnixFD(stdin.Fd()))}
			properties = append(properties, e.properties(now, exe)...)
			if !subgroups {
				properties = slices.DeleteFunc(properties, func(p dbus.Property) bool { return p.Name == subgroup })
			}
			_, err = bus.StartTransientUnitContext(ctx, unit, "fail", properties, nil)
			return nil
		})
		if looked != nil {
			return looked
		}
		var said godbus.Error
		switch {
		case errors.As(err, &said) && said.Name == "org.freedesktop.DBus.Error.PropertyReadOnly" && subgroups:
			subgroups = false // before systemd 254
			continue
		case errors.As(err, &said) && said.Name == "org.freedesktop.systemd1.UnitExists":
			active, err := bus.GetUnitPropertyContext(ctx, unit, "ActiveState")
			if err != nil {
				return fmt.Errorf("%w: %w", errUnheard, err)
			}
			switch active.Value.Value() {
			case "failed":
				bus.ResetFailedUnitContext(ctx, unit) // gone is as good
			case "active", "reloading":
				if now, err := e.Dir.Get(in.Spec.Name); err == nil && now.Applied != nil && now.Applied.Unit == unit {
					return state.ErrRunning // another start was faster
				}
				if time.Since(began) > time.Second { // not one of ours that is about to end
					return state.Hint(fmt.Errorf("there is one already, and this machine is not in it: %w", state.ErrBusy), "systemctl status "+unit)
				}
			}
			if time.Since(began) > connectLimit {
				return fmt.Errorf("there is one already and it does not end: %w", state.ErrBusy)
			}
			if err := Sleep(ctx, 5*time.Millisecond); err != nil {
				return err
			}
			continue
		case err != nil && said.Name == "" && ctx.Err() == nil: // no answer; whether it was heard all the same, the socket tells
			return fmt.Errorf("%w: %w", errUnheard, err)
		}
		return err
	}
}

// subgroup is the property by which systemd puts the main process into a cgroup of its own, beside the machine's.
const subgroup = "DelegateSubgroup"

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

// properties are all of the machine's unit but its stdin.
func (e *Engine) properties(in *state.Instance, exe string) []dbus.Property {
	all := append(limitProperties(sized(&in.Spec.Limits)), logProperties(e.Unit(in.Spec.Name), e.Dir.Root, in)...)
	return append(all, unitProperties(in, exe, e.environ())...)
}

// unitProperties are those of the machine's unit, but for its stdin. exe is croft, and env what it runs with. It is pure.
func unitProperties(in *state.Instance, exe string, env []string) []dbus.Property {
	name := in.Spec.Name
	collect := "inactive" // a crash is there to be seen, until the machine is started again or removed
	if in.Spec.Remove {
		collect = "inactive-or-failed"
	}
	type command struct {
		Path   string
		Args   []string
		Ignore bool
	}
	stop := in.Spec.HostStop() + stopMargin
	return []dbus.Property{
		property("Description", "croft machine "+name+", "+in.Spec.Image),
		property("Documentation", []string{"man:croft(1)", "man:croft-start(1)"}),
		property("After", beforeMachines[:]),
		property("Slice", "machine.slice"),
		property("CollectMode", collect),
		property("Type", "notify"),
		property("NotifyAccess", "main"),
		property("ExecStart", []command{{exe, []string{"croft", "supervise", name}, false}}),
		property("ExecStopPost", []command{{exe, []string{"croft", "repair", name}, true}}),
		property("Environment", append(env, envHold+"="+string(HeldByUnit))),
		property("StandardOutput", "journal"),
		property("StandardError", "journal"),
		property("KillMode", "mixed"),
		property("TimeoutStartUSec", uint64(0xffffffffffffffff)), // who waits for it has a limit of his own
		property("TimeoutStopUSec", uint64(stop.Microseconds())),
		property("OOMPolicy", "continue"),
		property("OOMScoreAdjust", int32(-900)), // the keeper's, which counts against the same limit; the machine has its own
		property("Delegate", true),
		property(subgroup, supervisorGroup),
	}
}

// stopMargin is how much longer than the machine itself its unit may take to stop: for the undo.
const stopMargin = 15 * time.Second

// supervisorGroup is the cgroup of the keeper where systemd has handed us one to divide: the machine has another beside
// it, and processes may stand only in the leaves.
const supervisorGroup = "supervisor"

// transientUnit is the file of a unit that was started over the bus: it is there as long as systemd knows the unit.
func transientUnit(unit string) string { return filepath.Join("/run/systemd/transient", unit) }

// forget has systemd forget the failed unit of a machine that is removed.
func (e *Engine) forget(name string) {
	unit := e.Unit(name)
	switch {
	case exists(transientUnit(unit)):
	case exists(unitPath(e.BootUnit(""))):
		unit = e.BootUnit(name)
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	if bus, err := e.Bus(ctx); err == nil {
		bus.ResetFailedUnitContext(ctx, unit) // one that has not failed goes by itself
		bus.Close()
	}
}

// unitEnded waits until systemd, too, takes the unit of a machine that has ended for ended, which is when its cgroup goes.
func (e *Engine) unitEnded(ctx context.Context, in *state.Instance) error {
	ours := in.Applied != nil && (in.Applied.Unit == e.Unit(in.Spec.Name) || in.Applied.Unit == e.BootUnit(in.Spec.Name))
	if !ours || len(in.Applied.Cgroups) == 0 {
		return nil
	}
	dir := filepath.Dir(in.Applied.Cgroups[0])
	for began := time.Now(); exists(dir) && time.Since(began) < 5*time.Second; {
		if err := Sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// unitAround names the unit of systemd that the cgroup of that directory is of; "" when there is none.
func unitAround(dir string) string {
	if !booted() {
		return ""
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if base := filepath.Base(dir); strings.HasSuffix(base, ".service") || strings.HasSuffix(base, ".scope") {
			return base
		}
	}
	return ""
}

// inJob says whether somebody has put this process into a cgroup for what it does: a unit's, a batch system's, and not
// that of a login. What is bound to it stays there, under the job's limits and in its account.
func inJob() bool {
	in, err := ownCgroups("self")
	return err == nil && slices.ContainsFunc(in, func(c membership) bool {
		if booted() && c.hierarchy != "" {
			return false // systemd tracks by the unified one
		}
		return c.path != "/" && c.path != "/init.scope" && !strings.HasPrefix(c.path, "/user.slice/")
	})
}

// delegated finds the cgroup around own that systemd has handed over to be divided (Delegate=, systemd.exec(5)); "" when
// there is none. It may have put us one below it (DelegateSubgroup=), as we do ourselves.
func delegated(own string) string {
	for _, dir := range []string{own, filepath.Dir(own)} {
		for _, mark := range []string{"user.delegate", "trusted.delegate"} {
			var value [4]byte
			if n, err := unix.Getxattr(dir, mark, value[:]); err == nil && string(value[:n]) == "1" {
				return dir
			}
		}
	}
	return ""
}
