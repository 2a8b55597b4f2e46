package state

import (
	"math"
	"slices"
)

// Ulimit is a limit of each process of a machine, as setrlimit(2) has it; Unlimited is none.
type Ulimit struct {
	Name string `json:"name"` // one of UlimitNames
	Soft int64  `json:"soft"` // what holds; a process may raise it up to Hard
	Hard int64  `json:"hard"`
}

// UlimitNames are those that there are, in the order of their numbers (asm-generic/resource.h).
var UlimitNames = [...]string{
	"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime",
}

// leastFiles is below what no init comes up, croft's own before the machine's included.
const leastFiles = 64

func checkUlimits(all []Ulimit, say func(field, format string, a ...any)) {
	for i, u := range all {
		switch {
		case !slices.Contains(UlimitNames[:], u.Name):
			say("limits.ulimits", "%q is no limit of processes", u.Name)
		case u.Soft < Unlimited || u.Hard < Unlimited:
			say("limits.ulimits", "%s: a limit is a number from 0 on, or unlimited", u.Name)
		case orInfinite(u.Soft) > orInfinite(u.Hard):
			say("limits.ulimits", "%s: the soft limit is above the hard one", u.Name)
		case u.Name == "nofile" && orInfinite(u.Soft) < leastFiles:
			say("limits.ulimits", "nofile: no machine comes up with fewer than %d open files", leastFiles)
		case slices.ContainsFunc(all[:i], func(v Ulimit) bool { return v.Name == u.Name }):
			say("limits.ulimits", "%s is given twice", u.Name)
		}
	}
}

func orInfinite(n int64) uint64 {
	if n == Unlimited {
		return math.MaxUint64
	}
	return uint64(n)
}

// Resource is the number of the limit.
func (u Ulimit) Resource() int { return slices.Index(UlimitNames[:], u.Name) }

// Values are the limit as the kernel has it.
func (u Ulimit) Values() (soft, hard uint64) { return orInfinite(u.Soft), orInfinite(u.Hard) }
