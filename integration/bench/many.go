package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// width is how many machines are started at a time.
const width = 4

// measureMany: Debians until there are very many, each asked whether it runs. croft first in three steps; nspawn, whose machines
// share the limits of one user, up to the first step. The host's settings stay as they are.
func measureMany(b *bench) error {
	steps := slices.DeleteFunc([]int{50, 60, 200}, func(n int) bool { return n > b.many })
	if err := b.croftMany(steps); err != nil {
		return err
	}
	b.croft.removeAll()
	return b.nspawnMany(steps[0])
}

// crowd is what many machines cost.
type crowd struct {
	machines, running int
	took, processor   time.Duration
	memory            int // KB less that are available
}

func (c crowd) String() string {
	per := func(d time.Duration) float64 { return float64(d.Milliseconds()) / float64(max(c.running, 1)) }
	return fmt.Sprintf("%d of %d running; for each %.0f ms, %.0f ms of processor, %.1f MB",
		c.running, c.machines, per(c.took), per(c.processor), float64(c.memory)/1024/float64(max(c.running, 1)))
}

// measured is what do costs the host. A second passes at the end, for what was started to come to rest.
func measured(do func() error) (crowd, error) {
	free, busy, began := available(), processor(), time.Now()
	err := do()
	c := crowd{took: time.Since(began)}
	time.Sleep(time.Second)
	c.processor, c.memory = processor()-busy, free-available()
	return c, err
}

func (b *bench) croftMany(steps []int) error {
	var all crowd
	for _, n := range steps {
		var running atomic.Int64
		c, err := measured(func() error {
			var names []string
			for i := all.machines; i < n; i++ {
				names = append(names, fmt.Sprintf("many%d", i))
			}
			return atOnce(width, names, func(name string) error {
				_, err := b.run(b.croft.do("run", "--network", "none", "-d", "--name", name, "trixie"))
				if err == nil {
					err = b.isRunning(func() (string, error) { return b.croft.cgroup(name) })
				}
				if err == nil {
					running.Add(1)
				}
				return err
			})
		})
		all = crowd{n, all.running + int(running.Load()), all.took + c.took, all.processor + c.processor, all.memory + c.memory}
		b.limit(fmt.Sprintf("%d Debians at once", n), all.String(), "all running", err == nil && all.running == n)
	}
	return nil
}

// nspawnMany starts as many, and does not wait for those that cannot come up once another has given up.
func (b *bench) nspawnMany(n int) error {
	tree, err := shiftedTree("trixie")
	if err != nil {
		return err
	}
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("many%d", i))
	}
	started := make(chan *nspawn, n)
	var running atomic.Int64
	var full atomic.Bool
	c, err := measured(func() error {
		return atOnce(width, names, func(name string) error {
			if full.Load() {
				return nil
			}
			s := b.newNspawn(name)
			started <- s
			if err := s.prepare(b, tree, name); err != nil {
				return err
			}
			if _, err := s.release.Write([]byte("\n")); err != nil {
				return err
			}
			if b.isRunning(func() (string, error) { return s.cgroups[0], nil }) == nil {
				running.Add(1)
			} else {
				full.Store(true)
			}
			return nil
		})
	})
	close(started)
	c.machines, c.running = n, int(running.Load())
	for s := range started {
		s.remove()
	}
	if err != nil {
		return err
	}
	peer, err := b.nspawnVersion()
	if err != nil {
		return err
	}
	b.note("many: %s: %s", peer, c)
	return nil
}

// available is the memory, in KB, that could be given out.
func available() int {
	text, _ := os.ReadFile("/proc/meminfo")
	return field(text, "MemAvailable:")
}

// processor is the time that all processors of the host have spent on anything, since it booted.
func processor() (all time.Duration) {
	for _, one := range processors() {
		all += one
	}
	return all
}

// processors are the times that each of them has.
func processors() (each []time.Duration) {
	text, _ := os.ReadFile("/proc/stat")
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // cpuN user nice system idle iowait irq softirq steal
		if name := fields[0]; name == "cpu" || !strings.HasPrefix(name, "cpu") {
			continue
		}
		var ticks int
		for i, f := range fields {
			if n, err := strconv.Atoi(f); err == nil && i != 4 && i != 5 && i < 8 {
				ticks += n
			}
		}
		const tick = 10 * time.Millisecond // USER_HZ
		each = append(each, time.Duration(ticks)*tick)
	}
	return each
}
