package run

import (
	"slices"
	"strings"
	"testing"

	"croft/rootfs"
	"croft/state"
)

func TestSeed(t *testing.T) {
	const user, vendor, network, meta = seedDir + "/user-data", seedDir + "/vendor-data", seedDir + "/network-config", seedDir + "/meta-data"
	in := func(c state.CloudInit) *state.Instance {
		return &state.Instance{UUID: "0123456789abcdef0123456789abcdef", Spec: state.Spec{Name: "no", CloudInit: c}}
	}
	has := host{managers: managers{cloudInit: true}}
	stock := has
	stock.seed = map[string]string{user: "#cloud-config\n# the image's\n", vendor: "", network: "version: 1\n", meta: "instance-id: web\n"}
	given := state.CloudInit{UserData: "#!/bin/sh\n", NetworkConfig: "version: 2\n"}
	if f := seed(in(given), host{}); f != nil {
		t.Errorf("without cloud-init: %v", f)
	}
	if f := seed(in(state.CloudInit{}), has); f != nil {
		t.Errorf("with nothing to do: %v", f)
	}
	for _, c := range []struct {
		name                  string
		host                  host
		given                 state.CloudInit
		user, vendor, network string
	}{
		{"all that there is", has, given, "#!/bin/sh\n", "", "version: 2\n"},
		{"no user data", has, state.CloudInit{VendorData: "#!/bin/sh\n"}, nothingToDo, "#!/bin/sh\n", ""},
		{"the image's templates", stock, state.CloudInit{}, "#cloud-config\n# the image's\n", "", "version: 1\n"},
		{"over the image's templates", stock, given, "#!/bin/sh\n", "", "version: 2\n"},
	} {
		f := seed(in(c.given), c.host)
		if f[user].Text != c.user || f[vendor].Text != c.vendor || f[network].Text != c.network || !f[user].Secret {
			t.Errorf("%s: %v", c.name, f)
		}
		if !strings.HasSuffix(f[meta].Text, "\nlocal-hostname: \"no\"\n") { // in quotes, or it were a boolean
			t.Errorf("%s: %q", c.name, f[meta].Text)
		}
	}
	id := func(in *state.Instance) rootfs.File { return seed(in, has)[meta] }
	other := in(given)
	other.UUID = "1123456789abcdef0123456789abcdef"
	renamed := in(given)
	renamed.Spec.Name, renamed.Spec.Hostname = "new", "no"
	if id(in(given)) != id(renamed) || id(in(given)) == id(other) || id(in(given)) == id(in(state.CloudInit{UserData: given.UserData})) {
		t.Errorf("%v, renamed %v, another %v", id(in(given)), id(renamed), id(other))
	}
}

// What cloud-init 25.1.4 and 22.4.2 of Debian have written.
func TestCloudInitResult(t *testing.T) {
	const stages = `"datasource": "DataSourceNoCloud", "init-local": {"errors": [], "finished": 1.5, "recoverable_errors": {}, "start": 1.2}, "stage": null`
	for _, c := range []struct {
		result, status string
		warnings       []string
		says           string
	}{
		{`{"v1": {"datasource": "DataSourceNoCloud", "errors": []}}`, `{"v1": {` + stages + `}}`, nil, ""},
		{`{"v1": {"datasource": "DataSourceNoCloud", "errors": []}}`, `{"v1": {"init": {"errors": [], "finished": 1.5, "start": 1.2}, "stage": null}}`, nil, ""},
		{`{"v1": {"errors": []}}`, `{"v1": {` + stages + `, "init": {"recoverable_errors": {"WARNING": ["b", "a"]}}, "modules-config": {"recoverable_errors": {"WARNING": ["a"], "DEPRECATED": ["c"]}}}}`, []string{"a", "b", "c"}, ""},
		{`{"v1": {"errors": []}}`, ``, nil, ""},
		{`{"v1": {"errors": ["('scripts_user', RuntimeError('Runparts'))", "x"]}}`, `{"v1": {}}`, nil, "cloud-init: ('scripts_user', RuntimeError('Runparts')); x"},
		{`{"v1": {"err`, ``, nil, "cloud-init: result.json: unexpected end of JSON input"},
	} {
		done, warnings, err := cloudInitResult([]byte(c.result), []byte(c.status))
		switch {
		case c.says != "" && (err == nil || err.Error() != c.says), c.says == "" && (err != nil || !done), !slices.Equal(warnings, c.warnings):
			t.Errorf("%s %s: %v %q %v", c.result, c.status, done, warnings, err)
		}
	}
}

func TestFirstBoot(t *testing.T) {
	text := func(kind string, all ...state.Credential) string {
		in := &state.Instance{Spec: state.Spec{Credentials: all}, Facts: state.Facts{InitKind: kind}}
		return firstBoot(in)["/etc/systemd/system/systemd-firstboot.service.d/50-croft.conf"].Text
	}
	zone, secret := state.Credential{Name: "firstboot.timezone", Value: "Europe/Berlin"}, state.Credential{Name: "passwd.hashed-password.root", File: "/f"}
	motd := state.Credential{Name: "login.motd", Value: "x"}
	if text("systemd", motd) != "" || text("busybox", zone) != "" {
		t.Error("a drop-in that nobody needs")
	}
	one, both := text("systemd", zone, motd), text("systemd", zone, secret)
	if !strings.Contains(one, "\nExecStart=systemd-firstboot --force\n") || !strings.Contains(both, "\nExecStart=systemd-firstboot --force --prompt-root-password\n") {
		t.Errorf("%s\n%s", one, both)
	}
	done := func(text string) string {
		_, path, _ := strings.Cut(text, "ConditionPathExists=!")
		path, _, _ = strings.Cut(path, "\n")
		return path
	}
	if done(one) == done(both) || done(one) != done(text("systemd", zone)) || !strings.Contains(one, "\nExecStart=touch "+done(one)+"\n") {
		t.Errorf("%s\n%s", one, both)
	}
}
