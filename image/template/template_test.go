package template

import (
	"errors"
	"strings"
	"testing"
)

func values() Values {
	config := map[string]string{"user.a": "1", "user.meta": "m\n"}
	return Values{
		"container":  map[string]string{"name": "web", "privileged": "false"},
		"instance":   map[string]string{"name": "web", "privileged": "false"},
		"properties": map[string]string{"os": "Debian", "default": "d"},
		"config":     config,
		"devices":    map[string]map[string]string{"eth0": {"name": "eth0"}, "root": {"path": "/"}},
		"config_get": Function(func(args []any) (any, error) {
			if len(args) != 2 {
				return nil, errors.New("a key and a default are expected")
			}
			if v, ok := config[args[0].(string)]; ok {
				return strings.TrimRight(v, "\r\n"), nil
			}
			return args[1], nil
		}),
	}
}

// What each comes to was taken from pongo2 v6, which LXD and Incus use.
func TestAsPongo2(t *testing.T) {
	for _, c := range [][2]string{
		{"{{ container.name }}", "web"},
		{"{{ instance.name|upper }}-{{ \"x\"|default:\"y\" }}-{{ nothing|default:\"y\" }}", "WEB-x-y"},
		{"127.0.1.1\t{{ container.name }}{% if properties.os == \"Debian\" %} debian{% elif properties.os == \"x\" %} x{% else %} other{% endif %}", "127.0.1.1\tweb debian"},
		{"{%- if true -%}   a   {%- endif -%}  b", "ab"},
		{"{% if config_get(\"user.user-data\", \"\") == \"\" %}none{% else %}{{ config_get(\"user.user-data\", \"\") }}{% endif %}", "none"},
		{"{{ config_get(\"user.meta\", properties.default) }}", "m"},
		{"{% for k, v in config %}{{ forloop.Counter }}:{{ k }}={{ v }};{% endfor %}", "1:user.a=1;2:user.meta=m\n;"},
		{"{% for k in devices %}{{ k }} {% empty %}no{% endfor %}", "eth0 root "},
		{"{% for k in nothing %}{{ k }} {% empty %}no{% endfor %}", "no"},
		{"{# a comment #}x{% comment %}{% nonsense %}{% endcomment %}y", "xy"},
		{"{{ 1 + 2 * 3 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 1 < 2 }} {{ 2 - 3 }} {{ -4 }}", "7 3 1 True -1 -4"},
		{"{% if \"a\" in \"abc\" and not \"x\" in \"abc\" %}in{% endif %}{% if \"os\" in properties %}key{% endif %}", "key"},
		{"{% set a = \"q\" %}{{ a }}{{ a|length }}{{ nothing }}", "q1"},
		{"{{ \"a,b,c\"|split:\",\"|join:\"-\" }} {{ \"abc\"|first }} {{ \"abc\"|last }} {{ \"hello\"|capfirst }} {{ \"a b\"|cut:\" \" }}", "a-b-c a c Hello ab"},
		{"{% if container.privileged == \"false\" or false %}unpriv{% endif %}", "unpriv"},
		{"{{ devices.eth0.name }} {{ devices.none.name }}|", "eth0 |"},
		{"{% if nothing == \"\" %}eq{% else %}ne{% endif %}", "ne"},
		{"{% if not nothing %}falsy{% endif %}{% if properties %}t{% endif %}", "falsyt"},
		{"{{ \"a\" + \"b\" }}", "ab"},
		{"{{ true }} {{ false }} {{ nil }}", "True False "},
		{"{{ \"q\\\"\\\\n\" }}", "q\"\\n"},
		{"{{ config[\"user.a\"] }}", "1"},
	} {
		parsed, err := Parse(c[0])
		if err != nil {
			t.Errorf("%s: %v", c[0], err)
			continue
		}
		if got, err := parsed.Execute(values()); err != nil || got != c[1] {
			t.Errorf("%s\n got %q, %v\nwant %q", c[0], got, err, c[1])
		}
	}
}

// What is not understood is told with its line, and is never passed on as text.
func TestRefused(t *testing.T) {
	deep := strings.Repeat("{% if 1 %}", 100) + strings.Repeat("{% endif %}", 100)
	for _, c := range [][2]string{
		{"a\n{% include \"/etc/shadow\" %}", `line 2: unknown tag "include"`},
		{"{% ssi \"/etc/shadow\" %}", `line 1: unknown tag "ssi"`},
		{"{{ a|md5 }}", `line 1: unknown filter "md5"`},
		{"\n\n{% if a %}", "line 3: {% if %} has no end"},
		{"{% for a in b %}", "line 1: {% for %} has no end"},
		{"{% comment %}", "line 1: {% comment %} has no end"},
		{"{% endif %}", "line 1: {% endif %} without its beginning"},
		{"{% if a %}{% else %}{% elif b %}{% endif %}", "line 1: {% elif %} does not belong here"},
		{"{% for a in b %}{% endif %}", "line 1: {% endif %} does not belong here"},
		{"{% for 1 in b %}{% endfor %}", "line 1: for: NAME in VALUES is expected"},
		{"{% set a %}", "line 1: set: NAME = VALUE is expected"},
		{"{% %}", "line 1: an empty tag"},
		{"{{ }}", "line 1: a value is expected"},
		{"{{ a b }}", "line 1: b is not expected here"},
		{"{{ a. }}", "line 1: a name is expected behind the dot of a"},
		{"{{ a[1 }}", "line 1: ] is missing"},
		{"{{ (a }}", "line 1: ) is missing"},
		{"{{ f(a }}", "line 1: ) is missing"},
		{"{{ a == }}", "line 1: a value is expected at the end"},
		{"{{ \"a }}", "line 1: {{ has no end"},
		{`{{ "\q" }}`, `line 1: "\\q" is no escape`},
		{"{{ 99999999999999999999 }}", "line 1: 99999999999999999999 is no number"},
		{"{{ 1.5 }}", "line 1: . is not expected here"},
		{"{{ @ }}", `line 1: "@" is not expected here`},
		{"{{ a", "line 1: {{ has no end"},
		{deep, "line 1: blocks are nested too deeply"},
		{"{{ " + strings.Repeat("(", 100) + " }}", "line 1: brackets are nested too deeply"},
	} {
		if _, err := Parse(c[0]); err == nil || err.Error() != c[1] {
			t.Errorf("%s\n got %v\nwant %s", c[0], err, c[1])
		}
	}
}

// What goes wrong when values are there has its line as well.
func TestFails(t *testing.T) {
	double := "{% set a = \"0123456789abcdef\" %}" + strings.Repeat("{% set a = a + a %}", 30)
	loops := strings.Repeat("{% for a in config %}", 40) + "{{ a }}" + strings.Repeat("{% endfor %}", 40)
	for _, c := range [][2]string{
		{"\n{{ container }}", "line 2: neither a text nor a number, and cannot be printed"},
		{"{{ container.name() }}", "line 1: container.name is no function"},
		{"{{ config_get() }}", "line 1: config_get: a key and a default are expected"},
		{"{{ 1 / 0 }}", "line 1: a division by zero"},
		{"{{ container.name - 1 }}", "line 1: - of what are not two numbers"},
		{"{% for a in 7 %}{% endfor %}", "line 1: for: there is nothing to go through in that"},
		{double, "line 1: a text becomes too long"},
		{loops, "line 1: too much to evaluate"},
	} {
		parsed, err := Parse(c[0])
		if err != nil {
			t.Errorf("%s: %v", c[0], err)
			continue
		}
		if _, err := parsed.Execute(values()); err == nil || !strings.HasPrefix(err.Error(), c[1]) {
			t.Errorf("%.80s\n got %v\nwant %s", c[0], err, c[1])
		}
	}
}
