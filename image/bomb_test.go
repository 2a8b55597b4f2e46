package image

import "testing"

func TestMostBytes(t *testing.T) {
	for _, c := range []struct{ asked, compressed, want int64 }{
		{0, 1 << 10, bombFloor},
		{0, 1 << 30, bombRatio << 30},
		{1 << 20, 1 << 30, 1 << 20},
	} {
		if got := (PullOptions{MaxBytes: c.asked}).mostBytes(c.compressed); got != c.want {
			t.Errorf("%d of %d asked for: %d", c.compressed, c.asked, got)
		}
	}
}
