package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// facts are the conditions that scripts can name in `need` and in [brackets]; each is found out by using the thing.
var facts = map[string]func() error{
	"root":     probeRoot,
	"systemd":  probeSystemd,
	"bus":      func() error { return try("busctl", "--system", "status", "org.freedesktop.systemd1") },
	"cgroup2":  probeCgroup2,
	"hybrid":   probeHybrid,
	"limits":   probeLimits,
	"overlay":  probeOverlay,
	"apparmor": probeAppArmor,
	"selinux": func() error {
		_, err := os.Stat("/sys/fs/selinux/enforce")
		return err
	},
	"loop": func() error { return try("losetup", "-f") },
	"kvm":  func() error { return try("sh", "-c", "true 3<>/dev/kvm") },
	"btrfs": func() error {
		return try("sh", "-c", "mkfs.btrfs --version && { modprobe btrfs; grep btrfs /proc/filesystems; }")
	},
	"lxcfs":          func() error { return try("sh", "-c", "command -v lxcfs && grep -w fuse /proc/filesystems") },
	"xfs":            func() error { return try("sh", "-c", "mkfs.xfs -V && modprobe xfs") },
	"squashfs":       func() error { return try("mksquashfs", "-version") },
	"oci-tools":      func() error { return try("sh", "-c", "skopeo --version && umoci --version") },
	"erofs":          func() error { return try("mkfs.erofs", "--help") },
	"nft":            func() error { return try("nft", "list", "ruleset") },
	"docker":         func() error { return try("sh", "-c", "dockerd --version && iptables-nft --version") },
	"lxd":            func() error { return try("sh", "-c", "lxd --version && lxc --version") },
	"ufw":            func() error { return try("ufw", "version") },
	"firewalld":      func() error { return try("sh", "-c", "firewalld --help && dbus-daemon --version") },
	"strict":         func() error { return try("grep", "-q", "^StrictForwardPorts=", "/etc/firewalld/firewalld.conf") },
	"NetworkManager": func() error { return try("sh", "-c", "NetworkManager --version && dbus-daemon --version") },
	"cc":             func() error { return try("gcc", "--version") },
	"keyctl":         func() error { return try("keyctl", "session", "-", "keyctl", "show", "@s") },
	"strace":         func() error { return try("strace", "-f", "-o", "/dev/null", "true") },
	"nobody":         func() error { return try("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "true") },
	"gpg":            func() error { return try("gpg", "--version") },
	"registry": func() error {
		return try("sh", "-c", "command -v docker-registry && skopeo --version && umoci --version")
	},
}

// guests are the root filesystems that `need guest:NAME` finds and `guest NAME` imports, with the alias they get.
var guests = map[string]string{
	"busybox": "busybox", "trixie": "debian/13", "bookworm": "debian/12", "builder": "debian/13-build",
	"incus-client": "incus-client", "apps": "apps", "sysvinit": "sysvinit", "openrc": "openrc", "openrc-init": "openrc-init", "runit": "runit",
	"managers": "managers", "nested": "nested",
}

var known sync.Map // fact -> error or nil, so that each is probed once

// check says why the fact does not hold here; nil means that it does. ok is false for a fact that nobody has defined.
func check(fact string) (why error, ok bool) {
	probe, ok := facts[fact]
	if guest, is := strings.CutPrefix(fact, "guest:"); is {
		_, ok = guests[guest]
		probe = func() error { _, err := guestTar(guest); return err }
	}
	if part, is := strings.CutPrefix(fact, "host:"); is {
		ok = true
		probe = func() error { _, err := hostPart(part); return err }
	}
	if controller, is := strings.CutPrefix(fact, "cgroup:"); is {
		ok = true
		probe = func() error { return probeController(controller) }
	}
	if !ok {
		return nil, false
	}
	if seen, hit := known.Load(fact); hit {
		why, _ = seen.(error)
		return why, true
	}
	why = probe()
	known.Store(fact, why)
	return why, true
}

// demanded reports whether CROFT_TEST_NEED names the fact.
func demanded(fact string) bool {
	return slices.Contains(strings.Split(os.Getenv("CROFT_TEST_NEED"), ","), fact)
}

// guestTar builds the guest if the cache lacks it and returns its tar's path.
func guestTar(name string) (string, error) { return built("guests/build", name) }

// hostPart builds a part of a host that tests boot if the cache lacks it, and returns its directory.
func hostPart(name string) (string, error) { return built("host/build", name) }

// built runs a script that makes the thing named unless the cache has it and prints its path.
func built(script, name string) (string, error) {
	cmd := exec.Command(script, name)
	cmd.Env = append(os.Environ(), "CROFT_TEST_CACHE="+cacheDir())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	var out []byte
	err := outside(func() (err error) {
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", script, name, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func probeRoot() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("not root")
	}
	return try("unshare", "--mount", "--net", "--pid", "--fork", "true")
}

func probeSystemd() error {
	_, err := os.Stat("/run/systemd/system")
	return err
}

// cgroup2Top is where the cgroup2 tree is mounted.
func cgroup2Top() (string, error) {
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(top, "cgroup.procs")); err == nil {
			return top, nil
		}
	}
	return "", fmt.Errorf("no cgroup2 tree under /sys/fs/cgroup")
}

// probeCgroup2 makes and removes a group in the cgroup2 tree.
func probeCgroup2() error {
	top, err := cgroup2Top()
	if err != nil {
		return err
	}
	dir := filepath.Join(top, fmt.Sprintf("croft-probe-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Remove(dir)
}

// probeController looks for the controller in the cgroup2 tree.
func probeController(name string) error {
	top, err := cgroup2Top()
	if err != nil {
		return err
	}
	all, err := os.ReadFile(filepath.Join(top, "cgroup.controllers"))
	if err == nil && !slices.Contains(strings.Fields(string(all)), name) {
		err = fmt.Errorf("the cgroup2 tree has no controller %s", name)
	}
	return err
}

func probeHybrid() error {
	_, err := os.Stat("/sys/fs/cgroup/unified/cgroup.controllers")
	return err
}

// probeLimits wants every controller that limits of machines need, in whichever version.
func probeLimits() error {
	all, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers") // on hosts with v1 there is none
	for v2, v1 := range map[string]string{"memory": "memory", "pids": "pids", "cpu": "cpu", "cpuset": "cpuset", "io": "blkio"} {
		_, err := os.Stat(filepath.Join("/sys/fs/cgroup", v1, "cgroup.procs"))
		if err != nil && !slices.Contains(strings.Fields(string(all)), v2) {
			return fmt.Errorf("no controller of %s", v2)
		}
	}
	return nil
}

// probeOverlay mounts an overlay with an upper directory in the cache, in a mount namespace of its own.
func probeOverlay() error {
	dir, err := os.MkdirTemp(cacheDir(), "probe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return try("unshare", "--mount", "sh", "-ec",
		`cd "$1"; mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m; touch m/x`, "sh", dir)
}

func probeAppArmor() error {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err == nil && strings.TrimSpace(string(on)) != "Y" {
		err = fmt.Errorf("apparmor is off")
	}
	return err
}

// try runs a command and puts what it printed into the error.
func try(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
