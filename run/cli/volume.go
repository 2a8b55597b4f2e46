package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

// volumeOption is where a mount keeps what an option of -v turns on; nil when there is no such option.
func volumeOption(m *state.Mount, name string) *bool {
	switch name {
	case "ro":
		return &m.ReadOnly
	case "noexec":
		return &m.NoExec
	case "noidmap":
		return &m.NoIDMap
	case "bind":
		return &m.Shallow
	case "rslave":
		return &m.Slave
	}
	return nil
}

// volumeOptions are those, in the order in which they are written.
var volumeOptions = [...]string{"ro", "noexec", "noidmap", "bind", "rslave"}

// volume reads SRC:DST[:OPTION,...]. A relative SRC is the caller's.
func volume(text string) (state.Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return state.Mount{}, man.Misused("volume %q is not SRC:DST[:ro]", text)
	}
	src, err := filepath.Abs(parts[0])
	if err != nil {
		return state.Mount{}, err
	}
	m := state.Mount{Source: src, Target: parts[1]}
	if len(parts) == 3 {
		for _, o := range strings.Split(parts[2], ",") {
			if err := setVolumeOption(&m, o); err != nil {
				return m, man.Misused("volume %q: %v", text, err)
			}
		}
	}
	return m, nil
}

func setVolumeOption(m *state.Mount, o string) error {
	if at := volumeOption(m, o); at != nil {
		*at = true
		return nil
	}
	switch o {
	case "rw", "idmap", "rbind", "exec", "nosuid", "nodev", "private", "rprivate": // so it is anyway
	case "slave":
		m.Slave = true
	case "shared", "rshared":
		return fmt.Errorf("%s: what a machine mounts cannot come to the host; rslave is the way from the host to it", o)
	case "suid", "dev":
		return fmt.Errorf("%s: set-user-id programs and devices of the host's files count for nothing in a machine; --device gives it one", o)
	case "z", "Z":
		return fmt.Errorf("%s: croft relabels no files for SELinux: chcon -R -t container_file_t %s", o, m.Source)
	default:
		return fmt.Errorf("%q is none of rw, %s", o, strings.Join(volumeOptions[:], ", "))
	}
	return nil
}

// volumeText writes a bind as -v takes it.
func volumeText(m state.Mount) string {
	var options []string
	for _, o := range volumeOptions {
		if *volumeOption(&m, o) {
			options = append(options, o)
		}
	}
	text := m.Source + ":" + m.Target
	if options != nil {
		text += ":" + strings.Join(options, ",")
	}
	return text
}

// mountValue takes what docker and podman call a mount for what -v and --tmpfs would say.
type mountValue struct{ fs *pflag.FlagSet }

func (v *mountValue) Type() string   { return "mount" }
func (v *mountValue) String() string { return "" }

func (v *mountValue) Set(text string) error {
	kind, source, target := "volume", "", ""
	var volume, tmpfs []string
	for _, o := range strings.Split(text, ",") {
		key, value, valued := strings.Cut(o, "=")
		on := !valued
		if valued {
			on, _ = strconv.ParseBool(value)
		}
		switch key {
		case "type":
			kind = value
		case "source", "src":
			source = value
		case "target", "destination", "dst":
			target = value
		case "readonly", "ro":
			if on {
				volume = append(volume, "ro")
			}
		case "bind-propagation":
			volume = append(volume, value)
		case "bind-nonrecursive":
			if on {
				volume = append(volume, "bind")
			}
		case "tmpfs-size":
			tmpfs = append(tmpfs, "size="+value)
		case "tmpfs-mode":
			tmpfs = append(tmpfs, "mode="+value)
		default:
			return fmt.Errorf("%q is none of type, source, target, readonly, bind-propagation, bind-nonrecursive, tmpfs-size, tmpfs-mode", key)
		}
	}
	switch {
	case kind != "bind" && kind != "tmpfs":
		return fmt.Errorf("type %s is neither bind nor tmpfs: croft keeps no volumes of its own, a directory of the host is one", kind)
	case target == "" || kind == "bind" && source == "":
		return errors.New("source or target is missing")
	case strings.Contains(source+target, ":"):
		return errors.New("a path with a colon cannot be mounted")
	case kind == "tmpfs" && (source != "" || volume != nil) || kind == "bind" && tmpfs != nil:
		return fmt.Errorf("that is nothing for type %s", kind)
	case kind == "tmpfs" && tmpfs == nil:
		return v.fs.Set("tmpfs", target)
	case kind == "tmpfs":
		return v.fs.Set("tmpfs", target+":"+strings.Join(tmpfs, ","))
	case volume == nil:
		return v.fs.Set("volume", source+":"+target)
	}
	return v.fs.Set("volume", source+":"+target+":"+strings.Join(volume, ","))
}
