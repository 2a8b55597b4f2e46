package man

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// did is what the sample program's commands report to a test.
type did struct {
	verb, root, format string
	args               []string
	memory             string
	detach             bool
}

// sample is a program with one of everything.
func sample(d *did) *Program {
	verb := func(name string) func(*pflag.FlagSet) Run {
		return func(*pflag.FlagSet) Run { return d.note(name) }
	}
	p := &Program{
		Name: "croft", Short: "run whole Linux machines in containers, without a daemon", Date: "2026-01-31",
		Long: "croft runs machines.\n\n- first\n- second, which\n  goes on\n\nRun\n\n    croft run 'x'\n\n    .so y\n\nand be happy.\n\n## On names\n\nA name is `short`.",
		Global: func(fs *pflag.FlagSet) {
			fs.StringVar(&d.root, "root", "/var/lib/croft", "keep machines and images in `DIR`")
			fs.Bool("version", false, "print the version")
		},
		Exit:        []Entry{{"0", "done"}, {"1", "failed"}, {"2", "misuse"}},
		Environment: []Entry{{"CROFT_ROOT", "as `--root`"}},
		Files:       []Entry{{"/etc/croft/croft.toml", "settings of the host"}},
		Topics: []*Topic{{
			Name: "images", Short: "how images are named", Long: "Images have names.", See: []string{"image"},
		}},
	}
	p.Commands = []*Command{
		{
			Name: "run", Peers: []string{"launch"}, Args: "[flags] IMAGE [CMD ARG...]", Heading: "Machines",
			Short: "Create and start a machine",
			Long:  "Boots the machine and runs CMD in it.\n\n.leading dots and 'quotes' are\nharmless; so is a back\\slash, a ~tilde and a café.",
			Examples: []Example{
				{"A whole machine for one command", "croft run --rm debian/13 make test"},
				{"A quoted one", "croft run debian/13 sh -c 'a | b'"},
			},
			Exit: []Entry{{"1", "CMD said so"}, {"125", "croft itself failed"}},
			See:  []string{"list", "images", "systemd.unit(5)"},
			New: func(fs *pflag.FlagSet) Run {
				fs.BoolVarP(&d.detach, "detach", "d", false, "return once the machine is up")
				fs.BoolP("rm", "", false, "remove the machine when it stops")
				fs.StringVarP(&d.memory, "memory", "m", "", "give it `SIZE` of memory, which is a rather long text that has to be wrapped on every screen there is")
				fs.Int("pids-limit", 16384, "at most `N` tasks")
				fs.String("pull", "missing", "pull the image `missing|always|never`")
				fs.String("network", "", "attach to `NET|none|host`")
				fs.String("colour", "", "with a value or not: `WHEN`")
				fs.Lookup("colour").NoOptDefVal = "auto"
				fs.BoolP("tty", "t", false, "accepted")
				fs.BoolP("interactive", "i", false, "accepted")
				_ = fs.MarkHidden("tty")
				_ = fs.MarkHidden("interactive")
				Under(fs, "Limits", "memory", "pids-limit")
				return d.note("run")
			},
		},
		{
			Name: "stop", Args: "NAME...", Short: "Stop machines", Long: "Stops them.", Instead: []string{"filter"},
			Examples: []Example{{"Stop two", "croft stop web db"}},
			New: func(fs *pflag.FlagSet) Run {
				fs.String("filter", "", "all that match `KEY=VALUE`")
				fs.DurationP("time", "t", 0, "wait so long: `DURATION`")
				return d.note("stop")
			},
		},
		{
			Name: "exec", Args: "NAME CMD [ARG...]", Short: "Run a command in a machine", Long: "Runs it.", Instead: []string{"filter"},
			Examples: []Example{{"List files", "croft exec web ls -l"}},
			New: func(fs *pflag.FlagSet) Run {
				fs.BoolP("tty", "t", false, "accepted")
				fs.BoolP("interactive", "i", false, "accepted")
				fs.StringP("user", "u", "", "as `USER`")
				fs.String("filter", "", "in all that match `KEY=VALUE`")
				return d.note("exec")
			},
		},
		{
			Name: "list", Aliases: []string{"ls", "ps"}, Short: "List machines", Long: "Lists them.",
			Examples: []Example{{"List them", "croft list"}},
			New: func(fs *pflag.FlagSet) Run {
				fs.StringVar(&d.format, "format", "table", "print as `table|json|TEMPLATE`")
				return d.note("list")
			},
		},
		{
			Name: "cp", Args: "[NAME:]SRC... [NAME:]DST", Short: "Copy files", Long: "Copies.",
			Examples: []Example{{"Copy one out", "croft cp web:/etc/fstab ."}}, New: verb("cp"),
		},
		{
			Name: "image", Short: "Manage images", Long: "Images are shared.", Heading: "Images",
			Sub: []*Command{
				{Name: "list", Aliases: []string{"ls"}, Short: "List images", Examples: []Example{{"List them", "croft image list"}}, New: verb("image list")},
				{Name: "rm", Args: "IMAGE...", Short: "Remove images", Long: "Removes them.", Exit: []Entry{{"4", "in use"}},
					New: func(fs *pflag.FlagSet) Run {
						fs.BoolP("force", "f", false, "even if used")
						return d.note("image rm")
					}},
				{Name: "import", Args: "FILE|DIR|URL|- [ROOTFS]", Short: "Import an image", New: verb("image import")},
			},
		},
		{Name: "version", Short: "Print the version", Long: "Prints it.", Examples: []Example{{"Print it", "croft version"}}, New: verb("version")},
	}
	p.Commands = append(p.Commands, p.HelpCommand(), p.CompletionCommand(), p.AnswerCommand(lookupSample(d)))
	return p
}

func (d *did) note(verb string) Run {
	return func(_ context.Context, args []string) error {
		d.verb, d.args = verb, args
		if len(args) > 0 && args[0] == "at-odds" {
			return Misused("-d and --rm are at odds")
		}
		return nil
	}
}

func lookupSample(d *did) Lookup {
	return func(word string) []string {
		switch word {
		case "NAME":
			return []string{"web\trunning", "db", d.root}
		case "IMAGE":
			return []string{"debian/13", "docker:debian/13", "docker:alpine"}
		case "NET":
			return []string{"croft0"}
		}
		return nil
	}
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		line, verb, args, path string
	}{
		{"list", "list", "", "croft list"},
		{"ps", "list", "", "croft list"},
		{"--root /x list", "list", "", "croft list"},
		{"list --root /x", "list", "", "croft list"},
		{"image --root=/x ls", "image list", "", "croft image list"},
		{"run -d debian/13", "run", "debian/13", "croft run"},
		{"run debian/13 ls -d --help", "run", "debian/13 ls -d --help", "croft run"},
		{"run -it --rm debian/13 -- ls -- x", "run", "debian/13 ls -- x", "croft run"},
		{"run -- debian/13", "run", "debian/13", "croft run"},
		{"exec -it web -- ls -h", "exec", "web ls -h", "croft exec"},
		{"exec --filter a=b -- ls -- -h", "exec", "ls -- -h", "croft exec"},
		{"exec --filter a=b ls", "exec", "ls", "croft exec"},
		{"stop web -t 5s db", "stop", "web db", "croft stop"},
		{"stop --filter a=b", "stop", "", "croft stop"},
		{"stop -- -web", "stop", "-web", "croft stop"},
		{"image import - x", "image import", "- x", "croft image import"},
		{"--version", "version", "", "croft version"},
	} {
		var d did
		call, err := sample(&d).Parse(strings.Fields(test.line))
		if err != nil {
			t.Errorf("%s: %v", test.line, err)
			continue
		}
		if err := call.Run(context.Background()); err != nil {
			t.Errorf("%s: %v", test.line, err)
		}
		if d.verb != test.verb || strings.Join(d.args, " ") != test.args || call.Path != test.path {
			t.Errorf("%s: got %q %q %q", test.line, d.verb, d.args, call.Path)
		}
		if want := strings.Contains(test.line, "/x"); (d.root == "/x") != want {
			t.Errorf("%s: root is %q", test.line, d.root)
		}
	}
}

func TestMisuse(t *testing.T) {
	for _, test := range []struct{ line, say, hint string }{
		{"strat", "strat: no such verb; see croft help", ""},
		{"sotp web", "sotp: no such verb; see croft help", "croft stop"},
		{"launch x", "launch: no such verb; see croft help", "croft run"},
		{"image lst", "image: lst: no such verb; see croft help image", "croft image list"},
		{"image", "image: a verb is missing: list, rm, import; see croft help image", ""},
		{"--rot /x list", "no such flag --rot; see croft help", "--root"},
		{"run --memroy 1G x", "run: no such flag --memroy; see croft help run", "--memory"},
		{"run -dZ x", "run: no such flag -Z; see croft help run", ""},
		{"run -m", "run: --memory needs a SIZE; see croft help run", ""},
		{"run", "run: IMAGE is missing; see croft help run", ""},
		{"exec web", "exec: CMD is missing; see croft help exec", ""},
		{"exec --filter a=b", "exec: CMD is missing; see croft help exec", ""},
		{"stop", "stop: NAME is missing; see croft help stop", ""},
		{"stop --filter a=b web", "stop: --filter stands instead of NAME: web; see croft help stop", ""},
		{"cp x", "cp: [NAME:]DST is missing; see croft help cp", ""},
		{"list x", "list: takes no operands: x; see croft help list", ""},
		{"image import a b c", "image import: one operand too many: c; see croft help image import", ""},
		{"run --rm=maybe x", "run: --rm maybe: invalid syntax; see croft help run", ""},
		{"stop -t soon web", `stop: --time soon: time: invalid duration "soon"; see croft help stop`, ""},
	} {
		_, err := sample(&did{}).Parse(strings.Fields(test.line))
		var m *Misuse
		if !errors.As(err, &m) {
			t.Errorf("%s: got %v", test.line, err)
			continue
		}
		if m.Error() != test.say || m.Hint != test.hint {
			t.Errorf("%s:\n got %s (%s)\nwant %s (%s)", test.line, m, m.Hint, test.say, test.hint)
		}
	}
}

func TestMisusedByCommand(t *testing.T) {
	call, err := sample(&did{}).Parse([]string{"stop", "at-odds"})
	if err != nil {
		t.Fatal(err)
	}
	err = call.Run(context.Background())
	if want := "stop: -d and --rm are at odds; see croft help stop"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"start", "stop", "restart", "rm", "run", "list", "ls", "exec"}
	for _, test := range []struct{ name, want string }{
		{"strat", "start"}, {"lst", "list"}, {"restrat", "restart"}, {"exce", "exec"}, {"rnu", "run"}, {"wholly", ""}, {"", ""},
	} {
		if got := Nearest(test.name, words); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestOperands(t *testing.T) {
	for _, test := range []struct {
		args    string
		n       int
		missing string
		over    bool
	}{
		{"", 0, "", false},
		{"", 1, "", true},
		{"NAME [GUEST]", 0, "NAME", false},
		{"NAME [GUEST]", 2, "", false},
		{"NAME [GUEST]", 3, "", true},
		{"IMAGE [CMD ARG...]", 9, "", false},
		{"[A [B]]", 2, "", false},
		{"[A [B]]", 3, "", true},
		{"[NAME:]SRC... [NAME:]DST", 1, "[NAME:]DST", false},
		{"[NAME:]SRC... [NAME:]DST", 5, "", false},
		{"NAME [KEY=VALUE...]", 5, "", false},
	} {
		missing, over := count(operands(test.args), test.n)
		if missing != test.missing || over != test.over {
			t.Errorf("%q with %d: got %q %v", test.args, test.n, missing, over)
		}
	}
}

func TestHelp(t *testing.T) {
	for file, test := range map[string]struct {
		line   string
		screen Screen
	}{
		"overview.txt":   {"", Screen{Width: 80}},
		"run.txt":        {"run -h", Screen{Width: 80}},
		"run-narrow.txt": {"help run", Screen{Width: 20, Bold: true}},
		"image.txt":      {"image --help", Screen{Width: 1000}},
		"image-rm.txt":   {"help image rm", Screen{Width: 80}},
		"images.txt":     {"help images", Screen{Width: 80, Bold: true}},
	} {
		var out bytes.Buffer
		p := sample(&did{})
		p.Out, p.Screen = &out, func() Screen { return test.screen }
		call, err := p.Parse(strings.Fields(test.line))
		if err == nil {
			err = call.Run(context.Background())
		}
		if err != nil {
			t.Errorf("%s: %v", test.line, err)
		}
		golden(t, "help/"+file, out.Bytes())
		for line := range strings.Lines(out.String()) {
			if line != strings.TrimRight(line, " \n")+"\n" {
				t.Errorf("%s: blanks at the end of %q", file, line)
			}
		}
	}
}

func TestHelpOfNothing(t *testing.T) {
	call, err := sample(&did{}).Parse([]string{"help", "imags"})
	if err != nil {
		t.Fatal(err)
	}
	var m *Misuse
	if err := call.Run(context.Background()); !errors.As(err, &m) {
		t.Fatalf("got %v", err)
	}
	if m.Error() != "imags: no such verb or topic; see croft help" || m.Hint != "croft help image" {
		t.Errorf("got %v, %s", m, m.Hint)
	}
}

// golden compares with a file of testdata, or with UPDATE=1 writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; UPDATE=1 go test ./man writes it anew\n%s", file, got)
	}
}
