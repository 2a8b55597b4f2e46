package state

import "strings"

// CDI is what a machine got of its devices by CDI files that outlives its start.
type CDI struct {
	Env      []string `json:"env,omitempty"`      // KEY=VALUE, above all other
	Groups   []uint32 `json:"groups,omitempty"`   // of the machine, for all that runs in it
	Poststop []Hook   `json:"poststop,omitempty"` // run when it has ended
}

// Hook is a program of the host that is told of a machine.
type Hook struct {
	Path    string   `json:"path"`
	Args    []string `json:"args,omitempty"` // the first is its name
	Env     []string `json:"env,omitempty"`
	Timeout int      `json:"timeout_seconds,omitempty"` // 0: none
}

// checkCDI judges VENDOR/CLASS=NAME.
func (d *Device) checkCDI(say func(field, format string, a ...any)) {
	kind, name, _ := strings.Cut(d.CDI, "=")
	vendor, class, _ := strings.Cut(kind, "/")
	if !cdiWord(vendor, "_-.") || !cdiWord(class, "_-.") || !cdiWord(name, "_-.:") {
		say("devices", "%q is no CDI name like example.com/gpu=0", d.CDI)
	}
	if d.Access+d.Mode != "" || d.UID != 0 || d.GID != 0 {
		say("devices", "%s: its CDI file says what it is like", d.CDI)
	}
}

// cdiWord is a part of such a name: letters, digits and, within, some more.
func cdiWord(word, within string) bool {
	const alnum = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	return word != "" && strings.Trim(word, alnum+within) == "" && strings.Contains(alnum, word[:1]) && strings.Contains(alnum, word[len(word)-1:])
}
