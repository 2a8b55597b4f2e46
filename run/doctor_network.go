package run

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/netsetup"
	"croft/state"
)

// Neighbours that the kernel has room for, over all network namespaces: each machine of a network is known to the host, and
// knows the host, by an IPv4 address and two of IPv6.
const manyNeighbours = 4096

func networkProbes() []probe {
	const (
		none     = "machines on networks: --network host and --network none are left"
		loopback = "ports on 127.0.0.1"
	)
	return append(networkKernelProbes(none),
		probe{"network.ipv6", false, false, hasIPv6, "machines have IPv4 addresses alone", "sysctl -w net.ipv6.conf.default.disable_ipv6=0, or boot without ipv6.disable=1"},
		probe{"network.forwarding", false, true, forwards, "machines on networks reach the host and each other alone", "mount -o remount,rw /proc/sys; in a container: start it with --privileged"},
		probe{"network.loopback-ports", false, true, switches("ipv4/conf/lo/route_localnet", "published ports on 127.0.0.1"), loopback, "mount -o remount,rw /proc/sys; in a container: start it with --privileged"},
		probe{"network.bridge-filter", false, false, bridgeFilter, "", ""},
		probe{"network.neighbours", false, false, neighboursOf("ipv4"), "machines by the hundreds lose each other now and then", sysctl("net/ipv4/neigh/default/gc_thresh3", manyNeighbours)},
		probe{"network.neighbours6", false, false, neighboursOf("ipv6"), "machines by the hundreds lose each other now and then", sysctl("net/ipv6/neigh/default/gc_thresh3", manyNeighbours)},
		probe{"network.connections", false, false, atLeast("net/netfilter/nf_conntrack_max", 16384, "connections that are tracked"), "new connections fail when machines have many", sysctl("net/netfilter/nf_conntrack_max", 262144)},
		probe{"network.firewalls", false, true, firewallsPass, "machines on those networks reach the host and each other alone", ""},
		probe{"network.managers", false, false, managersLeave, "a network manager gives links of machines addresses of its own", "start a machine on a network"},
	)
}

// networkKernelProbes are those whose want fails a start on a network.
func networkKernelProbes(loss string) []probe {
	use := func(found string, do func() error) func(*examination) (string, error) {
		return func(*examination) (string, error) { return found, do() }
	}
	return []probe{
		{"network.bridge", false, true, use("bridges", netsetup.ProbeBridges), loss, "modprobe bridge"},
		{"network.veth", false, true, use("links to machines", netsetup.ProbeVeths), loss, "modprobe veth"},
		{"network.filter", false, true, use("packet filter with NAT, at ingress too", netsetup.ProbeTable), loss, "a kernel from 5.19 on with nf_tables, its NAT and its family inet: modprobe nf_tables nft_chain_nat nft_masq"},
		{"network.macvlan", false, true, use("macvlans", netsetup.ProbeMacvlans), "--network macvlan:INTERFACE", "modprobe macvlan"},
	}
}

// explainNetwork adds to an error of making a network what the kernel lacks for it, in doctor's words.
func explainNetwork(err error) error {
	if err == nil || hintOf(err) != "" {
		return err
	}
	for _, p := range networkKernelProbes("") {
		if f := p.fact(nil); f.Status == FactNote {
			return state.Hint(fmt.Errorf("%v: doctor says of %s: %s", err, f.ID, f.Found), f.Remedy)
		}
	}
	return err
}

func hasIPv6(*examination) (string, error) {
	if !netsetup.HasIPv6() {
		return "", errors.New("IPv6 is switched off")
	}
	return "IPv6", nil
}

func switches(path, found string) func(*examination) (string, error) {
	return func(*examination) (string, error) { return found, netsetup.ProbeSwitch(path) }
}

// forwards tells who has switched it on, too: croft does it while a network needs it.
func forwards(*examination) (string, error) {
	for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := netsetup.ProbeSwitch(path); err != nil && !(errors.Is(err, os.ErrNotExist) && strings.HasPrefix(path, "ipv6")) {
			return "", err
		}
	}
	is := func(file string) string {
		if n, err := setting("net/" + file); err == nil && n != 0 {
			return "on"
		}
		return "off"
	}
	return fmt.Sprintf("forwarding, switched on for networks (now IPv4 %s, IPv6 %s)", is("ipv4/ip_forward"), is("ipv6/conf/all/forwarding")), nil
}

// bridgeFilter tells whether frames between machines of one bridge pass the filters of IP as well, those of other firewalls
// among them.
func bridgeFilter(*examination) (string, error) {
	n, err := setting("net/bridge/bridge-nf-call-iptables")
	switch {
	case err != nil:
		return "bridges do not call the filters of IP (no br_netfilter)", nil
	case n == 0:
		return "bridges do not call the filters of IP", nil
	}
	return "bridges call the filters of IP (br_netfilter), croft's let pass", nil
}

func neighboursOf(family string) func(*examination) (string, error) {
	return func(*examination) (string, error) {
		n, err := setting("net/" + family + "/neigh/default/gc_thresh3")
		if errors.Is(err, os.ErrNotExist) {
			return "neighbours: as many as the kernel's first network namespace says", nil
		}
		if err == nil && n < manyNeighbours {
			err = fmt.Errorf("only %d neighbours of %s for the host and all machines together", n, strings.Replace(family, "ip", "IP", 1))
		}
		return fmt.Sprintf("%d neighbours of %s", n, strings.Replace(family, "ip", "IP", 1)), err
	}
}

// bridges are those of croft's networks that are there.
func (x *examination) bridges() ([]string, error) {
	if !exists(filepath.Join(x.rootDir, "networks")) {
		return nil, nil
	}
	all, err := (&state.Dir{Root: x.rootDir}).Networks()
	if err != nil {
		return nil, err
	}
	var bridges []string
	for _, n := range all {
		if _, err := net.InterfaceByName(n.Bridge); err == nil && n.Managed && !n.Internal {
			bridges = append(bridges, n.Bridge)
		}
	}
	return bridges, nil
}

// firewallsPass names the other firewalls of this host; one that lets no machine out is an error.
func firewallsPass(x *examination) (string, error) {
	bridges, err := x.bridges()
	if err != nil {
		return "", err
	}
	all, err := netsetup.Beside(bridges)
	if err != nil {
		return "", err
	}
	var names []string
	for _, f := range all {
		names = append(names, f.Name)
		if f.Shut != nil {
			return "", state.Hint(fmt.Errorf("%s drops what machines of %s send", f.Name, strings.Join(f.Shut, ", ")), f.Remedy)
		}
	}
	switch {
	case names == nil:
		return "no other firewall", nil
	case bridges == nil:
		return strings.Join(names, ", ") + ": will be told of networks", nil
	}
	return fmt.Sprintf("%s, by which %s passes", strings.Join(names, ", "), strings.Join(bridges, ", ")), nil
}

// managersLeave names the network managers that leave links of croft's alone.
func managersLeave(x *examination) (string, error) {
	bridges, err := x.bridges()
	if err != nil {
		return "", err
	}
	leave, meddle := netsetup.Managers()
	if bridges != nil && meddle != nil {
		return "", fmt.Errorf("%s does not know that links of machines are croft's", strings.Join(meddle, " and "))
	}
	if all := slices.Concat(leave, meddle); all != nil {
		return strings.Join(all, " and ") + " will leave links of machines alone", nil
	}
	return "no network manager", nil
}
