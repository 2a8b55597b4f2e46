package run

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"croft/netsetup"
	"croft/state"

	"golang.org/x/sys/unix"
)

// decidePorts decides which ports of the host those of in are published on. One that was left to croft keeps what it had, as
// long as nobody else has that. The machine must not run; nothing is taken yet.
func (e *Engine) decidePorts(in *state.Instance) error {
	if len(in.Spec.Ports) == 0 {
		in.Facts.Ports = nil
		return nil
	}
	others, err := e.published(in.Spec.Name)
	if err != nil {
		return err
	}
	before, ports := slices.Clone(in.Facts.Ports), slices.Clone(in.Spec.Ports)
	for i := range ports {
		if ports[i].IP == "" && e.Ports.IsValid() {
			ports[i].IP = e.Ports.String()
		}
	}
	for _, p := range ports {
		if p.Host != 0 {
			if err := others.check(p); err != nil {
				return err
			}
			before = slices.DeleteFunc(before, p.Overlaps)
		}
	}
	for i, p := range ports {
		if p.Host == 0 {
			others[in.Spec.Name] = ports // for what is picked is not to be one of them
			if ports[i], err = others.pick(p, had(&before, p)); err != nil {
				return err
			}
			p = ports[i]
		}
		if len(in.Facts.Links) > 0 && !slices.ContainsFunc(in.Facts.Links, func(l state.Link) bool { return e.carries(l, p) }) {
			return fmt.Errorf("port %s: the machine has no address on a network of croft's that it could lead to: %w", p, state.ErrInvalid)
		}
	}
	in.Facts.Ports = ports
	return nil
}

// had takes the one like asked out of the ports that were there before and gives its port on the host; 0 when there is none.
func had(before *[]state.Port, asked state.Port) uint16 {
	at := slices.IndexFunc(*before, func(was state.Port) bool {
		was.Host = 0
		return was == asked
	})
	if at < 0 {
		return 0
	}
	was := (*before)[at]
	*before = slices.Delete(*before, at, at+1)
	return was.Host
}

// carries says whether ports can be published by a link.
func (e *Engine) carries(l state.Link, p state.Port) bool {
	kind, of := l.Form()
	if kind != "" {
		return false
	}
	n, err := e.Dir.Network(of)
	if err != nil || !n.Managed {
		return false
	}
	ip, err := netip.ParseAddr(p.IP)
	return err != nil || ip.Is4() && l.IP.IsValid() || ip.Is6() && l.IP6.IsValid()
}

// PortHints are the commands that let in what the world sends to the ports of a machine that runs, where a firewall of this
// host keeps it out: that only its administrator opens. What cannot be found out is no hint.
func (e *Engine) PortHints(name string) (commands []string) {
	in, err := e.Dir.Get(name)
	if err != nil || in.Applied == nil {
		return nil
	}
	public := slices.DeleteFunc(slices.Clone(in.Applied.Facts.Ports), func(p state.Port) bool {
		a, err := netip.ParseAddr(p.IP)
		return err == nil && a.IsLoopback()
	})
	if len(public) == 0 {
		return nil
	}
	links := in.Applied.Facts.Links
	if i := slices.IndexFunc(links, func(l state.Link) bool { return l.Managed }); i >= 0 { // it is where they lead to
		commands, _ = netsetup.Hints(links[i], public)
	}
	return commands
}

// publishers are the ports on the host of machines, by what to call these.
type publishers map[string][]state.Port

// published are the ports of all machines that run, but for one of this root.
func (e *Engine) published(but string) (publishers, error) {
	running, err := e.linked()
	if err != nil {
		return nil, err
	}
	all, err := e.publishedElsewhere()
	if err != nil {
		return nil, err
	}
	for _, in := range running {
		if name := in.Spec.Name; name != but && len(in.Applied.Facts.Ports) > 0 {
			all[name] = in.Applied.Facts.Ports
		}
	}
	return all, nil
}

// publishedElsewhere are those of other roots on this host.
func (e *Engine) publishedElsewhere() (publishers, error) {
	others, err := e.table().Others()
	if err != nil {
		return nil, err
	}
	all := publishers{}
	for owner, ports := range others {
		all[fmt.Sprintf("%s of another root of croft's, whose table is %s", owner.Machine, owner.Table)] = ports
	}
	return all, nil
}

// checkElsewhere wants ports that were free when they were decided about to be no other root's now. The caller has the lock
// of the host's networks; within this root the table itself refuses what has been taken meanwhile.
func (e *Engine) checkElsewhere(ports []state.Port) error {
	if len(ports) == 0 {
		return nil
	}
	others, err := e.publishedElsewhere()
	if err != nil {
		return err
	}
	for _, p := range ports {
		if err := others.checkMachines(p); err != nil {
			return err
		}
	}
	return nil
}

// check wants a port of the host to be nobody's: no other machine's, and no process's of the host.
func (all publishers) check(p state.Port) error {
	if err := all.checkMachines(p); err != nil {
		return err
	}
	for i := range p.Len() {
		_, err := tryListen(p.Proto, p.IP, p.Host+uint16(i))
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			return fmt.Errorf("port %s: %w by a process of the host, which listens on %d", p, state.ErrBusy, int(p.Host)+i)
		case errors.Is(err, unix.EADDRNOTAVAIL):
			return fmt.Errorf("port %s: %s is no address of this host: %w", p, p.IP, state.ErrNotExist)
		case err != nil:
			return fmt.Errorf("port %s: %w", p, err)
		}
	}
	return nil
}

// checkMachines wants a port of the host to be no other machine's.
func (all publishers) checkMachines(p state.Port) error {
	for name, ports := range all {
		if slices.ContainsFunc(ports, p.Overlaps) {
			return fmt.Errorf("port %s: %w by %s", p, state.ErrBusy, name)
		}
	}
	return nil
}

// pick gives a port one on the host: the one before, if that is not 0 and still free, or another.
func (all publishers) pick(p state.Port, before uint16) (state.Port, error) {
	if p.Host = before; p.Host != 0 && all.check(p) == nil {
		return p, nil
	}
	const tries = 64
	var err error
	for range tries {
		if p.Host, err = freePort(p.Proto, p.IP); err != nil {
			return p, fmt.Errorf("port %s: %w", p, err)
		}
		if int(p.Host)+p.Len() > 1<<16 {
			continue
		}
		if err = all.check(p); err == nil {
			return p, nil
		}
	}
	return p, fmt.Errorf("no port of the host is free for it: %w", err)
}

// freePort is one that the kernel would give a process now.
func freePort(proto, ip string) (uint16, error) {
	at, err := tryListen(proto, ip, 0)
	if err != nil {
		return 0, err
	}
	p, err := netip.ParseAddrPort(at.String())
	return p.Port(), err
}

// tryListen finds out whether a process could listen on a port of the host, by doing so, and where it would; on any for 0.
func tryListen(proto, ip string, port uint16) (net.Addr, error) {
	address := net.JoinHostPort(ip, strconv.Itoa(int(port)))
	if proto == state.UDP {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			return nil, err
		}
		return c.LocalAddr(), c.Close()
	}
	c, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return c.Addr(), c.Close()
}
