package run

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"croft/image"
	"croft/rootfs"
	"croft/state"

	"golang.org/x/sys/unix"
)

// An OCI image says how it wants to be run. What it says is taken into the facts of a machine when that is made, checked:
// it comes from somebody else.

// runsInit says whether what the image starts is its init: then it is a system, and boots. An image that starts nothing in
// particular is one as well. Most others have an init too, busybox's as often as not, which nobody means to boot.
func runsInit(c *image.Config, layers []string, found rootfs.Init) bool {
	words := slices.Concat(c.Entrypoint, c.Cmd)
	if len(words) == 0 {
		return true
	}
	if base := path.Base(words[0]); base != path.Base(found.Path) && base != "systemd" {
		return false
	}
	init, _, err := rootfs.Lookup(layers, found.Path)
	if err != nil {
		return false
	}
	places := []string{words[0]}
	if !strings.Contains(words[0], "/") {
		places = nil
		for _, dir := range strings.Split(pathOf(append([]string{defaultPath}, c.Env...)), ":") {
			places = append(places, path.Join("/", dir, words[0]))
		}
	}
	return slices.ContainsFunc(places, func(place string) bool {
		program, _, err := rootfs.Lookup(layers, place)
		return err == nil && program == init
	})
}

// payloadOf is what runs in a machine of the image that boots nothing: asked is what the user said, which takes the place of the
// image's Cmd but not of its Entrypoint, as in docker. An Entrypoint that is an init is no prefix of anything.
func payloadOf(c *image.Config, asked state.Init, isInit bool) state.Init {
	init := asked
	if len(asked.Args) == 0 {
		init.Args = slices.Concat(c.Entrypoint, c.Cmd)
	} else if !isInit {
		init.Args = slices.Concat(c.Entrypoint, asked.Args)
	}
	if init.User == "" {
		init.User = c.User
	}
	if init.Dir == "" && c.Dir != "" {
		init.Dir = path.Join("/", c.Dir)
	}
	init.Mode = state.InitPayload
	return init
}

// BareShell says whether all that a machine runs is a shell, as images do that are a base for others. Without a terminal and
// without anything to read it ends at once.
func BareShell(in *state.Instance) bool {
	init := in.Facts.Init
	shells := []string{"sh", "ash", "bash", "dash", "fish", "ksh", "zsh"}
	return init.Mode == state.InitPayload && len(init.Args) == 1 && slices.Contains(shells, path.Base(init.Args[0]))
}

// checkWishes refuses what cannot be handed to a program.
func checkWishes(c *image.Config) error {
	for _, text := range slices.Concat(c.Entrypoint, c.Cmd, []string{c.User, c.Dir}) {
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("a NUL byte in its configuration %w", state.ErrInvalid)
		}
	}
	return nil
}

// foreign are the variables by which a container's manager talks to what it has started. An image's own values would name
// files and sockets of the machine it was made on.
var foreign = [...]string{
	"container", "container_uuid", "container_host_id", "container_host_boot_id", "container_host_version_id", "container_ttys",
	"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "MAINPID", "MANAGERPID",
	"CREDENTIALS_DIRECTORY", "ENCRYPTED_CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID",
}

// environmentOf is the part of the image's environment that its machines get; of a name that is there twice the later value.
func environmentOf(c *image.Config) []string {
	var env []string
	for _, kv := range c.Env {
		name, value, ok := strings.Cut(kv, "=")
		if ok && variableName(name) && !strings.ContainsRune(value, 0) && !slices.Contains(foreign[:], name) {
			env = append(env, kv)
		}
	}
	return overlayEnv(nil, env)
}

// variableName tells names that a shell can say, and those with dots and dashes that some programs read.
func variableName(name string) bool {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r))
	}
	return name != "" && (name[0] < '0' || name[0] > '9') && !strings.ContainsFunc(name, bad)
}

// stopSignal reads the signal that an image wants to be stopped by: a number, or a name with or without SIG. None is SIGTERM.
func stopSignal(text string) (int, error) {
	name := strings.ToUpper(strings.TrimSpace(text))
	if name == "" {
		return int(unix.SIGTERM), nil
	}
	const most = 64 // _NSIG of the kernel
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > most {
			return 0, fmt.Errorf("stop signal %q %w", text, state.ErrInvalid)
		}
		return n, nil
	}
	name = "SIG" + strings.TrimPrefix(name, "SIG")
	for _, real := range []struct {
		name string
		at   int
		step int
	}{{"SIGRTMIN", 34, 1}, {"SIGRTMAX", most, -1}} { // as the C library of the guest counts them
		offset, is := strings.CutPrefix(name, real.name)
		n, err := strconv.Atoi(strings.TrimLeft(offset, "+-"))
		if is && (offset == "" || err == nil) && n <= most-34 {
			return real.at + real.step*n, nil
		}
	}
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	return 0, fmt.Errorf("stop signal %q %w", text, state.ErrInvalid)
}

// labelsOf are the image's labels and what the user gave, which counts more.
func labelsOf(c *image.Config, asked map[string]string) map[string]string {
	labels := map[string]string{}
	for k, v := range c.Labels {
		if state.CheckLabel(k) == nil {
			labels[k] = v
		}
	}
	for k, v := range asked {
		labels[k] = v
	}
	if len(labels) == 0 {
		return asked
	}
	return labels
}
