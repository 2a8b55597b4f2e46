package run

import (
	"croft/rootfs"
	"croft/state"
)

// Change is one file of a machine that is not as its image has it.
type Change = rootfs.Change

// Diff lists what a machine has changed against its image, running or not. What is mounted in it does not count.
func (e *Engine) Diff(in *state.Instance) ([]Change, error) {
	layers, err := e.layers(in)
	if err != nil {
		return nil, err
	}
	root := rootfs.Root{Dir: e.Dir.RootOf(in.Spec.Name), Layers: layers}
	h, err := e.lookInside(in, layers)
	if err != nil {
		return nil, err
	}
	return rootfs.Changes(root, in.Facts.Driver, in.Facts.Range, guestFiles(in, h), covered(in))
}
