package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"croft/idmap"
	"croft/rootfs"
	"croft/state"

	"golang.org/x/sys/unix"
)

// What doctor says of a fact.
const (
	FactOK      = "ok"
	FactNote    = "note"    // something is lost without it; machines start
	FactProblem = "problem" // no machine starts without it
	FactUnknown = "unknown" // only root can find out
)

// Fact is one thing of this host that machines depend on, found out by using it. IDs are stable.
type Fact struct {
	ID     string `json:"id"`
	Group  string `json:"group"`
	Status string `json:"status"`
	Found  string `json:"found"`  // what there is, or what went wrong
	Loss   string `json:"loss"`   // what is missing without it; "" when it is ok
	Remedy string `json:"remedy"` // what would help: a command where there is one
}

// probe is one row of the table: how a fact is found out, and what it means when it does not hold.
type probe struct {
	id     string // "group.name"
	grave  bool   // no machine starts without it
	root   bool   // only root can find out
	look   func(x *examination) (found string, err error)
	loss   string
	remedy string // a Hint of look's error goes before it
}

// probes is everything that doctor looks at, in the order of its output.
func probes() []probe {
	var all []probe
	for _, group := range [][]probe{privilegeProbes(), kernelProbes(), storeProbes(), cgroupProbes(), idProbes(), limitProbes(), networkProbes(), systemdProbes(), hostProbes()} {
		all = append(all, group...)
	}
	return all
}

// examination is what the probes share.
type examination struct {
	rootDir, runDir  string
	scratch          string // a directory on the store's filesystem, which goes; "" when none can be made
	claim            *state.Claim
	pool             state.Range // of the ids that machines get
	ids              state.Range // free ones
	userns           *os.File    // that has them; nil when none can be made
	noScratch, noIDs error       // why not
}

// Examine asks this host for everything that machines of the given directories and ids depend on. Nothing is left of it, and
// what is mounted or made for it is seen by nobody. It works without root, and then knows less.
func Examine(root, runDir string, pool state.Range) ([]Fact, error) {
	x, err := newExamination(root, runDir, pool)
	if err != nil {
		return nil, err
	}
	defer x.close()
	var facts []Fact
	for _, p := range probes() {
		facts = append(facts, p.fact(x))
	}
	return facts, nil
}

func (p probe) fact(x *examination) Fact {
	group, _, _ := strings.Cut(p.id, ".")
	f := Fact{ID: p.id, Group: group, Status: FactOK}
	if p.root && !Privileged() {
		f.Status, f.Found, f.Remedy = FactUnknown, "only root can find out", "sudo croft doctor"
		return f
	}
	found, err := p.look(x)
	if f.Found = found; err == nil {
		return f
	}
	if _, lack := hasCapabilities(x); lack != nil && p.id != capabilitiesID && errors.Is(err, unix.EPERM) {
		err = blocked{capabilitiesID} // one sentence for all that root without its rights cannot do
	}
	f.Found = err.Error()
	if errors.As(err, new(blocked)) {
		f.Status = FactUnknown
		return f
	}
	f.Status, f.Loss, f.Remedy = FactNote, p.loss, p.remedy
	if p.grave {
		f.Status, f.Loss = FactProblem, "no machine can start"
	}
	if hint := hintOf(err); hint != "" {
		f.Remedy = hint
	}
	return f
}

// Startable says whether a machine can start on a host of which these are the facts.
func Startable(facts []Fact) bool {
	for _, f := range facts {
		if f.Status == FactProblem {
			return false
		}
	}
	return true
}

func newExamination(root, runDir string, pool state.Range) (x *examination, err error) {
	x = &examination{pool: pool}
	if x.rootDir, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	if x.runDir, err = filepath.Abs(runDir); err != nil {
		return nil, err
	}
	if !Privileged() {
		return x, nil
	}
	if x.ids, x.noIDs = freeIDs(pool); x.noIDs == nil {
		x.userns, x.noIDs = idmap.Namespace(x.ids)
	}
	x.noScratch = x.makeScratch()
	return x, nil
}

// scratchPrefix begins the names of what an examination makes. A killed one leaves it to the next, or to a repair.
const scratchPrefix = ".new-doctor-"

func (x *examination) makeScratch() error {
	if err := os.MkdirAll(x.rootDir, 0o700); err != nil {
		return err
	}
	if _, err := sweepScratch(x.rootDir); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(x.rootDir, scratchPrefix)
	if err != nil {
		return err
	}
	x.scratch = dir
	x.claim, err = state.ClaimFile(filepath.Join(dir, "claim"))
	return err
}

// sweepScratch removes what killed examinations left in dir, and names it.
func sweepScratch(dir string) (swept []string, err error) {
	left, err := filepath.Glob(filepath.Join(dir, scratchPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, scratch := range left {
		claim, err := state.ClaimFile(filepath.Join(scratch, "claim"))
		if errors.Is(err, state.ErrRunning) || errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.RemoveAll(scratch)
			claim.Release()
		}
		if err != nil {
			return swept, err
		}
		swept = append(swept, filepath.Base(scratch))
	}
	return swept, nil
}

func (x *examination) close() {
	if x.userns != nil {
		x.userns.Close()
	}
	if x.scratch != "" {
		os.RemoveAll(x.scratch)
	}
	if x.claim != nil {
		x.claim.Release()
	}
}

// blocked is the error of a probe that could not be made for want of another fact.
type blocked struct{ id string }

func (b blocked) Error() string { return "cannot be found out: see " + b.id }

// onStore gives what a probe of the store's filesystem needs.
func (x *examination) onStore(use func(scratch string, userns *os.File) error) error {
	if x.scratch == "" {
		return blocked{"store.place"}
	}
	if x.userns == nil {
		return blocked{"ids.map"}
	}
	dir, err := os.MkdirTemp(x.scratch, "")
	if err != nil {
		return err
	}
	return use(dir, x.userns)
}

// existing is dir, or the nearest directory above it that there is: the rest will be made there.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// freeIDs picks a range that no machine has, without taking it.
func freeIDs(pool state.Range) (state.Range, error) {
	taken, err := takenIDs()
	if err != nil {
		return state.Range{}, err
	}
	return idmap.Pick(pool, idmap.Size, taken)
}

func takenIDs() ([]state.Range, error) {
	host, err := state.OpenHost()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	taken, err := host.Ranges()
	return append(taken, idmap.Foreign()...), err
}

func storeProbes() []probe {
	return []probe{
		{"store.place", true, true, storePlace, "", "choose another place: croft --root DIR"},
		{"store.space", false, false, storeSpace, "what machines write is lost when it is full", "croft prune --images"},
		{"store.shift", false, true, storeShift, "each machine gets a copy of the whole image; volumes from there are refused", "keep the store on a disk: croft --root DIR; in a container: on a volume"},
		{"store.upper", false, true, storeUpper, "each machine gets a copy of the whole image", "keep the store on a disk: croft --root DIR; in a container: on a volume"},
		{"store.layers", false, true, storeLayers, "nothing but a few mounts more at each start", "a kernel from 6.15 on"},
		{"store.squashfs", false, true, mountsFile("squashfs"), "a squashfs is unpacked when it is imported or, where it cannot be mounted either, refused", "modprobe squashfs; modprobe loop"},
		{"store.erofs", false, true, mountsFile("erofs"), "an EROFS is unpacked when it is imported or, where it cannot be mounted either, refused", "modprobe erofs; modprobe loop"},
		{"store.loop", false, true, storeLoop, "no squashfs or EROFS can be imported, nor a machine of one started", "modprobe loop"},
		{"store.quota", false, true, storeQuota, "--disk; a machine can fill the disk that it is kept on", ""},
		{"store.run", true, true, storeRun, "", "choose another place: croft --run DIR"},
	}
}

func storePlace(x *examination) (string, error) {
	if x.scratch == "" {
		return "", x.noScratch
	}
	return x.rootDir + " on " + fileSystemOf(existing(x.rootDir)), nil
}

func storeShift(x *examination) (string, error) {
	err := x.onStore(rootfs.Shifts)
	return "ids shifted by mounts", err
}

func storeUpper(x *examination) (string, error) {
	err := x.onStore(func(scratch string, _ *os.File) error { return rootfs.CarriesUpper(scratch) })
	return "overlays", err
}

func storeLayers(x *examination) (string, error) {
	if _, err := storeShift(x); err != nil {
		return "", blocked{"store.shift"}
	}
	err := x.onStore(rootfs.LayersByFd)
	return "layers by descriptor", err
}

func mountsFile(kind string) func(*examination) (string, error) {
	return func(x *examination) (string, error) {
		return kind, x.onStore(func(scratch string, userns *os.File) error { return rootfs.MountsFile(kind, scratch, userns) })
	}
}

func storeLoop(x *examination) (string, error) {
	return "loop devices", x.onStore(func(scratch string, _ *os.File) error { return rootfs.Loops(scratch) })
}

// storeRun makes a socket where those of machines will be.
func storeRun(x *examination) (string, error) {
	if err := os.MkdirAll(x.runDir, 0o711); err != nil {
		return "", err
	}
	for _, dir := range leftBehind(x.runDir, scratchPrefix) {
		os.RemoveAll(dir)
	}
	dir, err := os.MkdirTemp(x.runDir, scratchPrefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	listener, err := listen(dir, "socket", unix.SOCK_SEQPACKET, 0o600)
	if err != nil {
		return "", err
	}
	listener.Close()
	return "sockets in " + x.runDir, nil
}

// leftBehind are the directories in dir that killed examinations have left: one that lives needs its own for moments.
func leftBehind(dir, prefix string) (left []string) {
	all, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
	for _, path := range all {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > time.Minute {
			left = append(left, path)
		}
	}
	return left
}

func idProbes() []probe {
	return []probe{
		{"ids.pool", true, true, idsPool, "", "croft list: remove machines; look at /etc/subuid and /etc/subgid"},
		{"ids.map", true, true, idsMap, "", "sysctl -w user.max_user_namespaces=100000"},
	}
}

func idsPool(x *examination) (string, error) {
	taken, err := takenIDs()
	if err != nil {
		return "", err
	}
	room := idmap.Room(x.pool, idmap.Size, taken)
	if room == 0 {
		return "", idmap.Nesting(fmt.Errorf("all ids between %d and %d are taken, or not to be had here", x.pool.Base, x.pool.End()-1))
	}
	return fmt.Sprintf("ids for %d more machines between %d and %d", room, x.pool.Base, x.pool.End()-1), nil
}

func idsMap(x *examination) (string, error) {
	if x.userns == nil {
		return "", x.noIDs
	}
	return "user namespaces with them (newuidmap is not needed)", nil
}
