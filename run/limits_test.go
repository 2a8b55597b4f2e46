package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"croft/state"

	"golang.org/x/sys/unix"
)

// What is written for each limit, and to lift it: of both versions of cgroups.
func TestKnobs(t *testing.T) {
	l := allLimits()
	rules := []rule{{"8:0", l.IOMax[0]}, {"254:16", l.IOMax[1]}, {number: "7:1"}}
	for name, k := range map[string][]knob{"limits": knobs(&l, rules), "no-limits": knobs(free(), nil)} {
		type row struct {
			Flag, Controller string
			Asked            bool
			Files            []string
		}
		var rows []row
		for _, k := range k {
			r := row{k.flag, k.controller, k.asked, nil}
			for _, way := range k.ways {
				for _, o := range way {
					r.Files = append(r.Files, o.file+": "+strings.Join(o.lines, " | "))
				}
			}
			rows = append(rows, r)
		}
		golden(t, name+".knobs", rows)
	}
}

func allLimits() state.Limits {
	swap := int64(1 << 30)
	return state.Limits{
		Memory: 512 << 20, MemorySoft: 256 << 20, Swap: &swap, CPUs: 1.5, CPUPeriod: 20000, CPUSet: "0-1,9", CPUWeight: 50, PIDs: 100, IOWeight: 10000,
		HugePages: []state.HugePage{{Size: "2MB", Bytes: 64 << 20}},
		IOMax:     []state.IOMax{{Device: "/dev/sda", ReadBytes: 1 << 20, WriteOps: 7}, {Device: "/srv", WriteBytes: 1000}},
	}
}

func TestWeights(t *testing.T) {
	for n, want := range map[int][3]int{0: {100, 1024, 100}, 1: {1, 10, 1}, 100: {100, 1024, 100}, 10000: {10000, 102400, 1000}} {
		if got := [3]int{weight(n), shares(n), bfq(n)}; got != want {
			t.Errorf("%d: %v, want %v", n, got, want)
		}
	}
}

// Only what differs is written, where there is a file for it; without one it is an error if it was asked for.
func TestSetLimits(t *testing.T) {
	v2, pids := t.TempDir(), t.TempDir()
	put(t, filepath.Join(v2, "memory.max"), "")
	put(t, filepath.Join(v2, "memory.current"), "4096\n")
	put(t, filepath.Join(v2, "cpu.max"), "as it was")
	put(t, filepath.Join(pids, "pids.max"), "")
	dirs := []string{v2, pids}
	if err := setLimits(dirs, free(), &state.Limits{Memory: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	has := func(path, want string) {
		t.Helper()
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	has(filepath.Join(v2, "memory.max"), "1048576\n")
	has(filepath.Join(v2, "cpu.max"), "as it was")
	has(filepath.Join(pids, "pids.max"), "16384\n")
	if err := setLimits(dirs, &state.Limits{Memory: 1 << 20}, free()); err != nil {
		t.Fatal(err)
	}
	has(filepath.Join(v2, "memory.max"), "max\n")
	has(filepath.Join(pids, "pids.max"), "max\n")
	if err := setLimits(nil, free(), new(state.Limits)); err != nil {
		t.Errorf("the default without a controller: %v", err)
	}
	err := setLimits(dirs, free(), &state.Limits{CPUSet: "0"})
	if !errors.Is(err, state.ErrUnsupported) || !strings.Contains(err.Error(), "cpuset") || hintOf(err) == "" {
		t.Errorf("a limit without a controller: %v", err)
	}
	if l := allLimits(); setLimits(nil, &l, free()) != nil {
		t.Error("nothing is lifted where there is nothing")
	}
}

func TestLimitProperties(t *testing.T) {
	l := allLimits()
	for name, l := range map[string]*state.Limits{"limits": &l, "no-limits": free()} {
		var rows []string
		for _, p := range limitProperties(l) {
			rows = append(rows, p.Name+" "+p.Value.Signature().String()+" "+p.Value.String())
		}
		golden(t, name+".unit", rows)
	}
}

// What the kernel can take back does not count.
func TestFits(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "memory.current"), "100000000\n")
	put(t, filepath.Join(dir, "memory.stat"), "anon 1\nactive_file 20000000\ninactive_file 30000000\nslab_reclaimable 10000000\n")
	info, err := meminfo()
	if err != nil {
		t.Fatal(err)
	}
	swap := int64(info["SwapFree"]) << 10
	if err := fits(dir, 39999999-swap); !errors.Is(err, unix.EBUSY) {
		t.Errorf("less than it holds: %v", err)
	}
	if err := fits(dir, 40000000-swap); err != nil {
		t.Errorf("what it holds: %v", err)
	}
	put(t, filepath.Join(dir, "memory.swap.max"), "0\n")
	if err := fits(dir, 39999999); !errors.Is(err, unix.EBUSY) {
		t.Errorf("less than it holds, without swap: %v", err)
	}
	if got := swapLeft(dir); got != 0 {
		t.Errorf("%d bytes of swap are left of none", got)
	}
}
