package cli

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"

	"croft/man"

	// text/template without calls of methods: for those the linker would have to keep every exported method in the program.
	template "github.com/DataDog/datadog-agent/pkg/template/text"
)

// writeTemplate runs a template on each row, a line for each; "table TEMPLATE"
// aligns what tabs separate and puts headings above.
func writeTemplate[T any](w io.Writer, format string, rows []T) error {
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, row := range rows {
		if err := t.Execute(&b, viewed(reflect.ValueOf(row))); err != nil {
			return fieldError(err, reflect.TypeFor[T]())
		}
		b.WriteByte('\n')
	}
	text, ok := strings.CutPrefix(format, "table ")
	if !ok {
		_, err = w.Write(b.Bytes())
		return err
	}
	lines := [][]string{templateHeads(unescape(text))}
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return writeTable(w, lines)
}

func parseTemplate(format string) (*template.Template, error) {
	text := strings.TrimPrefix(format, "table ")
	t, err := template.New("format").Funcs(template.FuncMap{
		"json":  func(v any) (string, error) { b, err := encodeJSON(v, ""); return strings.TrimSpace(string(b)), err },
		"join":  joinList,
		"split": strings.Split,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"title": titled,
	}).Option("missingkey=error").Parse(unescape(text))
	if err != nil {
		return nil, templateError(err)
	}
	return t, nil
}

// templateError drops the place that text/template names in front: the text is
// one line that the user has before him.
func templateError(err error) error {
	text := strings.TrimPrefix(err.Error(), "template: ")
	if _, rest, ok := strings.Cut(text, ">: "); ok {
		text = rest
	} else if _, rest, ok := strings.Cut(text, ": "); ok {
		text = rest
	}
	return fmt.Errorf("template: %s", text)
}

// fieldError names the fields there are when a template asked for another.
func fieldError(err error, row reflect.Type) error {
	_, name, missing := strings.Cut(err.Error(), "map has no entry for key ")
	if !missing {
		return templateError(err)
	}
	return man.Misused("template: no field %s; there are %s", name, strings.Join(fieldNames(row), ", "))
}

// unescape reads \n and \t as docker does: a shell's single quotes keep them.
func unescape(text string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
}

// joinList is strings.Join for a list of anything that can be printed.
func joinList(list any, sep string) (string, error) {
	v := reflect.ValueOf(list)
	if v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return "", fmt.Errorf("join: %T is no list", list)
	}
	var words []string
	for i := range v.Len() {
		words = append(words, fmt.Sprint(v.Index(i).Interface()))
	}
	return strings.Join(words, sep), nil
}

func titled(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		r := []rune(w)
		r[0] = unicode.ToUpper(r[0])
		words[i] = string(r)
	}
	return strings.Join(words, " ")
}

// templateHeads names each column of a template after the first field in it, the
// last part of its path in capitals: "{{join .Spec.Ports \",\"}}" is PORTS.
func templateHeads(text string) []string {
	var heads []string
	for cell := range strings.SplitSeq(text, "\t") {
		heads = append(heads, strings.ToUpper(firstField(cell)))
	}
	return heads
}

func firstField(cell string) string {
	_, cell, _ = strings.Cut(cell, "{{")
	for i, r := range cell {
		if r != '.' {
			continue
		}
		chain := cell[i:]
		if end := strings.IndexFunc(chain, notField); end >= 0 {
			chain = chain[:end]
		}
		if name := chain[strings.LastIndex(chain, ".")+1:]; name != "" {
			return name
		}
	}
	return ""
}

func notField(r rune) bool {
	return r != '.' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}
