package run

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a Debian with systemd takes when it has booted, as measured; a machine whose services do more takes more.
const (
	guestInotify = 8   // inotify instances
	guestKeys    = 11  // keys of its root
	guestTasks   = 100 // processes and threads
)

// limitProbes look at limits that the kernel has for each user. To the kernel the machines of a host are different
// users, since each has ids of its own and its user namespace belongs to the first of them: such a limit holds for each
// machine, however many there are. What is for all machines together says so.
func limitProbes() []probe {
	each := func(id, file string, least uint64, what, loss string) probe {
		return probe{"limit." + id, false, false, atLeast(file, least, what), loss, sysctl(file, least)}
	}
	return []probe{
		each("inotify-instances", "fs/inotify/max_user_instances", 4*guestInotify, "inotify instances for each machine", "services that watch files fail in machines with many"),
		each("inotify-watches", "fs/inotify/max_user_watches", 8192, "inotify watches", "services that watch files fail in machines with many"),
		each("inotify-events", "fs/inotify/max_queued_events", 1024, "queued inotify events", "a watcher that is slow misses events"),
		each("keys", "kernel/keys/maxkeys", 4*guestKeys, "keys for each user of each machine", "systemd and exec cannot make keyrings"),
		each("key-bytes", "kernel/keys/maxbytes", 10000, "bytes of them", "systemd and exec cannot make keyrings"),
		each("root-keys", "kernel/keys/root_maxkeys", 4*guestKeys, "keys for this host's root", "croft itself cannot make keyrings"),
		each("root-key-bytes", "kernel/keys/root_maxbytes", 10000, "bytes of them", "croft itself cannot make keyrings"),
		each("user-namespaces", "user/max_user_namespaces", 64, "user namespaces", "containers and browsers in machines"),
		each("mount-namespaces", "user/max_mnt_namespaces", 128, "mount namespaces", "sandboxed services in machines"),
		each("pid-namespaces", "user/max_pid_namespaces", 64, "pid namespaces", "containers in machines"),
		each("network-namespaces", "user/max_net_namespaces", 64, "network namespaces in each machine", "sandboxed services in machines"),
		{"limit.open-files", false, false, openFiles, "databases and web servers in machines that want more", "ulimit -Hn 524288 before croft; in a unit: LimitNOFILE=524288"},
		each("nr-open", "fs/nr_open", machineFiles, "files at most for a process", "databases and web servers in machines that want more"),
		each("file-max", "fs/file-max", 100000, "open files for all machines", "nothing can be opened any more when many machines are busy"),
		each("pid-max", "kernel/pid_max", 32768, "processes for all machines", fmt.Sprintf("about one machine for each %d", guestTasks)),
		each("threads-max", "kernel/threads-max", 32768, "threads for all machines", fmt.Sprintf("about one machine for each %d", guestTasks)),
		each("ptys", "kernel/pty/max", 256, "terminals for all machines", "one machine for each, and one for each exec on a terminal"),
		each("maps", "vm/max_map_count", 65530, "mappings for a process", "search engines and virtual machines in machines"),
		{"limit.userns-switch", false, false, usernsSwitches, "", ""},
	}
}

func sysctl(file string, value uint64) string {
	return fmt.Sprintf("sysctl -w %s=%d", strings.ReplaceAll(file, "/", "."), value)
}

func atLeast(file string, least uint64, what string) func(*examination) (string, error) {
	return func(*examination) (string, error) {
		n, err := setting(file)
		if errors.Is(err, os.ErrNotExist) {
			return what + ": unlimited by this kernel", nil
		}
		if err != nil {
			return "", err
		}
		found := fmt.Sprintf("%d %s", n, what)
		if n < least {
			return "", errors.New("only " + found)
		}
		return found, nil
	}
}

func setting(file string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join("/proc/sys", file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// openFiles asks what machines would get: this process may raise its own limit, or may not.
func openFiles(*examination) (string, error) {
	for _, l := range limits(nil) {
		if l.resource == unix.RLIMIT_NOFILE && l.Max < machineFiles {
			return "", fmt.Errorf("only %d open files for each process of a machine", l.Max)
		}
	}
	return fmt.Sprintf("%d open files for each process of a machine", machineFiles), nil
}

// usernsSwitches are those of distributions against user namespaces without root: croft makes them with it.
func usernsSwitches(*examination) (string, error) {
	var on []string
	if n, err := setting("kernel/unprivileged_userns_clone"); err == nil && n == 0 {
		on = append(on, "kernel.unprivileged_userns_clone=0")
	}
	if n, err := setting("kernel/apparmor_restrict_unprivileged_userns"); err == nil && n == 1 {
		on = append(on, "kernel.apparmor_restrict_unprivileged_userns=1")
	}
	if on != nil {
		return strings.Join(on, " and ") + " does not concern croft, which is root", nil
	}
	return "no switch against user namespaces", nil
}

func hostProbes() []probe {
	return []probe{
		{"host.mmdebstrap", false, false, helper("mmdebstrap"), "Debian images from nothing but a mirror", "apt-get install mmdebstrap"},
		{"host.lxcfs", false, false, showsLimits, "free, top and uptime in machines tell of the host, not of their limits", "apt-get install lxcfs, or systemctl restart lxcfs; machines see it from their next start"},
		{"host.memory", false, false, freeMemory, "machines are killed when it runs out", "fewer machines, or more memory"},
		{"host.clock", false, false, clock, "certificates are refused and timers go wrong in machines", "date -s, or install systemd-timesyncd"},
	}
}

func helper(name string) func(*examination) (string, error) {
	return func(*examination) (string, error) {
		_, err := exec.LookPath(name)
		return name, err
	}
}

func freeMemory(*examination) (string, error) {
	info, err := meminfo()
	if err != nil {
		return "", err
	}
	found := fmt.Sprintf("%d MiB of memory and %d MiB of swap available", info["MemAvailable"]>>10, info["SwapFree"]>>10)
	if info["MemAvailable"] < 128<<10 {
		return "", errors.New("only " + found)
	}
	return found, nil
}

// meminfo is /proc/meminfo, in KiB.
func meminfo() (map[string]uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := map[string]uint64{}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		all[name], _ = strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
	}
	return all, nil
}

func clock(*examination) (string, error) {
	now := time.Now().UTC()
	if now.Year() < 2025 {
		return "", fmt.Errorf("it is said to be %s", now.Format(time.RFC3339))
	}
	return "clock", nil
}

// storeSpace counts what is free on the store's filesystem.
func storeSpace(x *examination) (string, error) {
	s, err := spaceAt(existing(x.rootDir))
	if err == nil && s.short() {
		err = fmt.Errorf("only %s", s)
	}
	return s.String(), err
}

// mounted is one line of mountinfo.
type mounted struct{ id, at, kind string }

// hostMountTable is the mount table of this process (proc_pid_mountinfo(5)).
func hostMountTable() ([]mounted, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []mounted
	s := bufio.NewScanner(f)
	for s.Scan() {
		before, after, _ := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) > 4 && len(right) > 0 {
			all = append(all, mounted{left[0], left[4], right[0]})
		}
	}
	return all, s.Err()
}

// fileSystemOf names the kind of the filesystem at dir.
func fileSystemOf(dir string) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &st); err != nil {
		return "a filesystem"
	}
	mounts, _ := hostMountTable()
	for _, m := range mounts {
		if m.id == strconv.FormatUint(st.Mnt_id, 10) {
			return m.kind
		}
	}
	return "a filesystem"
}
