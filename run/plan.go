package run

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/idmap"
	"croft/netsetup"
	"croft/rootfs"
	"croft/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Plan is one start of one instance, worked out: every path and value that the steps need.
type Plan struct {
	Instance    *state.Instance
	Root        rootfs.Root
	Files       rootfs.Files        // generated for the guest
	RunDir      string              // the instance's directory under /run: everything in it goes at the end
	Cgroup      string              // as the OCI spec names it: absolute, or relative to the caller's own
	Cgroups     []string            // every directory that this makes on the host
	Aside       string              // where the starter itself must go before, so that only leaves have processes; "": nowhere
	Unit        string              // of systemd that holds it; "" when none does
	Boot        bool                // an init boots, rather than a payload running
	Notify      bool                // the init tells when it is up
	Owners      map[string]Owner    // of the volumes' sources
	Nodes       []Node              // of its devices
	cdi         injection           // what CDI files bring it
	Hold        Hold                // what holds its keeper
	Echo        bool                // the console goes to the starter's stdout
	Credentials string              // directory of those that the unit which starts it has for it; the spec may have more
	Stdio       bool                // the payload gets the starter's stdin, stdout and stderr instead of a console
	seccomp     *specs.LinuxSeccomp // of its system calls; nil: none
	AppArmor    state.AppArmor      // the zero value: not confined by it
	SELinux     string              // the label of its processes; "" where none was asked for
	sysctls     []string            // directories of /proc/sys; of a privileged machine alone, as the next
	bounding    uint64              // capabilities that the host's root has
	noAppArmor  error               // why it has no profile, unless it was asked to do without
	LXCFS       []string            `json:",omitempty"` // files of the machine's that lxcfs has for it
	NoLXCFS     string              `json:",omitempty"` // why one that is there has none
	LacksDNS    bool                // every server that the host asks for names is on its own loopback
	LacksDHCP   []string            `json:",omitempty"` // links that are to have addresses by DHCP which its NetworkManager does not ask for
}

// What a plan needs to know of the host.
type host struct {
	resolv      resolv
	cgroups     []string // roots of the hierarchies, the unified one first
	own         []string // for each, the directory of the caller itself
	hybrid      bool     // there are a unified hierarchy and others
	divided     string   // directory of the cgroup around the caller that it may divide; "" when there is none
	unit        string   // that the caller is in; "" when there is none
	owners      map[string]Owner
	nodes       []Node              // of its devices
	cdi         injection           // what CDI files bring it
	login       rootfs.Files        // what its image needs for a login on the console
	managers    managers            // of networks, in its image
	seed        map[string]string   // files of cloud-init's seed that its image makes itself, by path
	credentials string              // of the unit that this process is of
	lxcfs       []string            // files that it has for machines
	noLXCFS     string              // why it has none, if it is there
	seccomp     *specs.LinuxSeccomp // the filter that it was asked to have, for its capabilities
	sysctls     []string
	bounding    uint64
	noAppArmor  error // why there can be no profile for it
}

// Owner is who owns a volume's source on the host.
type Owner struct {
	UID, GID uint32
	Nested   bool // something is mounted below it, and can be shifted as well
}

// NewPlan works out the start of in. It is pure: it looks at nothing but its arguments.
func NewPlan(dir *state.Dir, in *state.Instance, layers []string, h host, hold Hold) *Plan {
	name := in.Spec.Name
	p := &Plan{
		Instance: in,
		Root:     rootfs.Root{Dir: dir.RootOf(name), Layers: layers},
		Files:    guestFiles(in, h),
		RunDir:   dir.RunOf(name),
		Boot:     in.Facts.Init.Mode == state.InitBoot,
		Notify:   in.Facts.Notify,
		Owners:   h.owners,
		Nodes:    h.nodes,
		cdi:      h.cdi,
		Hold:     hold,
	}
	if p.seccomp = seccompProfile(&in.Spec.Security); h.seccomp != nil {
		p.seccomp = h.seccomp
	}
	p.sysctls, p.bounding = h.sysctls, h.bounding
	p.AppArmor = decideAppArmor(dir.Root, &in.Spec, h.noAppArmor)
	p.SELinux = processLabel(&in.Spec.Security, in.Facts.Range)
	if in.Spec.Security.AppArmor == "" {
		p.noAppArmor = h.noAppArmor
	}
	p.LXCFS, p.NoLXCFS = h.lxcfs, h.noLXCFS
	_, p.LacksDNS = resolvConf(in, h.resolv)
	p.LacksDHCP = h.managers.unasked(in.Facts.Links)
	p.Stdio = hold == HeldByCaller && !p.Boot
	p.Echo = hold == HeldByUnit || hold == HeldByCaller && p.Boot
	// In a unit its cgroup is kept, and in the foreground the caller's: it may be a unit's, too, or a job's. Otherwise
	// the machine outlives its caller and so lies beside it, named after its root unless that is the usual one.
	bases := h.cgroups
	p.Cgroup = "/croft" + tag(dir.Root) + "/" + name
	if hold != HeldByNone {
		p.Unit = h.unit
		p.Credentials = h.credentials
		bases, p.Cgroup = h.own, "croft"+tag(dir.Root)+"-"+name
		if h.hybrid { // libcontainer stays below the caller in the others alone
			bases = append([]string{h.cgroups[0]}, h.own[1:]...)
		}
	}
	if hold != HeldByNone && len(bases) == 1 && h.divided != "" {
		if bases[0] == h.divided && hold != HeldByJob { // whoever it is bound to stays
			p.Aside = filepath.Join(h.divided, supervisorGroup)
		}
		bases = []string{h.divided}
	}
	for _, b := range bases {
		p.Cgroups = append(p.Cgroups, filepath.Join(b, p.Cgroup))
	}
	if hold != HeldByNone && len(bases) == 1 {
		// Of a relative path libcontainer makes a sibling of the caller's cgroup where there is v2 alone, outside
		// of the unit that holds us.
		p.Cgroup = strings.TrimPrefix(p.Cgroups[0], h.cgroups[0])
	}
	return p
}

// guestFiles are made anew at each start. The machine id is written rather than left to the guest, since a
// systemd that has to commit one calls sync(2) for the whole host.
func guestFiles(in *state.Instance, h host) rootfs.Files {
	f := rootfs.Files{
		"/etc/hostname":   {Text: in.Spec.Host() + "\n"},
		"/etc/machine-id": {Text: in.UUID + "\n"},
		"/etc/hosts":      {Link: guestHosts},
	}
	if in.Facts.Init.Mode != state.InitBoot {
		f[guestHosts] = rootfs.File{} // with its directory, which is a mount point; a booting machine has its own /run
	}
	text, _ := resolvConf(in, h.resolv)
	if text != "" {
		f["/etc/resolv.conf"] = rootfs.File{Text: text}
	}
	servers, _ := readResolv(text)
	maps.Copy(f, h.login)
	maps.Copy(f, seed(in, h))
	maps.Copy(f, firstBoot(in))
	maps.Copy(f, h.managers.files(in.Facts.Links, servers))
	return f
}

// RootMount is where the root filesystem is mounted, in the starter's own mount namespace: the same place for all.
// The container's init, already nobody on the host, must be able to walk there, wherever --run is.
func RootMount() string { return filepath.Join(state.HostDir, "mnt", "root") }

// sysMount is where the sysfs of a network namespace of somebody else's is mounted, in the same way.
func sysMount() string { return filepath.Join(state.HostDir, "mnt", "sys") }

// HostFiles is the directory that the guest sees as /run/host.
func (p *Plan) HostFiles() string { return filepath.Join(p.RunDir, "host") }

// Socket is the keeper's.
func (p *Plan) Socket() string { return filepath.Join(p.RunDir, socketName) }

const socketName = "keeper"

// Environment is that of PID 1 and of everything exec'd.
func (p *Plan) Environment() []string {
	env := []string{
		defaultPath,
		// OpenRC finds "lxc" anywhere in it, systemd takes any value for a container.
		"container=" + containerName,
	}
	if p.Boot {
		env = append(env, "TERM="+p.terminal(), "HOME=/root",
			"container_uuid="+uuidOf(p.Instance.UUID), "NOTIFY_SOCKET=/run/host/notify")
	}
	return slices.Concat(overlayEnv(env, p.Instance.Facts.Env), p.Instance.Spec.Env, p.cdi.env)
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// terminal is what the console can show: nothing but text where it goes to a file. (What goes to a journal is rid of
// the rest by the keeper, for the sake of those who log in.)
func (p *Plan) terminal() string {
	if p.Hold == HeldByCaller {
		return "dumb"
	}
	return "linux"
}

const containerName = "lxc-croft"

// uuidOf writes a machine id as a UUID.
func uuidOf(id string) string {
	if len(id) != 32 {
		return id
	}
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}

// tag tells the names of things outside a root apart by root: none for the usual one.
func tag(root string) string {
	if root == DefaultRoot {
		return ""
	}
	return "-" + hash(root)
}

// hash is FNV-1a, short: two roots of one host must not collide, and nobody attacks it.
func hash(s string) string {
	h := uint32(2166136261)
	for _, b := range []byte(s) {
		h = (h ^ uint32(b)) * 16777619
	}
	const digits = "0123456789abcdefghijklmnopqrstuv"
	var out [6]byte
	for i := range out {
		out[i] = digits[h&31]
		h >>= 5
	}
	return string(out[:])
}

// The usual places.
const (
	DefaultRoot = "/var/lib/croft"
	DefaultRun  = "/run/croft"
)

// look gathers what the plan of in, an image of these layers, needs to know of this host.
func (e *Engine) look(in *state.Instance, layers []string) (host, error) {
	h, err := e.lookInside(in, layers)
	if err != nil {
		return host{}, err
	}
	if h.cgroups, h.own, err = hierarchies(); err != nil {
		return host{}, err
	}
	h.hybrid = len(h.cgroups) > 1 && isUnified(h.cgroups[0])
	h.divided, h.unit, h.credentials = delegated(h.own[0]), unitAround(h.own[0]), os.Getenv(envCredentials)
	if err := checkLabels(&in.Spec.Security); err != nil {
		return host{}, err
	}
	if in.Spec.Security.Privileged {
		if h.sysctls, err = sysctlDirs(); err != nil {
			return host{}, err
		}
		h.bounding = bounding()
	}
	h.noAppArmor = appArmorUsable()
	if file := in.Spec.Security.SeccompFile(); file != "" {
		if h.seccomp, err = readFilter(file, capabilities(&in.Spec.Security, decideAppArmor(e.Dir.Root, &in.Spec, h.noAppArmor))); err != nil {
			return host{}, err
		}
	}
	if h.lxcfs, err = lxcfsFiles(); err != nil {
		h.noLXCFS = err.Error()
	}
	return h, h.lookShares(&in.Spec, in.Facts.Range)
}

// lookInside gathers what the generated files of in, an image of these layers, depend on.
func (e *Engine) lookInside(in *state.Instance, layers []string) (host, error) {
	h := host{resolv: hostResolv()}
	if in.Facts.Init.Mode != state.InitBoot {
		return h, nil // nobody logs in, and no manager runs
	}
	view, err := rootfs.OpenView(layers)
	if err != nil {
		return h, err
	}
	defer view.Close()
	if h.login, err = loginFiles(in.Facts.InitKind, view.Dirs); err != nil {
		return h, err
	}
	if h.managers, err = managersOf(view.Dirs); err != nil {
		return h, err
	}
	h.managers.onlyIPv4 = !netsetup.HasIPv6()
	h.managers.told = in.Spec.CloudInit.NetworkConfig != "" && h.managers.cloudInit
	if h.managers.cloudInit {
		h.seed, err = e.imageSeed(in, view.Dirs)
	}
	return h, err
}

// nestedMounts says whether something is mounted below source, and all of it can be shifted to the ids of a machine.
// It is found out by doing so, with a copy that nobody sees.
func nestedMounts(source string, ids state.Range) (bool, error) {
	below, err := rootfs.MountedBelow(source)
	if err != nil || !below {
		return false, err
	}
	userns, err := idmap.Namespace(ids)
	if err != nil {
		return false, err
	}
	defer userns.Close()
	return rootfs.ShiftsBelow(source, userns) == nil, nil
}
