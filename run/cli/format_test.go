package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"croft/man"
)

// sampleRow has every kind of field that listings have.
type sampleRow struct {
	Name     string            `json:"name"`
	State    string            `json:"state"`
	IPv4     netip.Addr        `json:"ipv4,omitzero"`
	Ports    []string          `json:"ports"`
	Labels   map[string]string `json:"labels,omitempty"`
	Memory   int64             `json:"memory_bytes"`
	Ready    bool              `json:"ready"`
	Created  time.Time         `json:"created"`
	Mounts   []sampleMount     `json:"mounts,omitempty"`
	Limits   *sampleMount      `json:"limits,omitempty"`
	secret   string
	Internal string `json:"-"`
}

type sampleMount struct {
	Source   string `json:"source"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

func sampleView() view[sampleRow] {
	return view[sampleRow]{
		{Head: "NAME", Cell: func(r sampleRow) string { return r.Name }},
		{Head: "STATE", Cell: func(r sampleRow) string { return r.State }},
		{Head: "MEMORY", Cell: func(r sampleRow) string { return sizeText(r.Memory) }, Extra: true},
		{Head: "PORTS", Cell: func(r sampleRow) string { return strings.Join(r.Ports, ",") }},
	}
}

func sampleRows() []sampleRow {
	return []sampleRow{
		{
			Name: "web", State: "running", IPv4: netip.MustParseAddr("10.0.0.2"), Ports: []string{"8080:80", "53:53/udp"},
			Labels: map[string]string{"a": "<b> & c"}, Memory: 1 << 30, Ready: true, Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			Mounts: []sampleMount{{"/srv", true}, {"/tmp", false}}, Limits: &sampleMount{Source: "x"}, secret: "s", Internal: "i",
		},
		{Name: "größe-日本", State: "stopped\x1b[31m", Labels: map[string]string{"yes": "no", "n": "1.0", "del": "\x7f 😀"}},
		{Name: "a,\"b\"", State: "yes", Ports: []string{}},
	}
}

func TestFormats(t *testing.T) {
	for file, format := range map[string]string{
		"table.txt": "table", "default.txt": "", "json.json": "json", "yaml.yaml": "yaml", "csv.csv": "csv",
		"template.txt":       `{{.Name}}\t{{.name | upper}} {{join .Ports "+"}} {{index .Labels "a"}} {{.ipv4}} {{.created}}`,
		"template-json.txt":  `{{json .}}`,
		"template-dot.txt":   `{{.}}`,
		"template-range.txt": `{{range .Mounts}}{{.Source}}={{.ReadOnly}}/{{.read_only}} {{end}}{{with .Limits}}{{.Source}}{{end}}`,
		"template-table.txt": `table {{.Name}}\t{{upper .State | title}}\t{{join .Ports ","}}\t{{range .Mounts}}{{.Source}} {{end}}\tx`,
	} {
		var out bytes.Buffer
		if err := sampleView().write(&out, format, sampleRows()); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		formatGolden(t, "format/"+file, out.Bytes())
	}
}

func TestFormatsOfNothing(t *testing.T) {
	for format, want := range map[string]string{
		"table":                         "NAME  STATE  PORTS\n",
		"json":                          "[]\n",
		"yaml":                          "[]\n",
		"csv":                           "name,state,ipv4,ports,labels,memory_bytes,ready,created,mounts,limits\n",
		"{{.Name}}":                     "",
		"table {{.Name}}\t{{.Created}}": "NAME  CREATED\n",
	} {
		var out bytes.Buffer
		if err := sampleView().write(&out, format, nil); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		if out.String() != want {
			t.Errorf("%s: got %q, want %q", format, out.String(), want)
		}
	}
}

// TestYAMLAgrees reads what writeYAML wrote, and wants what JSON says.
func TestYAMLAgrees(t *testing.T) {
	var out bytes.Buffer
	if err := writeYAML(&out, sampleRows()); err != nil {
		t.Fatal(err)
	}
	var got any
	if err := yaml.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	text, err := marshalRows(sampleRows())
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestFormatValue(t *testing.T) {
	for format, want := range map[string]string{
		"json": "", "table": "", "yaml": "", "csv": "", "{{.Name}}": "", "table {{.Name}}": "",
		"jsn":        "is neither table, json, yaml, csv nor a template like '{{.Name}}'",
		"{{.Name":    "template: unclosed action",
		"{{nope .}}": `template: function "nope" not defined`,
	} {
		var f formatValue
		err := f.Set(format)
		if got := errText(err); got != want {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
		if err == nil && f.String() != format {
			t.Errorf("%s: became %s", format, f)
		}
	}
}

func TestTemplateErrors(t *testing.T) {
	for format, want := range map[string]string{
		"{{.Nmae}}":         `template: no field "Nmae"; there are name, state, ipv4, ports, labels, memory_bytes, ready, created, mounts, limits`,
		"{{join .Name 1}}":  `template: expected string; found 1`,
		`{{join .Name ""}}`: `template: error calling join: join: string is no list`,
	} {
		err := writeTemplate(&bytes.Buffer{}, format, sampleRows())
		if got := errText(err); !strings.Contains(got, strings.TrimPrefix(want, "template: ")) && got != want {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
}

func TestPick(t *testing.T) {
	for spec, want := range map[string]string{
		"":           "NAME  STATE  PORTS\nweb   up\n",
		"state,name": "STATE  NAME\nup     web\n",
		"+memory":    "NAME  STATE  PORTS  MEMORY\nweb   up            5B\n",
		"all":        "NAME  STATE  MEMORY  PORTS\nweb   up     5B\n",
		"Memory":     "MEMORY\n5B\n",
	} {
		v, err := sampleView().pick(spec)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		var out bytes.Buffer
		if err := v.write(&out, "table", []sampleRow{{Name: "web", State: "up", Memory: 5}}); err != nil {
			t.Error(err)
		}
		if out.String() != want {
			t.Errorf("%q: got\n%s", spec, out.String())
		}
	}
	var m *man.Misuse
	if _, err := sampleView().pick("name,pid"); !errors.As(err, &m) || m.Say != "-c pid: no such column; there are name,state,memory,ports" {
		t.Errorf("got %v", err)
	}
}

func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	if err := sampleView().quiet(&out, sampleRows()[:1]); err != nil || out.String() != "web\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestColumns(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "abc": 3, "größe": 5, "日本": 4, "e\u0301": 1, "한글": 4, "ｆ": 2, "😀": 2, "a\u200db": 2,
	} {
		if got := cellWidth(text); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

func TestHarmless(t *testing.T) {
	if got, want := harmless("a\x1b[31m\n\u009b\u202eb"), "a?[31m???b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// formatGolden compares with a file of testdata, or with UPDATE=1 writes it.
func formatGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; UPDATE=1 go test ./run/cli writes it anew\ngot %s", file, strconv.Quote(string(got)))
	}
}
