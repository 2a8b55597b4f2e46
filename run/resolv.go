package run

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	"croft/state"
)

// resolv is what the host asks for names, as resolv.conf(5) has it.
type resolv struct {
	text     string // of its own file
	upstream string // what a resolver on the host's loopback asks itself; "" when it does not say
}

// hostResolv reads it. Without a file there is nothing to say.
func hostResolv() resolv {
	text, _ := os.ReadFile("/etc/resolv.conf")
	upstream, _ := os.ReadFile("/run/systemd/resolve/resolv.conf")
	return resolv{string(text), string(upstream)}
}

// resolvConf is the resolv.conf of a machine; "" leaves it to the machine. A machine with links of its own reaches no server on
// the host's loopback: lacks says that the host has no other, and that none was asked for.
func resolvConf(in *state.Instance, r resolv) (text string, lacks bool) {
	asked := slices.Clone(in.Spec.DNS)
	if in.Spec.SharesNetwork() && len(asked) == 0 {
		return r.text, false
	}
	out, dhcp := false, false
	for _, l := range in.Facts.Links {
		if len(in.Spec.DNS) == 0 {
			asked = append(asked, l.DNS...)
		}
		out = out || l.Gateway.IsValid() || l.Gateway6.IsValid() || !l.Managed
		dhcp = dhcp || l.DHCP()
	}
	if len(asked) == 0 && (len(in.Facts.Links) == 0 || dhcp) { // with its address it learns its servers
		return "", false
	}
	servers, rest := readResolv(r.text)
	reachable := slices.DeleteFunc(slices.Clone(servers), onHostOnly)
	if len(reachable) == 0 && r.upstream != "" {
		reachable, rest = readResolv(r.upstream)
		reachable = slices.DeleteFunc(reachable, onHostOnly)
	}
	if len(asked) == 0 && out {
		asked = reachable
		lacks = len(asked) == 0 && len(servers) > 0
	}
	var b strings.Builder
	b.WriteString("# made by croft\n")
	var written []string
	for _, s := range asked {
		if !slices.Contains(written, s) {
			b.WriteString("nameserver " + s + "\n")
			written = append(written, s)
		}
	}
	return b.String() + rest, lacks
}

// readResolv gives the addresses of the servers that a resolv.conf names, and its lines about how to ask.
func readResolv(text string) (servers []string, rest string) {
	for line := range strings.Lines(text) {
		switch words := strings.Fields(line); {
		case len(words) < 2:
		case words[0] == "nameserver":
			servers = append(servers, words[1])
		case words[0] == "search", words[0] == "domain", words[0] == "options":
			rest += strings.Join(words, " ") + "\n"
		}
	}
	return servers, rest
}

// onHostOnly says whether the address of a server means nothing in another network namespace.
func onHostOnly(server string) bool {
	a, err := netip.ParseAddr(server)
	return err != nil || a.IsLoopback() || a.IsUnspecified() || a.Zone() != ""
}
