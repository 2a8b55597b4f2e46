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
		if got := (&Limits{CPUs: cpus}).Quota(100000); got != want {
			t.Errorf("%v: %d, want %d", cpus, got, want)
		}
	}
}
