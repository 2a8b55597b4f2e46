package netsetup

import (
	"fmt"
	"os"

	"croft/idmap"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// trial does something in a network namespace of its own, which goes with all that has been made in it.
func trial(do func() error) error {
	return idmap.Thread(func() error { return os.NewSyscallError("unshare(CLONE_NEWNET)", unix.Unshare(unix.CLONE_NEWNET)) }, do)
}

// ProbeBridges makes one, where nobody sees it.
func ProbeBridges() error {
	return trial(func() error { return create(&netlink.Bridge{LinkAttrs: named("probe")}) })
}

// ProbeVeths makes a pair.
func ProbeVeths() error {
	return trial(func() error { return create(&netlink.Veth{LinkAttrs: named("probe"), PeerName: "peer"}) })
}

// ProbeMacvlans makes one on an end of a pair.
func ProbeMacvlans() error {
	return trial(func() error {
		if err := create(&netlink.Veth{LinkAttrs: named("parent"), PeerName: "peer"}); err != nil {
			return err
		}
		parent, err := netlink.LinkByName("parent")
		if err != nil {
			return err
		}
		attrs := named("probe")
		attrs.ParentIndex = parent.Attrs().Index
		return create(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
	})
}

// ProbeSwitch turns a sysctl on, below /proc/sys/net and of a namespace that is nobody's: /proc/sys may be read-only.
func ProbeSwitch(path string) error {
	return trial(func() error { return writeSysctl(path, "1") })
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func create(link netlink.Link) error {
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("make a %s: %w", link.Type(), err)
	}
	return nil
}
