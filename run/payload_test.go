package run

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// The tiny init must not depend on anything outside of its section: executed by itself it runs a command and
// ends with its status.
func TestPayloadInitStandsAlone(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 7"}, 7},
		{[]string{"sh", "-c", "kill -9 $$"}, 137},
		{[]string{"/nonexistent"}, 127},
		{[]string{"nonexistent"}, 127},
		{[]string{"/etc/passwd"}, 126},
	} {
		program, err := payloadInit()
		if err != nil {
			t.Fatal(err)
		}
		if program == nil {
			t.Skip("there is no tiny init for this architecture")
		}
		cmd := exec.Command("/proc/self/fd/3", c.args...)
		cmd.ExtraFiles = []*os.File{program}
		got := 0
		var exit *exec.ExitError
		if err := cmd.Run(); errors.As(err, &exit) {
			got = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if got != c.want {
			t.Errorf("%q: status %d, want %d", c.args, got, c.want)
		}
		program.Close()
	}
}
