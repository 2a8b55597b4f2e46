package template

import (
	"strings"
	"testing"
)

// Any text is refused in one line, or comes to something of bounded size, the same each time.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"127.0.1.1\t{{ container.name }}\n",
		"{%- if config_get(\"user.user-data\", \"\") == \"\" -%}{{ properties.default|default:\"x\" }}{% else %}y{% endif %}",
		"{% for k, v in config %}{{ forloop.Counter }}{{ k }}={{ v|upper }}{% empty %}none{% endfor %}",
		"{% set a = (1 + 2) * -3 %}{{ a % 2 }}{# c #}{% comment %}{% x %}{% endcomment %}{{ devices.eth0[\"name\"] }}",
		"{{ \"a,b\"|split:\",\"|join:\"\\n\" }}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := Parse(text)
		if err == nil {
			var first, second string
			if first, err = parsed.Execute(values()); err == nil {
				if second, err = parsed.Execute(values()); err != nil || first != second {
					t.Errorf("%q, and then %q, %v", first, second, err)
				}
				if len(first) > maxOutput+len(text) {
					t.Errorf("%d bytes came out", len(first))
				}
			}
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\n\x1b") || !strings.HasPrefix(err.Error(), "line ")) {
			t.Errorf("%q", err.Error())
		}
	})
}
