package netsetup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset is what this thread's network namespace does to packets, whoever wrote it: the chains of nftables, to which those of
// iptables-nft belong, and of iptables-legacy. A packet must be accepted by every chain at its hook; one that drops it is enough.
type ruleset struct {
	conn   *nftables.Conn
	chains []chain
}

// chain is one of them, as far as it matters here.
type chain struct {
	nft         *nftables.Chain // nil for one of legacy's
	legacy      []string        // the rules of such a one, as iptables -S prints them
	family      string          // ip, ip6 or inet; of another family no packet is forwarded
	table, name string
	forwards    bool // it hangs at the hook that forwarded packets pass
	masks       bool // it may change where packets come from
	drops       bool // what no rule of it decides about
}

func readRuleset() (*ruleset, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	r := &ruleset{conn: conn}
	if err := errors.Join(r.readNFT(), r.readLegacy("ip"), r.readLegacy("ip6")); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *ruleset) close() { r.conn.CloseLasting() }

func (r *ruleset) readNFT() error {
	all, err := r.conn.ListChains()
	if err != nil {
		return fmt.Errorf("list the chains of nftables: %w", err)
	}
	for _, c := range all {
		family, counts := map[nftables.TableFamily]string{
			nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
		}[c.Table.Family]
		if !counts || family == "inet" && strings.HasPrefix(c.Table.Name, tablePrefix) {
			continue
		}
		r.chains = append(r.chains, chain{
			nft: c, family: family, table: c.Table.Name, name: c.Name,
			forwards: c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward,
			masks:    c.Type == nftables.ChainTypeNAT,
			drops:    c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop,
		})
	}
	return nil
}

// readLegacy reads the tables of iptables-legacy that there are. Asking for one that is not there would make it.
func (r *ruleset) readLegacy(family string) error {
	names, err := os.ReadFile("/proc/thread-self/net/" + family + "_tables_names")
	if err != nil {
		return nil // the kernel has none
	}
	for _, table := range strings.Fields(string(names)) {
		if table != "filter" && table != "nat" {
			continue
		}
		command, err := xtables(family, true)
		if errors.Is(err, exec.ErrNotFound) {
			return nil // who has made the table has gone, with what could read it
		}
		if err != nil {
			return err
		}
		out, err := execute(command, "-w", "10", "-t", table, "-S")
		if err != nil {
			return err
		}
		r.chains = append(r.chains, parseLegacy(family, table, out)...)
	}
	return nil
}

// parseLegacy reads what iptables -S prints: -P NAME POLICY, -N NAME, -A NAME RULE.
func parseLegacy(family, table, text string) (all []chain) {
	for line := range strings.Lines(text) {
		word := strings.Fields(line)
		if len(word) < 2 {
			continue
		}
		switch word[0] {
		case "-P", "-N":
			all = append(all, chain{
				legacy: []string{}, family: family, table: table, name: word[1],
				forwards: word[1] == "FORWARD", masks: table == "nat", drops: len(word) > 2 && word[2] == "DROP",
			})
		case "-A":
			i := slices.IndexFunc(all, func(c chain) bool { return c.name == word[1] })
			if i >= 0 {
				all[i].legacy = append(all[i].legacy, line)
			}
		}
	}
	return all
}

// find gives the chains of that name.
func (r *ruleset) find(name string) (all []chain) {
	for _, c := range r.chains {
		if c.name == name {
			all = append(all, c)
		}
	}
	return all
}

// beside says whether a chain of that name is in the same table as c.
func (r *ruleset) beside(c chain, name string) bool {
	return slices.ContainsFunc(r.chains, func(o chain) bool {
		return o.name == name && o.family == c.family && o.table == c.table && (o.nft == nil) == (c.nft == nil)
	})
}

// naming says whether rules of c are about what comes from a bridge, and about what goes to it.
func (r *ruleset) naming(c chain, bridge string) (from, to bool, err error) {
	if c.nft == nil {
		for _, line := range c.legacy {
			from = from || strings.Contains(line, " -i "+bridge+" ")
			to = to || strings.Contains(line, " -o "+bridge+" ")
		}
		return from, to, nil
	}
	rules, err := r.conn.GetRules(c.nft.Table, c.nft)
	if err != nil {
		return false, false, fmt.Errorf("rules of %s: %w", c, err)
	}
	name := []byte(bridge + "\x00")
	for _, rule := range rules {
		var key expr.MetaKey
		for _, e := range rule.Exprs {
			switch e := e.(type) {
			case *expr.Meta:
				key = e.Key
			case *expr.Cmp:
				if e.Op == expr.CmpOpEq && bytes.Equal(bytes.TrimRight(e.Data, "\x00"), name[:len(name)-1]) {
					from = from || key == expr.MetaKeyIIFNAME
					to = to || key == expr.MetaKeyOIFNAME
				}
			}
		}
	}
	return from, to, nil
}

// masquerades says whether somebody but croft gives packets of a family another source: then others than we need forwarding.
func (r *ruleset) masquerades(family string) (bool, error) {
	for _, c := range r.chains {
		if !r.inNAT(c) || c.family != family && c.family != "inet" {
			continue
		}
		if c.nft == nil {
			if slices.ContainsFunc(c.legacy, func(line string) bool {
				return strings.Contains(line, " -j MASQUERADE") || strings.Contains(line, " -j SNAT")
			}) {
				return true, nil
			}
			continue
		}
		rules, err := r.conn.GetRules(c.nft.Table, c.nft)
		if err != nil {
			return false, fmt.Errorf("rules of %s: %w", c, err)
		}
		if slices.ContainsFunc(rules, changesSource) {
			return true, nil
		}
	}
	return false, nil
}

// inNAT says whether c is in a table that has a chain of the kind nat: regular chains have no kind.
func (r *ruleset) inNAT(c chain) bool {
	return slices.ContainsFunc(r.chains, func(o chain) bool {
		return o.masks && o.family == c.family && o.table == c.table && (o.nft == nil) == (c.nft == nil)
	})
}

func changesSource(rule *nftables.Rule) bool {
	return slices.ContainsFunc(rule.Exprs, func(e expr.Any) bool {
		switch e := e.(type) {
		case *expr.Masq:
			return true
		case *expr.NAT:
			return e.Type == expr.NATTypeSourceNAT
		case *expr.Target:
			return e.Name == "MASQUERADE" || e.Name == "SNAT"
		}
		return false
	})
}

func (c chain) String() string {
	kind := "nftables"
	if c.nft == nil {
		kind = "iptables-legacy"
	}
	return fmt.Sprintf("chain %s of table %s %s (%s)", c.name, c.family, c.table, kind)
}

// isXtables says whether c belongs to iptables, which knows these tables and no others.
func (c chain) isXtables() bool { return c.family != "inet" && c.table == "filter" }

// iptables runs the iptables that c belongs to, waiting for others that do.
func (c chain) iptables(args ...string) error {
	command, err := xtables(c.family, c.nft == nil)
	if err == nil {
		_, err = execute(command, append([]string{"-w", "10"}, args...)...)
	}
	return err
}

// xtables names the command for a family and kind of iptables: the one that says what it is or, on a host that has one kind
// only, the one that does not. An exec.ErrNotFound when this host has none: the other kind would write where nobody reads.
func xtables(family string, legacy bool) (string, error) {
	plain := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[family]
	named := plain + "-nft"
	if legacy {
		named = plain + "-legacy"
	}
	if _, err := lookPath(named); err == nil {
		return named, nil
	}
	version, err := execute(plain, "-V")
	if err == nil && strings.Contains(version, "nf_tables") == legacy {
		err = fmt.Errorf("%s: %w", named, exec.ErrNotFound)
	}
	return plain, err
}

// execute runs a command of the host's and gives what it printed; what it complained of is in the error.
func execute(name string, args ...string) (string, error) {
	path, err := lookPath(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin:/usr/bin:/bin")
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(complaint.String()), "\n")
		if said == "" {
			said = err.Error()
		}
		return out.String(), fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), said)
	}
	return out.String(), nil
}

// lookPath finds a command, those in sbin even when the caller's PATH is a user's.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range [...]string{"/usr/sbin", "/sbin"} {
		if err == nil {
			break
		}
		if at := filepath.Join(dir, name); unix.Access(at, unix.X_OK) == nil {
			path, err = at, nil
		}
	}
	return path, err
}
