package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestEscape tries to get out of machines, each time by what testdata/escape/attempt.c or the script does, and shows by a control that
// the attempt is a real one. docs/escapes.md is the list, docs/decisions/041 why it is done so.
//
//	attempts MACHINE...                       from here on attempts are made in these, as their root; the program is in ./attempt, too
//	attempt [-in MACHINE] NAME END WALL [CMD ARG...]   NAME must end with END in each of them, or in that one; it is the program's, or CMD's,
//	                                          for which MACHINE is the machine, as an argument and as a variable
//	control NAME WITHOUT [CMD ARG...]         the same attempt must succeed without the wall: as root of the host, or by CMD
//	closed NAME REASON                        there is no control: who has closed that door for everybody, and when
func TestEscape(t *testing.T) { runScripts(t, "testdata/escape") }

// succeeded is what an attempt says that has got where it wanted; any other word is how it was stopped.
const succeeded = "succeeded"

// attemptMachines are those of the script, in its environment.
const attemptMachines = "MACHINES"

func cmdAttempts(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "attempts MACHINE...")
	program, err := attemptProgram()
	ts.Check(err)
	ts.Check(try("cp", program, ts.MkAbs("attempt")))
	for _, machine := range args {
		ts.Check(ts.Exec("croft", "cp", ts.MkAbs("attempt"), machine+":/attempt"))
	}
	ts.Setenv(attemptMachines, strings.Join(args, " "))
}

func cmdAttempt(ts *testscript.TestScript, neg bool, args []string) {
	machines := strings.Fields(ts.Getenv(attemptMachines))
	usage(ts, len(machines) > 0, "attempts MACHINE... before the first attempt")
	if len(args) > 1 && args[0] == "-in" {
		machines, args = args[1:2], args[2:]
	}
	usage(ts, !neg && len(args) >= 3 && args[1] != succeeded, "attempt [-in MACHINE] NAME END WALL [CMD ARG...]")
	name, end, wall, cmd := args[0], args[1], args[2], args[3:]
	if len(cmd) == 0 {
		cmd = []string{"croft", "exec", "-T", "MACHINE", "/attempt", name}
	}
	for _, machine := range machines {
		ts.Setenv("MACHINE", machine)
		words := slices.Clone(cmd)
		if i := slices.Index(words, "MACHINE"); i >= 0 {
			words[i] = machine
		}
		ts.Check(ts.Exec(words[0], words[1:]...))
		if got := strings.TrimSpace(ts.ReadFile("stdout")); got != end {
			ts.Fatalf("%s in %s: %s, which should have ended with %s at the wall: %s", name, machine, got, end, wall)
		}
	}
}

func cmdControl(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "control NAME WITHOUT [CMD ARG...]")
	name, without, cmd := args[0], args[1], args[2:]
	if len(cmd) == 0 {
		cmd = []string{"unshare", "--mount", "--fork", "--pid", ts.MkAbs("attempt"), name}
	}
	ts.Check(ts.Exec(cmd[0], cmd[1:]...))
	if got := strings.TrimSpace(ts.ReadFile("stdout")); got != succeeded {
		ts.Fatalf("%s without a wall (%s): %s: this attempt proves nothing", name, without, got)
	}
}

// cmdClosed says something to the reader and to the list alone.
func cmdClosed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "closed NAME REASON")
}

// attemptProgram compiles the attempts, unless the cache has them: a host of the tests' own has no compiler and gets ours.
var attemptProgram = sync.OnceValues(func() (string, error) {
	source, err := os.ReadFile("testdata/escape/attempt.c")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(source)
	program := filepath.Join(cacheDir(), "guests", "attempt-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", err
	}
	err = outside(func() error {
		return try("gcc", "-static", "-O", "-Wall", "-Wextra", "-Werror", "-o", program+".new", "testdata/escape/attempt.c")
	})
	if err != nil {
		return "", err
	}
	return program, os.Rename(program+".new", program)
})

// TestHouseOfAttemptPrograms wants each thing that attempt.c can do to be done by a script.
func TestHouseOfAttemptPrograms(t *testing.T) {
	source, err := os.ReadFile("testdata/escape/attempt.c")
	if err != nil {
		t.Fatal(err)
	}
	var scripts []byte
	for _, script := range escapeScripts() {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		scripts = append(scripts, text...)
	}
	for _, line := range regexp.MustCompile(`(?m)^\t\{ "([a-z-]+)", `).FindAllSubmatch(source, -1) {
		if !regexp.MustCompile(`\s` + string(line[1]) + `[\s)]`).Match(scripts) {
			t.Errorf("no script makes the attempt %s", line[1])
		}
	}
}

// escapeScripts are the scripts that make attempts.
func escapeScripts() []string {
	here, _ := filepath.Glob("testdata/escape/*.txtar")
	inVM, _ := filepath.Glob("testdata/vm/escape*.txtar")
	return append(here, inVM...)
}

// An attempt is a line of a script.
type attempt struct {
	name, end, wall string
	tries           string // the comment before it
	without         string // its control, or why there is none
}

var (
	attemptLine  = regexp.MustCompile(`^attempt (?:-in \S+ )?(\S+) (\S+) '([^']+)'`)
	controlLine  = regexp.MustCompile(`^control (\S+) '([^']+)'`)
	closedLine   = regexp.MustCompile(`^closed (\S+) '([^']+)'$`)
	knownRow     = regexp.MustCompile(`(?m)^\| (?:CVE|")[^|]* \| ([^|;]+?)(?:;[^|]*)? \|$`) // of the page: what others know, and attempts
	attemptVerbs = regexp.MustCompile(`^(attempt|control|closed) `)
)

// attemptsOf reads the attempts of a script and what the script says of itself in its first line.
func attemptsOf(file string) (about string, all []attempt, err error) {
	script, err := txtar.ParseFile(file)
	if err != nil {
		return "", nil, err
	}
	lines := strings.Split(string(script.Comment), "\n")
	var comment []string
	for _, line := range lines {
		at := len(all) - 1
		if text, is := strings.CutPrefix(line, "# "); is {
			comment = append(comment, text)
			continue
		}
		if m := attemptLine.FindStringSubmatch(line); m != nil {
			all = append(all, attempt{name: m[1], end: m[2], wall: m[3], tries: strings.Join(comment, " ")})
		} else if m := slices.Concat(controlLine.FindStringSubmatch(line), closedLine.FindStringSubmatch(line)); len(m) > 0 {
			if at < 0 || all[at].name != m[1] || all[at].without != "" {
				return "", nil, fmt.Errorf("%s: not after the attempt that it is for: %s", file, line)
			}
			all[at].without = m[2]
		} else if attemptVerbs.MatchString(line) {
			return "", nil, fmt.Errorf("%s: what the list cannot read: %s", file, line)
		}
		comment = nil
	}
	return strings.TrimPrefix(lines[0], "# "), all, nil
}

// TestHouseOfAttempts holds docs/escapes.md to the scripts: each attempt has a control, the list is theirs, and what the page says of
// others' escapes names attempts that there are. UPDATE=1 writes the list.
func TestHouseOfAttempts(t *testing.T) {
	var list strings.Builder
	seen := map[string]bool{}
	for _, script := range escapeScripts() {
		about, all, err := attemptsOf(script)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(script, "testdata/"), ".txtar")
		fmt.Fprintf(&list, "\n## %s\n\n%s\n\n| attempt | ends with | wall | without it |\n| --- | --- | --- | --- |\n", name, about)
		for _, a := range all {
			if a.tries == "" || a.without == "" {
				t.Errorf("%s: %s lacks a comment that says what it tries, or a control", script, a.name)
			}
			if seen[a.name] {
				t.Errorf("%s: %s is there twice", script, a.name)
			}
			seen[a.name] = true
			fmt.Fprintf(&list, "| **%s** %s | `%s` | %s | %s |\n", a.name, a.tries, a.end, a.wall, a.without)
		}
	}
	const file = "../docs/escapes.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "<!-- what follows is made from the scripts: UPDATE=1 go test -run TestHouseOfAttempts -->\n"
	head, is, ok := strings.Cut(string(page), mark)
	if !ok {
		t.Fatalf("%s has no line %s", file, mark)
	}
	for _, row := range knownRow.FindAllStringSubmatch(head, -1) {
		for _, name := range strings.Split(row[1], ", ") {
			if _, err := os.Stat("testdata/" + name + ".txtar"); err != nil && !seen[name] {
				t.Errorf("%s: %s is neither an attempt nor a script", file, name)
			}
		}
	}
	if is == list.String() {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("%s is not what the scripts are: UPDATE=1", file)
	}
	if err := os.WriteFile(file, []byte(head+mark+list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
