package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"croft/state"
)

// systemdProbes are of what a host of systemd's does for machines, which all can do without.
func systemdProbes() []probe {
	return []probe{
		{"host.systemd", false, true, systemdUnits, "machines are held by processes of their own: no systemctl, no journal", "systemctl daemon-reexec"},
		{"host.machined", false, true, underSystemd(machinedHere), "machinectl, systemctl -M and journalctl -M do not find machines", "apt-get install systemd-container; systemctl unmask systemd-machined"},
		{"host.journal", false, true, underSystemd(journalHere), "what machines printed is lost with the host's next reboot, but for their last megabyte or two",
			"mkdir -p /var/log/journal && systemctl restart systemd-journald"},
		{"host.boot", false, true, comesBack, "what ran stays stopped after a reboot of the host", "croft enable"},
	}
}

// systemdUnits asks systemd itself, as a start does.
func systemdUnits(*examination) (string, error) {
	if !booted() {
		return "no systemd as PID 1: machines are held by processes of their own", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	bus, err := (&Engine{}).Bus(ctx)
	if err != nil {
		return "", err
	}
	defer bus.Close()
	version, err := bus.GetManagerProperty("Version")
	if err != nil {
		return "", fmt.Errorf("systemd does not answer: %w", err)
	}
	return fmt.Sprintf("systemd %s holds machines", strings.Trim(version, `"`)), nil
}

// underSystemd asks where systemd is PID 1, and nowhere else.
func underSystemd(ask func(ctx context.Context) (string, error)) func(*examination) (string, error) {
	return func(*examination) (string, error) {
		if !booted() {
			return "not without systemd as PID 1", nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
		defer cancel()
		return ask(ctx)
	}
}

// comesBack looks for the unit that brings back what ran, where there is a machine that needs it.
func comesBack(x *examination) (string, error) {
	if !booted() {
		return "not without systemd as PID 1", nil
	}
	e := &Engine{Dir: &state.Dir{Root: x.rootDir, Run: x.runDir}}
	if exists(filepath.Join(atBoot, e.returnUnit())) {
		return e.returnUnit() + " brings back what ran", nil
	}
	all, _, err := e.Dir.List()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if slices.ContainsFunc(all, func(in *state.Instance) bool {
		on := in.Spec.Boot.Autostart
		return !in.Spec.Remove && (on == nil || *on && !e.enabled(in.Spec.Name))
	}) {
		return "", errors.New("there are machines, and nothing starts them with the host")
	}
	return "no machine needs more to start with the host", nil
}

func machinedHere(ctx context.Context) (string, error) {
	bus, err := wakeMachined(ctx)
	if err != nil {
		return "", err
	}
	defer bus.Close()
	return "machinectl finds machines", nil
}

// journalHere reads a line, first of the journal that is on disk.
func journalHere(ctx context.Context) (string, error) {
	read := func(where ...string) ([]byte, error) {
		return exec.CommandContext(ctx, "journalctl", append([]string{"--quiet", "--no-pager", "--output=cat", "--lines=1"}, where...)...).Output()
	}
	if line, err := read("--directory=/var/log/journal"); err == nil && len(line) > 0 {
		return "the journal is kept on disk", nil
	}
	line, err := read()
	switch {
	case err != nil:
		return "", fmt.Errorf("journalctl: %w", err)
	case len(line) == 0:
		return "", errors.New("the journal is empty")
	}
	return "", errors.New("the journal is in memory")
}
