package cli

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"croft/man"
)

// isTerminal tells whether a person may be at the other end of f.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// isNull says whether f is /dev/null.
func isNull(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// terminalWidth is the number of columns of the terminal f, 0 when it is none.
func terminalWidth(f *os.File) int {
	if !isTerminal(f) {
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil || n <= 0 { // a serial line has no size
		return 80
	}
	return n
}

// helpScreen is where help is shown: Program.Screen.
func helpScreen() man.Screen {
	dumb := os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	n := terminalWidth(os.Stdout)
	if n == 0 {
		n, _ = strconv.Atoi(os.Getenv("COLUMNS"))
		dumb = true
	}
	return man.Screen{Width: n, Bold: !dumb}
}

// stderrProgress is the progress of this process.
func stderrProgress(quiet bool) *progress {
	return newProgress(os.Stderr, terminalWidth(os.Stderr), quiet)
}
