package cli

import (
	"strings"
	"testing"

	"croft/state"
)

func TestDevice(t *testing.T) {
	for text, want := range map[string]state.Device{
		"/dev/a":                                {Path: "/dev/a"},
		"/dev/a:rwm":                            {Path: "/dev/a"},
		"/dev/a:rw":                             {Path: "/dev/a", Access: "rw"},
		"/dev/a:/dev/a":                         {Path: "/dev/a"},
		"/dev/a:/dev/b":                         {Path: "/dev/a", Target: "/dev/b"},
		"/dev/a:/dev/b:r":                       {Path: "/dev/a", Target: "/dev/b", Access: "r"},
		"/dev/a,required=true":                  {Path: "/dev/a"},
		"tun,required=false":                    {Class: "tun", Optional: true},
		"/dev/a:r,mode=0660,uid=1000,gid=6":     {Path: "/dev/a", Access: "r", Mode: "0660", UID: 1000, GID: 6},
		"example.com/gpu=all":                   {CDI: "example.com/gpu=all"},
		"example.com/gpu=0:1,required=false":    {CDI: "example.com/gpu=0:1", Optional: true},
		"/dev/disk/by-id/usb-A=1,required=true": {Path: "/dev/disk/by-id/usb-A=1"},
	} {
		got, err := device(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, say := range map[string]string{
		"":                      "is no path in /dev and none of the classes",
		"tap":                   "is no path in /dev and none of the classes",
		"dev/fuse":              "is no path in /dev and none of the classes",
		"tun:rw":                "is no path in /dev and none of the classes",
		"/dev/a:":               "is not PATH[:TARGET][:rwm]",
		"/dev/a:/b:r:w":         "is not PATH[:TARGET][:rwm]",
		"/dev/a,modes=1":        `"modes" is none of mode, uid, gid, required`,
		"/dev/a,":               `"" is none of mode, uid, gid, required`,
		"/dev/a,uid=-1":         "is no number of a user or group of the machine",
		"/dev/a,gid=video":      "is no number of a user or group of the machine",
		"/dev/a,required=maybe": "required is true or false",
	} {
		if _, err := device(text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
