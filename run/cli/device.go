package cli

import (
	"fmt"
	"strconv"
	"strings"

	"croft/man"
	"croft/state"
)

// deviceOptions are those of --device, in the order in which they are written.
var deviceOptions = [...]string{"mode", "uid", "gid", "required"}

// device reads PATH[:TARGET][:ACCESS], a class or a CDI name, and behind it options.
func device(text string) (state.Device, error) {
	what, options, more := strings.Cut(text, ",")
	d, err := deviceNamed(text, what)
	if err != nil {
		return d, err
	}
	for more {
		var option string
		option, options, more = strings.Cut(options, ",")
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "mode":
			d.Mode = value
		case "uid", "gid":
			at := &d.UID
			if key == "gid" {
				at = &d.GID
			}
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return d, man.Misused("device %q: %s %q is no number of a user or group of the machine", text, key, value)
			}
			*at = uint32(n)
		case "required":
			required, err := strconv.ParseBool(value)
			if err != nil {
				return d, man.Misused("device %q: required is true or false", text)
			}
			d.Optional = !required
		default:
			all := deviceOptions[:]
			return d, &man.Misuse{Say: fmt.Sprintf("device %q: %q is none of %s", text, key, strings.Join(all, ", ")), Hint: man.Nearest(key, all)}
		}
	}
	return d, nil
}

// deviceNamed reads what stands before the options.
func deviceNamed(text, what string) (state.Device, error) {
	if !strings.HasPrefix(what, "/") {
		if strings.Contains(what, "=") {
			return state.Device{CDI: what}, nil
		}
		return deviceOfClass(text, what)
	}
	parts := strings.Split(what, ":")
	d := state.Device{Path: parts[0]}
	rest := parts[1:]
	if len(rest) > 0 && strings.HasPrefix(rest[0], "/") {
		if d.Target = rest[0]; d.Target == d.Path {
			d.Target = ""
		}
		rest = rest[1:]
	}
	if len(rest) > 0 {
		d.Access, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 || len(parts) > 1 && parts[len(parts)-1] == "" {
		return d, man.Misused("device %q is not PATH[:TARGET][:rwm]", text)
	}
	if d.Access == "rwm" {
		d.Access = ""
	}
	return d, nil
}

func deviceOfClass(text, class string) (state.Device, error) {
	var names []string
	for _, c := range state.DeviceClasses() {
		if c.Name == class {
			return state.Device{Class: class}, nil
		}
		names = append(names, c.Name)
	}
	say := fmt.Sprintf("device %q is no path in /dev and none of the classes %s", text, strings.Join(names, ", "))
	hint := man.Nearest(class, names)
	if strings.Contains(class, "/") {
		hint = "/" + class
	}
	return state.Device{}, &man.Misuse{Say: say, Hint: hint}
}

// deviceArg writes a device as --device takes it.
func deviceArg(d state.Device) string {
	text := d.Class + d.CDI + d.Path
	if d.Target != "" {
		text += ":" + d.Target
	}
	if d.Access != "" {
		text += ":" + d.Access
	}
	if d.Mode != "" {
		text += ",mode=" + d.Mode
	}
	if d.UID != 0 {
		text += fmt.Sprintf(",uid=%d", d.UID)
	}
	if d.GID != 0 {
		text += fmt.Sprintf(",gid=%d", d.GID)
	}
	if d.Optional {
		text += ",required=false"
	}
	return text
}

// deviceEntry is what an entry of device is called: its place in the machine, its class, or its CDI name.
func deviceEntry(value string) string {
	d, err := device(value)
	if err != nil {
		return value
	}
	return d.Entry()
}

const devicesText = "`croft run --device /dev/ttyUSB0 ...`" + ` gives a machine a device of the host: its node, which belongs to the machine's root, and leave to open it, which the machine's cgroup refuses for all other devices.

    croft run -d --name vpn --device tun debian/13
    croft run -d --name lab --device /dev/ttyUSB0:/dev/modem:rw debian/13
    croft create --name scan --device /dev/bus/usb,required=false debian/13

On a machine that runs, ` + "`croft set lab device=/dev/ttyUSB1`" + ` and ` + "`croft unset lab device./dev/ttyUSB1`" + ` do so at once, and ` + "`volume`" + ` likewise. What the machine uses stays, and the command says so: nothing is taken away behind its back.

## What --device takes
- ` + "`PATH[:TARGET][:ACCESS]`" + `: a node of the host, or a directory with all nodes in it. TARGET is where the machine finds it, by default at the same place. ACCESS is what the cgroup allows: r to read, w to write, m to make a node; by default all.
- A class:
  - ` + "`tun`" + `: /dev/net/tun, for VPNs and user mode networks;
  - ` + "`fuse`" + `: /dev/fuse, for sshfs, squashfuse, fuse-overlayfs; the machine's root may mount them, and so may its users by fusermount3;
  - ` + "`kvm`" + `: /dev/kvm, and /dev/vhost-net where there is one;
  - ` + "`loop`" + `: /dev/loop-control and the loop devices that there are at its start. They are the host's own: who has them reads and changes what others keep there. The kernel lets no machine mount the filesystem of a disk, so only programs that read disks themselves have a use for them;
  - ` + "`dri`" + `, ` + "`snd`" + `: graphics and sound cards;
  - ` + "`ppp`" + `: /dev/ppp.
- ` + "`VENDOR/CLASS=NAME`" + `: what the vendor's CDI file in /etc/cdi or /var/run/cdi says, ` + "`nvidia.com/gpu=all`" + ` for one: nodes, libraries, variables, groups, and programs that are run at the start and the end. ` + "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`" + ` writes NVIDIA's. A machine that runs neither gets nor loses such a device.

Options follow behind commas: ` + "`mode=0660`" + `, ` + "`uid=1000`" + ` and ` + "`gid=106`" + ` are those of the node in the machine, numbers of its own users and groups; its mode is the host's and its owner the machine's root otherwise. With ` + "`required=false`" + ` the machine starts without a device that the host does not have then.

A socket is no device: ` + "`-v /run/app.sock:/run/app.sock`" + `. Nor is a directory or file on a disk. A disk as a whole is one: ` + "`--device /dev/sdb`" + ` gives its bytes to read and write, and no leave to mount it.

## What -v takes
` + "`SRC:DST[:OPTION,...]`" + `: a directory or file of the host, a socket too, with all that is mounted below it. It is nosuid and nodev, and whatever the options say, the machine's root cannot change them.

- ` + "`ro`" + `: read-only, with all that is mounted below;
- ` + "`noexec`" + `: no program in it can be executed;
- ` + "`bind`" + `: without what is mounted below it;
- ` + "`rslave`" + `: what the host mounts below it later comes as well, with the host's flags and ids;
- ` + "`noidmap`" + `: with the host's ids, which are nobody's in the machine: for what cannot be shifted, as some network filesystems.

` + "`--mount type=bind,source=SRC,target=DST,readonly`" + ` and ` + "`--mount type=tmpfs,target=DST,tmpfs-size=64M`" + ` are the same in docker's words.`
