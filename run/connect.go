package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/netsetup"
	"croft/state"

	"golang.org/x/sys/unix"
)

// lockHostNetwork keeps others, of every root, from changing what this host has of networks. Close the file to unlock.
func lockHostNetwork() (*os.File, error) {
	if err := os.MkdirAll(state.HostDir, 0o755); err != nil {
		return nil, err
	}
	return state.Lock(filepath.Join(state.HostDir, "network.lock"))
}

// connect makes the links of a machine, whose init is the process pid and pidfd, and all that they need of the host. What the
// networks lack all the same, by the will of another firewall, keeps nobody from starting.
func (e *Engine) connect(m netsetup.Member, pid int, pidfd *os.File) (lacks, err error) {
	links := m.Links
	if len(links) == 0 {
		return nil, nil
	}
	netns, err := netnsOf(pid, pidfd)
	if err != nil {
		return nil, err
	}
	defer netns.Close()
	lock, err := lockHostNetwork()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	know := e.filter
	for _, name := range networksOf(links) {
		n, err := e.network(name)
		if err != nil {
			return nil, err
		}
		r, err := e.raise(n)
		if r.filtered {
			know = e.table().Add
		}
		if err == nil && len(r.did) > 0 { // it may have been taken away below the links of others
			err = e.rejoin(name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		lacks = errors.Join(lacks, r.lacks)
	}
	if err := e.checkElsewhere(m.Ports); err != nil {
		return nil, err
	}
	if err := know(m); err != nil { // what a link may send is known before there is one
		return nil, err
	}
	return lacks, netsetup.Connect(links, netns)
}

// filter has the table know a machine. On a LAN that is not croft's nothing else may have made the table.
func (e *Engine) filter(m netsetup.Member) error {
	if intact, err := e.table().Intact(); err != nil || !intact {
		return errors.Join(err, e.build(m))
	}
	return e.table().Add(m)
}

// member is what the packet filter knows of a machine that runs.
func member(a *state.Applied) netsetup.Member {
	return netsetup.Member{Name: a.Spec.Name, Links: a.Facts.Links, Ports: a.Facts.Ports}
}

// table is this root's part of the packet filter.
func (e *Engine) table() netsetup.Table { return netsetup.Table{Name: "croft" + tag(e.Dir.Root)} }

// build makes the table anew, of all networks and of all machines that have links, with one in place of what its record says
// of it. The caller has the lock.
func (e *Engine) build(one netsetup.Member) error {
	networks, err := e.Dir.Networks()
	if err != nil {
		return err
	}
	running, err := e.linked()
	if err != nil {
		return err
	}
	members := []netsetup.Member{one}
	for _, in := range running {
		if in.Spec.Name != one.Name {
			members = append(members, member(in.Applied))
		}
	}
	return e.table().Build(networks, members)
}

// netnsOf opens the network namespace of the process that is both pid and pidfd.
func netnsOf(pid int, pidfd *os.File) (*os.File, error) {
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); err != nil { // it may have been another's number by then
		netns.Close()
		return nil, os.NewSyscallError("pidfd_send_signal", err)
	}
	return netns, nil
}

// networksOf names the networks of links that have a record, each once.
func networksOf(links []state.Link) (names []string) {
	for _, l := range links {
		if kind, of := l.Form(); kind == "" && !slices.Contains(names, of) {
			names = append(names, of)
		}
	}
	return names
}

// raised is what came of making a network.
type raised struct {
	did      []string // what was missing, in words
	lacks    error    // what others on this host keep from it; nil: nothing
	filtered bool     // the packet filter's table is whole
}

// raise makes what a network needs of the host, as far as it is not there. The caller has the lock.
func (e *Engine) raise(n *state.Network) (r raised, err error) {
	if n.Kind != state.NetworkBridge {
		return r, nil
	}
	if n.Managed && n.MTU == 0 {
		with := *n
		with.MTU = netsetup.Uplink()
		n = &with
	}
	if n.Managed {
		r.lacks = netsetup.LeaveAlone(n.Bridge)
	}
	made, err := netsetup.Bridge(n)
	if made {
		r.did = append(r.did, "network "+n.Name+": made its bridge "+n.Bridge)
		defer func() {
			if err != nil {
				err = errors.Join(err, netsetup.Forward(n.Bridge, false, false), netsetup.RemoveBridge(n.Bridge))
			}
		}()
	}
	if err != nil || !n.Managed {
		return r, err
	}
	intact, err := e.table().Intact()
	if err == nil && intact {
		var marked bool
		if marked, err = e.table().AddNetwork(n); marked && !made {
			r.did = append(r.did, "network "+n.Name+": put its bridge back into its interface group")
		}
	} else if err == nil {
		r.did = append(r.did, "made the packet filter's table "+e.table().Name)
		err = e.build(netsetup.Member{})
	}
	if r.filtered = err == nil; err != nil {
		return r, err
	}
	if err := netsetup.Forward(n.Bridge, !n.Internal && n.IPv4.IsValid(), !n.Internal && n.IPv6.IsValid()); err != nil {
		return r, err
	}
	if !n.Internal {
		r.lacks = errors.Join(r.lacks, netsetup.OpenBeside(n.Bridge))
	}
	return r, nil
}

// lower takes it away again. The caller has the lock.
func (e *Engine) lower(n *state.Network) error {
	if !n.Managed {
		return nil
	}
	others, err := e.Dir.Networks()
	if err != nil {
		return err
	}
	forget := func() error { return e.table().RemoveNetwork(n) }
	if !slices.ContainsFunc(others, func(o *state.Network) bool { return o.Managed && o.Name != n.Name }) {
		forget = e.table().Delete
	}
	return errors.Join(netsetup.CloseBeside(n.Bridge), netsetup.Forward(n.Bridge, false, false), netsetup.RemoveBridge(n.Bridge), forget())
}

// disconnect undoes what connect has done to the host for a machine that has ended: its links go with it.
func (e *Engine) disconnect(a *state.Applied) error {
	if len(a.Facts.Links) == 0 || a.BootID != state.BootID() {
		return nil
	}
	lock, err := lockHostNetwork()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := e.table().Remove(member(a)); err != nil {
		return err
	}
	return e.endTable(a.Spec.Name)
}

// endTable takes the table away when there is no network of croft's, and no machine with a link but the one that ends.
func (e *Engine) endTable(ending string) error {
	networks, err := e.Dir.Networks()
	if err != nil || slices.ContainsFunc(networks, func(n *state.Network) bool { return n.Managed }) {
		return err
	}
	linked, err := e.linked()
	if err != nil || slices.ContainsFunc(linked, func(in *state.Instance) bool { return in.Spec.Name != ending }) {
		return err
	}
	return e.table().Delete()
}

// republish has the ports of a machine that runs lead where the record that is about to be written says: all or none.
func (e *Engine) republish(in *state.Instance) error {
	if err := e.decidePorts(in); err != nil || in.Applied == nil {
		return err
	}
	held, err := e.Dir.Claimed(in.Spec.Name)
	if err != nil || !held {
		return err
	}
	now := *in.Applied
	now.Facts.Ports = in.Facts.Ports
	in.Applied = &now
	lock, err := lockHostNetwork()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := e.checkElsewhere(now.Facts.Ports); err != nil {
		return err
	}
	return e.build(member(in.Applied))
}

// repairNetworks makes anew what machines that run need of the host and somebody has taken away, and says what it did.
func (e *Engine) repairNetworks() (did []string, err error) {
	running, err := e.linked()
	if err != nil || len(running) == 0 {
		return nil, err
	}
	var links []state.Link
	for _, in := range running {
		links = append(links, in.Applied.Facts.Links...)
	}
	did, err = e.repairHost(networksOf(links))
	for _, in := range running {
		for _, l := range in.Applied.Facts.Links {
			if holds, there := netsetup.Holds(l); holds || there != nil || err != nil {
				err = errors.Join(err, there)
				continue
			}
			var what []string
			what, err = e.relinkRunning(in, l)
			did = append(did, what...)
		}
	}
	return did, err
}

// repairHost makes anew what networks need of the host.
func (e *Engine) repairHost(networks []string) (did []string, err error) {
	lock, err := lockHostNetwork()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	for _, name := range networks {
		n, err := e.network(name)
		if err != nil {
			return did, err
		}
		r, err := e.raise(n)
		if did = append(did, r.did...); err != nil || r.lacks != nil {
			return did, fmt.Errorf("network %s: %w", name, errors.Join(err, r.lacks))
		}
	}
	return did, nil
}

// relinkRunning gives a machine that runs a link again that somebody has taken away. Not under the lock: until the machine
// has a keeper it may be waiting for that.
func (e *Engine) relinkRunning(in *state.Instance, l state.Link) (did []string, err error) {
	k, err := e.Connect(context.Background(), in)
	if errors.Is(err, state.ErrNotRunning) { // orphaned, or on its way up or down
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer k.Close()
	if holds, err := netsetup.Holds(l); holds || err != nil { // it was starting
		return nil, err
	}
	if _, err := e.connect(netsetup.Member{Name: in.Spec.Name, Links: []state.Link{l}}, k.PID, k.Init); err != nil {
		return nil, fmt.Errorf("%s: %w", in.Spec.Name, err)
	}
	return []string{in.Spec.Name + ": made its interface " + l.Name + " anew"}, nil
}

// rejoin puts the links of machines that run on a network back on its bridge.
func (e *Engine) rejoin(network string) error {
	running, err := e.runningOn(network)
	for _, in := range running {
		for _, l := range in.Applied.Facts.Links {
			if l.Network == network {
				_, lost := netsetup.Holds(l) // what is not there is about to be, or repair's
				err = errors.Join(err, lost)
			}
		}
	}
	return err
}

// CreateNetwork makes a network of n, whose Name and Kind say what, with a subnet that is free of each kind that is to be
// picked. It is there when this returns; n is its record.
func (e *Engine) CreateNetwork(n *state.Network, pick4, pick6 bool) error {
	if err := e.Dir.CreateNetwork(n, func(n *state.Network) error { return e.design(n, pick4, pick6) }); err != nil {
		return unprivileged(err)
	}
	lock, err := lockHostNetwork()
	if err != nil {
		return err
	}
	defer lock.Close()
	r, err := e.raise(n)
	if err != nil {
		return errors.Join(fmt.Errorf("network %s: %w", n.Name, explainNetwork(err)), e.Dir.RemoveNetwork(n.Name, e.lower))
	}
	return r.lacks
}

// SetNetwork changes a network, for the machines that run on it, too; nobody can be given another address while it runs.
func (e *Engine) SetNetwork(name string, change func(n *state.Network) error) (*state.Network, error) {
	running, err := e.runningOn(name)
	if err != nil {
		return nil, err
	}
	n, err := e.Dir.EditNetwork(name, func(n *state.Network) error {
		was := *n
		if err := change(n); err != nil {
			return err
		}
		n.Name, n.Kind, n.Managed = was.Name, was.Kind, was.Managed
		if (n.IPv4 != was.IPv4 || n.IPv6 != was.IPv6 || n.Bridge != was.Bridge || n.Parent != was.Parent) && len(running) > 0 {
			err := fmt.Errorf("network %s: %s runs on it, and cannot be given another address: %w", name, running[0].Spec.Name, state.ErrBusy)
			return state.Hint(err, "croft stop "+running[0].Spec.Name)
		}
		if n.Managed {
			taken, err := e.taken(n)
			if err != nil {
				return err
			}
			return checkSubnets(n, taken)
		}
		return e.design(n, false, false)
	})
	if err != nil {
		return nil, unprivileged(err)
	}
	lock, err := lockHostNetwork()
	if err != nil {
		return n, err
	}
	defer lock.Close()
	r, err := e.raise(n)
	if err != nil {
		return n, fmt.Errorf("network %s: %w", name, err)
	}
	for _, in := range running {
		links := slices.Clone(in.Applied.Facts.Links)
		for i, l := range links {
			if l.Network == name && l.Host != "" {
				links[i].Isolated = n.Isolated
				err = errors.Join(err, netsetup.Isolate(l, n.Isolated))
			}
		}
		err = errors.Join(err, e.announce(in, links))
	}
	if n.Managed { // what it was before is in the table, too
		err = errors.Join(err, e.build(netsetup.Member{}))
	}
	return n, errors.Join(err, r.lacks)
}

// RemoveNetwork removes a network that no instance wants to be on.
func (e *Engine) RemoveNetwork(name string) error {
	return e.Dir.Still(func() error { // nobody is created on it meanwhile
		users, err := e.NetworkUsers(name)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			err := fmt.Errorf("network %s: %w by %s", name, state.ErrBusy, strings.Join(users, ", "))
			return state.Hint(err, "croft network detach "+name+" "+users[0])
		}
		lock, err := lockHostNetwork()
		if err != nil {
			return err
		}
		defer lock.Close()
		return e.Dir.RemoveNetwork(name, e.lower)
	})
}

// runningOn are the machines that run with a link to the network.
func (e *Engine) runningOn(name string) ([]*state.Instance, error) {
	all, err := e.linked()
	return slices.DeleteFunc(all, func(in *state.Instance) bool {
		return !slices.ContainsFunc(in.Applied.Facts.Links, func(l state.Link) bool { return l.Network == name })
	}), err
}

// linked are the machines that run, or whose processes live on, and have links.
func (e *Engine) linked() ([]*state.Instance, error) {
	all, _, err := e.Dir.List()
	return slices.DeleteFunc(all, func(in *state.Instance) bool {
		if in.Applied == nil || len(in.Applied.Facts.Links) == 0 || in.Applied.BootID != state.BootID() {
			return true
		}
		held, err := e.Dir.Claimed(in.Spec.Name)
		return err == nil && !held && !in.Applied.Populated()
	}), err
}

// Attach puts an instance on one more network, at once when it runs. What keeps that network from the world all the same is an error.
func (e *Engine) Attach(ctx context.Context, name string, nic state.NIC) error {
	var link *state.Link
	in, err := e.Dir.Edit(name, func(in *state.Instance) error {
		if err := asStarted(in); err != nil {
			return err
		}
		if nic.Name == "" {
			nic.Name = freeName(in.Facts.Links)
		}
		in.Spec.NICs = append(slices.Clone(in.Spec.NICs), nic)
		in.Spec.Own("network", false)
		if err := errors.Join(in.Spec.Check(), checkNetworks(&in.Spec)); err != nil {
			return err
		}
		if in.Applied != nil && in.Applied.Spec.SharesNetwork() {
			return fmt.Errorf("%s: its network is not its own: %w", name, state.ErrUnsupported)
		}
		if err := e.relink(in); err != nil || in.Applied == nil {
			return err
		}
		added := slices.Clone(in.Facts.Links[len(in.Facts.Links)-1:])
		if err := e.furnishLinks(added); err != nil {
			return err
		}
		now := *in.Applied // written before it is done: the undo reads it
		now.Spec.NICs, now.Facts.Links = in.Spec.NICs, append(slices.Clone(now.Facts.Links), added...)
		in.Applied, link = &now, &oneWayOut(now.Facts.Links)[len(now.Facts.Links)-1]
		return nil
	})
	if err != nil || link == nil {
		return err
	}
	k, err := e.Connect(ctx, in)
	if err == nil {
		defer k.Close()
		err = e.tellLink(ctx, in, link.Name)
	}
	if errors.Is(err, state.ErrNotRunning) {
		return nil // it ended meanwhile, and comes back with it
	}
	var lacks error
	if err == nil {
		lacks, err = e.connect(netsetup.Member{Name: name, Links: []state.Link{*link}}, k.PID, k.Init)
	}
	if err == nil {
		err = e.announce(in, in.Applied.Facts.Links)
	}
	if err != nil {
		return errors.Join(err, e.Detach(ctx, name, link.Name))
	}
	return lacks
}

// freeName is the first of eth0, eth1 and so on that no link has: one in the middle may have been detached.
func freeName(links []state.Link) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("eth%d", i)
		if !slices.ContainsFunc(links, func(l state.Link) bool { return l.Name == name }) {
			return name
		}
	}
}

// asStarted wants the networks of a machine that runs to be those of its spec: by their places its links have their names.
func asStarted(in *state.Instance) error {
	if in.Applied == nil || slices.Equal(in.Applied.Spec.NICs, in.Spec.NICs) {
		return nil
	}
	err := fmt.Errorf("%s: its networks were set anew, from its next start on: %w", in.Spec.Name, state.ErrBusy)
	return state.Hint(err, "croft restart "+in.Spec.Name)
}

// Detach takes an instance off a network, which is named by itself or by the interface in the machine; at once when it runs.
func (e *Engine) Detach(ctx context.Context, name, which string) error {
	var was, gone []state.Link
	in, err := e.Dir.Edit(name, func(in *state.Instance) error {
		if err := asStarted(in); err != nil {
			return err
		}
		links, nics := in.Facts.Links, slices.Clone(in.Spec.NICs)
		at := slices.IndexFunc(links, func(l state.Link) bool { return l.Name == which || l.Network == which })
		if at < 0 || len(links) != len(nics) {
			return fmt.Errorf("%s: is on no network %s: %w", name, which, state.ErrNotExist)
		}
		for i := range nics { // those behind it keep the names that they have by their place
			nics[i].Name = links[i].Name
		}
		in.Spec.NICs = slices.Delete(nics, at, at+1)
		in.Spec.Own("network", len(in.Spec.NICs) == 0)
		if err := in.Spec.Check(); err != nil {
			return err
		}
		if _, err := e.hostNames(&in.Spec); err != nil {
			return err
		}
		if in.Applied != nil {
			now := *in.Applied
			was = now.Facts.Links
			is := func(l state.Link) bool { return l.Name == links[at].Name }
			if i := slices.IndexFunc(now.Facts.Links, is); i >= 0 {
				gone = append(gone, now.Facts.Links[i])
			}
			now.Spec.NICs, now.Facts.Links = in.Spec.NICs, slices.DeleteFunc(slices.Clone(now.Facts.Links), is)
			in.Applied = &now
		}
		return e.relink(in)
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	k, err := e.Connect(ctx, in)
	if errors.Is(err, state.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer k.Close()
	if err := e.announce(in, in.Applied.Facts.Links); err != nil {
		return err
	}
	netns, err := netnsOf(k.PID, k.Init)
	if err != nil {
		return err
	}
	defer netns.Close()
	if err := e.takeAway(gone, in, netns); err != nil {
		return err
	}
	for _, l := range gone {
		e.tellManagers(ctx, in, l.Name) // what stays with one that is paused is about no link
	}
	return e.leadAnew(ctx, was, in, netns)
}

// leadAnew has links of a machine that runs be the way out now that one of those that it had is gone.
func (e *Engine) leadAnew(ctx context.Context, was []state.Link, in *state.Instance, netns *os.File) error {
	led := oneWayOut(was)
	for _, l := range oneWayOut(in.Applied.Facts.Links) {
		if slices.ContainsFunc(led, func(o state.Link) bool {
			return o.Name == l.Name && o.Gateway == l.Gateway && o.Gateway6 == l.Gateway6
		}) {
			continue
		}
		if err := errors.Join(netsetup.Lead(l, netns), e.tellLink(ctx, in, l.Name)); err != nil {
			return err
		}
	}
	return nil
}

// takeAway takes links away from a machine that runs.
func (e *Engine) takeAway(links []state.Link, in *state.Instance, netns *os.File) error {
	lock, err := lockHostNetwork()
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, l := range links {
		err = errors.Join(err, netsetup.Disconnect(l, netns))
	}
	return errors.Join(err, e.build(member(in.Applied))) // its ports may lead to another link now
}
