package run

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"croft/state"
)

// Usage is what a machine uses at one moment, by the kernel's account of its cgroups. nil: no controller of this host
// counts it.
type Usage struct {
	CPU         *time.Duration // processor time since it was started
	Memory      *int64         // bytes, what the kernel caches for it included
	MemoryLimit *int64         // bytes; nil also where there is no limit
	Tasks       *int64         // threads
	Read        *int64         // bytes, from block devices
	Written     *int64
	OOMKills    *int64 // processes that were killed for want of memory
}

// UsageOf reads what the machine that runs as a uses. A cgroup that is gone is one that counts nothing.
func UsageOf(a *state.Applied) Usage {
	var u Usage
	for _, dir := range a.Cgroups {
		for _, g := range gauges() {
			if data, err := os.ReadFile(filepath.Join(dir, g.file)); err == nil {
				g.take(&u, string(data))
			}
		}
	}
	return u
}

// gauge is a file of a cgroup and what stands in it. Their names are told apart by controller and version, so that
// all of them are looked for in every directory.
type gauge struct {
	file string
	take func(u *Usage, text string)
}

// gauges are those of cgroup v2 (cgroup-v2.rst) and of v1 (cgroup-v1/). A hybrid host has no controllers on its v2
// hierarchy but counts processor time there too: whichever is read, it is the same.
func gauges() []gauge {
	return []gauge{
		{"cpu.stat", func(u *Usage, text string) { // of v1's cpu controller as well, without usage_usec
			if us := keyed(text, "usage_usec"); us != nil {
				u.CPU = duration(*us, time.Microsecond)
			}
		}},
		{"memory.current", func(u *Usage, text string) { u.Memory = number(text) }},
		{"memory.max", func(u *Usage, text string) { u.MemoryLimit = number(text) }}, // "max": none
		{"memory.events", func(u *Usage, text string) { u.OOMKills = keyed(text, "oom_kill") }},
		{"pids.current", func(u *Usage, text string) { u.Tasks = number(text) }},
		{"io.stat", func(u *Usage, text string) {
			u.Read, u.Written = total(text, "rbytes="), total(text, "wbytes=")
		}},

		{"cpuacct.usage", func(u *Usage, text string) {
			if ns := number(text); ns != nil {
				u.CPU = duration(*ns, time.Nanosecond)
			}
		}},
		{"memory.usage_in_bytes", func(u *Usage, text string) { u.Memory = number(text) }},
		{"memory.limit_in_bytes", func(u *Usage, text string) {
			// Without a limit it is as many pages as a long can count.
			if n := number(text); n != nil && *n < math.MaxInt64-1<<20 {
				u.MemoryLimit = n
			}
		}},
		{"memory.oom_control", func(u *Usage, text string) { u.OOMKills = keyed(text, "oom_kill") }},
		{"blkio.throttle.io_service_bytes_recursive", func(u *Usage, text string) {
			u.Read, u.Written = total(text, "Read "), total(text, "Write ")
		}},
	}
}

// number reads a file of one number; nil for anything else.
func number(text string) *int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// keyed reads the number behind key in a file of "KEY NUMBER" lines.
func keyed(text, key string) *int64 {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			return number(value)
		}
	}
	return nil
}

// total adds up what stands behind mark in the lines of the devices; no device has moved anything yet in an empty file.
func total(text, mark string) *int64 {
	var sum int64
	for line := range strings.Lines(text) {
		if _, behind, ok := strings.Cut(line, mark); ok {
			value, _, _ := strings.Cut(strings.TrimSpace(behind), " ")
			if n := number(value); n != nil {
				sum += *n
			}
		}
	}
	return &sum
}

func duration(n int64, unit time.Duration) *time.Duration {
	d := time.Duration(n) * unit
	return &d
}
