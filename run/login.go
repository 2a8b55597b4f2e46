package run

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"croft/rootfs"
)

// The terminals that images have their logins on, tty1 and such, are not in a machine: there is the console alone.
// So the logins are moved there, in the way of each init, by generated files: a machine that writes its own has
// them as it likes. systemd does it by itself, once it knows that it is in a container.

// loginFiles are the generated files that give a machine of this image a login on its console.
func loginFiles(kind string, layers []string) (rootfs.Files, error) {
	switch kind {
	case "", "systemd":
		return nil, nil
	case "runit":
		return runitFiles(layers)
	case "openrc":
		return openrcFiles(layers)
	}
	return inittabFiles(kind, layers)
}

// ownInittab is what busybox does without an inittab, less the shells on tty2 to tty4.
const ownInittab = `::sysinit:/etc/init.d/rcS
::askfirst:-/bin/sh
::ctrlaltdel:/sbin/reboot
::shutdown:/sbin/swapoff -a
::shutdown:/bin/umount -a -r
::restart:/sbin/init
`

func inittabFiles(kind string, layers []string) (rootfs.Files, error) {
	const name = "/etc/inittab"
	text, err := rootfs.ReadFile(layers, name)
	if errors.Is(err, fs.ErrNotExist) && kind == "busybox" {
		return rootfs.Files{name: {Text: ownInittab}}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	moved := onConsole(string(text))
	if moved == string(text) {
		return nil, nil
	}
	return rootfs.Files{name: {Text: moved}}, nil
}

// onConsole gives an inittab whose first entry for a terminal is on the console, unless another is there already,
// and in which those for other terminals are comments: their programs would end at once and be started again for
// ever.
func onConsole(inittab string) string {
	lines := strings.SplitAfter(inittab, "\n")
	taken := false
	for _, line := range lines {
		taken = taken || entryOf(line).console()
	}
	for i, line := range lines {
		e := entryOf(line)
		switch tty := e.terminal(); {
		case tty == "":
		case taken:
			lines[i] = "#" + line
		default:
			lines[i] = e.on("console", tty)
			taken = true
		}
	}
	return strings.Join(lines, "")
}

// inittabEntry is a line of an inittab that keeps a program running: ID:RUNLEVELS:ACTION:COMMAND. To busybox the id is the
// terminal, and none is the console.
type inittabEntry struct{ id, levels, action, command string }

// entryOf reads a line; the entry is empty when it is a comment or another action.
func entryOf(line string) inittabEntry {
	f := strings.SplitN(line, ":", 4)
	if len(f) != 4 || strings.HasPrefix(strings.TrimSpace(line), "#") || f[2] != "respawn" && f[2] != "askfirst" {
		return inittabEntry{}
	}
	return inittabEntry{f[0], f[1], f[2], f[3]}
}

// terminal is the one that the entry is for, when it is one that no machine has.
func (e inittabEntry) terminal() string {
	for _, word := range append(strings.Fields(e.command), e.id) {
		name := strings.TrimPrefix(word, "/dev/")
		number := strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/")
		kind := strings.TrimSuffix(name, number)
		if number == "" || strings.Trim(number, "0123456789") != "" {
			continue
		}
		if strings.HasPrefix(kind, "tty") || kind == "hvc" || kind == "vc/" || kind == "xvc" {
			return name
		}
	}
	return ""
}

// console says whether the entry lets somebody in at the console.
func (e inittabEntry) console() bool {
	if e.action == "askfirst" && e.id == "" {
		return true
	}
	words := strings.Fields(e.command)
	for _, word := range append(words, e.id) {
		if strings.TrimPrefix(word, "/dev/") == "console" {
			return true
		}
	}
	if len(words) == 0 || e.id != "" {
		return false
	}
	switch path.Base(strings.TrimLeft(words[0], "-")) {
	case "sh", "ash", "bash", "login", "getty", "agetty":
		return true
	}
	return false
}

// on is the entry's line with another terminal in place of tty.
func (e inittabEntry) on(other, tty string) string {
	words := strings.Split(e.command, " ")
	for i, word := range words {
		if name := strings.TrimSpace(word); strings.TrimPrefix(name, "/dev/") == tty {
			words[i] = strings.Replace(word, tty, other, 1)
		}
	}
	if e.id == tty {
		e.id = other
	}
	return e.id + ":" + e.levels + ":" + e.action + ":" + strings.Join(words, " ")
}

// terminals are the names that services for them have.
var terminals = [...]string{"tty1", "tty2", "tty3", "tty4", "tty5", "tty6", "ttyS0"}

func runitFiles(layers []string) (rootfs.Files, error) {
	const services = "/etc/runit/runsvdir/default/"
	f := rootfs.Files{}
	for _, tty := range terminals {
		for _, name := range []string{"getty-" + tty, "agetty-" + tty} {
			dir, _, err := rootfs.Lookup(layers, services+name)
			if err == nil {
				f[dir+"/down"] = rootfs.File{} // runsv then waits for "sv up"
			}
		}
	}
	if _, _, err := rootfs.Lookup(layers, services+"agetty-console"); err == nil {
		return f, nil // one of its own
	}
	getty, err := firstProgram(layers, "/sbin/getty", "/sbin/agetty")
	if getty != "" {
		f[services+"getty-console/run"] = rootfs.File{Text: "#!/bin/sh\nexec chpst -P " + getty + " 38400 console linux\n"}
	}
	return f, err
}

func openrcFiles(layers []string) (rootfs.Files, error) {
	const services, level = "/etc/init.d/", "/etc/runlevels/default/"
	if service, err := firstProgram(layers, services+"agetty"); service == "" || err != nil {
		return nil, err
	}
	f := rootfs.Files{}
	for _, tty := range terminals {
		if _, _, err := rootfs.Lookup(layers, level+"agetty."+tty); err == nil {
			f[services+"agetty."+tty] = rootfs.File{Text: "#!/sbin/openrc-run\ndepend() { keyword -lxc; }\n"}
		}
	}
	// For a service of a runlevel OpenRC asks for the name alone, there and in init.d. Without a baud rate agetty takes
	// the console for a line on which keys do not make signals.
	f[services+"agetty.console"] = rootfs.File{Text: "#!/sbin/openrc-run\n: ${baud:=38400}\n. /etc/init.d/agetty\n"}
	f[level+"agetty.console"] = rootfs.File{}
	return f, nil
}

// firstProgram is the first of names that the image has, "" for none.
func firstProgram(layers []string, names ...string) (string, error) {
	for _, name := range names {
		_, info, err := rootfs.Lookup(layers, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return name, nil
		}
	}
	return "", nil
}
