package run

import (
	"os"
	"path/filepath"
	"slices"

	"croft/netsetup"
	"croft/state"
)

// lockHostNetwork keeps others, of every root, from changing what this host has of networks. Close the file to unlock.
func lockHostNetwork() (*os.File, error) {
	if err := os.MkdirAll(state.HostDir, 0o755); err != nil {
		return nil, err
	}
	return state.Lock(filepath.Join(state.HostDir, "network.lock"))
}

// connect makes the links of in, whose init is the process pid, and all that they need of the host.
func (e *Engine) connect(in *state.Instance, pid int) error {
	links := in.Facts.Links
	if len(links) == 0 {
		return nil
	}
	lock, err := lockHostNetwork()
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, name := range networksOf(links) {
		n, err := e.network(name)
		if err != nil {
			return err
		}
		if err := e.raise(n); err != nil {
			return err
		}
	}
	return netsetup.Connect(links, pid)
}

// networksOf names the networks of links that have a record, each once.
func networksOf(links []state.Link) (names []string) {
	for _, l := range links {
		if kind, of := (state.NIC{Network: l.Network}).Form(); kind == "" && !slices.Contains(names, of) {
			names = append(names, of)
		}
	}
	return names
}

// raise makes what a network needs of the host. It may be there already; the caller has the lock.
func (e *Engine) raise(n *state.Network) error {
	if n.Kind != state.NetworkBridge {
		return nil
	}
	if n.Managed && n.MTU == 0 {
		with := *n
		with.MTU = netsetup.Uplink()
		n = &with
	}
	return netsetup.Bridge(n)
}

// disconnect undoes what connect has done to the host for a machine that has ended: its links go with it.
func (e *Engine) disconnect(a *state.Applied) error {
	return nil
}
