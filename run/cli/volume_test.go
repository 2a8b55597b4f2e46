package cli

import (
	"slices"
	"strings"
	"testing"

	"croft/state"

	"github.com/spf13/pflag"
)

func TestVolume(t *testing.T) {
	for text, want := range map[string]state.Mount{
		"/a:/b":                             {Source: "/a", Target: "/b"},
		"/a:/b:rw,idmap,rbind,exec,private": {Source: "/a", Target: "/b"},
		"/a:/b:ro,slave":                    {Source: "/a", Target: "/b", ReadOnly: true, Slave: true},
		"/a:/b:bind,noexec,noidmap":         {Source: "/a", Target: "/b", Shallow: true, NoExec: true, NoIDMap: true},
	} {
		if got, err := volume(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, say := range map[string]string{
		"/a":            "is not SRC:DST[:ro]",
		"/a:/b:ro:x":    "is not SRC:DST[:ro]",
		"/a:/b:":        `"" is none of rw, ro, noexec, noidmap, bind, rslave`,
		"/a:/b:nocopy":  `"nocopy" is none of`,
		"/a:/b:rshared": "what a machine mounts cannot come to the host",
		"/a:/b:dev":     "--device gives it one",
		"/a:/b:ro,z":    "chcon -R -t container_file_t /a",
	} {
		if _, err := volume(text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What docker's users write is what -v and --tmpfs would say.
func TestMount(t *testing.T) {
	for text, want := range map[string]string{
		"type=bind,source=/a,target=/b":                                       "/a:/b",
		"type=bind,src=/a,dst=/b,readonly":                                    "/a:/b:ro",
		"type=bind,source=/a,destination=/b,ro=true,bind-propagation=rslave":  "/a:/b:ro,rslave",
		"type=bind,source=/a,target=/b,readonly=false,bind-nonrecursive=true": "/a:/b:bind",
		"type=tmpfs,target=/t":                                                "/t",
		"type=tmpfs,target=/t,tmpfs-size=1M,tmpfs-mode=755":                   "/t:size=1M,mode=755",
	} {
		var volumes, tmpfs []string
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		fs.StringArrayVar(&volumes, "volume", nil, "")
		fs.StringArrayVar(&tmpfs, "tmpfs", nil, "")
		if err := (&mountValue{fs}).Set(text); err != nil || !slices.Equal(append(volumes, tmpfs...), []string{want}) {
			t.Errorf("%q: %q %q, %v", text, volumes, tmpfs, err)
		}
	}
	for text, say := range map[string]string{
		"source=/a,target=/b":                        "type volume is neither bind nor tmpfs",
		"type=volume,source=a,target=/b":             "type volume is neither bind nor tmpfs",
		"type=bind,target=/b":                        "source or target is missing",
		"type=tmpfs,source=/a,target=/b":             "that is nothing for type tmpfs",
		"type=bind,source=/a,target=/b,tmpfs-size=1": "that is nothing for type bind",
		"type=bind,source=/a,target=/b,mode=1":       `"mode" is none of type, source`,
		"type=bind,source=/a:b,target=/b":            "a path with a colon",
	} {
		if err := (&mountValue{pflag.NewFlagSet("", pflag.ContinueOnError)}).Set(text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
