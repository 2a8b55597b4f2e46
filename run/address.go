package run

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"

	"croft/netsetup"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Addresses are those at which others can reach the machine: all that its network namespace has, but for loopback and
// link-local ones. None while it does not run. Whoever gave them to it, a network of croft's, the machine itself or
// somebody who put an interface there, they are found where they are.
func (e *Engine) Addresses(ctx context.Context, in *state.Instance) ([]netip.Addr, error) {
	k, err := e.Connect(ctx, in)
	if errors.Is(err, state.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer k.Close()
	addrs, err := addressesOf(k.Init)
	if errors.Is(err, unix.ESRCH) { // it ends just now
		return nil, nil
	}
	return addrs, err
}

// addressesOf looks into the network namespace of a pidfd's process.
func addressesOf(pidfd *os.File) (addrs []netip.Addr, err error) {
	err = netsetup.Within(pidfd, func() (err error) {
		addrs, err = reachable()
		return err
	})
	return addrs, err
}

// reachable are the addresses of this thread's network namespace.
func reachable() ([]netip.Addr, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
				all = append(all, p.Addr())
			}
		}
	}
	return all, nil
}
