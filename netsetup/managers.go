package netsetup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/state"
)

// manager is a network manager of the host, which would give our links addresses of its own, or take ours away.
type manager struct {
	name      string
	installed string // exists where it may be started one day
	runs      string // exists where it has been
	file      string // has it leave links alone; in /run, as all that a network of ours is
	text      func(links []string) string
	reload    []string // the command that has it read the file
}

func managers() []manager {
	return []manager{
		{"NetworkManager", "/etc/NetworkManager", "/run/NetworkManager/devices", "/run/NetworkManager/conf.d/50-croft.conf", networkManagerText, []string{"nmcli", "general", "reload", "conf"}},
		{"systemd-networkd", "/run/systemd/system", "/run/systemd/netif/state", "/run/systemd/network/00-croft.network", networkdText, []string{"networkctl", "reload"}},
	}
}

// networkManagerText is as in NetworkManager.conf(5), "device": rules of udev count less, and lists of others are not changed.
func networkManagerText(links []string) string {
	return "# Made by croft: these are its own.\n[device-croft]\nmatch-device=interface-name:" + strings.Join(links, ";interface-name:") + "\nmanaged=0\n"
}

// networkdText comes first by its name: the first file that matches counts (systemd.network(5)).
func networkdText(links []string) string {
	return "# Made by croft: these are its own.\n[Match]\nName=" + strings.Join(links, " ") + "\n\n[Link]\nUnmanaged=yes\n"
}

// netDir is where the host's networks have what must be known to put all back: what croft has changed of this network
// namespace, and for whom. It is gone with a reboot, and so is all that it is about.
func netDir() string { return filepath.Join(state.HostDir, "net") }

// bridgesDir has a file for each bridge of croft's in this network namespace.
func bridgesDir() (string, error) {
	ns, err := namespaceDir()
	return filepath.Join(ns, "bridges"), err
}

// LeaveAlone has the host's network managers leave a bridge of croft's and all links of machines to themselves. It comes before
// the bridge: NetworkManager asks itself whether to manage a link when the link appears.
func LeaveAlone(bridge string) error {
	dir, err := bridgesDir()
	if err != nil {
		return err
	}
	entry := filepath.Join(dir, bridge)
	if _, err := os.Lstat(entry); err == nil && told() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(entry, nil, 0o644); err != nil {
		return err
	}
	return tell()
}

// leaveNoMore is the end of a bridge.
func leaveNoMore(bridge string) error {
	dir, err := bridgesDir()
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, bridge)); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	os.Remove(dir) // these go when they are empty
	os.Remove(filepath.Dir(dir))
	return tell()
}

// Managers names the network managers of this host that have been told to leave our links alone, and those that have not.
func Managers() (leave, meddle []string) {
	for _, m := range managers() {
		if exists(m.file) {
			leave = append(leave, m.name)
		} else if exists(m.runs) {
			meddle = append(meddle, m.name)
		}
	}
	return leave, meddle
}

// told says whether every manager of this host has its file. Who was installed since has none.
func told() bool {
	for _, m := range managers() {
		if exists(m.installed) && !exists(m.file) {
			return false
		}
	}
	return true
}

// tell writes the managers' files, for the bridges of all network namespaces: a manager may be in any. Without bridges there is
// nothing to leave alone.
func tell() error {
	entries, err := filepath.Glob(filepath.Join(netDir(), "*", "bridges", "*"))
	if err != nil {
		return err
	}
	links := []string{HostPrefix + "*"}
	for _, e := range entries {
		links = append(links, filepath.Base(e))
	}
	slices.Sort(links)
	var all []error
	for _, m := range managers() {
		all = append(all, m.tell(slices.Compact(links)))
	}
	return errors.Join(all...)
}

func (m manager) tell(links []string) error {
	if len(links) == 1 {
		if err := os.Remove(m.file); errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	} else {
		if !exists(m.installed) {
			return nil
		}
		if err := os.MkdirAll(filepath.Dir(m.file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(m.file, []byte(m.text(links)), 0o644); err != nil {
			return err
		}
	}
	if exists(m.runs) {
		_, _ = execute(m.reload[0], m.reload[1:]...) // fails when it has been stopped: it reads the file when it starts
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
