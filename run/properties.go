package run

import (
	"context"
	"errors"
	"fmt"
	"math"

	"croft/state"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// unlimited is what systemd takes for no limit, and for a weight that is the kernel's own.
const unlimited = uint64(math.MaxUint64)

// relimitUnit has the unit of a machine follow, if there is one.
func (e *Engine) relimitUnit(name string, before, after *state.Limits) error {
	unit := e.Unit(name)
	if !exists(transientUnit(unit)) {
		return nil
	}
	l := *after
	if l.CPUSet == "" && before.CPUSet != "" {
		l.CPUSet = online() // systemd cannot empty the cpuset of a unit that runs
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	bus, err := e.Bus(ctx)
	if err == nil {
		defer bus.Close()
		err = bus.SetUnitPropertiesContext(ctx, unit, true, limitProperties(&l)...)
	}
	var said godbus.Error
	if errors.As(err, &said) && said.Name == "org.freedesktop.systemd1.NoSuchUnit" { // gone meanwhile
		return nil
	}
	if err != nil {
		return fmt.Errorf("unit %s: %w", unit, err)
	}
	return nil
}

// limitProperties are the limits of a machine as those of the unit that holds it, for the unit's start and for
// SetUnitProperties (systemd.resource-control(5), org.freedesktop.systemd1(5)). One that is not asked for is lifted.
func limitProperties(l *state.Limits) []dbus.Property {
	swap := unlimited
	if l.Swap != nil {
		swap = uint64(*l.Swap)
	}
	all := []dbus.Property{
		property("MemoryMax", orUnlimited(l.Memory)),
		property("MemoryHigh", orUnlimited(l.MemorySoft)),
		property("MemorySwapMax", swap),
		property("CPUQuotaPerSecUSec", orUnlimited(l.QuotaPerSecond())),
		property("CPUQuotaPeriodUSec", orUnlimited(int64(l.CPUPeriod))),
		property("AllowedCPUs", cpuMask(l.CPUSet)),
		property("CPUWeight", orUnlimited(int64(l.CPUWeight))),
		property("TasksMax", orUnlimited(l.MostPIDs())),
		property("IOWeight", orUnlimited(int64(l.IOWeight))),
	}
	for _, kind := range []struct {
		name string
		of   func(m state.IOMax) int64
	}{
		{"IOReadBandwidthMax", func(m state.IOMax) int64 { return m.ReadBytes }},
		{"IOWriteBandwidthMax", func(m state.IOMax) int64 { return m.WriteBytes }},
		{"IOReadIOPSMax", func(m state.IOMax) int64 { return m.ReadOps }},
		{"IOWriteIOPSMax", func(m state.IOMax) int64 { return m.WriteOps }},
	} {
		all = append(all, property(kind.name, []deviceLimit{})) // an empty list lifts those before
		var limits []deviceLimit
		for _, m := range l.IOMax {
			if n := kind.of(m); n > 0 {
				limits = append(limits, deviceLimit{m.Device, uint64(n)})
			}
		}
		if limits != nil {
			all = append(all, property(kind.name, limits))
		}
	}
	return all
}

// deviceLimit is a(st) on the bus.
type deviceLimit struct {
	Path string
	N    uint64
}

func orUnlimited(n int64) uint64 {
	if n <= 0 {
		return unlimited
	}
	return uint64(n)
}

// cpuMask is a set of processors as the bus has it: a bit for each, the first in the first byte's lowest; empty for all.
func cpuMask(list string) []byte {
	mask := []byte{}
	cpus, _ := state.CPUList(list)
	for _, n := range cpus {
		for len(mask) <= n/8 {
			mask = append(mask, 0)
		}
		mask[n/8] |= 1 << (n % 8)
	}
	return mask
}
