package integration

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// enterNamespaces gives the calling goroutine's thread a network namespace and a mount namespace of its own, until both end. What it
// executes and where it listens is in there; what other goroutines do is not. So a script can make links, rules and named namespaces
// as it likes: none is the machine's, and none is the next script's.
//
// In a host of the tests' own that host's is used: what its systemd starts is there. Who is not root stays where it is.
func enterNamespaces() error {
	if insideHost() || os.Geteuid() != 0 {
		return nil
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return try("sh", "-euc", privateNetwork)
}

// privateNetwork makes loopback, /sys and /run/netns those of the network namespace. A sysfs shows the links of who mounted it.
const privateNetwork = `
mount --make-rslave /
ip link set lo up
new=$(mktemp -d)
mount -t sysfs sysfs "$new"
for below in fs/cgroup fs/bpf kernel/security kernel/debug kernel/tracing; do
	! mountpoint -q "/sys/$below" || mount --rbind "/sys/$below" "$new/$below"
done
umount -R -l /sys
mount --move "$new" /sys
rmdir "$new"
mkdir -p /run/netns
! mountpoint -q /run/netns || umount -R -l /run/netns # what ip makes of it receives what others mount there
mount -t tmpfs tmpfs /run/netns
`

// inNamespaces runs f on a thread of its own after enterNamespaces.
func inNamespaces(f func() error) error {
	done := make(chan error)
	go func() {
		err := enterNamespaces()
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// outside runs f on a thread that is in no script's namespaces: what it needs may come from the network.
func outside(f func() error) error {
	done := make(chan error)
	go func() { done <- f() }()
	return <-done
}
