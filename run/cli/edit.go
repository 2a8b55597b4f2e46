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
			if isTerminal(os.Stdin) {
				return a.editIn(editor(), in, *quiet)
			}
			text, err := io.ReadAll(os.Stdin)
			if err != nil {
				return err
			}
			if blank(text) {
				return man.Misused("nothing is on stdin")
			}
			return a.reconfigure("edit", in.Spec.Name, *quiet, func(s *state.Spec) error { return fromYAML(s, text) })
		}
	}
}

// editor is the user's.
func editor() string { return cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi") }

// editIn lets the user change the settings in an editor until they are taken or he gives up; then the file stays.
func (a *app) editIn(editor string, in *state.Instance, quiet bool) error {
	name := in.Spec.Name
	before, err := toYAML(&in.Spec)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp("", "croft-"+name+"-*.yaml")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(before); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	for {
		after, err := edited(editor, f.Name())
		if blank(after) || bytes.Equal(after, before) {
			if err == nil && !quiet {
				fmt.Fprintln(os.Stderr, "nothing was changed")
			}
			return errors.Join(err, os.Remove(f.Name()))
		}
		if err == nil {
			err = a.reconfigure("edit", name, quiet, func(s *state.Spec) error {
				if !reflect.DeepEqual(*s, in.Spec) {
					return fmt.Errorf("somebody else has changed it meanwhile: %w", state.ErrBusy)
				}
				return fromYAML(s, after)
			})
		}
		if err == nil {
			return os.Remove(f.Name())
		}
		if errors.Is(err, state.ErrBusy) || errors.Is(err, state.ErrNotExist) || !again(err) {
			return state.Hint(err, "what was typed is in "+f.Name()+": croft edit "+name+" <"+f.Name())
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
	var text bytes.Buffer
	e := yaml.NewEncoder(&text)
	e.SetIndent(2)
	if err := e.Encode(all); err != nil {
		return nil, err
	}
	return text.Bytes(), e.Close()
}

// node is the value of a setting: a list, or a scalar.
func (x setting) node(s *state.Spec) *yaml.Node {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, v := range x.get(s) {
		n := &yaml.Node{}
		n.SetString(v)
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

// fromYAML gives s the settings of the text, and takes back those that it does not name.
func fromYAML(s *state.Spec, text []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return man.Misused("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return man.Misused("there are no lines of KEY: VALUE")
	}
	values, err := valuesOf(doc.Content[0].Content)
	if err != nil {
		return err
	}
	for _, x := range settings() {
		said, ok := values[x.name]
		if x.fixed != "" && !ok {
			continue
		}
		n := named{setting: x, word: x.name}
		if x.fixed == "" {
			err = n.unset(s)
		}
		if err == nil {
			err = n.set(s, said)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// valuesOf reads the keys and values of a mapping.
func valuesOf(pairs []*yaml.Node) (map[string][]string, error) {
	values := map[string][]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		key, value := pairs[i], pairs[i+1]
		at := fmt.Sprintf("line %d: %s", key.Line, key.Value)
		if !slices.Contains(keyNames(), key.Value) {
			return nil, &man.Misuse{Say: at + ": there is no such key", Hint: man.Nearest(key.Value, keyNames())}
		}
		if _, twice := values[key.Value]; twice {
			return nil, man.Misused("%s: stands there twice", at)
		}
		list := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			list = value.Content
		}
		values[key.Value] = nil
		for _, v := range list {
			if v.Kind != yaml.ScalarNode {
				return nil, man.Misused("%s: is neither a value nor a list of values", at)
			}
			if v.Tag != "!!null" && v.Value != "" {
				values[key.Value] = append(values[key.Value], v.Value)
			}
		}
	}
	return values, nil
}
