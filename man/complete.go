package man

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Lookup gives the words that a name in a synopsis or a flag's value stands
// for: the instances for "NAME", the images for "IMAGE". A word may carry a
// description after a tab. It must be quick, and nil is a fine answer.
type Lookup func(word string) []string

// Answers that ask the shell for its own completion.
const (
	files = ":file"
	dirs  = ":dir"
)

// AnswerCommand is the hidden row that the shells' completion stubs call.
func (p *Program) AnswerCommand(lookup Lookup) *Command {
	return &Command{
		Name: "__complete", Args: "[WORD...]", Hidden: true,
		Short: "Answer a shell's completion",
		New: func(*pflag.FlagSet) Run {
			return func(_ context.Context, args []string) error {
				for _, line := range p.Complete(args, lookup) {
					if _, err := fmt.Fprintln(p.out(), line); err != nil {
						return err
					}
				}
				return nil
			}
		},
	}
}

// CompletionCommand is the row that prints a shell's stub.
func (p *Program) CompletionCommand() *Command {
	return &Command{
		Name:  "completion",
		Args:  "bash|zsh|fish",
		Short: "Print the completion script of a shell",
		Long: "Prints a short script that asks " + p.Name + " itself for the verbs, flags and names that fit, " +
			"so it needs no renewal when " + p.Name + " is updated.",
		Examples: []Example{
			{"Complete in this bash", "source <(" + p.Name + " completion bash)"},
			{"In every zsh", p.Name + " completion zsh >/usr/local/share/zsh/site-functions/_" + p.Name},
			{"In every fish", p.Name + " completion fish >/etc/fish/completions/" + p.Name + ".fish"},
		},
		New: func(*pflag.FlagSet) Run { return p.printStub },
	}
}

func (p *Program) printStub(_ context.Context, args []string) error {
	text, ok := stub(args[0])
	if !ok {
		return Misused("%s: no such shell: bash, zsh or fish", args[0])
	}
	_, err := p.out().Write([]byte(strings.ReplaceAll(text, "PROGRAM", p.Name)))
	return err
}

// Complete answers what the last of words (the program's name left out) may
// become: lines of a word and, after a tab, its description. ":file" and ":dir"
// among them ask for the shell's own completion. Global flags found on the way
// are set, so that lookup sees a --root.
func (p *Program) Complete(words []string, lookup Lookup) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	if lookup == nil {
		lookup = func(string) []string { return nil }
	}
	c := &completion{program: p, list: p.Commands, flags: p.globals(), lookup: lookup}
	c.global = c.flags
	for _, w := range words[:len(words)-1] {
		c.step(w)
	}
	last := words[len(words)-1]
	return fitting(c.answer(last), last, c.operands)
}

// completion is what is known after some words of a command line.
type completion struct {
	program  *Program
	list     []*Command     // verbs that may come next; nil once there is a plain verb
	command  *Command       // nil before the first verb
	global   *pflag.FlagSet // shared by all verbs
	flags    *pflag.FlagSet // that may come next
	ops      []operand
	operands []string
	value    *pflag.Flag // the flag whose value comes next
	ended    bool        // no more flags
	lookup   Lookup
}

func (c *completion) step(w string) {
	switch {
	case c.value != nil:
		_ = c.value.Value.Set(w) // a wrong value is for the real run to report
		c.value = nil
	case !c.ended && w == "--":
		c.ended = true
	case !c.ended && strings.HasPrefix(w, "--"):
		c.long(w[2:])
	case !c.ended && strings.HasPrefix(w, "-") && w != "-":
		c.short(w[1:])
	case c.list != nil:
		c.verb(w)
	default:
		c.operands = append(c.operands, w)
		c.ended = c.ended || passes(c.ops)
	}
}

func (c *completion) long(w string) {
	name, value, given := strings.Cut(w, "=")
	f := c.flags.Lookup(name)
	if f != nil && given {
		_ = f.Value.Set(value)
	} else if f != nil && f.NoOptDefVal == "" {
		c.value = f
	}
	c.instead(f)
}

// short reads "-it" and "-m512M"; only the last letter's value can be missing.
func (c *completion) short(w string) {
	for i := range w {
		f := c.flags.ShorthandLookup(w[i : i+1])
		c.instead(f)
		if f == nil || f.NoOptDefVal != "" {
			continue
		}
		if i == len(w)-1 {
			c.value = f
		}
		return
	}
}

// instead drops the operand that f takes the place of.
func (c *completion) instead(f *pflag.Flag) {
	if f != nil && c.command != nil && slices.Contains(c.command.Instead, f.Name) && len(c.ops) > 0 {
		c.ops = operands(c.command.Args)[1:]
	}
}

func (c *completion) verb(w string) {
	cmd := find(c.list, w)
	if cmd == nil {
		c.list = []*Command{} // nothing fits an unknown verb
		return
	}
	c.command, c.list = cmd, cmd.Sub
	c.flags, _ = cmd.flags()
	c.flags.AddFlagSet(c.global)
	c.ops = operands(cmd.Args)
}

// answer gives all that may stand where last is, fitting or not.
func (c *completion) answer(last string) []string {
	switch name, _, given := strings.Cut(last, "="); {
	case c.value != nil:
		return c.values(c.value)
	case !c.ended && given && strings.HasPrefix(last, "--"):
		return c.assigned(name)
	case !c.ended && strings.HasPrefix(last, "-") && last != "-" || last == "-" && !c.ended:
		return c.flagNames()
	case c.list != nil:
		return described(c.list)
	}
	switch o := at(c.ops, len(c.operands)); {
	case o == nil:
		return nil
	case o.Word == pair: // each kind of thing has keys of its own
		return c.lookup(c.ops[0].Word + " " + pair)
	default:
		return c.meaning(o.Word)
	}
}

// pair is a word of a synopsis that means other words for each flag and each kind of thing.
const pair = "KEY=VALUE"

func (c *completion) flagNames() []string {
	var out []string
	c.flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			_, usage := pflag.UnquoteUsage(f)
			out = append(out, "--"+f.Name+"\t"+usage)
		}
	})
	return append(out, "--help\tshow help")
}

func (c *completion) assigned(name string) []string {
	f := c.flags.Lookup(name[2:])
	if f == nil {
		return nil
	}
	var out []string
	for _, v := range c.values(f) {
		if !strings.HasPrefix(v, ":") {
			v = name + "=" + v
		}
		out = append(out, v)
	}
	return out
}

func (c *completion) values(f *pflag.Flag) []string {
	word, _ := pflag.UnquoteUsage(f)
	if word == pair {
		return c.lookup("--" + f.Name)
	}
	return c.meaning(word)
}

// meaning resolves a word of a synopsis: alternatives one by one, what is not
// in capitals as itself, "[NAME:]SRC" as names with a colon and as files.
func (c *completion) meaning(word string) []string {
	var out []string
	if prefix, rest, ok := strings.Cut(word, ":]"); ok && strings.HasPrefix(prefix, "[") {
		for _, n := range c.lookup(prefix[1:]) {
			name, _, _ := strings.Cut(n, "\t")
			out = append(out, name+":")
		}
		return append(out, c.meaning(rest)...)
	}
	for alt := range strings.SplitSeq(word, "|") {
		out = append(out, c.one(alt)...)
	}
	return out
}

func (c *completion) one(word string) []string {
	switch word {
	case "FILE", "SRC", "DST", "PATH":
		return []string{files}
	case "DIR":
		return []string{dirs}
	case "VERB":
		return described(c.program.Commands)
	case "SUBVERB":
		if parent := find(c.program.Commands, c.operands[0]); parent != nil {
			return described(parent.Sub)
		}
		return nil
	case "TOPIC":
		var out []string
		for _, t := range c.program.Topics {
			out = append(out, t.Name+"\t"+t.Short)
		}
		return out
	}
	if literal, _, _ := strings.Cut(word, "["); literal != "" && literal == strings.ToLower(literal) { // on-failure[:N]
		return []string{literal}
	}
	return c.lookup(word)
}

func described(list []*Command) []string {
	var out []string
	for _, c := range visible(list) {
		out = append(out, c.Name+"\t"+c.Short)
	}
	return out
}

// fitting keeps what begins with last and was not given yet; files include
// directories.
func fitting(answers []string, last string, given []string) []string {
	var out []string
	for _, a := range answers {
		word, _, _ := strings.Cut(a, "\t")
		special := a == files || a == dirs
		if a == dirs && slices.Contains(answers, files) {
			continue
		}
		if special || strings.HasPrefix(word, last) && !slices.Contains(given, word) {
			out = append(out, a)
		}
	}
	return out
}
