package run

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// An init that is executed by it has the arguments and the files that it should have, and its session no terminal.
func TestTerminalFree(t *testing.T) {
	program, err := terminalFree()
	if err != nil {
		t.Fatal(err)
	}
	if program == nil {
		t.Skip("there is none for this architecture")
	}
	defer program.Close()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, err := peer(pty)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	const say = `echo $0 $1 $(cut -d" " -f7 /proc/$$/stat); test -e /proc/$$/fd/3 || echo closed`
	// The hangup would end it, which is no PID 1.
	cmd := exec.Command("sh", "-c", `trap "" HUP; cut -d" " -f7 /proc/$$/stat; exec /proc/self/fd/3 sh -c '`+say+`' init one`)
	cmd.Stdin, cmd.ExtraFiles = tty, []*os.File{program}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	out, err := cmd.Output()
	before, after, _ := strings.Cut(strings.Join(strings.Fields(string(out)), " "), " ")
	if err != nil || before == "0" || after != "init one 0 closed" {
		t.Errorf("%q, %v", out, err)
	}
}

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
