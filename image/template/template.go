// Package template evaluates the templates in images of LXD and Incus: as much of Django's template language, in the dialect
// of pongo2, as such images are written in.
//
// It turns text and values into text and does nothing else: no tag of it reads a file, and none loops without end. What it
// does not know is an error that names the line, never text that is passed on.
package template

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The limits keep an image that nobody has looked at from taking the host's memory or time.
const (
	maxDepth  = 64      // of blocks and brackets in each other
	maxOutput = 4 << 20 // bytes
	maxSteps  = 1 << 18 // nodes, values, and every 64 bytes that an operator or a filter makes
)

// Values are what names in a template stand for: string, bool, int, []any, map[string]string, map[string]any,
// map[string]map[string]string, or a Function. A name that stands for nothing is empty, as in Django.
type Values map[string]any

// Function is what a template can call.
type Function func(args []any) (any, error)

// Template is one that was understood.
type Template struct{ nodes []node }

// Parse understands text, or says in which line it does not.
func Parse(text string) (*Template, error) {
	pieces, err := split(text)
	if err != nil {
		return nil, err
	}
	p := &parser{pieces: pieces}
	nodes, end, err := p.block(0)
	if err == nil && end != nil {
		err = end.wrong("{%% %s %%} without its beginning", end.word)
	}
	if err != nil {
		return nil, err
	}
	return &Template{nodes}, nil
}

// Execute gives the text that the template makes of values.
func (t *Template) Execute(values Values) (string, error) {
	r := &rendering{scopes: []Values{values, {}}}
	err := r.all(t.nodes)
	return r.out.String(), err
}

// rendering is one execution.
type rendering struct {
	scopes []Values // a name is what the last of them says that has it
	out    strings.Builder
	steps  int
}

func (r *rendering) lookup(name string) any {
	for _, scope := range slices.Backward(r.scopes) {
		if v, ok := scope[name]; ok {
			return v
		}
	}
	return nil
}

func (r *rendering) set(name string, v any) { r.scopes[len(r.scopes)-1][name] = v }

// spend counts one step, and what was made in it.
func (r *rendering) spend(made any) error {
	s, _ := made.(string)
	if r.steps += 1 + len(s)/64; r.steps > maxSteps {
		return errors.New("too much to evaluate")
	}
	return nil
}

// node is one part of a template.
type node struct {
	line int
	action
}

type action interface{ render(r *rendering) error }

func (r *rendering) all(nodes []node) error {
	for _, n := range nodes {
		err := r.spend(nil)
		if err == nil {
			err = n.render(r)
		}
		if err == nil && r.out.Len() > maxOutput {
			err = fmt.Errorf("more than %d bytes come out", maxOutput)
		}
		if err != nil {
			return at(n.line, err)
		}
	}
	return nil
}

type literalText string

func (t literalText) render(r *rendering) error {
	r.out.WriteString(string(t))
	return nil
}

type printed struct{ of expr }

func (p printed) render(r *rendering) error {
	v, err := p.of.eval(r)
	if err != nil {
		return err
	}
	s, err := text(v)
	r.out.WriteString(s)
	return err
}

// branches have a test each; the last may have none.
type branches struct {
	tests  []expr
	bodies [][]node
}

func (b branches) render(r *rendering) error {
	for i, body := range b.bodies {
		if i == len(b.tests) {
			return r.all(body)
		}
		v, err := b.tests[i].eval(r)
		if err != nil {
			return err
		}
		if truth(v) {
			return r.all(body)
		}
	}
	return nil
}

type loop struct {
	key, value string // value is empty where there is one name
	over       expr
	body, none []node
}

func (l loop) render(r *rendering) error {
	v, err := l.over.eval(r)
	if err != nil {
		return err
	}
	pairs, err := each(v)
	if err != nil {
		return err
	}
	if len(pairs) == 0 {
		return r.all(l.none)
	}
	r.scopes = append(r.scopes, Values{})
	defer func() { r.scopes = r.scopes[:len(r.scopes)-1] }()
	for i, pair := range pairs {
		r.set(l.key, pair[0])
		if l.value != "" {
			r.set(l.value, pair[1])
		}
		r.set("forloop", map[string]any{"Counter": i + 1, "Counter0": i, "First": i == 0, "Last": i == len(pairs)-1})
		if err := r.all(l.body); err != nil {
			return err
		}
	}
	return nil
}

type assignment struct {
	name string
	to   expr
}

func (a assignment) render(r *rendering) error {
	v, err := a.to.eval(r)
	r.set(a.name, v)
	return err
}

// at says in which line it was, once.
func at(line int, err error) error {
	var said *lineError
	if errors.As(err, &said) {
		return err
	}
	return &lineError{line, err}
}

type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }

func (e *lineError) Unwrap() error { return e.err }

// piece is literal text, or what stands between the braces of an output or a tag.
type piece struct {
	kind pieceKind
	text string
	line int
	word string // of a tag: its first word; text is the rest
}

type pieceKind int

const (
	literal pieceKind = iota
	output
	tag
)

func (p *piece) wrong(format string, args ...any) error {
	return at(p.line, fmt.Errorf(format, args...))
}

// split cuts text at its braces and takes comments out. A minus sign inside of a brace takes away the white space on
// its outside.
func split(text string) (pieces []piece, err error) {
	const space = " \t\r\n"
	line, trim := 1, false
	add := func(p piece) {
		if trim && p.kind == literal {
			p.text = strings.TrimLeft(p.text, space)
		}
		if p.kind != literal || p.text != "" {
			pieces = append(pieces, p)
		}
	}
	for {
		i := opening(text)
		if i < 0 {
			add(piece{kind: literal, text: text, line: line})
			return pieces, nil
		}
		before, kind := text[:i], text[i+1]
		began := line + strings.Count(before, "\n")
		end := closing(text[i:], kind)
		if end < 0 {
			return nil, at(began, fmt.Errorf("{%c has no end", kind))
		}
		inside := text[i+2 : i+end]
		line = began + strings.Count(text[i:i+end+2], "\n")
		text = text[i+end+2:]
		left, right := strings.HasPrefix(inside, "-"), strings.HasSuffix(inside, "-")
		if left {
			before = strings.TrimRight(before, space)
		}
		add(piece{kind: literal, text: before, line: line})
		trim = right && kind != '#'
		inside = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(inside, "-"), "-"))
		switch kind {
		case '{':
			pieces = append(pieces, piece{kind: output, text: inside, line: began})
		case '%':
			word, rest, _ := strings.Cut(strings.ReplaceAll(inside, "\n", " "), " ")
			pieces = append(pieces, piece{kind: tag, text: strings.TrimSpace(rest), line: began, word: word})
		}
	}
}

// opening finds the next {{, {% or {#; -1 is none.
func opening(text string) int {
	for i := 0; i+1 < len(text); i++ {
		if text[i] == '{' && strings.IndexByte("{%#", text[i+1]) >= 0 {
			return i
		}
	}
	return -1
}

// closing finds the end of what text begins with, which no string inside of it can be; -1 is none.
func closing(text string, kind byte) int {
	want := map[byte]string{'{': "}}", '%': "%}", '#': "#}"}[kind]
	var quote byte
	for i := 2; i+1 < len(text); i++ {
		switch c := text[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
		case text[i:i+2] == want:
			return i
		case kind != '#' && (c == '"' || c == '\''):
			quote = c
		}
	}
	return -1
}

// parser makes nodes of pieces.
type parser struct {
	pieces []piece
	next   int
}

// block reads nodes up to a tag that begins none: the end of the block, or nil at the end of the text.
func (p *parser) block(depth int) (nodes []node, end *piece, err error) {
	for p.next < len(p.pieces) {
		piece := &p.pieces[p.next]
		p.next++
		var do action
		switch piece.kind {
		case literal:
			do = literalText(piece.text)
		case output:
			var e expr
			e, err = parseExpr(piece.text)
			do = printed{e}
		case tag:
			if slices.Contains(ends[:], piece.word) {
				return nodes, piece, nil
			}
			do, err = p.tag(piece, depth+1)
		}
		if err != nil {
			return nil, nil, at(piece.line, err)
		}
		if do != nil {
			nodes = append(nodes, node{piece.line, do})
		}
	}
	return nodes, nil, nil
}

var ends = [...]string{"elif", "else", "endif", "empty", "endfor", "endcomment"}

func (p *parser) tag(piece *piece, depth int) (action, error) {
	if depth > maxDepth {
		return nil, errors.New("blocks are nested too deeply")
	}
	switch piece.word {
	case "if":
		return p.ifTag(piece, depth)
	case "for":
		return p.forTag(piece, depth)
	case "set":
		name, value, ok := strings.Cut(piece.text, "=")
		name = strings.TrimSpace(name)
		if !ok || !isName(name) {
			return nil, errors.New("set: NAME = VALUE is expected")
		}
		to, err := parseExpr(value)
		return assignment{name, to}, err
	case "comment":
		return nil, p.comment(piece)
	case "":
		return nil, errors.New("an empty tag")
	}
	return nil, fmt.Errorf("unknown tag %q", piece.word)
}

func (p *parser) ifTag(begin *piece, depth int) (action, error) {
	b := branches{}
	test, err := parseExpr(begin.text)
	if err != nil {
		return nil, err
	}
	b.tests = append(b.tests, test)
	for {
		body, end, err := p.block(depth)
		if err != nil {
			return nil, err
		}
		b.bodies = append(b.bodies, body)
		last := len(b.bodies) > len(b.tests) // it was the one behind else
		switch {
		case end == nil:
			return nil, begin.wrong("{%% if %%} has no end")
		case end.word == "endif":
			return b, nil
		case end.word == "elif" && !last:
			if test, err = parseExpr(end.text); err != nil {
				return nil, at(end.line, err)
			}
			b.tests = append(b.tests, test)
		case end.word == "else" && !last:
		default:
			return nil, end.wrong("{%% %s %%} does not belong here", end.word)
		}
	}
}

func (p *parser) forTag(begin *piece, depth int) (action, error) {
	names, over, ok := strings.Cut(begin.text, " in ")
	key, value, two := strings.Cut(names, ",")
	l := loop{key: strings.TrimSpace(key), value: strings.TrimSpace(value)}
	if !ok || !isName(l.key) || two && !isName(l.value) {
		return nil, errors.New("for: NAME in VALUES is expected")
	}
	var err error
	if l.over, err = parseExpr(over); err != nil {
		return nil, err
	}
	body, end, err := p.block(depth)
	if err == nil && end != nil && end.word == "empty" {
		l.body = body
		l.none, end, err = p.block(depth)
	} else {
		l.body = body
	}
	switch {
	case err != nil:
		return nil, err
	case end == nil:
		return nil, begin.wrong("{%% for %%} has no end")
	case end.word != "endfor":
		return nil, end.wrong("{%% %s %%} does not belong here", end.word)
	}
	return l, nil
}

// comment passes over everything up to its end, understood or not.
func (p *parser) comment(begin *piece) error {
	for p.next < len(p.pieces) {
		p.next++
		if is := p.pieces[p.next-1]; is.kind == tag && is.word == "endcomment" {
			return nil
		}
	}
	return begin.wrong("{%% comment %%} has no end")
}
