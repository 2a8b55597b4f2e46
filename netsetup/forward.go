package netsetup

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"croft/state"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespaceDir is this network namespace's place in netDir. Its cookie names it: unlike the number of its inode, the kernel
// gives that to no other one.
func namespaceDir() (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return "", os.NewSyscallError("getsockopt(SO_NETNS_COOKIE)", err)
	}
	return filepath.Join(netDir(), strconv.FormatUint(cookie, 10)), nil
}

// family is what forwarding is about in each version of IP.
type family struct {
	name   string   // of chains
	number string   // in the files of owners
	global string   // the switch, below /proc/sys/net: turning it turns that of every interface
	each   string   // those of interfaces
	turned []string // what the kernel turns as well (inet_forward_change in net/ipv4/devinet.c)
}

func families() [2]family {
	return [2]family{
		{"ip", "4", "ipv4/ip_forward", "ipv4/conf/*/forwarding", []string{"ipv4/conf/all/accept_redirects"}},
		{"ip6", "6", "ipv6/conf/all/forwarding", "ipv6/conf/*/forwarding", nil},
	}
}

// Forward has this host forward packets for an owner, which is the name of a bridge: of IPv4, of IPv6, or, with neither, no
// more. What the first has changed is put back after the last, unless somebody else has come to need it. The caller holds the
// lock of networks.
func Forward(owner string, v4, v6 bool) error {
	ns, err := namespaceDir()
	if err != nil {
		return err
	}
	want := map[bool]string{true: "4"}[v4] + map[bool]string{true: "6"}[v6]
	if err := setOwner(filepath.Join(ns, "forward", owner), want); err != nil {
		return err
	}
	wanted, err := wantedBy(filepath.Join(ns, "forward"))
	if err != nil {
		return err
	}
	b := before{path: filepath.Join(ns, "before.json")}
	for _, f := range families() {
		value, err := readSysctl(f.global)
		if errors.Is(err, os.ErrNotExist) {
			continue // a host without this version of IP
		}
		if err == nil && strings.Contains(wanted, f.number) {
			if value == "0" {
				err = b.turnOn(f)
			}
		} else if err == nil {
			err = b.putBack(f)
		}
		if err != nil {
			return fmt.Errorf("forwarding of IPv%s: %w", f.number, err)
		}
	}
	if wanted == "" {
		os.Remove(filepath.Join(ns, "forward")) // they go when they are empty
		os.Remove(ns)
		os.Remove(netDir())
	}
	return nil
}

// setOwner writes down what an owner wants.
func setOwner(path, want string) error {
	has, err := os.ReadFile(path)
	if err == nil && string(has) == want && want != "" {
		return nil
	}
	if want == "" {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(want), 0o644)
}

// wantedBy is what the owners together want.
func wantedBy(dir string) (string, error) {
	owners, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	var all string
	for _, o := range owners {
		text, err := os.ReadFile(filepath.Join(dir, o.Name()))
		if err != nil {
			return "", err
		}
		all += string(text)
	}
	return all, nil
}

// before is how sysctls were, by their paths below /proc/sys/net.
type before struct {
	path   string
	values map[string]string
}

func (b *before) read() error {
	data, err := os.ReadFile(b.path)
	if errors.Is(err, os.ErrNotExist) {
		b.values = map[string]string{}
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &b.values)
	}
	return err
}

func (b *before) write() error {
	if len(b.values) == 0 {
		if err := os.Remove(b.path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.Marshal(b.values)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o755); err != nil {
		return err
	}
	return state.Replace(b.path, data, 0o644)
}

// note remembers a value, unless an earlier one is known: whoever turns a switch back while we need it finds it turned again,
// and how it was before croft came is what counts in the end.
func (b *before) note(path string) error {
	if _, known := b.values[path]; known {
		return nil
	}
	value, err := readSysctl(path)
	if err == nil {
		b.values[path] = value
	}
	return err
}

// turnOn switches forwarding on. What it changes is on disk before it does.
func (b *before) turnOn(f family) error {
	if err := b.read(); err != nil {
		return err
	}
	// The switch last: it is what putBack goes by.
	changed := append(switchedOn(f.each), f.turned...)
	uplinks := []string{}
	if f.name == "ip6" {
		var err error
		if uplinks, err = advertised(); err != nil {
			return err
		}
	}
	for _, path := range append(append(changed, uplinks...), f.global) {
		if err := b.note(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := b.write(); err != nil {
		return err
	}
	// Before the switch, which has the kernel forget the default routes of advertisements from elsewhere (rt6_purge_dflt_routers).
	for _, path := range uplinks {
		if err := writeSysctl(path, "2"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return writeSysctl(f.global, "1")
}

// switchedOn are the interfaces' own switches that are on while the one for all is off.
func switchedOn(pattern string) (on []string) {
	all, _ := filepath.Glob(filepath.Join("/proc/sys/net", pattern))
	for _, file := range all {
		path := strings.TrimPrefix(file, "/proc/sys/net/")
		if value, err := readSysctl(path); err == nil && value == "1" {
			on = append(on, path)
		}
	}
	return on
}

// advertised are the switches of the interfaces that have their addresses or routes from router advertisements, which a host
// that forwards does not hear unless it is told to (ip-sysctl.rst, "accept_ra"). A manager that hears them itself has switched
// the kernel's own hearing off.
func advertised() (paths []string, err error) {
	lives := map[int]bool{}
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, fmt.Errorf("list the routes of router advertisements: %w", err)
	}
	for _, r := range routes {
		lives[r.LinkIndex] = true
		for _, hop := range r.MultiPath {
			lives[hop.LinkIndex] = true
		}
	}
	addresses, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		lives[a.LinkIndex] = lives[a.LinkIndex] || a.Flags&unix.IFA_F_PERMANENT == 0
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		path := "ipv6/conf/" + l.Attrs().Name + "/accept_ra"
		if value, err := readSysctl(path); err == nil && value == "1" && lives[l.Attrs().Index] {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// putBack makes a family as it was, if it was us who changed it.
func (b *before) putBack(f family) error {
	if err := b.read(); err != nil {
		return err
	}
	if _, ours := b.values[f.global]; !ours {
		return nil
	}
	needed, err := masqueraded(f.name)
	if err != nil {
		return err
	}
	version, _, _ := strings.Cut(f.global, "/")
	if value, err := readSysctl(f.global); err != nil {
		return err
	} else if value == "1" && !needed {
		// The switch first: it turns the others.
		if err := writeSysctl(f.global, b.values[f.global]); err != nil {
			return err
		}
		for path, value := range b.values {
			if path == f.global || !strings.HasPrefix(path, version+"/") {
				continue
			}
			if err := writeSysctl(path, value); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	for path := range b.values {
		if strings.HasPrefix(path, version+"/") {
			delete(b.values, path)
		}
	}
	return b.write()
}

// masqueraded says whether somebody but croft gives what is forwarded another source, and so needs forwarding.
func masqueraded(family string) (bool, error) {
	r, err := readRuleset()
	if err != nil {
		return false, err
	}
	defer r.close()
	return r.masquerades(family)
}

func readSysctl(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join("/proc/sys/net", path))
	return strings.TrimSpace(string(text)), err
}

func writeSysctl(path, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0)
}
