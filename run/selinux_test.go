package run

import (
	"testing"

	"croft/state"
)

func TestSELinuxLabels(t *testing.T) {
	for _, c := range []struct {
		asked          string
		base           uint32
		process, mount string
	}{
		{"", 65536, "", ""},
		{"container_t", 0, "system_u:system_r:container_t:s0:c0,c1", "system_u:object_r:container_file_t:s0:c0,c1"},
		{"container_t", 1022 << 16, "system_u:system_r:container_t:s0:c0,c1023", "system_u:object_r:container_file_t:s0:c0,c1023"},
		{"spc_t", 1023 << 16, "system_u:system_r:spc_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"},
		{"u:r:web_t:s0-s1:c1,c2", 65536, "u:r:web_t:s0-s1:c1,c2", "system_u:object_r:container_file_t:s0-s1:c1,c2"},
	} {
		process := processLabel(&state.Security{SELinux: c.asked}, state.Range{Base: c.base, Size: 65536})
		if mount := mountLabel(process); process != c.process || mount != c.mount {
			t.Errorf("%s at %d: %s and %s", c.asked, c.base, process, mount)
		}
	}
}

// No two machines of a host have the same pair, whichever ranges they have.
func TestCategories(t *testing.T) {
	seen := map[[2]int]bool{}
	const ranges = 1 << 16
	for n := range ranges {
		low, high := categories(n)
		if low < 0 || low >= high || high > 1023 || seen[[2]int{low, high}] {
			t.Fatalf("%d: c%d,c%d", n, low, high)
		}
		seen[[2]int{low, high}] = true
	}
}
