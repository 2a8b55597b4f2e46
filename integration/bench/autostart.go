package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// fleet is how many machines start with the host.
const fleet = 50

// measureAutostart: machines that start with their host, against as many of which each waits for the one before it, which their
// priorities say. Both are one order to systemd. Together they may cost no more, and nothing but the processors may hold them up.
func measureAutostart(b *bench) error {
	defer b.croft.removeAll()
	crowd, err := b.enabled("crowd", func(int) int { return 0 })
	if err != nil {
		return err
	}
	queue, err := b.enabled("queue", func(i int) int { return fleet - i })
	if err != nil {
		return err
	}
	var together, apart fleetStart
	err = interleave(max(b.n/4, 3),
		func(int) error { return b.startFleet(crowd, &together) },
		func(int) error { return b.startFleet(queue, &apart) })
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d machines that boot.autostart starts", fleet)
	busy := together.busy.median()
	b.limit(what+": the less busy processor until the last is ready", fmt.Sprintf("%.0f %%", busy), ">= 90 %", busy >= 90)
	b.compare(what+": processor time", together.processor, "croft, one after another", apart.processor, 1.05)
	b.note("autostart: all %d ready after %s; one after another %s", fleet, together.took.ms(), apart.took.ms())
	return nil
}

// enabled makes a fleet that starts with the host, and gives its units. The first has the highest priority.
func (b *bench) enabled(name string, priority func(i int) int) (units []string, err error) {
	enable := b.croft.do("enable")
	for i := range fleet {
		machine := fmt.Sprintf("%s%d", name, i)
		if _, err := b.output(b.croft.do("create", "--network", "none", "--name", machine, "busybox")); err != nil {
			return nil, err
		}
		if _, err := b.output(b.croft.do("set", machine, fmt.Sprintf("boot.autostart.priority=%d", priority(i)))); err != nil {
			return nil, err
		}
		enable.args = append(enable.args, machine)
		units = append(units, "croft@"+machine+".service")
	}
	_, err = b.output(enable)
	return units, err
}

// fleetStart is what starts of a fleet took: time and processor time in ms, and how many percent of the time the less busy
// processor was busy.
type fleetStart struct{ took, processor, busy samples }

func (b *bench) startFleet(units []string, s *fleetStart) error {
	settle()
	spent, before := hostProcessor(), processors()
	took, err := b.run(command{args: append([]string{"systemctl", "start"}, units...)})
	if err != nil {
		return err
	}
	var busy []float64
	for i, now := range processors() {
		busy = append(busy, 100*float64(now-before[i])/float64(took))
	}
	settle() // the starters end when their machines are ready
	s.took.add(took)
	s.processor.add(hostProcessor() - spent)
	s.busy = append(s.busy, slices.Min(busy))
	_, err = b.output(command{args: append([]string{"systemctl", "stop"}, units...)})
	return err
}

// hostProcessor is the processor time of all that runs in the host of ours, its systemd and journal too, and of nothing else.
func hostProcessor() time.Duration {
	text, _ := os.ReadFile("/sys/fs/cgroup/cpu.stat")
	return time.Duration(field(text, "usage_usec")) * time.Microsecond
}
