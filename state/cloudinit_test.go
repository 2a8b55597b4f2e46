package state

import (
	"strings"
	"testing"
)

func TestCloudInitCheck(t *testing.T) {
	long := strings.Repeat("#", MaxCloudInit)
	for _, c := range []struct {
		data CloudInit
		says string // "": nothing
	}{
		{CloudInit{}, ""},
		{CloudInit{UserData: "#cloud-config\n"}, ""},
		{CloudInit{UserData: "\n#Cloud-Config\nruncmd: [[a, \"b: c\"]]\nbootcmd:\n- |\n  x: [\n"}, ""},
		{CloudInit{UserData: "#cloud-config-archive\n- type: text/cloud-config\n", VendorData: "#!/bin/sh\nx: ["}, ""},
		{CloudInit{UserData: "## template: jinja\n#cloud-config\n{% if x %}: ["}, ""},
		{CloudInit{UserData: "#include\nhttp://x", VendorData: "#part-handler\n", NetworkConfig: "version: 2\n"}, ""},
		{CloudInit{UserData: "Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n"}, ""},
		{CloudInit{UserData: "#cloud-config\nusers:\n- name: x\n bad: y\n"}, "cloud-init.user-data: line 4: did not find expected key"},
		{CloudInit{UserData: "#cloud-config\na: [\n  b,\n]\nc: 'd\ne: f\n"}, "cloud-init.user-data: line 5: "},
		{CloudInit{UserData: "#cloud-config\na: b: c\nd: e\n"}, "line 2: mapping values are not allowed in this context"},
		{CloudInit{UserData: "#cloud-config\n\ta: b\n"}, "line 2: found character that cannot start any token"},
		{CloudInit{VendorData: "#cloud-config\n- a\n"}, "cloud-init.vendor-data: line 2: lines of KEY: VALUE are expected"},
		{CloudInit{UserData: "#cloud-config-archive\na: b\n"}, "line 2: lines of - ENTRY are expected"},
		{CloudInit{NetworkConfig: "network\n"}, "cloud-init.network-config: line 1: lines of KEY: VALUE are expected"},
		{CloudInit{UserData: "users:\n- x\n"}, `cloud-init.user-data: begins with "users:", and cloud-init knows it by #cloud-config, `},
		{CloudInit{UserData: "#!\x1f\x8b\x00"}, "cloud-init.user-data: is no text"},
		{CloudInit{UserData: "#!\xff"}, "cloud-init.user-data: is no text"},
		{CloudInit{VendorData: "#!" + long}, "cloud-init.vendor-data: has 262146 bytes, and may have 262144"},
	} {
		err := (&Spec{Name: "web", Image: "x", CloudInit: c.data}).Check()
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%.40q: %v", c.data, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%.40q: %v, and not %s", c.data, err, c.says)
		}
	}
}
