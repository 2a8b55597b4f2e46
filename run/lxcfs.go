package run

import (
	"errors"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// lxcfs is a filesystem of another project whose files say of the host what the reader's cgroup has of it. Bound over the
// kernel's own they show a machine its limits (docs/decisions/042).

// lxcfsDir is where its service mounts it.
const lxcfsDir = "/var/lib/lxcfs"

// lxcfsLimit is how long it may take to answer: a start does not wait for one that hangs.
const lxcfsLimit = time.Second

// lxcfsFiles are those that it has for a machine of this host; none without lxcfs. The error says why one that is there does
// not answer.
func lxcfsFiles() ([]string, error) {
	type answer struct {
		files []string
		err   error
	}
	came := make(chan answer, 1)
	go func() {
		files, err := findLXCFS()
		came <- answer{files, err}
	}()
	select {
	case a := <-came:
		return a.files, a.err
	case <-time.After(lxcfsLimit):
		return nil, fmt.Errorf("lxcfs does not answer within %v", lxcfsLimit)
	}
}

func findLXCFS() (files []string, err error) {
	var fs unix.Statfs_t
	switch err := unix.Statfs(lxcfsDir, &fs); {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("lxcfs does not answer: %w", err)
	case fs.Type != unix.FUSE_SUPER_MAGIC: // the directory alone
		return nil, nil
	}
	for _, file := range [...]string{
		"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/slabinfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
		"/sys/devices/system/cpu/online",
	} {
		if exists(file) && exists(lxcfsDir+file) { // of the kernel's, and of its own version's
			files = append(files, file)
		}
	}
	if files == nil {
		return nil, errors.New("lxcfs has no files")
	}
	_, err = os.ReadFile(lxcfsDir + files[0])
	if err != nil {
		return nil, fmt.Errorf("lxcfs does not answer: %w", err)
	}
	return files, nil
}

// seen are the mounts by which the machine sees its limits. What lies over files of /proc keeps a user namespace in the machine
// from a /proc of its own, unless there is a whole one (nesting.go).
func (p *Plan) seen() (all []specs.Mount) {
	for _, file := range p.LXCFS {
		all = append(all, specs.Mount{Destination: file, Type: "bind", Source: lxcfsDir + file, Options: []string{"bind", "nosuid", "nodev", "noexec"}})
	}
	return all
}

// showsLimits is what doctor says of it.
func showsLimits(*examination) (string, error) {
	files, err := lxcfsFiles()
	switch {
	case err != nil:
		return "", err
	case files == nil && exists("/usr/bin/lxcfs"):
		return "", errors.New("lxcfs is installed and not mounted at " + lxcfsDir)
	case files == nil:
		return "", errors.New("no lxcfs")
	}
	return "lxcfs", nil
}
