package man

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Pages writes the manual: "croft.1", a page for each verb, one for each group
// with its verbs ("croft-image.1"), and one for each topic ("croft-images.7").
// Equal tables give equal bytes.
func (p *Program) Pages() map[string][]byte {
	pages := map[string][]byte{p.Name + ".1": p.overviewPage()}
	for _, c := range visible(p.Commands) {
		pages[p.Name+"-"+c.Name+".1"] = p.commandPage(c)
	}
	for _, t := range p.Topics {
		pages[p.Name+"-"+t.Name+".7"] = p.topicPage(t)
	}
	return pages
}

func (p *Program) overviewPage() []byte {
	r := &roff{}
	r.title(p, p.Name, "1")
	r.name(p.Name, p.Short)
	r.section("SYNOPSIS")
	r.text(bold(p.Name) + " [" + italic("global flags") + "] " + italic("VERB") + " [" + italic("flags") + "] [" + italic("ARG") + "...]")
	r.section("DESCRIPTION")
	r.long(p.Long, false)
	r.section("COMMANDS")
	for _, c := range visible(p.Commands) {
		if c.Heading != "" {
			r.subsection(c.Heading)
		}
		r.term(bold(p.Name+"-"+c.Name)+"(1)", c.Short+".")
	}
	r.flags(p.shownGlobals(), "GLOBAL FLAGS")
	r.entries("ENVIRONMENT", p.Environment)
	r.entries("FILES", p.Files)
	r.entries("EXIT STATUS", p.Exit)
	var topics []string
	for _, t := range p.Topics {
		topics = append(topics, t.Name)
	}
	r.see(p, topics)
	return r.Bytes()
}

func (p *Program) commandPage(c *Command) []byte {
	r := &roff{}
	path := p.Name + " " + c.Name
	r.title(p, p.Name+"-"+c.Name, "1")
	r.name(p.Name+"-"+c.Name, lowerFirst(c.Short))
	r.section("SYNOPSIS")
	r.synopses(path, c)
	r.section("DESCRIPTION")
	r.text(escape(c.Short + "."))
	if len(c.Aliases) > 0 {
		r.WriteString(".PP\n")
		r.text("Also: " + bold(strings.Join(c.Aliases, ", ")) + ".")
	}
	r.long(c.Long, true)
	fs, _ := c.flags()
	r.flags(fs, "OPTIONS")
	if c.Sub != nil {
		r.section("COMMANDS")
	}
	for _, s := range visible(c.Sub) {
		r.sub(path, s)
	}
	r.examples(allExamples(c))
	r.entries("EXIT STATUS", merge(p.Exit, c.Exit))
	r.see(p, append([]string{""}, c.See...))
	return r.Bytes()
}

func (p *Program) topicPage(t *Topic) []byte {
	r := &roff{}
	r.title(p, p.Name+"-"+t.Name, "7")
	r.name(p.Name+"-"+t.Name, t.Short)
	r.section("DESCRIPTION")
	r.long(t.Long, false)
	r.see(p, append([]string{""}, t.See...))
	return r.Bytes()
}

// merge puts a command's own exit statuses in place of, or after, the common ones.
func merge(common, own []Entry) []Entry {
	var out []Entry
	for _, e := range common {
		if i := entryIndex(own, e.Term); i >= 0 {
			e = own[i]
		}
		out = append(out, e)
	}
	for _, e := range own {
		if entryIndex(common, e.Term) < 0 {
			out = append(out, e)
		}
	}
	return out
}

func entryIndex(list []Entry, term string) int {
	for i, e := range list {
		if e.Term == term {
			return i
		}
	}
	return -1
}

// allExamples are the command's and those of its verbs.
func allExamples(c *Command) []Example {
	list := append([]Example(nil), c.Examples...)
	for _, s := range visible(c.Sub) {
		list = append(list, allExamples(s)...)
	}
	return list
}

// page names the page of a verb or topic; "" is the overview, and a foreign
// page is itself.
func (p *Program) page(word string) string {
	switch {
	case word == "":
		return bold(p.Name) + "(1)"
	case find(p.Commands, word) != nil:
		return bold(p.Name+"-"+word) + "(1)"
	case p.topic(word) != nil:
		return bold(p.Name+"-"+word) + "(7)"
	}
	name, section, _ := strings.Cut(word, "(")
	return bold(name) + "(" + escape(section)
}

// roff is a page being written with the man(7) macros.
type roff struct{ bytes.Buffer }

// title leaves the date unescaped: mandoc reads it.
func (r *roff) title(p *Program, name, section string) {
	fmt.Fprintf(r, ".TH %s %s \"%s\" \"%s\"\n", escape(strings.ToUpper(name)), section, p.Date, escape(p.Name))
}

func (r *roff) name(name, short string) {
	r.section("NAME")
	r.text(escape(name) + ` \- ` + escape(strings.TrimSuffix(short, ".")))
}

func (r *roff) section(name string) { r.WriteString(".SH " + name + "\n") }

func (r *roff) subsection(name string) {
	r.WriteString(".SS \"" + strings.ReplaceAll(escape(name), `"`, `\(dq`) + "\"\n")
}

// text writes a filled line of roff text; a control character at its head is
// made harmless.
func (r *roff) text(line string) {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	r.WriteString(line + "\n")
}

func (r *roff) term(term, text string) {
	r.WriteString(".TP\n")
	r.text(term)
	r.text(inline(text))
}

// synopses writes one line for a verb and one for each verb of a group.
func (r *roff) synopses(path string, c *Command) {
	if c.Sub == nil {
		r.text(usage(path, c))
		return
	}
	for i, s := range visible(c.Sub) {
		if i > 0 {
			r.WriteString(".br\n")
		}
		r.text(usage(path+" "+s.Name, s))
	}
}

func (r *roff) sub(path string, c *Command) {
	r.subsection(strings.TrimSpace(path + " " + c.Name + " " + c.synopsis()))
	r.text(escape(c.Short + "."))
	if len(c.Aliases) > 0 {
		r.text("Also: " + bold(strings.Join(c.Aliases, ", ")) + ".")
	}
	r.long(c.Long, true)
	fs, _ := c.flags()
	for _, sec := range sections(fs) {
		r.rows(sec.Rows)
	}
	for _, e := range c.Exit {
		r.term("exit status "+bold(e.Term), e.Text)
	}
}

// long writes a Long text; after says that text stands above it, for at the
// head of a section a macro must not open a paragraph.
func (r *roff) long(text string, after bool) {
	for _, b := range blocks(text) {
		switch {
		case b.kind == heading:
			r.subsection(b.text)
		case b.kind == item:
			r.WriteString(".IP \\(bu 2\n")
		case after:
			r.WriteString(".PP\n")
		}
		switch b.kind {
		case paragraph, item:
			r.text(inline(b.text))
		case literal:
			r.verbatim(b.text)
		}
		after = b.kind != heading
	}
}

func (r *roff) verbatim(text string) {
	r.WriteString(".RS 4\n.nf\n")
	for l := range strings.Lines(text + "\n") {
		r.text(escape(strings.TrimRight(l, "\n ")))
	}
	r.WriteString(".fi\n.RE\n")
}

func (r *roff) flags(fs *pflag.FlagSet, title string) {
	for i, sec := range sections(fs) {
		if i == 0 {
			r.section(title)
		}
		if sec.Heading != "" {
			r.subsection(sec.Heading)
		}
		r.rows(sec.Rows)
	}
}

func (r *roff) rows(rows []flagRow) {
	for _, f := range rows {
		term := bold("--" + f.Long)
		if f.Short != "" {
			term = bold("-"+f.Short) + ", " + term
		}
		switch {
		case f.Optional:
			term += "[=" + italic(f.Value) + "]"
		case f.Value != "":
			term += " " + italic(f.Value)
		}
		r.term(term, upperFirst(f.Usage)+".")
	}
}

func (r *roff) examples(list []Example) {
	if len(list) == 0 {
		return
	}
	r.section("EXAMPLES")
	for i, e := range list {
		if i > 0 {
			r.WriteString(".PP\n")
		}
		r.text(inline(e.Say + ":"))
		r.verbatim(strings.TrimSpace(e.Do))
	}
}

func (r *roff) entries(title string, list []Entry) {
	if len(list) == 0 {
		return
	}
	r.section(title)
	for _, e := range list {
		r.term(bold(e.Term), e.Text)
	}
}

func (r *roff) see(p *Program, words []string) {
	if len(words) == 0 {
		return
	}
	r.section("SEE ALSO")
	for i, w := range words {
		sep := ","
		if i == len(words)-1 {
			sep = ""
		}
		r.text(p.page(w) + sep)
	}
}
