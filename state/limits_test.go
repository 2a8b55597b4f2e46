package state

import (
	"slices"
	"testing"
)

func TestCPUList(t *testing.T) {
	for text, want := range map[string][]int{"": nil, "0": {0}, "0-3,6": {0, 1, 2, 3, 6}, "2,1": {2, 1}, "5-5": {5}} {
		if got, err := CPUList(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{",", "-", "1-", "-1", "a", "1 2", "0-3-5", "+1", "1.5"} {
		if got, err := CPUList(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestQuota(t *testing.T) {
	for cpus, want := range map[float64]int64{0: 0, 0.01: 1000, 1.1: 110000, 2: 200000, 0.333333: 33333} {
		if got := (&Limits{CPUs: cpus}).Quota(); got != want {
			t.Errorf("%v: %d, want %d", cpus, got, want)
		}
	}
	l := Limits{CPUs: 1.0 / 3, CPUPeriod: 30000}
	if l.Quota() != 10000 || l.QuotaPerSecond() != 333333 {
		t.Errorf("a third of 30ms: %d, %d of a second", l.Quota(), l.QuotaPerSecond())
	}
}

func TestLimitsOn(t *testing.T) {
	l := Limits{MemoryPercent: 50, MemorySoftPercent: 25, PIDs: 7}
	if got := l.On(1000); got.Memory != 500 || got.MemorySoft != 250 || got.PIDs != 7 || l.Memory != 0 {
		t.Errorf("%+v of %+v", got, l)
	}
	if l := (Limits{Memory: 9}); l.On(1000).Memory != 9 {
		t.Error("a size is what it is on any host")
	}
}

// What cannot be is told by its field.
func TestLimitsCheck(t *testing.T) {
	gib, none, less := int64(1<<30), int64(0), int64(-1)
	for _, c := range []struct {
		limits Limits
		says   string
	}{
		{Limits{Memory: gib, MemorySoft: gib, Swap: &none, CPUs: 0.25, CPUPeriod: 20000}, ""},
		{Limits{MemoryPercent: 100, Swap: &gib}, ""},
		{Limits{Ulimits: []Ulimit{{"nofile", 64, Unlimited}, {"core", Unlimited, Unlimited}, {"nproc", 0, 0}}}, ""},
		{Limits{HugePages: []HugePage{{"2MB", 0}, {"1GB", gib}}}, ""},
		{Limits{Memory: 1}, "limits.memory: 1 bytes: no machine starts in less than 8 MiB"},
		{Limits{Memory: gib, MemorySoft: gib + 1}, "limits.memory_soft: 1073741825 bytes are none from 1 to the 1073741824 of memory"},
		{Limits{MemoryPercent: 101}, "limits.memory: a part of the host's is 1% to 100%"},
		{Limits{MemorySoftPercent: -1}, "limits.memory: a part of the host's is 1% to 100%"},
		{Limits{Memory: gib, MemoryPercent: 5}, "limits.memory: is a size or a part of the host's, not both"},
		{Limits{Swap: &none}, "limits.swap: without a limit of memory it limits nothing"},
		{Limits{MemorySoft: gib, Swap: &gib}, "limits.swap: without a limit of memory it limits nothing"},
		{Limits{Memory: gib, Swap: &less}, "limits.swap: -1 is negative"},
		{Limits{CPUPeriod: 20000}, "limits.cpus: time is given as 1ms or more of each period of 1ms to 1s"},
		{Limits{CPUs: 0.01, CPUPeriod: 50000}, "limits.cpus: time is given as 1ms or more of each period of 1ms to 1s"},
		{Limits{CPUs: 1, CPUPeriod: 1000001}, "limits.cpus: time is given as 1ms or more of each period of 1ms to 1s"},
		{Limits{HugePages: []HugePage{{"4KB", 1}}}, `limits.huge_pages: "4KB" is none of 64KB, 1MB, 2MB, 32MB, 512MB, 1GB`},
		{Limits{HugePages: []HugePage{{"2MB", -1}}}, "limits.huge_pages: 2MB: -1 is negative"},
		{Limits{HugePages: []HugePage{{"2MB", 1}, {"2MB", 2}}}, "limits.huge_pages: 2MB is given twice"},
		{Limits{Ulimits: []Ulimit{{"files", 1, 1}}}, `limits.ulimits: "files" is no limit of processes`},
		{Limits{Ulimits: []Ulimit{{"core", 2, 1}}}, "limits.ulimits: core: the soft limit is above the hard one"},
		{Limits{Ulimits: []Ulimit{{"core", Unlimited, 1}}}, "limits.ulimits: core: the soft limit is above the hard one"},
		{Limits{Ulimits: []Ulimit{{"core", -2, 1}}}, "limits.ulimits: core: a limit is a number from 0 on, or unlimited"},
		{Limits{Ulimits: []Ulimit{{"nofile", 63, 64}}}, "limits.ulimits: nofile: no machine comes up with fewer than 64 open files"},
		{Limits{Ulimits: []Ulimit{{"core", 0, 1}, {"core", 0, 1}}}, "limits.ulimits: core is given twice"},
	} {
		s := Spec{Name: "web", Image: "debian/13", Limits: c.limits}
		says := ""
		if err := s.Check(); err != nil {
			says = err.Error()
		}
		if says != c.says {
			t.Errorf("%+v: %q, want %q", c.limits, says, c.says)
		}
	}
}
