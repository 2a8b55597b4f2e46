package cli

import (
	"bytes"
	"io"
	"strings"
	"unicode"
)

// writeTable prints lines in columns two blanks apart, none at a line's end.
func writeTable(w io.Writer, lines [][]string) error {
	var widths []int
	for _, line := range lines {
		for i, cell := range line {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			line[i] = harmless(cell)
			widths[i] = max(widths[i], cellWidth(line[i]))
		}
	}
	var b bytes.Buffer
	for _, line := range lines {
		b.WriteString(strings.TrimRight(align(line, widths), " ") + "\n")
	}
	_, err := w.Write(b.Bytes())
	return err
}

func align(line []string, widths []int) string {
	var b strings.Builder
	for i, cell := range line {
		b.WriteString(cell + strings.Repeat(" ", widths[i]-cellWidth(cell)+2))
	}
	return b.String()
}

// harmless replaces what would move the cursor or colour the terminal: labels,
// image descriptions and guests' addresses are other people's words.
func harmless(cell string) string {
	if ascii(cell) {
		return cell
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return '?'
		}
		return r
	}, cell)
}

// cellWidth is how many columns of a terminal text takes.
func cellWidth(text string) int {
	if ascii(text) {
		return len(text)
	}
	n := 0
	for _, r := range text {
		n += runeWidth(r)
	}
	return n
}

// ascii tells whether text has nothing but plain letters, as most cells of long tables do: the rest of Unicode takes its time.
func ascii(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// runeWidth follows Unicode's East Asian Width (UAX #11), by whole blocks:
// the wide ones are ideographs, Hangul, kana, full-width forms and emoji.
func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf && r != 0x303f,
		r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff, r >= 0xfe30 && r <= 0xfe6f,
		r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f680 && r <= 0x1f6ff, r >= 0x1f900 && r <= 0x1f9ff,
		r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}
