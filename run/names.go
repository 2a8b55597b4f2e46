package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"croft/state"
)

// names are who has which name on the networks of a root: the machines that run, and how far their hosts files tell so.
// They are kept in the run directory, so that a start reads one file and not the records of all instances.
type names struct {
	Machines map[string]named `json:"machines"`
	Changed  map[string]int   `json:"changed"` // by network: how often its names have changed
	Written  map[string]int   `json:"written"` // by network: how much of that is in the files of its machines
}

// named is a machine as others know it.
type named struct {
	Name  string           `json:"name"`
	Host  string           `json:"host"`
	Links []namedLink      `json:"links"`
	Hosts []state.HostName `json:"hosts,omitempty"` // for its own file alone
}

type namedLink struct {
	Network  string       `json:"network"`
	Addrs    []netip.Addr `json:"addrs"` // none that anybody but the machine knows
	Isolated bool         `json:"isolated,omitempty"`
}

func nameOf(spec *state.Spec, links []state.Link) named {
	m := named{Name: spec.Name, Host: spec.Host()}
	for _, l := range links {
		n := namedLink{Network: l.Network, Isolated: l.Isolated}
		for _, p := range []netip.Prefix{l.IP, l.IP6} {
			if p.IsValid() {
				n.Addrs = append(n.Addrs, p.Addr())
			}
		}
		m.Links = append(m.Links, n)
	}
	return m
}

// itself is a machine as its own file knows it.
func (e *Engine) itself(spec *state.Spec, links []state.Link) (m named, err error) {
	m = nameOf(spec, links)
	m.Hosts, err = e.hostNames(spec)
	return m, err
}

// hostNames are the lines that were asked for, with the host's addresses in place of the word for them.
func (e *Engine) hostNames(s *state.Spec) (all []state.HostName, err error) {
	for _, h := range s.AddHosts {
		if h.Address != state.HostGateway {
			all = append(all, h)
			continue
		}
		addrs, err := e.hostGateway(s)
		if err != nil {
			return nil, fmt.Errorf("add-host %s:%s: %w", h.Name, h.Address, err)
		}
		for _, a := range addrs {
			all = append(all, state.HostName{Name: h.Name, Address: a.String()})
		}
	}
	return all, nil
}

// hostGateway are the addresses at which a machine finds the host.
func (e *Engine) hostGateway(s *state.Spec) (addrs []netip.Addr, err error) {
	if s.HostNetwork() {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	for _, nic := range s.NICs {
		kind, of := nic.Form()
		if kind != "" {
			continue
		}
		n, err := e.Dir.Network(of)
		if err != nil {
			return nil, err
		}
		if !n.Managed {
			continue
		}
		for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
			if p.IsValid() {
				addrs = append(addrs, p.Addr())
			}
		}
		return addrs, nil
	}
	return nil, fmt.Errorf("the host has no address on any of its networks: %w", state.ErrInvalid)
}

func (m named) networks() (all []string) {
	for _, l := range m.Links {
		all = append(all, l.Network)
	}
	return all
}

func (m named) addrs() (all []netip.Addr) {
	for _, l := range m.Links {
		all = append(all, l.Addrs...)
	}
	return all
}

// on says whether the machine has a link to the network over which it can be reached by the network's other machines.
func (m named) on(network string) bool {
	return slices.ContainsFunc(m.Links, func(l namedLink) bool { return l.Network == network && !l.Isolated })
}

// announce makes the names of a machine that is about to run known on its networks, and those of their machines to it.
// What it said before is replaced.
func (e *Engine) announce(in *state.Instance, links []state.Link) error {
	me, err := e.itself(&in.Spec, links)
	if err != nil {
		return err
	}
	return e.changeNames(func(n *names) (networks []string, changed bool) {
		was := n.Machines[me.Name]
		if n.Machines[me.Name] = me; len(links) == 0 {
			delete(n.Machines, me.Name)
		}
		return append(was.networks(), me.networks()...), !reflect.DeepEqual(was, me)
	})
}

// withdraw takes the names of a start away again. Nothing of it there is fine.
func (e *Engine) withdraw(a *state.Applied) error {
	if len(a.Facts.Links) == 0 {
		return nil
	}
	return e.changeNames(func(n *names) (networks []string, changed bool) {
		was, is := n.Machines[a.Spec.Name]
		delete(n.Machines, a.Spec.Name)
		networks = was.networks()
		for _, l := range a.Facts.Links { // whoever was killed at this may not have come to the files
			networks = append(networks, l.Network)
		}
		return networks, is
	})
}

// changeNames changes who there is, and then the files of the machines in the networks that change has named. There are
// two locks: of many who come at the same time the first one writes the files, those who come meanwhile wait for it, and
// the first of them writes for all.
func (e *Engine) changeNames(change func(*names) (networks []string, changed bool)) error {
	since := map[string]int{}
	err := e.editNames(func(n *names) {
		networks, changed := change(n)
		for _, network := range networks {
			if _, twice := since[network]; changed && !twice {
				n.Changed[network]++
			}
			since[network] = n.Changed[network]
		}
	})
	if err != nil {
		return err
	}
	// Also where nothing has changed: who is writing now may still be at the files of a machine that will be removed next.
	lock, err := state.Lock(filepath.Join(e.Dir.Run, ".hosts.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	return e.writeNames(since)
}

func (e *Engine) namesFile() string { return filepath.Join(e.Dir.Run, ".names.json") }

func (e *Engine) readNames() (*names, error) {
	n := &names{}
	data, err := os.ReadFile(e.namesFile())
	if err == nil {
		err = json.Unmarshal(data, n)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, m := range []*map[string]int{&n.Changed, &n.Written} {
		if *m == nil {
			*m = map[string]int{}
		}
	}
	if n.Machines == nil {
		n.Machines = map[string]named{}
	}
	return n, nil
}

// editNames changes the names under their lock. Nothing of it has to survive a power cut.
func (e *Engine) editNames(change func(*names)) error {
	lock, err := state.Lock(filepath.Join(e.Dir.Run, ".names.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	n, err := e.readNames()
	if err != nil {
		return err
	}
	change(n)
	aside := e.namesFile() + ".new"
	if len(n.Machines)+len(n.Changed) == 0 {
		return errors.Join(unlink(aside), unlink(e.namesFile()))
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := os.WriteFile(aside, data, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, e.namesFile())
}

// unlink removes a file that need not be there.
func unlink(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// writeNames writes the files of all machines of the networks whose files are older than since, and of those that have
// lost a machine unnoticed. The caller has the lock of those who write.
func (e *Engine) writeNames(since map[string]int) error {
	n, err := e.readNames()
	if err != nil {
		return err
	}
	stale := map[string]bool{}
	for network, change := range since {
		if n.Written[network] < change {
			stale[network] = true
		}
	}
	if len(stale) == 0 {
		return nil
	}
	dead := n.bury(stale, e.runs)
	var w hostsWriter
	n.blocks(stale, func(name string, block []byte) {
		_ = w.put(e.Dir.RootOf(name), block) // what one machine does to its file keeps no other from starting
	})
	return e.editNames(func(now *names) {
		for _, name := range dead {
			if !e.runs(name) { // it may have been started meanwhile
				delete(now.Machines, name)
			}
		}
		for network := range stale {
			now.Written[network] = n.Changed[network]
		}
		now.forget()
	})
}

// runs says whether somebody holds the machine, or it has processes all the same: its keeper was killed.
func (e *Engine) runs(name string) bool {
	if held, err := e.Dir.Claimed(name); held || err != nil {
		return true
	}
	in, err := e.Dir.Get(name)
	return err == nil && in.Applied != nil && in.Applied.Populated()
}

// bury takes machines out of stale networks that do not run any more, whose end nobody saw, and adds their other networks to
// stale.
func (n *names) bury(stale map[string]bool, runs func(string) bool) (dead []string) {
	alive := map[string]bool{}
	for more := true; more; {
		more = false
		for name, m := range n.Machines {
			if alive[name] || !slices.ContainsFunc(m.networks(), func(w string) bool { return stale[w] }) {
				continue
			}
			if alive[name] = runs(name); alive[name] {
				continue
			}
			dead, more = append(dead, name), true
			delete(n.Machines, name)
			for _, network := range m.networks() {
				stale[network] = true
			}
		}
	}
	return dead
}

// forget drops the numbers of networks that have no machine.
func (n *names) forget() {
	used := map[string]bool{}
	for _, m := range n.Machines {
		for _, network := range m.networks() {
			used[network] = true
		}
	}
	for network := range n.Changed {
		if !used[network] && n.Changed[network] == n.Written[network] {
			delete(n.Changed, network)
			delete(n.Written, network)
		}
	}
}

// blocks gives each machine of the networks, and croft's part of its hosts file, to each.
func (n *names) blocks(networks map[string]bool, each func(name string, block []byte)) {
	sorted := slices.SortedFunc(maps.Values(n.Machines), func(a, b named) int { return strings.Compare(a.Name, b.Name) })
	told := map[string]telling{} // by network
	var block []byte
	for i, m := range sorted {
		if !slices.ContainsFunc(m.networks(), func(w string) bool { return networks[w] }) {
			continue
		}
		var others [][]byte
		for j, network := range m.networks() {
			if !m.on(network) || slices.Contains(m.networks()[:j], network) {
				continue
			}
			if _, ok := told[network]; !ok {
				told[network] = tell(sorted, network)
			}
			t := told[network]
			others = append(others, t.text[:t.at[i]], t.text[t.at[i+1]:])
		}
		block = hostsBlock(block[:0], m, others...)
		each(m.Name, block)
	}
}

// telling is what is told on a network of all machines, one after the other: the lines of the machine i are
// text[at[i]:at[i+1]], and none when it is not there.
type telling struct {
	text []byte
	at   []int
}

func tell(all []named, network string) telling {
	taken := namesOf(all, func(m named) bool { return m.on(network) })
	t := telling{at: []int{0}}
	for _, m := range all {
		for _, l := range m.Links {
			if l.Network == network && !l.Isolated {
				t.text = hostsLines(t.text, l.Addrs, m.names(taken))
			}
		}
		t.at = append(t.at, len(t.text))
	}
	return t
}

// namesOf are the names in lower case that nobody else may have, of the machines that are there.
func namesOf(all []named, there func(named) bool) map[string]bool {
	names := map[string]bool{}
	for _, m := range all {
		if there(m) {
			names[strings.ToLower(m.Name)], names[strings.ToLower(m.Name+namesSuffix)] = true, true
		}
	}
	return names
}

// Hosts are lines for the host's own /etc/hosts, with the names of machines that run.
func Hosts(running []*state.Applied) []byte {
	var all []named
	for _, a := range running {
		all = append(all, nameOf(&a.Spec, a.Facts.Links))
	}
	taken := namesOf(all, func(named) bool { return true })
	b := []byte(hostsBegin + "\n")
	for _, m := range all {
		b = hostsLines(b, m.addrs(), m.names(taken))
	}
	return append(b, hostsEnd+"\n"...)
}
