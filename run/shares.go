package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"croft/idmap"
	"croft/rootfs"
	"croft/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// share is one thing of the host's that a machine has: a volume, or the node of a device.
type share struct {
	target string
	volume state.Mount
	owner  Owner // of the volume
	node   Node  // its Path is empty where it is a volume
}

// shares are what a plan has of them, volumes first.
func (p *Plan) shares() (all []share) {
	for _, v := range slices.Concat(p.Instance.Spec.Mounts, p.cdi.mounts) {
		all = append(all, share{target: filepath.Clean(v.Target), volume: v, owner: p.Owners[v.Source]})
	}
	for _, n := range p.Nodes {
		all = append(all, share{target: n.Target, node: n})
	}
	return all
}

// isNode says which of both it is.
func (s *share) isNode() bool { return s.node.Path != "" }

func (s *share) String() string {
	if s.isNode() {
		return "device " + s.node.Path
	}
	return "volume " + s.volume.Source
}

// lookShares gathers what the shares of a machine depend on.
func (h *host) lookShares(s *state.Spec, ids state.Range) (err error) {
	h.owners = map[string]Owner{}
	if h.cdi, err = injectionOf(s.Devices); err != nil {
		return err
	}
	for _, m := range slices.Concat(s.Mounts, h.cdi.mounts) {
		var st unix.Stat_t
		if err := unix.Stat(m.Source, &st); err != nil {
			return fmt.Errorf("volume %s: %w", m.Source, err)
		}
		nested, err := nestedMounts(m.Source, ids)
		if err != nil {
			return fmt.Errorf("volume %s: %w", m.Source, err)
		}
		h.owners[m.Source] = Owner{st.Uid, st.Gid, nested}
	}
	h.nodes, err = nodesOf(slices.Concat(s.Devices, nestingDevices(s)))
	h.nodes = h.cdi.beside(h.nodes)
	return err
}

// stageDir is where what a machine gets of its host's is prepared, in a mount namespace that nobody else sees.
func stageDir() string { return filepath.Join(state.HostDir, "mnt", "stage") }

// view is how a machine sees the ids of files.
type view struct {
	ids    state.Range
	userns *os.File
	maps   []state.IDMap // for its volumes
}

// stageShares prepares shares for a machine, each at its number's place.
func stageShares(shares []share, v view) error {
	if len(shares) == 0 {
		return nil
	}
	if err := rootfs.Stage(stageDir()); err != nil {
		return err
	}
	for i := range shares {
		put := shares[i].stageVolume
		if shares[i].isNode() {
			put = shares[i].stageNode
		}
		if err := put(v, rootfs.Staged(stageDir(), i)); err != nil {
			return err
		}
	}
	return nil
}

// bind is the volume as the machine gets it, but for its ids. The machine can take none of it back.
func (s *share) bind() rootfs.Bind {
	b := rootfs.Bind{
		Source: s.volume.Source, Shallow: s.volume.Shallow, Below: s.owner.Nested,
		Attr: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE,
	}
	if s.volume.ReadOnly {
		b.Attr |= unix.MOUNT_ATTR_RDONLY
	}
	if s.volume.NoExec {
		b.Attr |= unix.MOUNT_ATTR_NOEXEC
	}
	if s.volume.Slave {
		b.Propagation = unix.MS_SLAVE
	}
	return b
}

// stageVolume binds a directory of the host. One that root owns keeps its ids one to one with the guest's; one
// that a user owns belongs to the guest's root, and what is made in it to that user. Only that one id is
// mapped then: with more, the guest could leave files of other users, or of root, in the user's directory. Which ids
// are more than that is said by the machine's id maps.
func (s *share) stageVolume(v view, at string) error {
	b := s.bind()
	if !s.volume.NoIDMap {
		b.Userns = v.userns
	}
	uids, gids := idmap.Whole(v.ids.Size, v.maps, "uid"), idmap.Whole(v.ids.Size, v.maps, "gid")
	if s.owner.UID != 0 {
		uids, gids = idmap.One(s.owner.UID, v.maps, "uid"), idmap.One(s.owner.GID, v.maps, "gid")
	}
	if b.Userns != nil && (s.owner.UID != 0 || len(v.maps) > 0) {
		own, err := idmap.NamespaceOf(v.ids, uids, gids)
		if err != nil {
			return err
		}
		defer own.Close()
		b.Userns = own
	}
	err := b.Stage(at)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) && idmap.Nested() {
		err = fmt.Errorf("%v: ids cannot be mapped on its filesystem: %w", s, state.ErrUnsupported)
		return state.Hint(err, "keep it on a disk or in memory: in a container, below a volume of that container")
	}
	return err
}

// stageNode makes a node that belongs to the machine. Who may not make one, in a container, has the host's own to give,
// with the owner that it has.
func (s *share) stageNode(v view, at string) error {
	n := s.node
	err := rootfs.Node{Mode: n.Type | n.Mode, Device: n.Device, UID: int(v.ids.Base + n.UID), GID: int(v.ids.Base + n.GID)}.Stage(at)
	if errors.Is(err, os.ErrPermission) {
		err = rootfs.Bind{Source: n.Path}.Stage(at)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", s, err)
	}
	return nil
}

// given are the mounts of what was staged.
func (p *Plan) given() (m []specs.Mount) {
	for i, s := range p.shares() {
		option := "rbind"
		if s.isNode() {
			option = "bind"
		}
		m = append(m, specs.Mount{Destination: s.target, Type: "bind", Source: rootfs.Staged(stageDir(), i), Options: []string{option}})
	}
	return m
}

// explain says what it is on the host, and how the machine has it.
func (s *share) explain() ExplainedMount {
	if s.isNode() {
		return ExplainedMount{s.target, "bind", s.node.Path, []string{s.node.Access}}
	}
	v := s.volume
	x := ExplainedMount{s.target, "bind", v.Source, []string{"rbind", "nosuid", "nodev"}}
	if v.Shallow {
		x.Options[0] = "bind"
	}
	for _, o := range []struct {
		name string
		on   bool
	}{{"noexec", v.NoExec}, {"idmap", !v.NoIDMap}, {"rslave", v.Slave}, {"ro", v.ReadOnly}} {
		if o.on {
			x.Options = append(x.Options, o.name)
		}
	}
	return x
}
