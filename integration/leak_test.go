package integration

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A view is what the leak check compares: what there is -> how it is.
type view map[string]string

// look takes stock of all that croft commands could leave on the host; places are the directories that scripts work in. Others use
// the host meanwhile, with croft too: what bears the name of another root or lies in somebody's scratch directory is theirs.
func look(places ...string) view {
	v := view{}
	lookMounts(v, places)
	lookLinks(v)
	lookNft(v)
	lookUnits(v)
	lookCgroups(v, places)
	lookLoops(v, places)
	lookProcesses(v, places)
	lookSysctls(v)
	lookDevices(v)
	lookAppArmor(v)
	lookDefaultPlaces(v)
	lookReservations(v, places)
	for _, place := range places {
		lookRoot(v, place)
	}
	return v
}

// names reports whether the text has one of the places in it.
func names(text string, places []string) bool {
	return slices.ContainsFunc(places, func(place string) bool { return strings.Contains(text, place) })
}

// tag is what croft puts into the names of things outside a root, so that two roots do not collide: FNV-1a in 6 digits of 5 bits.
// isolation.txtar holds it to what croft does.
func tag(root string) string {
	h := uint32(2166136261)
	for _, b := range []byte(root) {
		h = (h ^ uint32(b)) * 16777619
	}
	var text []byte
	for range 6 {
		text = append(text, "0123456789abcdefghijklmnopqrstuv"[h&31])
		h >>= 5
	}
	return "croft-" + string(text)
}

func tagsOf(places []string) []string {
	var all []string
	for _, place := range places {
		all = append(all, tag(rootOf(place)))
	}
	return all
}

// patience is how long the kernel may take to finish what an ended command asked for (a cgroup's removal, say).
const patience = 3 * time.Second

// leaks compares the host with what it was and returns a sentence for each difference.
func leaks(before view, places ...string) []string {
	deadline := time.Now().Add(patience)
	for {
		found := before.diff(look(places...))
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (v view) diff(after view) []string {
	var found []string
	for _, what := range slices.Sorted(maps.Keys(after)) {
		was, had := v[what]
		switch is := after[what]; {
		case !had:
			found = append(found, strings.TrimSpace(fmt.Sprintf("left behind: %s %s", what, is)))
		case was != is:
			found = append(found, fmt.Sprintf("changed: %s: %s is now %s", what, was, is))
		}
	}
	for _, what := range slices.Sorted(maps.Keys(v)) {
		if _, has := after[what]; !has && !strings.HasPrefix(what, "process ") {
			found = append(found, "gone: "+what)
		}
	}
	return found
}

// mountPoints are those of this thread's mount namespace, one for each mount.
func mountPoints() ([]string, error) {
	info, err := os.ReadFile("/proc/thread-self/mountinfo")
	var points []string
	for line := range strings.Lines(string(info)) {
		points = append(points, strings.Fields(line)[4])
	}
	return points, err
}

// scratch are the directories in which anybody may be working.
var scratch = regexp.MustCompile(`^/(tmp|var/tmp|work|home|root|mnt|media|run/user)/`)

func lookMounts(v view, places []string) {
	points, _ := mountPoints()
	count := map[string]int{}
	for _, point := range points {
		if strings.HasPrefix(point, "/sys/kernel/") || point == "/run/netns" { // tracing, which the kernel mounts for anybody who looks; `ip netns`
			continue
		}
		if names(point, places) || !scratch.MatchString(point) {
			count[point]++
		}
	}
	for point, n := range count {
		v["mount "+point] = fmt.Sprintf("x%d", n)
	}
}

func lookLinks(v view) {
	links, _ := net.Interfaces()
	for _, l := range links {
		v["link "+l.Name] = ""
	}
	names, _ := filepath.Glob("/run/netns/*")
	for _, name := range names {
		v["network namespace "+name] = ""
	}
}

func lookNft(v view) {
	tables, _ := exec.Command("nft", "list", "tables").Output()
	for line := range strings.Lines(string(tables)) {
		name := strings.Fields(line) // table FAMILY NAME
		rules, _ := exec.Command("nft", append([]string{"--stateless", "list"}, name...)...).Output()
		v["nft "+strings.TrimSpace(line)] = string(rules)
	}
}

func lookUnits(v view) {
	if probeSystemd() != nil {
		return
	}
	out, _ := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "croft*").Output()
	for line := range strings.Lines(string(out)) {
		v["unit "+strings.Fields(line)[0]] = ""
	}
}

// lookCgroups notes the groups that bear the tag of a script's root.
func lookCgroups(v view, places []string) {
	filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && names(path, tagsOf(places)) {
			procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			v["cgroup "+path] = strings.Join(strings.Fields(string(procs)), " ")
		}
		return nil
	})
}

// lookAppArmor notes the profiles that are loaded and the namespaces of policy.
func lookAppArmor(v view) {
	const top = "/sys/kernel/security/apparmor/"
	profiles, _ := os.ReadFile(top + "profiles") // those of namespaces as well
	for line := range strings.Lines(string(profiles)) {
		v["AppArmor profile "+strings.TrimSpace(line)] = ""
	}
	namespaces, _ := filepath.Glob(top + "policy/namespaces/*")
	for _, dir := range namespaces {
		v["AppArmor namespace "+filepath.Base(dir)] = ""
	}
}

// cached are the names in a run directory of locks, and of what is kept for the next start.
var cached = regexp.MustCompile(`^\.(seccomp|apparmor)-|lock$`)

func lookLoops(v view, places []string) {
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, loop := range loops {
		file, _ := os.ReadFile(loop)
		if names(string(file), places) || !scratch.Match(file) {
			v["loop device "+loop] = strings.TrimSpace(string(file))
		}
	}
}

// A process is what /proc tells of one.
type process struct {
	pid     int
	exe     string // the link's text, empty for a kernel thread or one that has just gone
	args    string
	cgroups string // as in /proc/PID/cgroup
	environ string // with a NUL before and after each variable
}

func (p process) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.args) }

// kill sends SIGKILL.
func (p process) kill() { syscall.Kill(p.pid, syscall.SIGKILL) }

func processes() []process {
	var all []process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		exe, _ := os.Readlink(dir + "/exe")
		args, _ := os.ReadFile(dir + "/cmdline")
		cgroups, _ := os.ReadFile(dir + "/cgroup")
		environ, _ := os.ReadFile(dir + "/environ")
		all = append(all, process{
			pid:     pid,
			exe:     exe,
			args:    strings.TrimSpace(string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))),
			cgroups: string(cgroups),
			environ: "\x00" + string(environ),
		})
	}
	return all
}

// lookProcesses notes what runs from a script's place, in a machine of its root, or was started by the script.
func lookProcesses(v view, places []string) {
	for _, p := range processes() {
		if p.of(places) || names(p.cgroups, tagsOf(places)) {
			v["process "+p.String()] = ""
		}
	}
}

// of reports whether the process runs from one of the places or has it in its environment.
func (p process) of(places []string) bool {
	return slices.ContainsFunc(places, func(place string) bool {
		return strings.HasPrefix(p.exe, place+"/") || strings.Contains(p.environ, "\x00WORK="+place+"\x00")
	})
}

// volatile are the sysctls that change by themselves, or come with a module that is loaded for the first network.
var volatile = regexp.MustCompile(`^/proc/sys/(fs/(dentry-state|file-nr|inode-nr|inode-state|aio-nr|quota/.*)|` +
	`kernel/(random/.*|ns_last_pid|pty/nr|perf_event_max_sample_rate|sched_domain/.*)|` +
	`net/(netfilter/.*|nf_conntrack_max)|vm/stat_refresh)$`)

func lookSysctls(v view) {
	for _, top := range []string{"fs", "kernel", "net", "vm"} {
		filepath.WalkDir("/proc/sys/"+top, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || volatile.MatchString(path) {
				return nil
			}
			if value, err := os.ReadFile(path); err == nil {
				v["sysctl "+path] = strings.TrimSpace(string(value))
			}
			return nil
		})
	}
}

// lookDevices catches a runtime that hands the host's own devices to a guest's root.
func lookDevices(v view) {
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "fuse", "net/tun"} {
		if info, err := os.Stat("/dev/" + name); err == nil {
			st := info.Sys().(*syscall.Stat_t)
			v["device /dev/"+name] = fmt.Sprintf("%v of %d:%d", info.Mode(), st.Uid, st.Gid)
		}
	}
}

// lookDefaultPlaces notes files where croft would put them had it not been told otherwise.
func lookDefaultPlaces(v view) {
	for _, pattern := range []string{"/run/croft", "/var/lib/croft", "/etc/croft*", "/etc/systemd/system/croft*"} {
		tops, _ := filepath.Glob(pattern)
		for _, top := range tops {
			filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					v["file "+path] = ""
				}
				return nil
			})
		}
	}
}

// lookReservations notes what the roots of the scripts have reserved on the host, and what has been changed in this network namespace,
// which is kept by its cookie.
func lookReservations(v view, places []string) {
	here, _ := netnsCookie() // with a kernel without, before 5.14, there is no croft either
	filepath.WalkDir("/run/croft-host", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(e.Name(), "lock") {
			return nil
		}
		if of, is := strings.CutPrefix(path, "/run/croft-host/net/"); is && !strings.HasPrefix(of, here+"/") {
			return nil
		}
		if owner, _ := os.ReadFile(path); len(owner) == 0 || names(string(owner), places) {
			v["file "+path] = string(owner)
		}
		return nil
	})
}

// netnsCookie is the number that the kernel has given to the thread's network namespace, and to no other.
func netnsCookie() (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return strconv.FormatUint(cookie, 10), os.NewSyscallError("getsockopt(SO_NETNS_COOKIE)", err)
}

// lookRoot notes instances, their files, and things half made or half removed.
func lookRoot(v view, place string) {
	for _, dir := range []string{rootOf(place) + "/instances", rootOf(place) + "/roots", runOf(place)} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !cached.MatchString(e.Name()) {
				v["file "+filepath.Join(dir, e.Name())] = ""
			}
		}
	}
	for _, pattern := range []string{".new-*", ".gone-*"} {
		for _, level := range []string{"", "*/", "*/*/"} {
			half, _ := filepath.Glob(rootOf(place) + "/" + level + pattern)
			for _, path := range half {
				v["file "+path] = ""
			}
		}
	}
}

// TestLeakIsSeen leaves something of each kind behind and expects to be told.
func TestLeakIsSeen(t *testing.T) {
	if testing.Short() {
		t.Skip("looks at the whole host")
	}
	if why, _ := check("root"); why != nil {
		t.Skip(why)
	}
	if err := enterNamespaces(); err != nil {
		t.Fatal(err)
	}
	cookie, err := netnsCookie()
	if err != nil {
		t.Fatal(err)
	}
	place := t.TempDir()
	before := look(place)
	leave := []struct{ what, make, undo string }{
		{"cgroup", "mkdir $CG/$TAG $CG/$TAG/web", "rmdir $CG/$TAG/web $CG/$TAG"},
		{"file", "mkdir -p .root/instances/web .root/roots .run/web", "rm -r .root .run"},
		{"file", "mkdir -p .root/images/.new-1", "rm -r .root"},
		{"file", "mkdir -p /run/croft-host/ids; echo $PWD >/run/croft-host/ids/1-1", "rm /run/croft-host/ids/1-1"},
		{"process", "cp /bin/sleep . && ./sleep 60 >/dev/null 2>&1 & echo $! >pid; sleep 0.1", "kill $(cat pid); rm pid"},
		{"process", "WORK=$PWD sleep 60 >/dev/null 2>&1 & echo $! >pid; sleep 0.1", "kill $(cat pid); rm pid"},
		{"file", "mkdir -p /run/croft-host/net/$COOKIE; touch /run/croft-host/net/$COOKIE/leak", "rm -r /run/croft-host/net/$COOKIE"},
		{"network namespace", "touch /run/netns/leak", "rm /run/netns/leak"},
		{"link", "ip link add leak type veth peer name leak2", "ip link del leak"},
		{"nft table", "nft add table inet leak", "nft delete table inet leak"},
	}
	for _, l := range leave {
		sh := func(script string) {
			t.Helper()
			cmd := exec.Command("sh", "-ec", "CG=$(dirname $(ls -d /sys/fs/cgroup/unified/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -n 1)); "+script)
			cmd.Dir = place
			cmd.Env = append(os.Environ(), "TAG="+tag(rootOf(place)), "COOKIE="+cookie)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", script, err, out)
			}
		}
		sh(l.make)
		time.Sleep(20 * time.Millisecond)
		found := before.diff(look(place))
		sh(l.undo)
		if len(found) == 0 || !strings.HasPrefix(found[0], "left behind: "+l.what) {
			t.Errorf("after %q: saw %q", l.make, found)
		}
		if found := leaks(before, place); len(found) > 0 {
			t.Errorf("after %q: still saw %q", l.undo, found)
		}
	}
}
