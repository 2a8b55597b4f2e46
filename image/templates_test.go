package image

import (
	"strings"
	"testing"
)

// What metadata.yaml says of a template is refused where it would be more than a file of the templates for a file of a machine.
func TestTemplatesRefused(t *testing.T) {
	for text, want := range map[string]string{
		`/: {template: a}`:                   `template "/": that is no file, which is not valid`,
		`/etc/: {template: a}`:               `template "/etc/": that is no file, which is not valid`,
		`/a: {}`:                             `template "/a": "" is no name of a file in templates: it is not valid`,
		`/a: {template: ../a}`:               `template "/a": "../a" is no name of a file in templates: it is not valid`,
		`/a: {template: ..}`:                 `template "/a": ".." is no name of a file in templates: it is not valid`,
		`/a: {template: a, uid: root}`:       `template "/a": uid "root" is not valid`,
		`/a: {template: a, gid: "65536"}`:    `template "/a": gid "65536" is not valid`,
		`/a: {template: a, mode: "999"}`:     `template "/a": mode "999" is not valid`,
		`/a: {template: a, mode: "0100000"}`: `template "/a": mode "0100000" is not valid`,
	} {
		meta, err := parseMetadata([]byte("templates:\n  " + text + "\n"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if _, err := meta.templates(); err == nil || err.Error() != want {
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
}

// Numbers may be written as such, and a path is a machine's however it is written.
func TestTemplatesRead(t *testing.T) {
	meta, err := parseMetadata([]byte("templates:\n  ../etc//x: {when: [create, start], template: a.tpl, uid: 7, mode: 0640, create_only: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := meta.templates()
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	got := all[0]
	if got.Path != "/etc/x" || got.UID != 7 || got.GID != 0 || got.Mode != 0o640 || !got.CreateOnly || !got.Due("start") || got.Due("copy") {
		t.Errorf("%+v", got)
	}
}

// What is written of an image says the same when it is read.
func TestMetadataRoundTrip(t *testing.T) {
	text := "architecture: x86_64\ncreation_date: 7\ntemplates:\n  /etc/x: {when: [create], template: a.tpl, mode: \"600\", properties: {a: b}}\n"
	meta, err := parseMetadata([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	templates, err := meta.templates()
	if err != nil {
		t.Fatal(err)
	}
	again := metadataOf(Image{Architecture: "x86_64", OS: "debian", Properties: map[string]string{"serial": "1"}}, templates)
	if row := again.Templates["/etc/x"]; row.Mode != "0600" || row.Template != "a.tpl" || strings.Join(row.When, " ") != "create" || row.Properties["a"] != "b" {
		t.Errorf("%+v", row)
	}
	if again.Properties["os"] != "debian" || again.Properties["serial"] != "1" {
		t.Errorf("%v", again.Properties)
	}
}
