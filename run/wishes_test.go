package run

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"croft/image"
	"croft/rootfs"
	"croft/state"
)

func TestStopSignal(t *testing.T) {
	for text, want := range map[string]int{
		"": 15, "SIGQUIT": 3, "quit": 3, "SIGWINCH": 28, "9": 9, "64": 64, "SIGRTMIN+3": 37, "RTMIN": 34, "SIGRTMAX-1": 63,
		"0": -1, "65": -1, "-1": -1, "SIGNONE": -1, "SIGRTMIN+31": -1, "SIGRTMIN+x": -1, "SIG": -1,
	} {
		got, err := stopSignal(text)
		if want > 0 && (err != nil || got != want) || want < 0 && err == nil {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
}

// TestEnvironmentOf: nothing that a manager of containers would say comes through, nor what is no variable.
func TestEnvironmentOf(t *testing.T) {
	c := &image.Config{Env: []string{
		"A=1", "PATH=/app/bin", "NOTIFY_SOCKET=/run/x", "container=docker", "CREDENTIALS_DIRECTORY=/x", "LISTEN_FDS=3", "B=", "=x", "novalue",
		"1A=x", "a b=x", "A=2", "java.home=/x", "N=a\x00b", "X=a=b", "LC-x=1", "\n=1",
	}}
	want := []string{"A=2", "PATH=/app/bin", "B=", "java.home=/x", "X=a=b", "LC-x=1"}
	if got := environmentOf(c); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPayloadOf(t *testing.T) {
	c := &image.Config{Entrypoint: []string{"/entry", "-x"}, Cmd: []string{"serve"}, User: "app", Dir: "srv"}
	for _, x := range []struct {
		asked  state.Init
		isInit bool
		want   string
	}{
		{state.Init{}, false, "/entry -x serve app /srv"},
		{state.Init{Args: []string{"other", "words"}}, false, "/entry -x other words app /srv"},
		{state.Init{Args: []string{"other"}, User: "0", Dir: "/"}, false, "/entry -x other 0 /"},
		{state.Init{Args: []string{"sh"}}, true, "sh app /srv"},
	} {
		got := payloadOf(c, x.asked, x.isInit)
		if text := strings.Join(append(got.Args, got.User, got.Dir), " "); text != x.want || got.Mode != state.InitPayload {
			t.Errorf("%v: %s, want %s", x.asked, text, x.want)
		}
	}
}

func TestBareShell(t *testing.T) {
	for text, want := range map[string]bool{
		"bash": true, "/bin/sh": true, "/usr/bin/fish": true, "sh -c true": false, "/bin/sh /entry": false, "nginx": false, "": false,
	} {
		in := &state.Instance{Facts: state.Facts{Init: state.Init{Mode: state.InitPayload, Args: strings.Fields(text)}}}
		if got := BareShell(in); got != want {
			t.Errorf("%q: %v", text, got)
		}
		if in.Facts.Init.Mode = state.InitBoot; BareShell(in) {
			t.Errorf("%q: an init is no bare shell", text)
		}
	}
}

// TestRunsInit tells systems from the many images that have busybox's init because they have busybox.
func TestRunsInit(t *testing.T) {
	below, top := t.TempDir(), t.TempDir()
	for _, dir := range []string{"bin", "sbin", "lib/systemd"} {
		if err := os.MkdirAll(filepath.Join(below, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(below, name), []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(dir, name, to string) {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/busybox")
	write("lib/systemd/systemd")
	link(below, "bin/sh", "busybox")
	link(below, "sbin/init", "../bin/busybox")
	systemd := t.TempDir()
	if err := os.Mkdir(filepath.Join(systemd, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	link(systemd, "sbin/init", "/lib/systemd/systemd")

	found := rootfs.Init{Path: "/sbin/init"}
	for _, x := range []struct {
		layers []string
		words  string
		want   bool
	}{
		{[]string{below, top}, "", true},
		{[]string{below, top}, "/sbin/init", true},
		{[]string{below, top}, "init", true},
		{[]string{below, top}, "/bin/sh", false},
		{[]string{below, top}, "busybox sh", false},
		{[]string{below, top}, "/entry", false},
		{[]string{below, top}, "/lib/systemd/systemd", false},
		{[]string{below, systemd}, "/lib/systemd/systemd", true},
		{[]string{below, systemd}, "/sbin/init", true},
		{[]string{below, systemd}, "/bin/busybox init", false},
	} {
		if got := runsInit(&image.Config{Cmd: strings.Fields(x.words)}, x.layers, found); got != x.want {
			t.Errorf("%q: %v", x.words, got)
		}
	}
}
