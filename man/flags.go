package man

import (
	"strings"

	"github.com/spf13/pflag"
)

// flagRow is a flag as help and pages show it.
type flagRow struct {
	Short, Long string // "m", "memory"
	Value       string // "SIZE", empty for a switch
	Optional    bool   // the value may be left out: --color[=WHEN]
	Usage       string // without the back-quotes, with the default
}

// flagSection is the flags below one heading, which is empty for the first.
type flagSection struct {
	Heading string
	Rows    []flagRow
}

// sections sorts the visible flags under their headings, both in the order of
// first appearance.
func sections(fs *pflag.FlagSet) []flagSection {
	var list []flagSection
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		head := ""
		if a := f.Annotations[headingKey]; len(a) > 0 {
			head = a[0]
		}
		i := sectionIndex(list, head)
		if i < 0 && head == "" {
			list = append([]flagSection{{}}, list...)
			i = 0
		} else if i < 0 {
			list = append(list, flagSection{Heading: head})
			i = len(list) - 1
		}
		list[i].Rows = append(list[i].Rows, row(f))
	})
	return list
}

func sectionIndex(list []flagSection, heading string) int {
	for i, s := range list {
		if s.Heading == heading {
			return i
		}
	}
	return -1
}

func row(f *pflag.Flag) flagRow {
	value, usage := pflag.UnquoteUsage(f)
	r := flagRow{Short: f.Shorthand, Long: f.Name, Value: value, Usage: usage}
	if f.NoOptDefVal != "" && f.Value.Type() != "bool" && f.Value.Type() != "count" {
		r.Optional = true
	} else if f.NoOptDefVal != "" {
		r.Value = ""
	}
	if d := defaultOf(f); d != "" {
		r.Usage += " (default " + d + ")"
	}
	return r
}

// defaultOf is the default where it tells the reader something: not for the
// zero of a type, nor where the usage says it already.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "0", "false", "0s", "[]", "map[]", "<nil>":
		return ""
	}
	if strings.Contains(f.Usage, "default") {
		return ""
	}
	return f.DefValue
}

// spelling is "-m, --memory SIZE", the short form's place kept free.
func (r flagRow) spelling() string {
	s := "    --" + r.Long
	if r.Short != "" {
		s = "-" + r.Short + ", --" + r.Long
	}
	switch {
	case r.Optional:
		s += "[=" + r.Value + "]"
	case r.Value != "":
		s += " " + r.Value
	}
	return s
}

// synopsis is what follows the command's path: "[flags] NAME...".
func (c *Command) synopsis() string {
	if c.Sub != nil {
		return "VERB"
	}
	args := strings.TrimSpace(strings.Replace(c.Args, "[flags]", "", 1))
	fs, _ := c.flags()
	if fs.HasAvailableFlags() {
		args = strings.TrimSpace("[flags] " + args)
	}
	return args
}
