package man

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"", "run stop exec list cp image version help completion"},
		{"st", "stop"},
		{"--r", "--root"},
		{"--root ", ":dir"},
		{"--root=", ":dir"},
		{"--root /x stop ", "web db /x"},
		{"run --me", "--memory"},
		{"run --pull ", "missing always never"},
		{"run --pull=a", "--pull=always"},
		{"run --network ", "croft0 none host"},
		{"run -dm ", ""},
		{"run -d d", "debian/13 docker:debian/13 docker:alpine"},
		{"run -t docker:", "docker:debian/13 docker:alpine"},
		{"run debian/13 -", ""},
		{"stop web ", "db /var/lib/croft"},
		{"stop web --t", "--time"},
		{"exec web ", ""},
		{"exec --filter a=b ", ""},
		{"image ", "list rm import"},
		{"image --", "--root --version --help"},
		{"image rm --f", "--force"},
		{"image import ", ":file -"},
		{"cp ", "web: db: /var/lib/croft: :file"},
		{"cp w", "web: :file"},
		{"completion ", "bash zsh fish"},
		{"help im", "image images"},
		{"help image ", "list rm import"},
		{"nothing ", ""},
		{"list --format j", "json"},
	} {
		words := strings.Split(test.line, " ")
		d := did{}
		var got []string
		for _, answer := range sample(&d).Complete(words, lookupSample(&d)) {
			word, _, _ := strings.Cut(answer, "\t")
			got = append(got, word)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q: got %q, want %q", test.line, got, test.want)
		}
	}
}

// TestMain turns the test binary into croft, so that real shells can ask it.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "croft" {
		os.Exit(m.Run())
	}
	call, err := sample(&did{}).Parse(os.Args[1:])
	if err == nil {
		err = call.Run(context.Background())
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(2)
	}
}

// inShell runs a script in a directory with a file and a croft in PATH.
func inShell(t *testing.T, shell, script string) string {
	t.Helper()
	if _, err := exec.LookPath(shell); err != nil {
		t.Skip(shell + " is not installed")
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "croft")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a file.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(shell, "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", shell, err, out)
	}
	return string(out)
}

func TestBash(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"croft st", "stop"},
		{"croft stop ", "/var/lib/croft|db|web"},
		{"croft run docker:a", "alpine"}, // bash replaces what follows the colon
		{"croft run --pull=a", "always"},
		{"croft run --pull a", "always"},
		{"croft --root /x stop w", "web"},
		{"croft image import a", "a file.txt"},
		{"croft cp w", "web:"},
		{"croft cp ", `/var/lib/croft:|a\ file.txt|croft|db:|web:`},
	} {
		script := `eval "$(croft completion bash)"
compopt() { :; } # works only inside a real completion
COMP_LINE='` + test.line + `' COMP_POINT=${#COMP_LINE}; _croft
IFS='|'; printf %s "${COMPREPLY[*]}"`
		got := strings.Split(inShell(t, "bash", script), "|")
		slices.Sort(got)
		if strings.Join(got, "|") != test.want {
			t.Errorf("%s: got %q, want %q", test.line, got, test.want)
		}
	}
}

func TestFish(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"croft st", "stop\tStop machines"},
		{"croft run --pull a", "always"},
		{"croft run docker:a", "docker:alpine"},
		{"croft image import a", "a file.txt"},
	} {
		got := inShell(t, "fish", "croft completion fish | source; complete -C '"+test.line+"'")
		if !slices.Contains(strings.Split(strings.TrimSpace(got), "\n"), test.want) {
			t.Errorf("%s: got %q, want %q", test.line, got, test.want)
		}
	}
}

// TestZsh replaces zsh's own builtins, which work only in its line editor, by
// ones that print what they were given.
func TestZsh(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"croft st", "stop:Stop machines\n"},
		{"croft run --pull a", "always\n"},
		{"croft run docker:a", "docker\\:alpine\n"},
		{"croft image import a", "files\n"},
		{"croft cp w", "files\nopen web:\n"},
	} {
		script := `compdef() { :; }; _files() { print files; }
_describe() { print -rl -- ${(P)3}; }; compadd() { print -r -- open ${(P)4}; }
eval "$(croft completion zsh)"
words=(${(s: :)1}) ; CURRENT=$#words; _croft`
		script = strings.ReplaceAll(script, "${(s: :)1}", strings.ReplaceAll(test.line, "'", ""))
		if got := inShell(t, "zsh", script); got != test.want {
			t.Errorf("%s: got %q, want %q", test.line, got, test.want)
		}
	}
}

func TestNoSuchShell(t *testing.T) {
	call, err := sample(&did{}).Parse([]string{"completion", "tcsh"})
	if err != nil {
		t.Fatal(err)
	}
	err = call.Run(context.Background())
	if want := "completion: tcsh: no such shell: bash, zsh or fish; see croft help completion"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}
