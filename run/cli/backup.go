package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// importing is the command that makes a machine of a backup.
func importing(a *app) *man.Command {
	return &man.Command{
		Name: "import", Args: "FILE|- [NAME]", Peers: []string{"restore"}, Short: "Make a machine of a backup of LXD or Incus", New: a.importBackup(), Long: importText,
		Examples: []man.Example{
			{Say: "A container that has left LXD by lxc export web web.tar.gz", Do: "croft import web.tar.gz\ncroft start web"},
			{Say: "Without a file between, under another name", Do: "lxc export web - | croft import - www"},
		}, See: []string{"image", "set", "publish"},
	}
}

const importText = `Makes a machine of what ` + "`lxc export` or `incus export`" + ` has written of a container, and prints its name. Its files become an image without an alias, and the machine has changed nothing of it yet: nothing is copied twice. The machine keeps its host name, machine-id and /etc/hosts. It is not started.

Configuration keys and devices become settings where croft has the thing, those of the container's profiles with them: environment.*, user.*, limits, directories of the host, and NICs: on the bridge or interface that they were on where this host has it, else on ` + state.DefaultNetwork + `. Everything else is told on stderr, line by line, so that it can be judged; snapshots, too, of which a backup may have some, and croft none.

Owners are those that the container sees, whether LXD had shifted them in the backup or not. A backup in the format of a storage driver (--optimized-storage), and one of a virtual machine, is refused.

For an image of LXD there is ` + "`croft image import`" + `.`

func (a *app) importBackup() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		quiet := fs.BoolP("quiet", "q", false, "no progress")
		a.forced(fs)
		return func(ctx context.Context, args []string) error {
			if args[0] == "-" && isTerminal(os.Stdin) {
				return man.Misused("a backup is expected on stdin, and that is a terminal")
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if err := e.Room(a.force); err != nil {
				return err
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			bar := stderrProgress(*quiet)
			var left []string
			in, err := e.ImportBackup(ctx, run.ImportOptions{
				Source: args[0], Stdin: os.Stdin,
				Progress: func(done, total int64) { bar.report("import "+args[0], done, total) },
			}, func(b run.Backup) (s state.Spec, err error) {
				s, left = backupSpec(b, a.host.network())
				if len(args) == 2 {
					s.Name = args[1]
				}
				s.Timeouts.Stop = cmp.Or(s.Timeouts.Stop, int(a.host.StopTimeout))
				s.Timeouts.Ready = cmp.Or(s.Timeouts.Ready, int(a.host.ReadyTimeout))
				return s, nil
			})
			bar.end(err == nil)
			if err != nil {
				return err
			}
			for _, line := range left {
				fmt.Fprintln(os.Stderr, "not taken over: "+harmless(line))
			}
			if on := in.Spec.Boot.Autostart; on != nil && *on {
				fmt.Fprintf(os.Stderr, "croft: croft enable %s has the host start it, as boot.autostart says\n", in.Spec.Name)
			}
			fmt.Println(in.Spec.Name)
			return nil
		}
	}
}

// backupSpec is what a backup asks for in settings of ours, and a line for each thing that has no place here. What was on a
// network that this host does not have is on the given one.
func backupSpec(b run.Backup, network string) (s state.Spec, left []string) {
	s = state.Spec{Name: b.Name, Remove: b.Ephemeral}
	notes := 0
	for _, key := range slices.Sorted(maps.Keys(b.Config)) {
		value := b.Config[key]
		switch top, _, _ := strings.Cut(key, "."); top {
		case "volatile":
			notes++
			continue
		case "image": // what the image says of itself
			continue
		}
		if fresh := b.Config["volatile.apply_template"] != ""; !fresh && cloudInitSetting(croftName(key)) {
			left = append(left, key+": its cloud-init has done that; croft set has it done once more")
			continue
		}
		if err := take(&s, key, value); err != nil {
			left = append(left, fmt.Sprintf("%s=%s: %v", key, value, err))
		}
	}
	if notes > 0 {
		left = append(left, fmt.Sprintf("volatile.*: %d keys, what LXD had noted for itself", notes))
	}
	for _, name := range slices.Sorted(maps.Keys(b.Devices)) {
		if d := b.Devices[name]; d["type"] == "nic" {
			left = append(left, takeNIC(&s, name, d, b.Config["volatile."+name+".hwaddr"], network)...)
			continue
		}
		left = append(left, takeDevice(&s, name, b.Devices[name])...)
	}
	if len(b.Snapshots) > 0 {
		left = append(left, "snapshots "+strings.Join(b.Snapshots, ", ")+": the newest state alone is taken")
	}
	return s, left
}

// take makes a key of LXD's a setting.
func take(s *state.Spec, key, value string) error {
	n, err := settingOf(key)
	if err != nil {
		return errors.New("croft has no such setting")
	}
	changed := *s
	changed.Labels = maps.Clone(s.Labels)
	if err := n.set(&changed, []string{value}); err != nil {
		return err
	}
	if err := changed.Limits.Check(); err != nil {
		return err
	}
	*s = changed
	return nil
}

// deviceText is a device as a line.
func deviceText(name string, d map[string]string) string {
	var words []string
	for _, key := range slices.Sorted(maps.Keys(d)) {
		words = append(words, key+"="+d[key])
	}
	return "device " + name + ": " + strings.Join(words, " ")
}

// takeNIC connects the machine as a NIC of LXD's was: to the same interface of the host, with the MAC that its LAN knows, or
// else to the given network.
func takeNIC(s *state.Spec, name string, d map[string]string, mac, network string) (left []string) {
	kind, on := state.NetworkBridge, cmp.Or(d["parent"], d["network"])
	if d["nictype"] == state.NetworkMacvlan {
		kind = state.NetworkMacvlan
	}
	text := kind + ":" + on
	if _, err := net.InterfaceByName(on); err == nil {
		if mac = cmp.Or(d["hwaddr"], mac); mac != "" {
			text += ",mac=" + mac
		}
	} else {
		text = network
		left = []string{deviceText(name, d) + ": it is on " + network + " here"}
	}
	nic, err := attachment(text)
	if kind, _ := nic.Form(); err != nil || kind != "" && kind != state.NetworkBridge && kind != state.NetworkMacvlan {
		return []string{deviceText(name, d)}
	}
	nic.Name = cmp.Or(nic.Name, d["name"], name)
	s.NICs = append(s.NICs, nic)
	return left
}

// takeDevice makes a device a setting, and gives a line for what cannot be one.
func takeDevice(s *state.Spec, name string, d map[string]string) (left []string) {
	source, target := d["source"], d["path"]
	device := deviceText(name, d)
	switch {
	case d["type"] == "none":
		return nil
	case d["type"] == "disk" && target == "/" && d["size"] == "":
		return nil // where LXD had kept it
	case d["type"] == "disk" && filepath.IsAbs(source) && filepath.IsAbs(target):
		text := source + ":" + target
		if d["readonly"] == "true" {
			text += ":ro"
		}
		if _, err := os.Stat(source); err != nil {
			return []string{device + ": it is not on this host; croft set --volume " + text + " NAME"}
		}
		if err := take(s, "volume", text); err != nil {
			return []string{device + ": " + err.Error()}
		}
		return nil
	}
	return []string{device}
}
