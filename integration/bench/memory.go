package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const machines = 10

// measureMemory: what croft itself holds while ten machines run, and that it holds nothing when none does.
func measureMemory(b *bench) error {
	for i := range machines {
		name := fmt.Sprintf("memory%d", i)
		if _, err := b.output(b.croft.do("create", "--network", "none", "--name", name, "--no-boot", "busybox", "sleep", "infinity")); err != nil {
			return err
		}
		if _, err := b.output(b.croft.do("start", name)); err != nil {
			return err
		}
	}
	time.Sleep(time.Second) // what was started is at rest
	private, pss, n := b.croft.memory()
	per := float64(private) / machines
	held := ""
	if os.Getenv(envHosted) != "" {
		held = " that systemd holds"
	}
	b.limit(fmt.Sprintf("private memory of croft per running machine%s (of %d)", held, machines),
		fmt.Sprintf("%.0f KB, PSS %.0f KB", per, float64(pss)/machines), "<= 150 KB", per <= 150 && n > 0)
	b.note("memory: %d processes of croft with %d machines", n, machines)
	b.croft.removeAll()
	none := await("end of croft's processes", 5*time.Second, func() bool {
		_, _, n = b.croft.memory()
		return n == 0
	})
	b.limit("processes of croft when no machine runs"+held, strconv.Itoa(n), "0", none == nil)
	return nil
}

// memory adds up, in KB, all processes that are croft: keepers on the host, and the init that croft puts into a machine.
func (c *croft) memory() (private, pss, processes int) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		if !c.owns(p) {
			continue
		}
		rollup, err := os.ReadFile(filepath.Join(p, "smaps_rollup"))
		if err != nil {
			continue // just gone
		}
		processes++
		private += field(rollup, "Private_Clean:") + field(rollup, "Private_Dirty:") + field(rollup, "Private_Hugetlb:")
		pss += field(rollup, "Pss:")
	}
	return private, pss, processes
}

// owns tells whether a process runs croft's code: its binary, or what croft made in memory and executed.
func (c *croft) owns(proc string) bool {
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	return err == nil && (strings.TrimSuffix(exe, " (deleted)") == c.binary || strings.HasPrefix(exe, "/memfd:"))
}

func field(rollup []byte, name string) int {
	for line := range strings.Lines(string(rollup)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return n
		}
	}
	return 0
}
