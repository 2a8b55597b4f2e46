package cli

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"croft/man"
)

// column is one column of a table of T.
type column[T any] struct {
	Head  string // heading, and in lower case its name for -c: "IPV4"
	Cell  func(row T) string
	Extra bool // shown only when -c asks for it
}

// view is how rows of T are shown to people. To programs (json, yaml, csv, a
// template) they are shown as they are, by the names of their JSON fields; a
// template may also use the names of the Go fields, {{.Name}} for "name".
type view[T any] []column[T]

// write prints rows in a format that formatValue has accepted; "" is table.
func (v view[T]) write(w io.Writer, format string, rows []T) error {
	switch format {
	case "", "table":
		return v.table(w, rows)
	case "json":
		return writeJSON(w, rows)
	case "yaml":
		return writeYAML(w, rows)
	case "csv":
		return writeCSV(w, rows)
	}
	return writeTemplate(w, format, rows)
}

// found prints the rows of what was asked for by name. Where nothing of it is there the error says so, and alone.
func (v view[T]) found(w io.Writer, format string, rows []T) error {
	if len(rows) == 0 {
		return nil
	}
	return v.write(w, format, rows)
}

func (v view[T]) table(w io.Writer, rows []T) error {
	v = slices.DeleteFunc(slices.Clone(v), func(c column[T]) bool { return c.Extra })
	lines := make([][]string, len(rows)+1)
	for _, c := range v {
		lines[0] = append(lines[0], c.Head)
		for i, row := range rows {
			lines[i+1] = append(lines[i+1], c.Cell(row))
		}
	}
	return writeTable(w, lines)
}

// quiet prints the first column alone, without its heading: what -q means.
func (v view[T]) quiet(w io.Writer, rows []T) error {
	var b bytes.Buffer
	for _, row := range rows {
		fmt.Fprintln(&b, v[0].Cell(row))
	}
	_, err := w.Write(b.Bytes())
	return err
}

// pick is what -c asks for: "name,ipv4" are these columns in this order, "+pid"
// adds to the usual ones, "all" is every column. The error is a misuse.
func (v view[T]) pick(spec string) (view[T], error) {
	if spec == "" {
		return v, nil
	}
	var out view[T]
	for name := range strings.SplitSeq(spec, ",") {
		plain, add := strings.CutPrefix(name, "+")
		if add && len(out) == 0 {
			out = v.usual()
		}
		if plain == "all" {
			out = v.all()
			continue
		}
		i := slices.IndexFunc(v, func(c column[T]) bool { return strings.EqualFold(c.Head, plain) })
		if i < 0 {
			return nil, man.Misused("-c %s: no such column; there are %s", plain, strings.Join(v.names(), ","))
		}
		c := v[i]
		c.Extra = false
		out = append(out, c)
	}
	return out, nil
}

func (v view[T]) usual() view[T] {
	return slices.DeleteFunc(slices.Clone(v), func(c column[T]) bool { return c.Extra })
}

func (v view[T]) all() view[T] {
	out := slices.Clone(v)
	for i := range out {
		out[i].Extra = false
	}
	return out
}

// names are the words that -c takes.
func (v view[T]) names() []string {
	var out []string
	for _, c := range v {
		out = append(out, strings.ToLower(c.Head))
	}
	return out
}

// formatValue is the --format flag: one of the words, or a template whose
// syntax is checked before any work is done. It is a pflag.Value.
type formatValue string

func (f *formatValue) String() string { return string(*f) }
func (f *formatValue) Type() string   { return "format" }

func (f *formatValue) Set(s string) error {
	words := []string{"table", "json", "yaml", "csv"}
	switch {
	case slices.Contains(words, s):
	case strings.Contains(s, "{{"):
		if _, err := parseTemplate(s); err != nil {
			return err
		}
	default:
		return fmt.Errorf("is neither %s nor a template like '{{.Name}}'", strings.Join(words, ", "))
	}
	*f = formatValue(s)
	return nil
}

// marshalRows is JSON for people and programs alike: two blanks of indent, and "<",
// ">", "&" as themselves. It is always an array, nil rows included.
func marshalRows[T any](rows []T) ([]byte, error) {
	if rows == nil {
		rows = []T{}
	}
	return encodeJSON(rows, "  ")
}

func encodeJSON(value any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(value)
	return b.Bytes(), err
}

func writeJSON[T any](w io.Writer, rows []T) error {
	text, err := marshalRows(rows)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// writeYAML goes through JSON, so that names, order and what is left out agree.
func writeYAML[T any](w io.Writer, rows []T) error {
	text, err := marshalRows(rows)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	node, err := yamlNode(d)
	if err != nil {
		return err
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(node); err != nil {
		return err
	}
	return e.Close()
}

// yamlNode reads the next JSON value. (JSON is not quite YAML: a raw DEL or a
// surrogate pair is refused by YAML parsers.)
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		return yamlNested(d, t)
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: t.String()}, nil
	}
	n := &yaml.Node{} // Encode puts quotes where YAML 1.1 would see a boolean or a time
	return n, n.Encode(token)
}

// yamlNested reads an object's or array's values up to its end.
func yamlNested(d *json.Decoder, open json.Delim) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	if open == '{' {
		n.Kind = yaml.MappingNode
	}
	for d.More() {
		child, err := yamlNode(d)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, child)
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle // [] and {}: in block style nothing would be there
	}
	_, err := d.Token()
	return n, err
}

// writeCSV prints a line of JSON field names and one for each row (RFC 4180).
// Lists of plain values are joined by blanks; deeper values stay JSON.
func writeCSV[T any](w io.Writer, rows []T) error {
	names := fieldNames(reflect.TypeFor[T]())
	out := csv.NewWriter(w)
	if err := out.Write(names); err != nil {
		return err
	}
	for _, row := range rows {
		text, err := encodeJSON(row, "")
		if err != nil {
			return err
		}
		var values map[string]json.RawMessage
		if err := json.Unmarshal(text, &values); err != nil {
			return err
		}
		line := make([]string, len(names))
		for i, name := range names {
			line[i] = csvCell(values[name])
		}
		if err := out.Write(line); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func csvCell(raw json.RawMessage) string {
	var list []json.RawMessage
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return ""
	case raw[0] == '"':
		var s string
		_ = json.Unmarshal(raw, &s) // it has just been marshalled
		return s
	case raw[0] == '[' && json.Unmarshal(raw, &list) == nil && allPlain(list):
		var words []string
		for _, v := range list {
			words = append(words, csvCell(v))
		}
		return strings.Join(words, " ")
	}
	return string(raw)
}

func allPlain(list []json.RawMessage) bool {
	return !slices.ContainsFunc(list, func(v json.RawMessage) bool { return v[0] == '{' || v[0] == '[' })
}

// fieldNames are the JSON names of a struct's fields in their order, those of
// embedded structs among them.
func fieldNames(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = append(names, fieldNames(f.Type)...)
		case !f.IsExported() || name == "-":
		case name == "":
			names = append(names, f.Name)
		default:
			names = append(names, name)
		}
	}
	return names
}
