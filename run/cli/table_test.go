package cli

import "testing"

func TestTableIsSound(t *testing.T) {
	for _, complaint := range (&app{}).program().Lint() {
		t.Error(complaint)
	}
}
