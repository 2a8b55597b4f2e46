package man

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escape makes text stand for itself in roff: groff_char(7) and mandoc_char(7).
// Every '-' becomes the minus that can be pasted into a shell.
func escape(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case r == '\'':
			b.WriteString(`\(aq`)
		case r == '`':
			b.WriteString(`\(ga`)
		case r == '^':
			b.WriteString(`\(ha`)
		case r == '~':
			b.WriteString(`\(ti`)
		case r > unicode.MaxASCII:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// inline escapes text and turns `this` bold.
func inline(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			b.WriteString(bold(part))
		} else {
			b.WriteString(escape(part))
		}
	}
	return b.String()
}

func bold(text string) string   { return `\fB` + escape(text) + `\fR` }
func italic(text string) string { return `\fI` + escape(text) + `\fR` }

// usage is the path in bold, the synopsis with its words in italics.
func usage(path string, c *Command) string {
	var b strings.Builder
	b.WriteString(bold(path) + " ")
	word := ""
	flush := func() {
		if word != "" {
			b.WriteString(italic(word))
		}
		word = ""
	}
	for _, r := range c.synopsis() {
		if strings.ContainsRune("[]|:. ", r) {
			flush()
			b.WriteRune(r)
			continue
		}
		word += string(r)
	}
	flush()
	return strings.TrimSpace(b.String())
}

func lowerFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToLower(r)) + s[n:]
}

func upperFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(r)) + s[n:]
}
