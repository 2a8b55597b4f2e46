package man

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Misuse is a command line that cannot be understood. The face prints it in one
// line after "croft: ", its Hint on a line of its own, and exits with 2.
type Misuse struct {
	Path string // "croft image list": program and verbs; the first word is not part of the message
	Say  string // "NAME is missing"
	Hint string // a command or flag that was likely meant, or empty
}

// Misused is for commands that find their flags at odds; the path is filled in
// by Call.Run.
func Misused(format string, args ...any) error {
	return &Misuse{Say: fmt.Sprintf(format, args...)}
}

// Error gives "start: NAME is missing; see croft help start".
func (m *Misuse) Error() string {
	program, verb, _ := strings.Cut(m.Path, " ")
	var b strings.Builder
	if verb != "" {
		b.WriteString(verb + ": ")
	}
	b.WriteString(m.Say)
	if program != "" {
		b.WriteString("; see " + strings.TrimSpace(program+" help "+verb))
	}
	return b.String()
}

// unknown is the answer to a verb that is not in list.
func unknown(path string, list []*Command, name string) *Misuse {
	m := &Misuse{Path: path, Say: name + ": no such verb"}
	if meant := meantVerb(list, name); meant != "" {
		m.Hint = path + " " + meant
	}
	return m
}

// meantVerb is the verb someone typing name wanted: what another program calls
// so, else the nearest spelling.
func meantVerb(list []*Command, name string) string {
	var words []string
	for _, c := range visible(list) {
		if slices.Contains(c.Peers, name) {
			return c.Name
		}
		words = append(words, c.Name)
		words = append(words, c.Aliases...)
	}
	if word := Nearest(name, words); word != "" {
		return find(list, word).Name
	}
	return ""
}

// misflag puts pflag's complaint into our words.
func misflag(path string, fs *pflag.FlagSet, err error) *Misuse {
	m := &Misuse{Path: path, Say: err.Error()}
	var (
		notExist *pflag.NotExistError
		noValue  *pflag.ValueRequiredError
		badValue *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &notExist):
		misnamed(m, fs, notExist)
	case errors.As(err, &noValue):
		word, _ := pflag.UnquoteUsage(noValue.GetFlag())
		m.Say = fmt.Sprintf("--%s needs a %s", noValue.GetFlag().Name, word)
	case errors.As(err, &badValue):
		m.Say = fmt.Sprintf("--%s %s: %v", badValue.GetFlag().Name, badValue.GetValue(), cause(badValue))
	}
	return m
}

// cause is why a value is wrong, without strconv's account of itself.
func cause(err *pflag.InvalidValueError) error {
	var number *strconv.NumError
	if errors.As(err, &number) {
		return number.Err
	}
	return err.Unwrap()
}

func misnamed(m *Misuse, fs *pflag.FlagSet, err *pflag.NotExistError) {
	name := err.GetSpecifiedName()
	if group := err.GetSpecifiedShortnames(); group != "" {
		m.Say = "no such flag -" + name
		return
	}
	m.Say = "no such flag --" + name
	var names []string
	fs.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := Nearest(name, names); near != "" {
		m.Hint = "--" + near
	}
}

// Nearest gives the word that name is most likely a mistyping of, or "".
// Up to a third of the letters may be wrong, and always one.
func Nearest(name string, words []string) string {
	best, limit := "", max(1, len(name)/3)
	for _, w := range words {
		if d := distance(name, w); d <= limit && (best == "" || d < distance(name, best)) {
			best = w
		}
	}
	return best
}

// distance counts insertions, deletions, changes and swaps of neighbours that
// turn a into b (optimal string alignment).
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
