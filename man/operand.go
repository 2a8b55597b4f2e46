package man

import "strings"

// operand is one word of a synopsis.
type operand struct {
	Word     string // as written, without brackets around the whole and without "..."
	Optional bool
	Many     bool
}

// operands reads a synopsis: "IMAGE [CMD ARG...]" is three operands, of which
// the last two are optional and the last may be repeated.
func operands(args string) []operand {
	var list []operand
	for _, token := range tokens(args) {
		if token == "[flags]" {
			continue
		}
		if inner, ok := bracketed(token); ok {
			for _, o := range operands(inner) {
				o.Optional = true
				list = append(list, o)
			}
			continue
		}
		word, many := strings.CutSuffix(token, "...")
		list = append(list, operand{Word: word, Many: many})
	}
	return list
}

// tokens splits at blanks outside brackets.
func tokens(s string) []string {
	depth := 0
	return strings.FieldsFunc(s, func(r rune) bool {
		switch r {
		case '[':
			depth++
		case ']':
			depth--
		}
		return r == ' ' && depth == 0
	})
}

// bracketed gives what is inside when one pair of brackets holds the whole
// token: "[A B]" does, "[NAME:]SRC" does not.
func bracketed(token string) (string, bool) {
	if !strings.HasPrefix(token, "[") || !strings.Contains(token, "]") {
		return "", false
	}
	depth := 0
	for i, r := range token {
		switch r {
		case '[':
			depth++
		case ']':
			depth--
		}
		if depth == 0 {
			return token[1:i], i == len(token)-1
		}
	}
	return "", false
}

// passes tells that what follows the first operand belongs to another command,
// so that our flags end there.
func passes(ops []operand) bool { return commandAt(ops) >= 0 }

// commandAt is where the foreign command begins, -1 if the verb takes none.
func commandAt(ops []operand) int {
	for i, o := range ops {
		if o.Word == "CMD" {
			return i
		}
	}
	return -1
}

// count says why n operands do not fit, or nothing: the word that is missing,
// or that there are more than max.
func count(ops []operand, n int) (missing string, over bool) {
	needed, most := 0, 0
	for _, o := range ops {
		if !o.Optional {
			if needed == n {
				return o.Word, false
			}
			needed++
		}
		if o.Many {
			most = n
		}
		most++
	}
	return "", n > most
}

// at gives the operand that the i-th argument is, nil past the end.
func at(ops []operand, i int) *operand {
	for k := range ops {
		if k == i || ops[k].Many {
			return &ops[k]
		}
	}
	return nil
}
