package template

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// expr is something that has a value.
type expr interface {
	eval(r *rendering) (any, error)
}

type constant struct{ value any }

func (c constant) eval(*rendering) (any, error) { return c.value, nil }

type name string

func (n name) eval(r *rendering) (any, error) { return r.lookup(string(n)), r.spend(nil) }

type member struct {
	of  expr
	key expr
}

func (m member) eval(r *rendering) (any, error) {
	of, err := m.of.eval(r)
	if err != nil {
		return nil, err
	}
	key, err := m.key.eval(r)
	if err != nil {
		return nil, err
	}
	return item(of, key)
}

type call struct {
	of   expr
	name string // for the error
	args []expr
}

func (c call) eval(r *rendering) (any, error) {
	of, err := c.of.eval(r)
	if err != nil {
		return nil, err
	}
	f, ok := of.(Function)
	if !ok {
		return nil, fmt.Errorf("%s is no function", c.name)
	}
	var args []any
	for _, a := range c.args {
		v, err := a.eval(r)
		if err != nil {
			return nil, err
		}
		args = append(args, v)
	}
	v, err := f(args)
	if err != nil {
		err = fmt.Errorf("%s: %w", c.name, err)
	}
	return v, err
}

type filtered struct {
	of   expr
	name string
	arg  expr // nil: none
}

func (f filtered) eval(r *rendering) (any, error) {
	v, err := f.of.eval(r)
	if err != nil {
		return nil, err
	}
	var arg any
	if f.arg != nil {
		if arg, err = f.arg.eval(r); err != nil {
			return nil, err
		}
	}
	if v, err = filter(f.name, v, arg); err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return v, r.spend(v)
}

type not struct{ of expr }

func (n not) eval(r *rendering) (any, error) {
	v, err := n.of.eval(r)
	return !truth(v), err
}

type binary struct {
	op   string
	a, b expr
}

func (x binary) eval(r *rendering) (any, error) {
	a, err := x.a.eval(r)
	if err != nil {
		return nil, err
	}
	switch { // what decides is not asked further
	case x.op == "or" && truth(a):
		return true, nil
	case x.op == "and" && !truth(a):
		return false, nil
	}
	b, err := x.b.eval(r)
	if err != nil {
		return nil, err
	}
	v, err := operate(x.op, a, b)
	if err != nil {
		return nil, err
	}
	return v, r.spend(v)
}

// parseExpr understands one whole expression.
func parseExpr(text string) (expr, error) {
	tokens, err := scan(text)
	if err != nil {
		return nil, err
	}
	if len(tokens) == 0 {
		return nil, errors.New("a value is expected")
	}
	p := &exprParser{tokens: tokens}
	e, err := p.binary(0)
	if err == nil && p.next < len(tokens) {
		err = fmt.Errorf("%s is not expected here", tokens[p.next])
	}
	return e, err
}

type tokenKind int

const (
	symbol tokenKind = iota
	word
	number
	quoted
)

type token struct {
	kind tokenKind
	text string
}

func (t token) String() string {
	if t.kind == quoted {
		return strconv.Quote(t.text)
	}
	return t.text
}

// symbols, longer ones before those that they begin with.
var symbols = [...]string{"==", "!=", "<>", "<=", ">=", "&&", "||", "<", ">", "!", "|", ":", ".", ",", "(", ")", "[", "]", "+", "-", "*", "/", "%"}

func scan(text string) (tokens []token, err error) {
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimLeftFunc(text, unicode.IsSpace) {
		var t token
		if t, text, err = scanOne(text); err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}

func scanOne(text string) (t token, rest string, err error) {
	c, _ := utf8.DecodeRuneInString(text)
	switch {
	case c == '"' || c == '\'':
		return scanString(text)
	case c >= '0' && c <= '9':
		n := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
		if n < 0 {
			n = len(text)
		}
		return token{number, text[:n]}, text[n:], nil
	case nameRune(c):
		n := strings.IndexFunc(text, func(r rune) bool { return !nameRune(r) })
		if n < 0 {
			n = len(text)
		}
		return token{word, text[:n]}, text[n:], nil
	}
	for _, s := range symbols {
		if strings.HasPrefix(text, s) {
			return token{symbol, s}, text[len(s):], nil
		}
	}
	return t, "", fmt.Errorf("%q is not expected here", string(c))
}

func scanString(text string) (t token, rest string, err error) {
	var out strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == text[0]:
			return token{quoted, out.String()}, text[i+1:], nil
		case c == '\\' && i+1 < len(text):
			i++
			plain := strings.IndexByte(escapes, text[i])
			if plain < 0 {
				return t, "", fmt.Errorf("%q is no escape", text[i-1:i+1])
			}
			out.WriteByte(escaped[plain])
		default:
			out.WriteByte(c)
		}
	}
	return t, "", errors.New("a string has no end")
}

// What may stand behind a backslash in a string, and what each means.
const (
	escapes = `"'\nrt`
	escaped = "\"'\\\n\r\t"
)

func nameRune(r rune) bool {
	return r == '_' || r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

func isName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !nameRune(r) }) && (s[0] < '0' || s[0] > '9') &&
		!slices.Contains(reserved[:], s)
}

var reserved = [...]string{"and", "or", "not", "in", "true", "false", "True", "False", "nil", "none", "None"}

// exprParser reads tokens. Of two operators beside each other the one in the later level binds closer.
type exprParser struct {
	tokens []token
	next   int
	depth  int
}

var levels = [...][]string{{"or"}, {"and"}, {"in", "==", "!=", "<", "<=", ">", ">="}, {"+", "-"}, {"*", "/", "%"}}

func (p *exprParser) binary(level int) (expr, error) {
	if level == len(levels) {
		return p.unary()
	}
	a, err := p.binary(level + 1)
	for err == nil {
		op := p.operator()
		if !slices.Contains(levels[level], op) {
			return a, nil
		}
		p.next++
		var b expr
		if b, err = p.binary(level + 1); err != nil {
			return nil, err
		}
		a = binary{op, a, b}
	}
	return nil, err
}

// operator is the next token by its one name; "" when it is none.
func (p *exprParser) operator() string {
	if p.next == len(p.tokens) {
		return ""
	}
	t := p.tokens[p.next]
	if t.kind != symbol && t.kind != word {
		return ""
	}
	switch t.text {
	case "||":
		return "or"
	case "&&":
		return "and"
	case "<>":
		return "!="
	case "!":
		return "not"
	}
	return t.text
}

// take goes past the next token if it is that symbol.
func (p *exprParser) take(s string) bool {
	if p.next < len(p.tokens) && p.tokens[p.next] == (token{symbol, s}) {
		p.next++
		return true
	}
	return false
}

func (p *exprParser) unary() (expr, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, errors.New("brackets are nested too deeply")
	}
	defer func() { p.depth-- }()
	if p.operator() == "not" {
		p.next++
		of, err := p.binary(3) // not a == b is (not a) == b: pongo2 is no Python there
		return not{of}, err
	}
	if p.take("-") {
		of, err := p.unary()
		return binary{"-", constant{0}, of}, err
	}
	e, err := p.primary()
	for err == nil && p.take("|") {
		e, err = p.filter(e)
	}
	return e, err
}

func (p *exprParser) filter(of expr) (expr, error) {
	t, err := p.token()
	if err != nil || t.kind != word {
		return nil, errors.New("the name of a filter is expected behind |")
	}
	if !slices.Contains(filters[:], t.text) {
		return nil, fmt.Errorf("unknown filter %q", t.text)
	}
	f := filtered{of: of, name: t.text}
	if p.take(":") {
		f.arg, err = p.primary()
	}
	return f, err
}

func (p *exprParser) token() (token, error) {
	if p.next == len(p.tokens) {
		return token{}, errors.New("a value is expected at the end")
	}
	p.next++
	return p.tokens[p.next-1], nil
}

// primary is a constant, or a name with what is asked of it, or an expression in brackets.
func (p *exprParser) primary() (expr, error) {
	t, err := p.token()
	if err != nil {
		return nil, err
	}
	switch {
	case t.kind == quoted:
		return constant{t.text}, nil
	case t.kind == number:
		n, err := strconv.Atoi(t.text)
		if err != nil {
			return nil, fmt.Errorf("%s is no number", t.text)
		}
		return constant{n}, nil
	case t == token{symbol, "("}:
		e, err := p.binary(0)
		if err == nil && !p.take(")") {
			err = errors.New(") is missing")
		}
		return e, err
	case t.kind == word && t.text != "and" && t.text != "or" && t.text != "in" && t.text != "not":
		return p.named(t.text)
	}
	return nil, fmt.Errorf("%s is not expected here", t)
}

func (p *exprParser) named(text string) (expr, error) {
	switch text {
	case "true", "True":
		return constant{true}, nil
	case "false", "False":
		return constant{false}, nil
	case "nil", "none", "None":
		return constant{nil}, nil
	}
	var e expr = name(text)
	for {
		switch {
		case p.take("."):
			t, err := p.token()
			if err != nil || t.kind != word && t.kind != number {
				return nil, fmt.Errorf("a name is expected behind the dot of %s", text)
			}
			e, text = member{e, constant{t.text}}, text+"."+t.text
		case p.take("["):
			key, err := p.binary(0)
			if err == nil && !p.take("]") {
				err = errors.New("] is missing")
			}
			if err != nil {
				return nil, err
			}
			e = member{e, key}
		case p.take("("):
			args, err := p.arguments()
			if err != nil {
				return nil, err
			}
			e = call{e, text, args}
		default:
			return e, nil
		}
	}
}

func (p *exprParser) arguments() (args []expr, err error) {
	for !p.take(")") {
		if len(args) > 0 && !p.take(",") {
			return nil, errors.New(") is missing")
		}
		a, err := p.binary(0)
		if err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	return args, nil
}
