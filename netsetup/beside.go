package netsetup

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"croft/state"
)

// firewall is a tool that decides about the packets of this host. What it lets pass is its own to say, so it is told in its own
// words, and what it was told has our mark where it has room for one.
type firewall struct {
	name string
	// rules says whether it decides here.
	rules func(r *ruleset) bool
	// passes says whether it knows of a bridge already: by us, or by an administrator, whose word counts then.
	passes func(r *ruleset, bridge string) (bool, error)
	// open has it let out what the bridge's machines send, and in what answers it. Told twice it does nothing.
	open func(r *ruleset, bridge string) error
	// shut takes that back. What somebody else has told it about the bridge stays.
	shut func(r *ruleset, bridge string) error
	// hints are the commands that let in what comes for a port of the machine at a link; none when it does so by itself.
	hints func(r *ruleset, l state.Link, p state.Port) []string
	// line is what to type for open.
	line func(bridge string) string
}

// mark is the comment on what croft tells others.
const mark = "croft"

func firewalls() []firewall {
	return []firewall{
		{"Docker", dockerRules, dockerPasses, dockerOpen, dockerShut, noHints, dockerLine},
		{"UFW", ufwRules, ufwPasses, ufwOpen, ufwShut, ufwHints, ufwLine},
		{"firewalld", firewalldRules, firewalldPasses, firewalldOpen, firewalldShut, firewalldHints, firewalldLine},
	}
}

// noHints is for Docker, which we have let in what has been sent to a published port.
func noHints(*ruleset, state.Link, state.Port) []string { return nil }

// OpenBeside has whatever else rules over this host's packets let pass what a bridge's machines send, and what answers it. Where
// there is nobody else, that is one look; where all is done, one more for each. Without it a network is there, and what it lacks
// is what the error says.
func OpenBeside(bridge string) error {
	r, err := readRuleset()
	if err != nil {
		return err
	}
	defer r.close()
	var all []error
	for _, f := range firewalls() {
		if !f.rules(r) {
			continue
		}
		passes, err := f.passes(r, bridge)
		if err == nil && !passes {
			err = f.open(r, bridge)
		}
		if err != nil {
			all = append(all, fmt.Errorf("%s: %w", f.name, err))
		}
	}
	return errors.Join(all...)
}

// CloseBeside takes back what OpenBeside and LeaveAlone did for a bridge. Done already is fine.
func CloseBeside(bridge string) error {
	managers := leaveNoMore(bridge)
	r, err := readRuleset()
	if err != nil {
		return errors.Join(managers, err)
	}
	defer r.close()
	all := []error{managers}
	for _, f := range firewalls() {
		if err := f.shut(r, bridge); err != nil {
			all = append(all, fmt.Errorf("%s: %w", f.name, err))
		}
	}
	return errors.Join(all...)
}

// Hints are the commands that let in what comes from outside for published ports of the machine at a link: where a firewall keeps
// it out, only its administrator opens it.
func Hints(l state.Link, ports []state.Port) ([]string, error) {
	r, err := readRuleset()
	if err != nil {
		return nil, err
	}
	defer r.close()
	var lines []string
	for _, f := range firewalls() {
		if !f.rules(r) {
			continue
		}
		for _, p := range ports {
			for _, line := range f.hints(r, l, p) {
				if !slices.Contains(lines, line) {
					lines = append(lines, line)
				}
			}
		}
	}
	return lines, nil
}

// Finding is one firewall of this host and what it does to bridges of croft's.
type Finding struct {
	Name   string   // of the tool; of a chain of which nobody is known to have written it, the chain
	Open   []string // bridges whose machines it lets out
	Shut   []string // and those it does not
	Remedy string   // the command for the first of them
}

// Beside tells what else decides about packets here. It changes nothing.
func Beside(bridges []string) ([]Finding, error) {
	r, err := readRuleset()
	if err != nil {
		return nil, err
	}
	defer r.close()
	var all []Finding
	for _, f := range firewalls() {
		if f.rules(r) {
			all = append(all, Finding{Name: f.name})
			if err := all[len(all)-1].sort(r, bridges, f.passes, f.line); err != nil {
				return nil, err
			}
		}
	}
	for _, c := range r.chains {
		if !c.forwards || !c.drops || ofDocker(r, c) || ofUFW(r, c) {
			continue
		}
		passes := func(r *ruleset, bridge string) (bool, error) {
			from, to, err := r.naming(c, bridge)
			return from && to, err
		}
		all = append(all, Finding{Name: c.String()})
		if err := all[len(all)-1].sort(r, bridges, passes, c.line); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (f *Finding) sort(r *ruleset, bridges []string, passes func(*ruleset, string) (bool, error), line func(string) string) error {
	for _, bridge := range bridges {
		open, err := passes(r, bridge)
		if err != nil {
			return err
		}
		if open {
			f.Open = append(f.Open, bridge)
			continue
		}
		if f.Shut == nil {
			f.Remedy = line(bridge)
		}
		f.Shut = append(f.Shut, bridge)
	}
	return nil
}

// line is what to type to have a chain that drops what it does not know let a bridge's machines out.
func (c chain) line(bridge string) string {
	if c.isXtables() {
		name, _ := xtables(c.family, c.nft == nil) // where there is none, that is what is to be installed
		return fmt.Sprintf("%s -A FORWARD %s; %[1]s -A FORWARD %[3]s", name, strings.Join(outward(bridge), " "), strings.Join(inward(bridge), " "))
	}
	return fmt.Sprintf("nft 'add rule %s %s %s iifname %s accept; add rule %[1]s %[2]s %[3]s oifname %[4]s ct state { established, related } accept'",
		c.family, c.table, c.name, bridge)
}

// Docker sets the policy of FORWARD to DROP when it is the one who has switched forwarding on, against neighbours who would use
// the host as a router (moby, "Docker on a router"). That is about nobody's wish for our machines, so the policy is what we
// except them from: by rules at the end of FORWARD, after all that Docker and DOCKER-USER had to say. In DOCKER-USER they would
// stand before what the administrator forbids there, or behind a RETURN of his.

func ofDocker(r *ruleset, c chain) bool {
	return c.isXtables() && c.name == "FORWARD" && c.drops && r.beside(c, "DOCKER-USER") && !ofUFW(r, c)
}

func dockerChains(r *ruleset) (all []chain) {
	for _, c := range r.find("FORWARD") {
		if ofDocker(r, c) {
			all = append(all, c)
		}
	}
	return all
}

func dockerRules(r *ruleset) bool { return dockerChains(r) != nil }

func dockerPasses(r *ruleset, bridge string) (bool, error) {
	for _, c := range dockerChains(r) {
		if from, to, err := r.naming(c, bridge); !from || !to || err != nil {
			return false, err
		}
	}
	return true, nil
}

func outward(bridge string) []string {
	return []string{"-i", bridge, "-m", "comment", "--comment", mark, "-j", "ACCEPT"}
}

// inward is what answers machines, or has been sent to a published port of theirs.
func inward(bridge string) []string {
	return []string{"-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT", "-m", "comment", "--comment", mark, "-j", "ACCEPT"}
}

func dockerOpen(r *ruleset, bridge string) error {
	for _, c := range dockerChains(r) {
		from, to, err := r.naming(c, bridge)
		if err != nil {
			return err
		}
		if !from {
			err = c.iptables(append([]string{"-A", c.name}, outward(bridge)...)...)
		}
		if err == nil && !to {
			err = c.iptables(append([]string{"-A", c.name}, inward(bridge)...)...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dockerShut looks at every FORWARD, since Docker may be gone.
func dockerShut(r *ruleset, bridge string) error {
	for _, c := range r.find("FORWARD") {
		if !c.isXtables() {
			continue
		}
		from, to, err := r.naming(c, bridge)
		if err != nil {
			return err
		}
		if from {
			err = remove(c, outward(bridge))
		}
		if err == nil && to {
			err = remove(c, inward(bridge))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// remove deletes a rule of ours, if it is that one which names the bridge.
func remove(c chain, rule []string) error {
	for {
		if err := c.iptables(append([]string{"-C", c.name}, rule...)...); err != nil {
			return nil
		}
		if err := c.iptables(append([]string{"-D", c.name}, rule...)...); err != nil {
			return err
		}
	}
}

func dockerLine(bridge string) string {
	return "iptables -A FORWARD " + strings.Join(outward(bridge), " ")
}

// UFW keeps what it is told in a file and as rules, in one chain for each family that is there while it is enabled.

const (
	ufwForward  = "ufw-user-forward"
	ufw6Forward = "ufw6-user-forward"
	ufwFile     = "/etc/ufw/user.rules"
)

func ofUFW(r *ruleset, c chain) bool { return r.beside(c, ufwForward) || r.beside(c, ufw6Forward) }

func ufwChains(r *ruleset) []chain { return append(r.find(ufwForward), r.find(ufw6Forward)...) }

func ufwRules(r *ruleset) bool { return ufwChains(r) != nil }

func ufwPasses(r *ruleset, bridge string) (bool, error) {
	for _, c := range ufwChains(r) {
		if from, _, err := r.naming(c, bridge); !from || err != nil {
			return false, err
		}
	}
	return true, nil
}

func ufwOpen(_ *ruleset, bridge string) error {
	_, err := execute("ufw", "route", "allow", "in", "on", bridge, "comment", mark)
	return err
}

// ufwShut goes by the file: the rule is in it after the host has started again, and while UFW is disabled.
func ufwShut(_ *ruleset, bridge string) error {
	text, err := os.ReadFile(ufwFile)
	if errors.Is(err, os.ErrNotExist) || err == nil && !strings.Contains(string(text), ufwTuple("any", "any", "in_"+bridge)+" comment="+hex.EncodeToString([]byte(mark))) {
		return nil
	}
	if err == nil {
		_, err = execute("ufw", "route", "delete", "allow", "in", "on", bridge)
	}
	return err
}

// ufwTuple is the line of the file before a rule.
func ufwTuple(proto, port, interfaces string) string {
	return fmt.Sprintf("### tuple ### route:allow %s %s 0.0.0.0/0 any 0.0.0.0/0 %s", proto, port, interfaces)
}

// span writes ports in a row.
func span(first uint16, n int, to string) string {
	if n == 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d%s%d", first, to, int(first)+n-1)
}

func ufwHints(_ *ruleset, l state.Link, p state.Port) []string {
	port := span(p.Guest, p.Len(), ":")
	if text, err := os.ReadFile(ufwFile); err == nil && strings.Contains(string(text), ufwTuple(p.Proto, port, "out_"+l.Parent)) {
		return nil
	}
	return []string{fmt.Sprintf("ufw route allow out on %s to any port %s proto %s", l.Parent, port, p.Proto)}
}

func ufwLine(bridge string) string { return "ufw route allow in on " + bridge }

// firewalld has zones of interfaces. In trusted, what machines send is let out, and nothing in by it: other zones decide about
// what comes from their interfaces. It is its runtime configuration that is changed, since a zone that is written down would
// outlive the network when somebody removes firewalld first; a reload forgets it, and the next start tells it again.

const firewalldZone = "trusted"

// firewalldChains dispatch by the zone of where a packet comes from: filter_FORWARD_IN_ZONES, since 1.0 filter_FORWARD_ZONES,
// since 2.0 filter_FORWARD_POLICIES, since 2.5 filter_FORWARD_dispatch.
func firewalldChains(r *ruleset) []chain {
	return ofFirewalld(r, "FORWARD_IN_ZONES", "FORWARD_ZONES", "FORWARD_POLICIES", "FORWARD_dispatch")
}

// ofFirewalld finds chains of firewalld's. With the iptables backend they are in the table filter, and their names begin later.
func ofFirewalld(r *ruleset, names ...string) (all []chain) {
	for _, c := range r.chains {
		name, prefixed := strings.CutPrefix(c.name, "filter_")
		if slices.Contains(names, name) && (prefixed && c.table == "firewalld" || !prefixed && c.isXtables()) {
			all = append(all, c)
		}
	}
	return all
}

func firewalldRules(r *ruleset) bool { return firewalldChains(r) != nil }

func firewalldPasses(r *ruleset, bridge string) (bool, error) {
	for _, c := range firewalldChains(r) {
		if from, _, err := r.naming(c, bridge); !from || err != nil {
			return false, err
		}
	}
	return true, nil
}

func firewalldOpen(_ *ruleset, bridge string) error {
	_, err := execute("firewall-cmd", "--zone="+firewalldZone, "--change-interface="+bridge)
	return err
}

func firewalldShut(r *ruleset, bridge string) error {
	if !firewalldRules(r) {
		return nil
	}
	if passes, err := firewalldPasses(r, bridge); !passes || err != nil {
		return err
	}
	if _, err := execute("firewall-cmd", "--permanent", "--zone="+firewalldZone, "--query-interface="+bridge); err == nil {
		return nil // written down by an administrator
	}
	if _, err := execute("firewall-cmd", "--zone="+firewalldZone, "--query-interface="+bridge); err != nil {
		return nil // in another zone, and not by us
	}
	_, err := execute("firewall-cmd", "--zone="+firewalldZone, "--remove-interface="+bridge)
	return err
}

// firewalldHints are for StrictForwardPorts=yes (since 2.3): there is a chain then of what has been sent to a published port, which
// refuses all but what firewalld forwards as well. Otherwise firewalld lets it in, whoever published it.
func firewalldHints(r *ruleset, l state.Link, p state.Port) (lines []string) {
	strict := ofFirewalld(r, "FORWARD_dnat")
	if len(strict) == 0 {
		return nil
	}
	zones, _ := execute("firewall-cmd", "--list-all-zones") // who cannot be asked is told once more
	at, _ := netip.ParseAddr(p.IP)
	for _, to := range [...]netip.Addr{l.IP.Addr(), l.IP6.Addr()} {
		if !to.IsValid() || at.IsValid() && at.Is4() != to.Is4() {
			continue
		}
		if line, done := firewalldForward(p, at, to); !strings.Contains(zones, done) {
			lines = append(lines, line)
		}
		if strict[0].family == "inet" { // its rule is about both versions of IP
			break
		}
	}
	return lines
}

// firewalldForward is the command that forwards a port of the host's, of an address if that is valid, and what a list of zones
// has of it then.
func firewalldForward(p state.Port, at, to netip.Addr) (line, listed string) {
	host, guest := span(p.Host, p.Len(), "-"), span(p.Guest, p.Len(), "-")
	if !at.IsValid() {
		listed = fmt.Sprintf("port=%s:proto=%s:toport=%s:toaddr=%s", host, p.Proto, guest, to)
		return "firewall-cmd --add-forward-port=" + listed, listed
	}
	family := "ipv6"
	if at.Is4() {
		family = "ipv4"
	}
	listed = fmt.Sprintf("rule family=%q destination address=%q forward-port port=%q protocol=%q to-port=%q to-addr=%q",
		family, at, host, p.Proto, guest, to)
	return "firewall-cmd --add-rich-rule='" + listed + "'", listed
}

func firewalldLine(bridge string) string {
	return "firewall-cmd --zone=" + firewalldZone + " --change-interface=" + bridge
}
