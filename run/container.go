package run

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"croft/idmap"
	"croft/state"

	// Device rules are set through variables of the cgroups package, which this import fills.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	// The C side of "croft init": it joins and unshares before the Go runtime starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// ContainerInit is the first word of libcontainer's re-execution: main hands over to it before all else.
const ContainerInit = "init"

// IsInit says whether libcontainer has executed this binary for that: the word alone is a user's.
func IsInit(args []string) bool {
	return len(args) > 1 && args[1] == ContainerInit && os.Getenv("_LIBCONTAINER_INITPIPE") != ""
}

// Init runs as a container's init until it becomes the guest's. It does not return.
func Init() {
	forgetFiles()
	libcontainer.Init()
}

// containerID is what libcontainer knows it by.
const containerID = "container"

// container is a created one whose init waits for exec.
type container struct {
	*libcontainer.Container
	pid        int
	pidfd      *os.File
	pty, slave *os.File // nil where the payload has the starter's stdio
}

// newContainer creates the container of l with libcontainer and starts its init up to the last step.
func newContainer(l *launch) (*container, error) {
	config, err := configure(l)
	if err != nil {
		return nil, err
	}
	if err := l.keepFilter(); err != nil {
		return nil, err
	}
	if err := takeLimits(); err != nil {
		return nil, err
	}
	// One container in its own directory: libcontainer's state goes with the rest of it.
	lc, err := libcontainer.Create(l.RunDir, containerID, config)
	if err != nil {
		return nil, err
	}
	leave, err := l.stand() // only now: it wants to find the cgroup empty
	if err != nil {
		return nil, err
	}
	defer leave()
	p, err := l.process()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range p.ExtraFiles {
			f.Close()
		}
	}()
	owner := int(l.Instance.Facts.Range.Base) + p.UID
	done, err := l.loadCredentials(owner)
	if err != nil {
		return nil, err
	}
	defer done()
	c := &container{Container: lc}
	if l.Stdio {
		err = c.startOnStdio(l, p, owner)
	} else {
		err = c.startOnConsole(p)
	}
	if err == nil && l.Boot && !idmap.Nested() {
		err = freeTerminal(c.slave)
	}
	if err != nil {
		return nil, l.cdi.hookNamed(tidy(err))
	}
	if c.pid, err = p.Pid(); err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(c.pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return c, nil
}

// process is the machine's PID 1, with what the unit that starts it has given us for it.
func (l *launch) process() (*libcontainer.Process, error) {
	sockets, env, err := l.engine.activation()
	if err != nil {
		return nil, err
	}
	p := &libcontainer.Process{
		Init: true, Args: l.Instance.Facts.Init.Args, Env: append(l.Environment(), env...), Cwd: "/",
		AppArmorProfile: l.AppArmor.Label(), // which libcontainer takes from no spec
		ExtraFiles:      sockets, LogLevel: strconv.Itoa(int(logrus.GetLevel())),
	}
	for _, g := range l.cdi.groups {
		p.AdditionalGroups = append(p.AdditionalGroups, int(g))
	}
	if !l.Boot {
		if err := l.payload(p); err != nil {
			return nil, err
		}
	}
	if l.Boot && idmap.Nested() {
		program, err := terminalFree()
		if err != nil {
			return nil, err
		}
		if program != nil {
			executeBy(program, p)
		}
	}
	if l.hasCredentials() {
		p.Env = append(p.Env, envCredentials+"="+guestCredentials)
	}
	return p, nil
}

// tidy takes off what libcontainer says before the fact; the step's name says as much.
func tidy(err error) error {
	text := err.Error()
	for _, prefix := range []string{"unable to start container process: ", "error during container init: ", "error preparing rootfs: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return &shortened{text, err}
}

type shortened struct {
	text string
	err  error
}

func (s *shortened) Error() string { return s.text }
func (s *shortened) Unwrap() error { return s.err }

// payload puts the machine's command under the tiny init, as the user and in the directory that were asked for.
func (l *launch) payload(p *libcontainer.Process) error {
	asked := l.Instance.Facts.Init
	root, err := os.OpenFile(RootMount(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	who, err := lookUp(root, asked.User)
	if err != nil {
		return err
	}
	if err := runnable(root, asked.Args[0], asked.Dir, p.Env); err != nil && len(l.Instance.Spec.Mounts) == 0 {
		return err // else a volume may hold it, which is not mounted yet
	}
	p.UID, p.GID, p.AdditionalGroups = who.Uid, who.Gid, append(p.AdditionalGroups, who.Sgids...)
	p.Env = overlayEnv([]string{"HOME=" + who.Home}, p.Env)
	if asked.Dir != "" {
		p.Cwd = asked.Dir
	}
	program, err := payloadInit()
	if err != nil || program == nil {
		return err
	}
	if len(p.ExtraFiles) > 0 {
		p.Env = append(p.Env, roomForPID())
	}
	executeBy(program, p)
	return nil
}

// executeBy has program execute what p was to be.
func executeBy(program *os.File, p *libcontainer.Process) {
	p.Args = append([]string{fmt.Sprintf("/proc/self/fd/%d", firstSocket+len(p.ExtraFiles))}, p.Args...)
	p.ExtraFiles = append(p.ExtraFiles, program) // it becomes that descriptor
}

// startOnStdio gives the payload this process's own files, or pipes to them (relay.go). Pipes become its user's, so that it can
// open its /dev/stdout anew, as many programs do; nothing else is touched.
func (c *container) startOnStdio(l *launch, p *libcontainer.Process, uid int) error {
	out, done, err := l.relayed(os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	defer done()
	for _, f := range append(out, os.Stdin) {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeNamedPipe != 0 {
			if err := f.Chown(uid, -1); err != nil {
				return err
			}
		}
	}
	p.Stdin, p.Stdout, p.Stderr = os.Stdin, out[0], out[1]
	return c.Start(p)
}

// startOnConsole gives the init a pseudo terminal as its console. One slave stays open here and later in the
// keeper: PID 1 closes its own while it boots, and with the last one the terminal would hang up for good.
func (c *container) startOnConsole(p *libcontainer.Process) error {
	ours, theirs, err := socketpair(unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	defer ours.Close()
	defer theirs.Close()
	p.ConsoleSocket, p.ConsoleWidth, p.ConsoleHeight = theirs, 80, 25
	if err := c.Start(p); err != nil {
		return err
	}
	var name [4096]byte // the packet is the pty's name
	if _, c.pty, err = receive(ours, name[:]); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	if c.pty == nil {
		return fmt.Errorf("console: %w", state.ErrNotExist)
	}
	c.slave, err = peer(c.pty)
	return err
}

// peer opens the slave of a pty without going through a path that the guest could have changed.
func peer(pty *os.File) (*os.File, error) {
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, pty.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return nil, fmt.Errorf("ioctl(TIOCGPTPEER): %w", e)
	}
	return os.NewFile(fd, "tty"), nil
}

// configure turns the plan's OCI spec into libcontainer's configuration and adds the user namespace to it,
// which OCI cannot express as we need it: made before, owned by the range, joined here. A privileged machine has none.
func configure(l *launch) (*configs.Config, error) {
	spec := l.OCI()
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: l.Instance.Spec.Name, Spec: spec})
	if err != nil {
		return nil, err
	}
	// Behind ours stand those that runc gives everybody, a tunnel's among them.
	config.Cgroups.Resources.Devices = config.Cgroups.Resources.Devices[:len(spec.Linux.Resources.Devices)]
	ids := l.Instance.Facts.Range
	if l.Instance.Spec.Security.Privileged {
		return config, nil
	}
	config.UIDMappings = []configs.IDMap{{ContainerID: 0, HostID: int64(ids.Base), Size: int64(ids.Size)}}
	config.GIDMappings = config.UIDMappings
	config.Namespaces.Add(configs.NEWUSER, filepath.Join("/proc", fmt.Sprint(os.Getpid()), "fd", fmt.Sprint(l.userns.Fd())))
	for _, d := range config.Devices {
		d.Uid, d.Gid = ids.Base, ids.Base
	}
	return config, l.hooked(config, spec)
}
