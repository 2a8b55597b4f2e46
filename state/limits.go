package state

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Limits is what a machine may use of the host at most, and its part of what is scarce. 0 is no limit, but for PIDs.
type Limits struct {
	Memory            int64      `json:"memory_bytes,omitempty"`
	MemoryPercent     int        `json:"memory_percent,omitempty"`    // of the host's, in the place of Memory
	MemorySoft        int64      `json:"memory_soft_bytes,omitempty"` // what is above it the kernel takes back when it can
	MemorySoftPercent int        `json:"memory_soft_percent,omitempty"`
	Swap              *int64     `json:"swap_bytes,omitempty"`    // beside the memory; nil: as much as the host has
	CPUs              float64    `json:"cpus,omitempty"`          // as much time as this many processors have
	CPUPeriod         int        `json:"cpu_period_us,omitempty"` // in each of which it has that part; 0: DefaultPeriod
	CPUSet            string     `json:"cpu_set,omitempty"`       // the processors that it runs on, as in cpuset(7): "0-3,6"
	CPUWeight         int        `json:"cpu_weight,omitempty"`    // against others, 1 to 10000; 0: the kernel's 100
	PIDs              int64      `json:"pids,omitempty"`          // processes and threads; 0: DefaultPIDs, Unlimited: no limit
	IOMax             []IOMax    `json:"io_max,omitempty"`
	IOWeight          int        `json:"io_weight,omitempty"` // as CPUWeight
	HugePages         []HugePage `json:"huge_pages,omitempty"`
	Ulimits           []Ulimit   `json:"ulimits,omitempty"`    // of each process
	Disk              int64      `json:"disk_bytes,omitempty"` // of what is kept of it: what it has written, with a driver that copies all of its files
}

// HugePage is how much a machine may have in huge pages of one size.
type HugePage struct {
	Size  string `json:"size"` // as the kernel's files are called: "2MB"
	Bytes int64  `json:"bytes"`
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

	leastDisk    = 1 << 20
	mostPIDs     = 1 << 22 // PID_MAX_LIMIT of the kernel
	leastCPUs    = 0.01    // the kernel gives no quota below 1 ms in 100
	mostCPUs     = 8192    // CONFIG_NR_CPUS is never more
	mostOfWeight = 10000

	// DefaultPeriod is that of processor time, in microseconds: the kernel's own.
	DefaultPeriod = 100000
	leastPeriod   = 1000 // of the kernel, for what may be used of a period, too
	mostPeriod    = 1000000
)

// MostPIDs is how many processes and threads the machine may have; Unlimited for any number.
func (l *Limits) MostPIDs() int64 {
	if l.PIDs == 0 {
		return DefaultPIDs
	}
	return l.PIDs
}

// Check tells what cannot be among the limits, each naming its field.
func (l *Limits) Check() error {
	var v Violations
	l.check(v.say)
	return v.Err()
}

func (l *Limits) check(say func(field, format string, a ...any)) {
	l.checkMemory(say)
	l.checkTime(say)
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
	for i, p := range l.HugePages {
		if !slices.Contains(HugePageSizes[:], p.Size) {
			say("limits.huge_pages", "%q is none of %s", p.Size, strings.Join(HugePageSizes[:], ", "))
		}
		if p.Bytes < 0 {
			say("limits.huge_pages", "%s: %d is negative", p.Size, p.Bytes)
		}
		if slices.ContainsFunc(l.HugePages[:i], func(q HugePage) bool { return q.Size == p.Size }) {
			say("limits.huge_pages", "%s is given twice", p.Size)
		}
	}
	checkUlimits(l.Ulimits, say)
	if l.Disk != 0 && l.Disk < leastDisk {
		say("limits.disk", "%d bytes: no machine starts with less than %d MiB", l.Disk, leastDisk>>20)
	}
}

// HugePageSizes are those of the processors that there are.
var HugePageSizes = [...]string{"64KB", "1MB", "2MB", "32MB", "512MB", "1GB"}

func (l *Limits) checkMemory(say func(field, format string, a ...any)) {
	if l.Memory != 0 && l.Memory < LeastMemory {
		say("limits.memory", "%d bytes: no machine starts in less than %d MiB", l.Memory, LeastMemory>>20)
	}
	if l.MemorySoft < 0 || l.Memory > 0 && l.MemorySoft > l.Memory {
		say("limits.memory_soft", "%d bytes are none from 1 to the %d of memory", l.MemorySoft, l.Memory)
	}
	if n := l.MemoryPercent; n < 0 || n > 100 || l.MemorySoftPercent < 0 || l.MemorySoftPercent > 100 {
		say("limits.memory", "a part of the host's is 1%% to 100%%")
	}
	if l.Memory != 0 && l.MemoryPercent != 0 || l.MemorySoft != 0 && l.MemorySoftPercent != 0 {
		say("limits.memory", "is a size or a part of the host's, not both")
	}
	switch limited := l.Memory != 0 || l.MemoryPercent != 0; {
	case l.Swap != nil && *l.Swap < 0:
		say("limits.swap", "%d is negative", *l.Swap)
	case l.Swap != nil && !limited:
		say("limits.swap", "without a limit of memory it limits nothing")
	}
}

func (l *Limits) checkTime(say func(field, format string, a ...any)) {
	if l.CPUs != 0 && !(l.CPUs >= leastCPUs && l.CPUs <= mostCPUs) { // so that NaN is none
		say("limits.cpus", "%v is none from %v to %d", l.CPUs, leastCPUs, mostCPUs)
	}
	switch n := l.CPUPeriod; {
	case n == 0:
	case l.CPUs == 0 || n < leastPeriod || n > mostPeriod || l.Quota() < leastPeriod:
		say("limits.cpus", "time is given as 1ms or more of each period of 1ms to 1s")
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

// Period is that of processor time, in microseconds.
func (l *Limits) Period() int64 {
	if l.CPUPeriod == 0 {
		return DefaultPeriod
	}
	return int64(l.CPUPeriod)
}

// Quota is how much processor time the machine may use in each period; 0 is no limit.
func (l *Limits) Quota() int64 { return l.timeIn(l.Period()) }

// QuotaPerSecond is the same of a second, in microseconds.
func (l *Limits) QuotaPerSecond() int64 { return l.timeIn(1_000_000) }

func (l *Limits) timeIn(period int64) int64 { return int64(math.Round(l.CPUs * float64(period))) }

// On are the limits on a host with that much memory: parts of it are sizes.
func (l Limits) On(total int64) *Limits {
	part := func(bytes *int64, percent *int) {
		if *percent > 0 {
			*bytes, *percent = total/100*int64(*percent), 0
		}
	}
	part(&l.Memory, &l.MemoryPercent)
	part(&l.MemorySoft, &l.MemorySoftPercent)
	return &l
}
