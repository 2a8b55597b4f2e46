package state

import (
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Credential is one of systemd's (systemd.io/CREDENTIALS): a text that is for services of the machine, by name. What is secret
// stays in a file, so that no record has it.
type Credential struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	File  string `json:"file,omitempty"` // absolute, on the host; read at each start
}

// MaxCredential is how many bytes one may have, as systemd has it.
const MaxCredential = 1 << 20

func (s *Spec) checkCredentials(say func(field, format string, a ...any)) {
	seen := map[string]bool{}
	for _, c := range s.Credentials {
		if !validCredential(c.Name) {
			say("credentials", "%q is no name of a credential, which has letters, digits and signs but /, : and =", c.Name)
		}
		if seen[c.Name] {
			say("credentials", "%s is given twice", c.Name)
		}
		seen[c.Name] = true
		switch {
		case c.File != "" && c.Value != "":
			say("credentials", "%s has both a value and a file", c.Name)
		case c.File != "" && (!filepath.IsAbs(c.File) || strings.ContainsRune(c.File, 0)):
			say("credentials", "%s: file %q is not absolute", c.Name, c.File)
		case !utf8.ValidString(c.Value):
			say("credentials", "%s is no text, and so must be in a file", c.Name)
		case len(c.Value) > MaxCredential:
			say("credentials", "%s has %d bytes, and may have %d", c.Name, len(c.Value), MaxCredential)
		}
	}
}

// validCredential says whether systemd takes the name: that of a file, and of a descriptor.
func validCredential(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > 255 {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:=", r) })
}
