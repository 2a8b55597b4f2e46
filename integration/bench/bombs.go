package main

import (
	"fmt"
	"os/exec"
	"regexp"
)

// measureBombs has a script measure it in a VM, which has every controller and nothing to lose: the slowest requests of a machine beside
// another one that runs a fork bomb, a memory bomb and an inotify bomb at once, against those beside one that runs a loop, within the same limits.
func measureBombs(b *bench) error {
	cmd := exec.Command("go", "test", "-count=1", "-v", "-run", "TestVM$/^bombs$", "./integration")
	cmd.Env = append(cmd.Environ(), "CROFT_BIN="+b.croft.binary)
	said, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, said)
	}
	p99 := func(beside string) (ms float64, err error) {
		line := regexp.MustCompile(`beside ` + beside + `: p50 [0-9.]+ ms, p99 ([0-9.]+) ms`).FindSubmatch(said)
		if line == nil {
			return 0, fmt.Errorf("%s: says nothing of requests beside %s\n%s", cmd, beside, said)
		}
		_, err = fmt.Sscan(string(line[1]), &ms)
		return ms, err
	}
	bombs, err := p99("bombs")
	if err != nil {
		return err
	}
	loop, err := p99("a loop")
	if err != nil {
		return err
	}
	const bar = 2
	b.rows = append(b.rows, row{
		What: "p99 of a neighbour's requests beside three bombs, in a VM", Croft: fmt.Sprintf("%.1f ms", bombs),
		Peer: fmt.Sprintf("beside a loop: %.1f ms", loop), Ratio: fmt.Sprintf("%.2fx", bombs/loop),
		Bar: fmt.Sprintf("<= %dx", bar), Barred: true, Missed: bombs > bar*loop,
	})
	return nil
}
