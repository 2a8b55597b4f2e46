package state

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// CloudInit is what the cloud-init of the machine's image is to find, as it was given: nothing in it is changed.
type CloudInit struct {
	UserData      string `json:"user_data,omitempty"`
	VendorData    string `json:"vendor_data,omitempty"`
	NetworkConfig string `json:"network_config,omitempty"`
}

// MaxCloudInit is how many bytes each of them may have: the record, in which they are, is read by every command.
const MaxCloudInit = 256 << 10

func (c CloudInit) check(say func(field, format string, a ...any)) {
	for _, x := range []struct {
		field, text string
		judge       func(text string) error
	}{
		{"cloud-init.user-data", c.UserData, checkUserData},
		{"cloud-init.vendor-data", c.VendorData, checkUserData},
		{"cloud-init.network-config", c.NetworkConfig, checkNetworkConfig},
	} {
		err := x.judge(x.text)
		switch {
		case len(x.text) > MaxCloudInit:
			err = fmt.Errorf("has %d bytes, and may have %d", len(x.text), MaxCloudInit)
		case !utf8.ValidString(x.text) || strings.ContainsRune(x.text, 0):
			err = errors.New("is no text; what is packed must be unpacked before")
		}
		if err != nil {
			say(x.field, "%v", err)
		}
	}
}

// userData are the beginnings by which cloud-init tells kinds of user data apart (its handlers/__init__.py), a longer one
// before what it begins with. Of some it is known what must follow.
var userData = [...]struct {
	begins string
	yaml   yaml.Kind
}{
	{"#cloud-config-archive", yaml.SequenceNode},
	{"#cloud-config-jsonp", 0},
	{"#cloud-config", yaml.MappingNode},
	{"#cloud-boothook", 0},
	{"#include", 0},
	{"#part-handler", 0},
	{"#!", 0},
	{"## template: jinja", 0},
}

func checkUserData(text string) error {
	head := strings.ToLower(text[:min(len(text), 4096)]) // as much of it as cloud-init looks at for MIME
	if text == "" || strings.Contains(head, "mime-version:") {
		return nil
	}
	head = strings.TrimSpace(head)
	for _, kind := range userData {
		if strings.HasPrefix(head, kind.begins) {
			return checkYAML(text, kind.yaml)
		}
	}
	first, _, _ := strings.Cut(head, "\n")
	return fmt.Errorf("begins with %.40q, and cloud-init knows it by #cloud-config, #!, #include, #cloud-boothook, #part-handler, ## template: jinja, or as MIME", first)
}

func checkNetworkConfig(text string) error {
	if text == "" {
		return nil
	}
	return checkYAML(text, yaml.MappingNode)
}

// checkYAML wants text to be YAML of that kind at its top, or of none; of kind 0 it may be anything.
func checkYAML(text string, kind yaml.Kind) error {
	if kind == 0 {
		return nil
	}
	doc, err := parseYAML(text)
	if err != nil {
		return err
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind == kind {
		return nil
	}
	what := "KEY: VALUE"
	if kind == yaml.SequenceNode {
		what = "- ENTRY"
	}
	return fmt.Errorf("line %d: lines of %s are expected", doc.Content[0].Line, what)
}

// parseYAML understands text, or says in which line it does not: the one after the longest beginning that is YAML. The parser
// itself names the line where the block around it begins.
func parseYAML(text string) (doc yaml.Node, err error) {
	const most = 1000 // lines to try: with more than that behind it the parser's own line must do
	if err = yaml.Unmarshal([]byte(text), &doc); err == nil {
		return doc, nil
	}
	wrong, lines := err, strings.SplitAfter(text, "\n")
	for n := len(lines) - 1; n > max(0, len(lines)-most); n-- {
		shorter := yaml.Unmarshal([]byte(strings.Join(lines[:n], "")), new(yaml.Node))
		if shorter == nil {
			_, says, _ := strings.Cut(strings.TrimPrefix(wrong.Error(), "yaml: "), ": ")
			return doc, fmt.Errorf("line %d: %s", n+1, says)
		}
		wrong = shorter
	}
	return doc, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
}
