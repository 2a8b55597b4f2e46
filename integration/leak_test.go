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
)

// A view is what the leak check compares: what there is -> how it is.
type view map[string]string

// look takes stock of all that a croft command could leave on the host; places are the directories that scripts work in.
func look(binary string, places ...string) view {
	v := view{}
	lookMounts(v)
	lookLinks(v)
	lookNft(v)
	lookUnits(v)
	lookCgroups(v)
	lookLoops(v)
	lookProcesses(v, binary, places)
	lookSysctls(v)
	lookDevices(v)
	lookDefaultPlaces(v)
	for _, place := range places {
		lookRoot(v, place)
	}
	return v
}

// patience is how long the kernel may take to finish what an ended command asked for (a cgroup's removal, say).
const patience = 3 * time.Second

// leaks compares the host with what it was and returns a sentence for each difference.
func leaks(before view, binary string, places ...string) []string {
	deadline := time.Now().Add(patience)
	for {
		found := before.diff(look(binary, places...))
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

// mountPoints are those of this mount namespace, one for each mount.
func mountPoints() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	var points []string
	for line := range strings.Lines(string(info)) {
		points = append(points, strings.Fields(line)[4])
	}
	return points, err
}

func lookMounts(v view) {
	points, _ := mountPoints()
	count := map[string]int{}
	for _, point := range points {
		count[point]++
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
	if out, err := exec.Command("nft", "--stateless", "list", "ruleset").Output(); err == nil {
		v["nft ruleset"] = string(out)
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

// lookCgroups notes the groups that bear croft's name and all groups below our own: others on the host make groups too.
func lookCgroups(v view) {
	own := ownCgroups()
	filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		below := func(dir string) bool { return strings.HasPrefix(path, dir+"/") }
		if strings.Contains(path, "croft") || slices.ContainsFunc(own, below) {
			procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			v["cgroup "+path] = strings.Join(strings.Fields(string(procs)), " ")
		}
		return nil
	})
}

// ownCgroups are the directories of the groups this process is in, but for the roots of the hierarchies.
func ownCgroups() []string {
	var dirs []string
	lines, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(lines)) {
		_, group, _ := strings.Cut(strings.TrimSpace(line), ":")
		controller, path, _ := strings.Cut(group, ":")
		if path != "/" {
			dirs = append(dirs, filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(controller, "name="), path))
		}
	}
	return dirs
}

func lookLoops(v view) {
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, loop := range loops {
		file, _ := os.ReadFile(loop)
		v["loop device "+loop] = strings.TrimSpace(string(file))
	}
}

// A process is what /proc tells of one.
type process struct {
	pid          int
	uid          int
	exe          string // the link's text, empty for a kernel thread or one that has just gone
	args, parent string
	environ      string // with a NUL before and after each variable
}

func (p process) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.args) }

// kill sends SIGKILL.
func (p process) kill() { syscall.Kill(p.pid, syscall.SIGKILL) }

func processes() []process {
	var all []process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		exe, _ := os.Readlink(dir + "/exe")
		args, _ := os.ReadFile(dir + "/cmdline")
		environ, _ := os.ReadFile(dir + "/environ")
		all = append(all, process{
			pid:     pid,
			uid:     int(info.Sys().(*syscall.Stat_t).Uid),
			exe:     exe,
			args:    strings.TrimSpace(string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))),
			environ: "\x00" + string(environ),
		})
	}
	return all
}

// The host uids that guests run under: systemd's container range, of which croft's pool is a part.
const firstGuestUID, lastGuestUID = 524288, 1879048191

// lookProcesses notes what runs from the tested binary or its links and whatever runs under a guest's uid.
func lookProcesses(v view, binary string, places []string) {
	for _, p := range processes() {
		ours := strings.HasPrefix(p.exe, binary) || firstGuestUID <= p.uid && p.uid <= lastGuestUID
		for _, place := range places {
			ours = ours || strings.HasPrefix(p.exe, place+"/")
		}
		if ours {
			v["process "+p.String()] = ""
		}
	}
}

// volatile are the sysctls that change by themselves.
var volatile = regexp.MustCompile(`^/proc/sys/(fs/(dentry-state|file-nr|inode-nr|inode-state|aio-nr|quota/.*)|` +
	`kernel/(random/.*|ns_last_pid|pty/nr|perf_event_max_sample_rate|sched_domain/.*)|` +
	`net/netfilter/nf_conntrack_(count|buckets)|vm/stat_refresh)$`)

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

// lookDefaultPlaces notes files where croft would put them had it not been told otherwise, and what it has reserved on the host.
func lookDefaultPlaces(v view) {
	for _, pattern := range []string{"/run/croft*", "/var/lib/croft*", "/etc/croft*", "/etc/systemd/system/croft*"} {
		tops, _ := filepath.Glob(pattern)
		for _, top := range tops {
			filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() && e.Name() != "lock" {
					v["file "+path] = ""
				}
				return nil
			})
		}
	}
}

// lookRoot notes instances, their files, and things half made or half removed.
func lookRoot(v view, place string) {
	for _, dir := range []string{rootOf(place) + "/instances", rootOf(place) + "/roots", runOf(place)} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), "lock") {
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
	place := t.TempDir()
	before := look("/none", place)
	leave := []struct{ what, make, undo string }{
		{"cgroup", "mkdir $CG/croft-leak", "rmdir $CG/croft-leak"},
		{"file", "mkdir -p .root/instances/web .root/roots .run/web", "rm -r .root .run"},
		{"file", "mkdir -p .root/images/.new-1", "rm -r .root"},
		{"process", "setpriv --reuid=700000 --clear-groups sleep 60 >/dev/null 2>&1 & echo $! >pid", "kill $(cat pid); rm pid"},
		{"network namespace", "mkdir -p /run/netns; touch /run/netns/leak", "rm /run/netns/leak"},
	}
	for _, l := range leave {
		sh := func(script string) {
			t.Helper()
			cmd := exec.Command("sh", "-ec", "CG=$(dirname $(ls -d /sys/fs/cgroup/unified/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -n 1)); "+script)
			cmd.Dir = place
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", script, err, out)
			}
		}
		sh(l.make)
		time.Sleep(20 * time.Millisecond)
		found := before.diff(look("/none", place))
		sh(l.undo)
		if len(found) == 0 || !strings.HasPrefix(found[0], "left behind: "+l.what) {
			t.Errorf("after %q: saw %q", l.make, found)
		}
		if found := leaks(before, "/none", place); len(found) > 0 {
			t.Errorf("after %q: still saw %q", l.undo, found)
		}
	}
}
