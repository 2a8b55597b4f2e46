package man

import (
	"bytes"
	"context"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// help is the call that shows the help of a path of verbs, or of a topic.
func (p *Program) help(words []string) *Call {
	return &Call{
		Path: strings.Join(append([]string{p.Name, "help"}, words...), " "),
		Args: words,
		run:  p.showHelp,
	}
}

// HelpCommand is the row for the help verb.
func (p *Program) HelpCommand() *Command {
	return &Command{
		Name:  "help",
		Args:  "[VERB|TOPIC] [SUBVERB]",
		Short: "Show help for a verb or a topic",
		Long: "Without an operand, help lists the verbs and the topics. With one it shows what the man page of that verb or topic holds. " +
			"`-h` after a verb does the same.",
		Examples: []Example{{"List the verbs", p.Name + " help"}},
		New:      func(*pflag.FlagSet) Run { return p.showHelp },
	}
}

func (p *Program) showHelp(_ context.Context, words []string) error {
	var page bytes.Buffer
	s := &sheet{Buffer: &page, screen: p.screen()}
	if err := p.render(s, words); err != nil {
		return err
	}
	_, err := p.out().Write(page.Bytes())
	return err
}

func (p *Program) render(s *sheet, words []string) error {
	if len(words) == 0 {
		p.overview(s)
		return nil
	}
	path, list := p.Name, p.Commands
	for i, word := range words {
		c := find(list, word)
		if c == nil {
			if t := p.topic(word); t != nil && i == 0 {
				p.topicHelp(s, t)
				return nil
			}
			return p.noHelp(path, list, word)
		}
		path, list = path+" "+c.Name, c.Sub
		if i == len(words)-1 {
			p.commandHelp(s, path, c)
		}
	}
	return nil
}

// noHelp is the answer to help about something that is neither verb nor topic.
func (p *Program) noHelp(path string, list []*Command, word string) error {
	m := unknown(path, list, word)
	m.Say += " or topic"
	var topics []string
	for _, t := range p.Topics {
		topics = append(topics, t.Name)
	}
	if near := Nearest(word, topics); near != "" && m.Hint == "" {
		m.Hint = p.Name + " " + near
	}
	m.Hint = strings.Replace(m.Hint, p.Name+" ", p.Name+" help ", 1)
	return m
}

func (p *Program) overview(s *sheet) {
	s.para(0, p.Name+": "+p.Short)
	s.line("")
	s.line(s.bold("Usage:") + " " + p.Name + " [global flags] VERB [flags] [ARG...]")
	s.commands(p.Commands, "Verbs")
	if len(p.Topics) > 0 {
		s.head("Topics")
		for _, t := range p.Topics {
			s.entry(2, 12, t.Name, t.Short)
		}
	}
	s.flags(p.shownGlobals(), "Global flags")
	s.line("")
	s.para(0, "See `"+p.Name+" help VERB` for each.")
}

// shownGlobals are the global flags and -h, which no set defines: pflag then
// tells us of it instead of setting it.
func (p *Program) shownGlobals() *pflag.FlagSet {
	fs := p.globals()
	fs.BoolP("help", "h", false, "show help, for a verb when it stands after one")
	return fs
}

func (p *Program) commandHelp(s *sheet, path string, c *Command) {
	s.line(s.bold("Usage:") + " " + strings.TrimSpace(path+" "+c.synopsis()))
	if len(c.Aliases) > 0 {
		s.line(s.bold("Also:") + "  " + strings.Join(c.Aliases, ", "))
	}
	s.line("")
	s.para(0, c.Short+".")
	s.long(c.Long)
	s.commands(c.Sub, "Verbs")
	fs, _ := c.flags()
	s.flags(fs, "Flags")
	s.examples(c.Examples)
	s.entries("Exit status", c.Exit)
	if len(c.See) > 0 {
		s.head("See also")
		s.para(2, strings.Join(c.See, ", "))
	}
	s.line("")
	if c.Sub != nil {
		s.para(0, "See `"+strings.Replace(path, " ", " help ", 1)+" VERB` for each.")
	}
	s.para(0, "Global flags: see `"+p.Name+" help`.")
}

func (p *Program) topicHelp(s *sheet, t *Topic) {
	s.line(s.bold(t.Name) + " - " + t.Short)
	s.long(t.Long)
	if len(t.See) > 0 {
		s.head("See also")
		s.para(2, strings.Join(t.See, ", "))
	}
}

// sheet is help being written for one screen.
type sheet struct {
	*bytes.Buffer
	screen Screen
}

func (s *sheet) line(text string) { s.WriteString(text + "\n") }

func (s *sheet) head(text string) {
	s.line("")
	s.line(s.bold(text + ":"))
}

func (s *sheet) bold(text string) string {
	if !s.screen.Bold || text == "" {
		return text
	}
	return "\x1b[1m" + text + "\x1b[m"
}

// para writes filled text behind an indent.
func (s *sheet) para(indent int, text string) {
	s.hang(strings.Repeat(" ", indent), indent, text)
}

// hang writes filled text: its first line after lead, the others indented.
func (s *sheet) hang(lead string, indent int, text string) {
	strong := false
	for _, l := range wrap(text, s.screen.Width-indent) {
		l, strong = s.inline(l, strong)
		s.line(strings.TrimRight(lead+l, " "))
		lead = strings.Repeat(" ", indent)
	}
}

// inline turns `this` bold where there is bold; strong carries over line ends.
func (s *sheet) inline(line string, strong bool) (string, bool) {
	if !s.screen.Bold {
		return line, false
	}
	parts := strings.Split(line, "`")
	for i := range parts {
		if i > 0 {
			strong = !strong
		}
		if strong {
			parts[i] = s.bold(parts[i])
		}
	}
	return strings.Join(parts, ""), strong
}

func (s *sheet) long(text string) {
	for _, b := range blocks(text) {
		switch b.kind {
		case heading:
			s.head(b.text)
			continue
		case paragraph:
			s.line("")
			s.para(0, b.text)
		case item:
			s.hang("- ", 2, b.text)
		case literal:
			s.line("")
			s.verbatim(4, b.text)
		}
	}
}

// verbatim writes lines as they are behind an indent.
func (s *sheet) verbatim(indent int, text string) {
	for l := range strings.Lines(text + "\n") {
		s.line(strings.TrimRight(strings.Repeat(" ", indent)+strings.TrimRight(l, "\n"), " "))
	}
}

// entry writes a term and, from column at on, its text.
func (s *sheet) entry(indent, at int, term, text string) {
	lead := strings.Repeat(" ", indent)
	n := utf8.RuneCountInString(term)
	at += indent + 2
	if pad := at - indent - n; pad >= 2 {
		s.hang(lead+s.bold(term)+strings.Repeat(" ", pad), at, text)
		return
	}
	s.line(lead + s.bold(term))
	s.para(at, text)
}

func (s *sheet) commands(list []*Command, title string) {
	list = visible(list)
	for i, c := range list {
		if c.Heading != "" {
			s.head(c.Heading)
		} else if i == 0 {
			s.head(title)
		}
		s.entry(2, 12, c.Name, c.Short)
	}
}

func (s *sheet) flags(fs *pflag.FlagSet, title string) {
	for _, sec := range sections(fs) {
		if sec.Heading == "" {
			sec.Heading = title
		}
		s.head(sec.Heading)
		for _, r := range sec.Rows {
			s.entry(2, 22, r.spelling(), r.Usage)
		}
	}
}

func (s *sheet) examples(list []Example) {
	if len(list) == 0 {
		return
	}
	s.head("Examples")
	for i, e := range list {
		if i > 0 {
			s.line("")
		}
		s.para(2, e.Say+":")
		s.verbatim(6, strings.TrimSpace(e.Do))
	}
}

func (s *sheet) entries(title string, list []Entry) {
	if len(list) == 0 {
		return
	}
	s.head(title)
	for _, e := range list {
		s.entry(2, 6, e.Term, e.Text)
	}
}
