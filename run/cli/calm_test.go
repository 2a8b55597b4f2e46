package cli

import (
	"strings"
	"testing"
)

func TestCalm(t *testing.T) {
	for text, want := range map[string]string{
		"plain\r\n\ttext\b":                        "plain\r\n\ttext\b",
		"\x1b[0;1;31mred\x1b[0m \x1b[mend":         "\x1b[0;1;31mred\x1b[0m \x1b[mend",
		"where\x1b[6n who\x1b[c\x05":               "where who",
		"\x1b]0;title\a\x1b]52;c;ZXZpbA==\x1b\\ok": "ok",
		"\x1bP$q\"p\x1b\\\x1b_apc\x1b\\\x1bcreset": "reset",
		"C1: \u009b6n\u009d0;title\aäé\u00a0":      "C1: äé\u00a0",
		"\xc2A\x7f\x00B":                           "AB",
		"\x1b]never ends\nline\x1b[12\nline":       "\nline\nline",
		"\x1b[" + strings.Repeat("1;", 50) + "mx":  "x",
	} {
		for _, step := range []int{1, 3, len(text)} { // as it comes in pieces
			var out strings.Builder
			c := calm{to: &out}
			for rest := text; rest != ""; {
				n := min(step, len(rest))
				if _, err := c.Write([]byte(rest[:n])); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if out.String() != want {
				t.Errorf("%q by %d: %q, not %q", text, step, out.String(), want)
			}
		}
	}
}
