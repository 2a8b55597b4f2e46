package man

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/pflag"
)

// Lint lists what is wrong with the table, one sentence each; a test of the
// face wants it empty.
func (p *Program) Lint() []string {
	l := &lint{program: p}
	l.names(p.Name, p.Commands)
	for _, c := range p.Commands {
		l.command(p.Name, c)
	}
	for _, t := range p.Topics {
		l.topic(t)
	}
	return l.complaints
}

type lint struct {
	program    *Program
	complaints []string
}

func (l *lint) say(format string, args ...any) {
	l.complaints = append(l.complaints, fmt.Sprintf(format, args...))
}

// names finds words that two commands of one list answer to.
func (l *lint) names(path string, list []*Command) {
	seen := map[string]bool{}
	for _, c := range list {
		for _, n := range append([]string{c.Name}, c.Aliases...) {
			if seen[n] {
				l.say("%s: two verbs are called %s", path, n)
			}
			seen[n] = true
			if n == "init" && path == l.program.Name {
				// libcontainer starts the binary as "/proc/self/exe init".
				l.say("%s: no verb may be called init", path)
			}
		}
	}
}

func (l *lint) command(path string, c *Command) {
	path += " " + c.Name
	if (c.New == nil) == (c.Sub == nil) {
		l.say("%s: needs either New or Sub", path)
	}
	l.flags(path, c)
	l.names(path, c.Sub)
	for _, s := range c.Sub {
		l.command(path, s)
	}
	if c.Hidden {
		return
	}
	l.short(path, c.Short)
	l.args(path, c)
	for _, e := range c.Examples {
		l.example(path, e)
	}
	for _, s := range c.See {
		l.see(path, s)
	}
	if len(strings.Fields(path)) == 2 { // the verbs of a group share its page
		l.page(path, c)
	}
}

// page wants what makes a page worth opening.
func (l *lint) page(path string, c *Command) {
	if c.Long == "" {
		l.say("%s: Long is missing", path)
	}
	if len(allExamples(c)) == 0 {
		l.say("%s: Examples are missing", path)
	}
}

func (l *lint) short(path, s string) {
	switch {
	case s == "":
		l.say("%s: Short is missing", path)
	case strings.HasSuffix(s, "."):
		l.say("%s: Short ends in a full stop", path)
	case !unicode.IsUpper(rune(s[0])):
		l.say("%s: Short begins without a capital", path)
	case strings.HasSuffix(strings.Fields(s)[0], "s") && !strings.HasSuffix(strings.Fields(s)[0], "ss"):
		l.say("%s: Short begins with %q, not with a plain verb", path, strings.Fields(s)[0])
	}
}

func (l *lint) args(path string, c *Command) {
	if strings.Count(c.Args, "[") != strings.Count(c.Args, "]") {
		l.say("%s: brackets in %q do not match", path, c.Args)
	}
	if c.Sub != nil && c.Args != "" {
		l.say("%s: a group takes no Args", path)
	}
	for _, o := range operands(c.Args) {
		if strings.HasPrefix(o.Word, "-") && o.Word != "-" {
			l.say("%s: %s in Args is a flag", path, o.Word)
		}
	}
	fs, _ := c.flags()
	for _, name := range c.Instead {
		if fs.Lookup(name) == nil {
			l.say("%s: Instead names --%s, which it does not have", path, name)
		}
	}
}

// flags checks a verb's own flags, also against the global ones.
func (l *lint) flags(path string, c *Command) {
	global := l.program.globals()
	shorts := map[string]string{"h": "help"}
	global.VisitAll(func(f *pflag.Flag) { shorts[f.Shorthand] = f.Name })
	defer func() {
		if r := recover(); r != nil { // pflag panics when a flag is given twice
			l.say("%s: %v", path, r)
		}
	}()
	fs, _ := c.flags()
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || global.Lookup(f.Name) != nil {
			l.say("%s: --%s is a global flag", path, f.Name)
		}
		if other := shorts[f.Shorthand]; other != "" && f.Shorthand != "" {
			l.say("%s: -%s is --%s and --%s", path, f.Shorthand, other, f.Name)
		}
		shorts[f.Shorthand] = f.Name
		l.flag(path, f)
	})
}

func (l *lint) flag(path string, f *pflag.Flag) {
	switch {
	case f.Hidden:
	case f.Usage == "":
		l.say("%s: --%s has no usage text", path, f.Name)
	case strings.HasSuffix(f.Usage, "."):
		l.say("%s: the usage text of --%s ends in a full stop", path, f.Name)
	case f.NoOptDefVal == "" && strings.Count(f.Usage, "`") != 2:
		l.say("%s: the usage text of --%s does not name its value in back-quotes", path, f.Name)
	}
}

// example checks that a line runs the program, and, where it is plain enough to
// be understood without a shell, that the program understands it.
func (l *lint) example(path string, e Example) {
	if e.Say == "" || strings.HasSuffix(e.Say, ".") || strings.HasSuffix(e.Say, ":") {
		l.say("%s: example %q: Say is a phrase without a stop", path, e.Do)
	}
	words := strings.Fields(e.Do)
	if len(words) > 1 && words[0] == "sudo" {
		words = words[1:]
	}
	piped := strings.Contains(e.Do, "| "+l.program.Name+" ") || strings.Contains(e.Do, "("+l.program.Name+" ")
	if len(words) == 0 || words[0] != l.program.Name && !piped {
		l.say("%s: example %q does not run %s", path, e.Do, l.program.Name)
		return
	}
	if piped || strings.ContainsAny(e.Do, "|<>$;&*\"'\\\n#") {
		return
	}
	if _, err := l.program.Parse(words[1:]); err != nil {
		l.say("%s: example %q: %v", path, e.Do, err)
	}
}

func (l *lint) see(path, word string) {
	known := find(l.program.Commands, word) != nil || l.program.topic(word) != nil
	if !known && !strings.Contains(word, "(") {
		l.say("%s: See names %s, which is no verb, topic or page", path, word)
	}
}

func (l *lint) topic(t *Topic) {
	path := l.program.Name + "-" + t.Name + "(7)"
	if t.Short == "" || t.Long == "" {
		l.say("%s: Short or Long is missing", path)
	}
	if slices.ContainsFunc(l.program.Commands, func(c *Command) bool { return c.Name == t.Name }) {
		l.say("%s: has the name of a verb", path)
	}
	for _, s := range t.See {
		l.see(path, s)
	}
}
