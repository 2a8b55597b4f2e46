package man

import (
	"strings"
	"unicode/utf8"
)

// blockKind tells how a piece of text is set.
type blockKind int

const (
	paragraph blockKind = iota
	literal
	item
	heading
)

// block is one piece of a Long text: a filled paragraph, a list item, a
// heading, or literal lines.
type block struct {
	kind blockKind
	text string // literal: lines with their common indent removed; else one line
}

// blocks reads the markup of Command.Long.
func blocks(long string) []block {
	var list []block
	open := false // the last block takes another line
	for line := range strings.Lines(strings.TrimSpace(long)) {
		line = strings.TrimRight(line, " \t\n")
		kind, text := classify(line)
		switch {
		case line == "":
			open = false
			if n := len(list); n > 0 && list[n-1].kind == literal {
				list[n-1].text += "\n"
				open = true
			}
			continue
		case open && kind == list[len(list)-1].kind && kind == literal:
			list[len(list)-1].text += "\n" + text
			continue
		case open && kind == paragraph && list[len(list)-1].kind != literal:
			list[len(list)-1].text += " " + text
			continue
		case open && kind == literal && list[len(list)-1].kind == item:
			// the indented second line of a list item
			list[len(list)-1].text += " " + strings.TrimSpace(text)
			continue
		}
		list = append(list, block{kind, text})
		open = kind != heading
	}
	for i := range list {
		if list[i].kind == literal {
			list[i].text = outdent(strings.TrimRight(list[i].text, "\n"))
		}
	}
	return list
}

func classify(line string) (blockKind, string) {
	if rest, ok := strings.CutPrefix(line, "## "); ok {
		return heading, rest
	}
	if rest, ok := strings.CutPrefix(line, "- "); ok {
		return item, rest
	}
	if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
		return literal, line
	}
	return paragraph, line
}

// outdent removes the indent that all lines share.
func outdent(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\t", "    "), "\n")
	least := -1
	for _, l := range lines {
		n := len(l) - len(strings.TrimLeft(l, " "))
		if l != "" && (least < 0 || n < least) {
			least = n
		}
	}
	for i, l := range lines {
		lines[i] = l[min(max(least, 0), len(l)):]
	}
	return strings.Join(lines, "\n")
}

// wrap fills text into lines of at most width columns; a longer word stands alone.
func wrap(text string, width int) []string {
	var lines []string
	line, used := "", 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if used > 0 && used+1+n > width {
			lines = append(lines, line)
			line, used = "", 0
		}
		if used > 0 {
			line += " "
			used++
		}
		line += word
		used += n
	}
	return append(lines, line)
}
