package state

import (
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
)

// Limits is what a machine may use of the host at most, and its part of what is scarce. 0 is no limit, but for PIDs.
type Limits struct {
	Memory    int64   `json:"memory_bytes,omitempty"`
	CPUs      float64 `json:"cpus,omitempty"`       // as much time as this many processors have
	CPUSet    string  `json:"cpu_set,omitempty"`    // the processors that it runs on, as in cpuset(7): "0-3,6"
	CPUWeight int     `json:"cpu_weight,omitempty"` // against others, 1 to 10000; 0: the kernel's 100
	PIDs      int64   `json:"pids,omitempty"`       // processes and threads; 0: DefaultPIDs, Unlimited: no limit
	IOMax     []IOMax `json:"io_max,omitempty"`
	IOWeight  int     `json:"io_weight,omitempty"` // as CPUWeight
}

// IOMax is how fast a machine may read from and write to one disk; 0 is no limit.
type IOMax struct {
	Device     string `json:"device"`                // its node, or a path on a filesystem of it; absolute, on the host
	ReadBytes  int64  `json:"read_bytes,omitempty"`  // all of them per second
	WriteBytes int64  `json:"write_bytes,omitempty"` //
	ReadOps    int64  `json:"read_ops,omitempty"`
	WriteOps   int64  `json:"write_ops,omitempty"`
}

const (
	DefaultPIDs = 16384 // half of the host's usual kernel.pid_max: no machine takes all of it
	Unlimited   = -1

	// LeastMemory is below what a machine can start in: the container's init, which is croft, is in its cgroup already.
	LeastMemory = 8 << 20

	mostPIDs     = 1 << 22 // PID_MAX_LIMIT of the kernel
	leastCPUs    = 0.01    // the kernel gives no quota below 1 ms in 100
	mostCPUs     = 8192    // CONFIG_NR_CPUS is never more
	mostOfWeight = 10000
)

// MostPIDs is how many processes and threads the machine may have; Unlimited for any number.
func (l *Limits) MostPIDs() int64 {
	if l.PIDs == 0 {
		return DefaultPIDs
	}
	return l.PIDs
}

func (l *Limits) check(say func(field, format string, a ...any)) {
	if l.Memory != 0 && l.Memory < LeastMemory {
		say("limits.memory", "%d bytes: no machine starts in less than %d MiB", l.Memory, LeastMemory>>20)
	}
	if l.CPUs != 0 && !(l.CPUs >= leastCPUs && l.CPUs <= mostCPUs) { // so that NaN is none
		say("limits.cpus", "%v is none from %v to %d", l.CPUs, leastCPUs, mostCPUs)
	}
	if _, err := CPUList(l.CPUSet); err != nil {
		say("limits.cpu_set", "%v", err)
	}
	if l.CPUWeight < 0 || l.CPUWeight > mostOfWeight {
		say("limits.cpu_weight", "%d is none from 1 to %d", l.CPUWeight, mostOfWeight)
	}
	if l.IOWeight < 0 || l.IOWeight > mostOfWeight {
		say("limits.io_weight", "%d is none from 1 to %d", l.IOWeight, mostOfWeight)
	}
	if l.PIDs < Unlimited || l.PIDs > mostPIDs {
		say("limits.pids", "%d is none from 1 to %d", l.PIDs, mostPIDs)
	}
	seen := map[string]bool{}
	for _, m := range l.IOMax {
		device := path.Clean(m.Device)
		switch {
		case !path.IsAbs(m.Device) || strings.ContainsAny(m.Device, "\x00\n"):
			say("limits.io_max", "device %q is not absolute", m.Device)
		case seen[device]:
			say("limits.io_max", "device %s is given twice", device)
		case min(m.ReadBytes, m.WriteBytes, m.ReadOps, m.WriteOps) < 0 || m == IOMax{Device: m.Device}:
			say("limits.io_max", "device %s: a limit is a number above 0", device)
		}
		seen[device] = true
	}
}

// CPUList reads the numbers of processors as cpuset(7) writes them, "0-3,6", in their order; none of "".
func CPUList(text string) ([]int, error) {
	var all []int
	for _, part := range strings.Split(text, ",") {
		if text == "" {
			break
		}
		first, last, span := strings.Cut(part, "-")
		if !span {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || a > b || b >= mostCPUs {
			return nil, fmt.Errorf("%q is no list of processors like 0-3,6", text)
		}
		for n := a; n <= b; n++ {
			all = append(all, int(n))
		}
	}
	return all, nil
}

// Quota is how much processor time the machine may use in each period, in its unit; 0 is no limit.
func (l *Limits) Quota(period int64) int64 { return int64(math.Round(l.CPUs * float64(period))) }
