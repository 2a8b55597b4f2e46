// Package man is how commands describe themselves: one table of rows from
// which parsing, help, man pages and shell completion all follow, so that none
// of them can disagree with the others. It never knows what a command does,
// reads no configuration and never exits the process.
package man

import (
	"context"
	"io"
	"os"
	"strconv"

	"github.com/spf13/pflag"
)

// Run carries out a command with the operands that were left of its arguments.
type Run func(ctx context.Context, args []string) error

// Program is the whole table. It is plain data, built by a function of the face
// (not a package variable: the binary is also every container's init).
type Program struct {
	Name     string     // "croft"
	Short    string     // one line: what the program is
	Long     string     // DESCRIPTION of the overview page, in the markup of Command.Long
	Date     string     // date of the manual, 2006-01-02; a constant, so that pages are reproducible
	Commands []*Command // their order is the order of help and of the overview page
	Topics   []*Topic   // texts without a command: "croft help images", croft-images(7)

	// Global binds the flags every verb accepts, before the verb or among the
	// verb's own. It may be called more than once in a process and must only bind.
	Global func(fs *pflag.FlagSet)

	Exit        []Entry // EXIT STATUS common to all verbs
	Environment []Entry // ENVIRONMENT of the overview page
	Files       []Entry // FILES of the overview page

	Out    io.Writer     // where help goes; nil is os.Stdout
	Screen func() Screen // asked only when help is shown; nil is COLUMNS or 80 columns, no bold
}

// Command is one row: a verb, or with Sub a group of verbs.
type Command struct {
	Name    string   // "list"
	Aliases []string // accepted as well, shown in its own help only: "ls", "ps"
	Peers   []string // what other programs call it: not accepted, answered with a hint

	// Args is the synopsis after the flags, for reader and machine alike:
	// "NAME...", "IMAGE [CMD ARG...]", "bash|zsh|fish", "[NAME:]SRC... [NAME:]DST".
	// How many operands are needed, and what each completes to, is read from it.
	// A synopsis with the word CMD ends the parsing of flags at the first
	// operand; any other verb takes flags and operands in any order.
	// "[flags]" need not be written.
	Args string

	// Instead names flags that take the place of the first operand
	// ("filter" for "stop --filter label=a=b").
	Instead []string

	Heading  string    // opens a new group in the list of commands: set on its first row
	Short    string    // verb first, capital, no final full stop
	Long     string    // paragraphs; indented lines are literal, "- " is a list item, "## " a heading, `bold`
	Examples []Example // scripts that run
	Exit     []Entry   // EXIT STATUS beside the common ones; a common one of the same term is replaced
	See      []string  // verbs and topics ("run", "image", "images") or foreign pages ("systemd.unit(5)")

	// New binds the flags to options of its own and returns the function that
	// uses them. It is also called for help, pages and completion, so it must
	// do nothing else. It is nil for a group.
	New func(fs *pflag.FlagSet) Run

	Sub    []*Command
	Hidden bool // works, but appears nowhere
}

// Topic is a text of the manual that belongs to no single command.
type Topic struct {
	Name  string // "images"
	Short string // noun phrase, as in the NAME section of a page
	Long  string // in the markup of Command.Long
	See   []string
}

// Example is one thing to do and the shell lines that do it.
type Example struct{ Say, Do string }

// Entry is one line of a list of terms: an exit status, a variable, a file.
type Entry struct{ Term, Text string }

// Screen is what help is shown on.
type Screen struct {
	Width int  // columns, used up to 100
	Bold  bool // headings and flags in bold: a terminal, and no NO_COLOR
}

// Under puts flags below a heading of their own in help and pages, for verbs
// with too many flags for one list.
func Under(fs *pflag.FlagSet, heading string, names ...string) {
	for _, name := range names {
		// An unknown name is a mistake in the table that Lint reports.
		_ = fs.SetAnnotation(name, headingKey, []string{heading})
	}
}

const headingKey = "heading"

func (p *Program) out() io.Writer {
	if p.Out != nil {
		return p.Out
	}
	return os.Stdout
}

func (p *Program) screen() Screen {
	s := Screen{}
	if p.Screen != nil {
		s = p.Screen()
	} else {
		s.Width, _ = strconv.Atoi(os.Getenv("COLUMNS"))
	}
	if s.Width <= 0 {
		s.Width = 80
	}
	s.Width = min(max(s.Width, 40), 100)
	return s
}

// find gives the command called name, by its name or an alias.
func find(list []*Command, name string) *Command {
	for _, c := range list {
		if c.Name == name {
			return c
		}
		for _, a := range c.Aliases {
			if a == name {
				return c
			}
		}
	}
	return nil
}

func (p *Program) topic(name string) *Topic {
	for _, t := range p.Topics {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// visible leaves out what is hidden.
func visible(list []*Command) []*Command {
	var out []*Command
	for _, c := range list {
		if !c.Hidden {
			out = append(out, c)
		}
	}
	return out
}

// flagSet makes an empty set that reports instead of printing or exiting.
func flagSet(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// globals makes the set of the flags every verb has.
func (p *Program) globals() *pflag.FlagSet {
	fs := flagSet(p.Name)
	if p.Global != nil {
		p.Global(fs)
	}
	return fs
}

// flags gives the command's own flags and its function; both empty for a group.
func (c *Command) flags() (*pflag.FlagSet, Run) {
	fs := flagSet(c.Name)
	if c.New == nil {
		return fs, nil
	}
	return fs, c.New(fs)
}
