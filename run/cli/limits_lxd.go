package cli

import (
	"errors"
	"strconv"
	"strings"

	"croft/state"

	"github.com/spf13/pflag"
)

// lxdLimits are LXD's keys of limits that are none of croft's by another name: they speak of several settings, or in
// another measure.
func lxdLimits() []setting {
	return []setting{
		{name: "limits.cpu", field: processors()},
		{name: "limits.cpu.allowance", field: allowance()},
		{name: "limits.cpu.priority", field: priority(func(l *state.Limits) *int { return &l.CPUWeight }, 90, 1)},
		{name: "limits.disk.priority", field: priority(func(l *state.Limits) *int { return &l.IOWeight }, 0, 20)},
		{name: "limits.memory", field: memoryLimit()},
		{name: "limits.memory.enforce", field: enforcement()},
	}
}

// lxdNames are LXD's keys and croft's own of the same meaning. In what ends in a dot an entry follows.
var lxdNames = [...][2]string{
	{"limits.memory.swap", "swap"}, {"limits.processes", "pids-limit"}, {"limits.kernel.", "ulimit."}, {"limits.hugepages.", "huge-pages."}, {"root.size", "disk"},
	{"cloud-init.user-data", "user-data"}, {"cloud-init.vendor-data", "vendor-data"}, {"cloud-init.network-config", "network-config"},
	{"user.user-data", "user-data"}, {"user.vendor-data", "vendor-data"}, {"user.network-config", "network-config"}, // as it was before
	{"security.nesting", "nesting"}, {"security.privileged", "privileged"}, {"raw.idmap", "idmap"},
}

// croftName is what croft calls a key, which may be LXD's.
func croftName(word string) string {
	for _, n := range lxdNames {
		if rest, ok := strings.CutPrefix(word, n[0]); ok && (rest == "" || strings.HasSuffix(n[0], ".")) {
			return n[1] + rest
		}
	}
	return word
}

// processors is a number of processors, croft's cpus, or a list of them, cpu-set.
func processors() field {
	return field{
		get: func(s *state.Spec) []string {
			if s.Limits.CPUSet != "" {
				return []string{s.Limits.CPUSet}
			}
			return some(cpusValue{&s.Limits.CPUs, &s.Limits.CPUPeriod}.String())
		},
		put: func(s *state.Spec, values []string) error {
			s.Limits.CPUs, s.Limits.CPUPeriod, s.Limits.CPUSet = 0, 0, ""
			value, err := only(values)
			switch {
			case err != nil || value == "":
				return err
			case strings.ContainsAny(value, ",-"):
				s.Limits.CPUSet = value
				return nil
			}
			return cpusValue{&s.Limits.CPUs, &s.Limits.CPUPeriod}.Set(value)
		},
	}
}

// allowance is a part in percent, which is croft's cpu-weight, or a time of each period: cpus.
func allowance() field {
	return field{
		get: func(s *state.Spec) []string {
			switch l := &s.Limits; {
			case l.CPUs > 0:
				return []string{msText(l.Quota()) + "/" + msText(l.Period())}
			case l.CPUWeight > 0:
				return []string{strconv.Itoa(l.CPUWeight) + "%"}
			}
			return nil
		},
		put: func(s *state.Spec, values []string) error {
			s.Limits.CPUs, s.Limits.CPUPeriod, s.Limits.CPUWeight = 0, 0, 0
			value, err := only(values)
			if err != nil || value == "" {
				return err
			}
			if part, period, timed := strings.Cut(value, "/"); timed {
				return cpusValue{&s.Limits.CPUs, &s.Limits.CPUPeriod}.setTime(part, period)
			}
			number, percent := strings.CutSuffix(value, "%")
			n, err := strconv.ParseUint(number, 10, 31)
			if err != nil || !percent || n < 1 || n > 100 {
				return errors.New("is neither 1% to 100% nor a time like 25ms/100ms")
			}
			s.Limits.CPUWeight = int(n)
			return nil
		},
	}
}

// priority is a number from 0 to 10 in the place of a weight.
func priority(at func(*state.Limits) *int, base, step int) field {
	weightOf := func(n int) int { return max(base+n*step, 1) }
	return field{
		get: func(s *state.Spec) []string {
			for n := range 11 {
				if *at(&s.Limits) == weightOf(n) {
					return []string{strconv.Itoa(n)}
				}
			}
			return nil
		},
		put: func(s *state.Spec, values []string) error {
			*at(&s.Limits) = 0
			value, err := only(values)
			if err != nil || value == "" {
				return err
			}
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil || n > 10 {
				return errors.New("is no number from 0 to 10")
			}
			*at(&s.Limits) = weightOf(int(n))
			return nil
		},
	}
}

// isSoft says whether all that limits the memory is soft.
func isSoft(l *state.Limits) bool {
	return (l.MemorySoft > 0 || l.MemorySoftPercent > 0) && l.Memory == 0 && l.MemoryPercent == 0
}

// memoryLimit is croft's memory, or memory-soft where that alone is limited.
func memoryLimit() field {
	return limit(func(l *state.Limits) pflag.Value {
		if isSoft(l) {
			return memoryValue{&l.MemorySoft, &l.MemorySoftPercent}
		}
		return memoryValue{&l.Memory, &l.MemoryPercent}
	})
}

// enforcement says which of the two a limit of memory is, and makes it the other.
func enforcement() field {
	return field{
		get: func(s *state.Spec) []string {
			switch l := &s.Limits; {
			case isSoft(l):
				return []string{"soft"}
			case l.Memory > 0 || l.MemoryPercent > 0:
				return []string{"hard"}
			}
			return nil
		},
		put: func(s *state.Spec, values []string) error {
			value, err := only(values)
			l := &s.Limits
			switch {
			case err != nil:
				return err
			case value == "soft" && l.Memory == 0 && l.MemoryPercent == 0 && !isSoft(l):
				return errors.New("there is no limit of memory yet")
			case value == "soft" && !isSoft(l):
				l.MemorySoft, l.MemorySoftPercent, l.Memory, l.MemoryPercent = l.Memory, l.MemoryPercent, 0, 0
			case value == "soft":
			case value == "hard" || value == "":
				if isSoft(l) {
					l.Memory, l.MemoryPercent, l.MemorySoft, l.MemorySoftPercent = l.MemorySoft, l.MemorySoftPercent, 0, 0
				}
			default:
				return errors.New("is neither hard nor soft")
			}
			return nil
		},
	}
}
