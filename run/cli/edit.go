package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

func (a *app) edit() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		quiet := fs.BoolP("quiet", "q", false, "no notes on stderr, only errors")
		return func(_ context.Context, args []string) error {
			_, in, err := a.instance(args[0])
			if err != nil {
				return err
			}
			text, err := toYAML(&in.Spec)
			if err != nil {
				return err
			}
			return editing{name: in.Spec.Name, command: "croft edit", text: text, quiet: *quiet, lines: true}.from(os.Stdin, func(text []byte, stale bool) error {
				return a.reconfigure("edit", in.Spec.Name, *quiet, func(s *state.Spec) error {
					if stale && !reflect.DeepEqual(*s, in.Spec) {
						return errStale
					}
					return a.take(s, text)
				})
			})
		}
	}
}

// take gives s the settings of the text. What differs is the machine's own from then on.
func (a *app) take(s *state.Spec, text []byte) error {
	was := before(s)
	said, err := fromYAML(s, text)
	if err != nil {
		return err
	}
	own(&was, s, said)
	return a.expand(s)
}

// editor is the user's.
func editor() string { return cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi") }

// editing is a text that its user changes.
type editing struct {
	name    string // of what it is about
	command string // that takes the text of it on stdin
	text    []byte
	quiet   bool
	lines   bool // one with nothing but comments is no text
}

// errStale: what was edited is not what there is.
var errStale = fmt.Errorf("somebody else has changed it meanwhile: %w", state.ErrBusy)

// from gives take what is on stdin, or, where that is a terminal, what the user has made of the text that was shown to him,
// which may be stale by then.
func (x editing) from(stdin *os.File, take func(text []byte, stale bool) error) error {
	if isTerminal(stdin) {
		return x.in(editor(), func(text []byte) error { return take(text, true) })
	}
	text, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	if len(text) == 0 || x.lines && blank(text) {
		return man.Misused("nothing is on stdin")
	}
	return take(text, false)
}

// in lets the user change the text in an editor until it is taken or he gives up; then the file stays.
func (x editing) in(editor string, take func(text []byte) error) error {
	f, err := os.CreateTemp("", "croft-"+x.name+"-*.yaml")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(x.text); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	for {
		after, err := edited(editor, f.Name())
		if x.lines && blank(after) || bytes.Equal(after, x.text) {
			if err == nil && !x.quiet {
				fmt.Fprintln(os.Stderr, "nothing was changed")
			}
			return errors.Join(err, os.Remove(f.Name()))
		}
		if err == nil {
			err = take(after)
		}
		if err == nil {
			return os.Remove(f.Name())
		}
		if errors.Is(err, state.ErrBusy) || errors.Is(err, state.ErrNotExist) || !again(err) {
			return state.Hint(err, "what was typed is in "+f.Name()+": "+x.command+" "+x.name+" <"+f.Name())
		}
	}
}

// edited runs the editor, a command line for the shell as git has it, and gives what is in the file then, also when the
// editor failed.
func edited(editor, file string) ([]byte, error) {
	cmd := exec.Command("sh", "-c", editor+` "$@"`, editor, file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT, syscall.SIGQUIT) // typed into the editor, they are the editor's
	defer signal.Stop(interrupts)
	failed := cmd.Run()
	if failed != nil {
		failed = fmt.Errorf("%s: %w", editor, failed)
	}
	text, err := os.ReadFile(file) // by name: most editors put a new file in its place
	return text, errors.Join(failed, err)
}

// again tells what is wrong and asks whether to go on.
func again(err error) bool {
	fmt.Fprintf(os.Stderr, "croft: %v\nreturn edits it again, q and return gives up: ", err)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	return err == nil && strings.TrimSpace(line) == ""
}

// blank tells whether there is nothing but comments.
func blank(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// toYAML writes the settings that can be changed, each with what its flag's help says of it.
func toYAML(s *state.Spec) ([]byte, error) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	bindSettings(flags, new(specFlags))
	all := &yaml.Node{Kind: yaml.MappingNode, HeadComment: fmt.Sprintf(
		"The settings of %s, made of %s. What is empty or missing is not set.\nWithout a change, or without any setting, all stays as it is.\n", s.Name, s.Image)}
	for _, x := range settings() {
		if x.fixed != "" {
			continue
		}
		usage := x.says
		if usage == "" {
			_, usage = pflag.UnquoteUsage(flags.Lookup(x.name))
		}
		all.Content = append(all.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: x.name, HeadComment: usage}, x.node(s))
	}
	return encoded(all)
}

// node is the value of a setting: a list, or a scalar.
func (x setting) node(s *state.Spec) *yaml.Node {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, v := range x.get(s) {
		n := &yaml.Node{}
		n.SetString(v)
		if from := (named{setting: x}).originOf(s, v); from != "machine" && n.Style != yaml.LiteralStyle {
			n.LineComment = from
		}
		list.Content = append(list.Content, n)
	}
	one := x.entry == nil && !x.many
	switch {
	case one && len(list.Content) == 1:
		return list.Content[0]
	case one:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	case len(list.Content) == 0:
		list.Style = yaml.FlowStyle
	}
	return list
}

// fromYAML gives s the settings of the text, and takes back those that it does not name. It tells what was said.
func fromYAML(s *state.Spec, text []byte) ([]assignment, error) {
	lines, err := linesOf(text)
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, man.Misused("there are no lines of KEY: VALUE")
	}
	values := map[string][]string{}
	for _, l := range lines {
		if !slices.Contains(keyNames(), l.key.Value) {
			return nil, &man.Misuse{Say: fmt.Sprintf("line %d: %s: there is no such key", l.key.Line, l.key.Value), Hint: man.Nearest(l.key.Value, keyNames())}
		}
		values[l.key.Value] = l.values
	}
	var all []assignment
	for _, x := range settings() {
		said, ok := values[x.name]
		if x.fixed != "" && !ok {
			continue
		}
		n := named{setting: x, word: x.name}
		if was := x.get(s); x.fixed == "" && !slices.Equal(was, said) {
			if err := n.unset(s); err != nil {
				return nil, err
			}
			if x.entry == nil {
				all = append(all, assignment{n, said})
			}
		}
		if err := n.set(s, said); err != nil {
			return nil, err
		}
	}
	return all, nil
}
