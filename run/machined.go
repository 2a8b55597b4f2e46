package run

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"croft/state"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// org.freedesktop.machine1(5). It is where machinectl, systemctl -M and journalctl -M find machines.
const (
	machinedBus     = "org.freedesktop.machine1"
	machinedObject  = "/org/freedesktop/machine1"
	machinedManager = machinedBus + ".Manager."
	machinedFiles   = "/run/systemd/machines" // one for each machine that it knows
	machinedLimit   = 3 * time.Second
	machinedLongest = 64 // of a name: HOST_NAME_MAX
)

// machinedName is the name of a machine there, where all roots of a host share the names: tagged like its unit, so that
// a name never means one machine today and another tomorrow.
func machinedName(root, name string) string { return name + tag(root) }

// meetMachined begins to connect to machined while the machine is being made. A machine is shown there when its unit is
// its own, since `machinectl terminate` stops that: never a session, or a service with a machine somewhere in it.
func (l *launch) meetMachined(ctx context.Context) {
	if !l.Boot || !strings.HasSuffix(l.Unit, ".service") {
		return
	}
	l.machined = make(chan *godbus.Conn, 1)
	go func() { l.machined <- l.callMachined(ctx) }()
}

// callMachined is a connection to machined, if it is there and shall know of this machine; nil otherwise.
func (l *launch) callMachined(ctx context.Context) *godbus.Conn {
	if l.Hold != HeldByUnit && !l.engine.mainProcess(ctx, l.Unit) {
		return nil
	}
	bus, _ := wakeMachined(ctx)
	return bus
}

// wakeMachined connects to the bus and wakes machined at the other end, where it sleeps.
func wakeMachined(ctx context.Context) (*godbus.Conn, error) {
	bus, err := godbus.ConnectSystemBus(godbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("no system bus: %w", err)
	}
	if err := bus.Object(machinedBus, machinedObject).CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err; err != nil {
		bus.Close() // not installed, or masked
		return nil, fmt.Errorf("systemd-machined: %w", err)
	}
	return bus, nil
}

// mainProcess says whether systemd takes this process for the main one of the unit.
func (e *Engine) mainProcess(ctx context.Context, unit string) bool {
	bus, err := e.Bus(ctx)
	if err != nil {
		return false
	}
	defer bus.Close()
	main, err := bus.GetServicePropertyContext(ctx, unit, "MainPID")
	return err == nil && main.Value.Value() == uint32(unix.Getpid())
}

// register makes the machine known to machined. Nothing depends on it: what fails is said, and the machine goes on.
func register(ctx context.Context, l *launch) error {
	if l.machined == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, machinedLimit)
	defer cancel()
	var err error
	select {
	case bus := <-l.machined:
		if bus == nil {
			return nil
		}
		defer bus.Close()
		err = l.registerOn(ctx, bus)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("systemd-machined has not answered within %v", machinedLimit)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		l.report.warn(fmt.Sprintf("machinectl does not show %s: %v", l.Instance.Spec.Name, err))
	}
	return nil
}

func (l *launch) registerOn(ctx context.Context, bus *godbus.Conn) error {
	id, err := hex.DecodeString(l.Instance.UUID)
	if err != nil {
		return err
	}
	name := machinedName(l.engine.Dir.Root, l.Instance.Spec.Name)
	if len(name) > machinedLongest {
		return fmt.Errorf("%s has more than %d characters: %w", name, machinedLongest, state.ErrUnsupported)
	}
	err = bus.Object(machinedBus, machinedObject).CallWithContext(ctx, machinedManager+"RegisterMachineWithNetwork", 0,
		name, id, "croft", "container", uint32(l.container.pid), "", l.hostEnds()).Err
	var said godbus.Error
	if errors.As(err, &said) && said.Name == machinedBus+".MachineExists" {
		return fmt.Errorf("another machine of this host has the name %s there", name)
	}
	return err
}

// hostEnds are the indexes of the interfaces that the host has of the machine: it shows them.
func (l *launch) hostEnds() []int32 {
	ends := []int32{}
	for _, link := range l.Instance.Applied.Facts.Links {
		if i, err := net.InterfaceByName(link.Host); err == nil {
			ends = append(ends, int32(i.Index))
		}
	}
	return ends
}

// deregister makes machined forget a machine, which it would do by itself when the unit ends: a reboot from inside does
// not end it.
func deregister(e *Engine, a *state.Applied) error {
	ctx, cancel := context.WithTimeout(context.Background(), machinedLimit)
	defer cancel()
	if bus, name := e.registered(ctx, a); bus != nil {
		defer bus.Close()
		bus.Object(machinedBus, machinedObject).CallWithContext(ctx, machinedManager+"UnregisterMachine", godbus.FlagNoAutoStart, name)
	}
	return nil
}

// registered is a connection to machined and the name under which it knows the machine of a start; nil when it does not.
func (e *Engine) registered(ctx context.Context, a *state.Applied) (*godbus.Conn, string) {
	name := machinedName(e.Dir.Root, a.Spec.Name)
	if a.Unit == "" || !exists(filepath.Join(machinedFiles, name)) {
		return nil, ""
	}
	bus, err := godbus.ConnectSystemBus(godbus.WithContext(ctx))
	if err != nil {
		return nil, ""
	}
	var path godbus.ObjectPath
	var unit string
	err = bus.Object(machinedBus, machinedObject).CallWithContext(ctx, machinedManager+"GetMachine", godbus.FlagNoAutoStart, name).Store(&path)
	if err == nil {
		err = bus.Object(machinedBus, path).StoreProperty(machinedBus+".Machine.Unit", &unit)
	}
	if err != nil || unit != a.Unit {
		bus.Close()
		return nil, ""
	}
	return bus, name
}

// Registered is the name under which machined knows a machine that runs: the one for machinectl; "" when it does not.
func (e *Engine) Registered(ctx context.Context, in *state.Instance) string {
	if in.Applied == nil {
		return ""
	}
	bus, name := e.registered(ctx, in.Applied)
	if bus != nil {
		bus.Close()
	}
	return name
}
