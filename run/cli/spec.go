package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// specFlags binds the flags that describe a machine straight into a spec.
type specFlags struct {
	state.Spec
	nicFlags
	securityFlags
	env, envFiles []string
	volumes       []string
	tmpfs         []string
	devices       []string
	labels        []string
	credentials   []string
	ioMax         []string
	hugePages     []string
	ulimits       []string
	profiles      []string
	boot, noBoot  bool
	wanted        run.Wanted // how its image is got
	quiet         bool
	given         func(flag string) bool // on the command line
}

func (s *specFlags) bind(fs *pflag.FlagSet) {
	s.given = fs.Changed
	fs.StringVar(&s.Name, "name", "", "call the machine `NAME`; without it one is made up")
	fs.StringVar(&s.Hostname, "hostname", "", "its host name is `NAME`; default: its own name")
	fs.StringArrayVarP(&s.env, "env", "e", nil, "set `KEY=VALUE` for its init and for all that is exec'd; KEY alone takes the caller's")
	fs.StringArrayVar(&s.envFiles, "env-file", nil, "read such lines from `FILE`")
	fs.StringArrayVarP(&s.volumes, "volume", "v", nil, "bind `SRC:DST[:ro,...]` of the host into it (croft help devices); what a user owns belongs to its root")
	fs.Var(&mountValue{fs}, "mount", "the same, or a tmpfs, in docker's words: `type=bind,source=SRC,target=DST,...`")
	fs.StringArrayVar(&s.tmpfs, "tmpfs", nil, "keep `DST[:size=SIZE,mode=MODE]` in memory, empty at every start")
	fs.StringArrayVar(&s.devices, "device", nil, "give it the host's device `PATH[:TARGET][:rwm]`, or one by class or CDI name (croft help devices)")
	fs.StringArrayVarP(&s.labels, "label", "l", nil, "attach `KEY=VALUE` to it")
	fs.StringArrayVar(&s.profiles, "profile", nil, "have it get the settings of `PROFILE`, or none, where it has no own; several add up, later ones first (croft help profile); default: "+state.DefaultProfile)
	fs.BoolVar(&s.boot, "boot", false, "boot the image's init, or fail")
	fs.BoolVar(&s.noBoot, "no-boot", false, "run CMD under a tiny init instead of booting the image's")
	fs.Var((*secondsValue)(&s.Timeouts.Stop), "stop-timeout", "kill it when a clean stop takes longer than `DURATION`")
	fs.Var((*secondsValue)(&s.Timeouts.Ready), "ready-timeout", "give up waiting for it to be up after `DURATION`")
	fs.Var((*secondsValue)(&s.Timeouts.Life), "timeout", "stop it `DURATION` after its start; its status is 124 then")
	fs.Var((*restartValue)(&s.Restart), "restart", "start it again when it ends by itself: `no|on-failure[:N]|always`; N, or 5, times in a row at most")
	fs.Var(oneOf(&s.Supervisor, state.SupervisorSystemd, state.SupervisorNone), "supervisor", "have a unit of systemd hold it, or no unit: `systemd|none`; default: systemd where that is PID 1")
	fs.BoolVar(&s.Root.ReadOnly, "read-only", false, "let it write to nothing but /run, /tmp, /var/tmp and what -v and --tmpfs add")
	fs.BoolVarP(&s.Root.Ephemeral, "ephemeral", "x", false, "begin with the image's files at every start, one after a reboot too")
	fs.StringVar(&s.Root.Driver, "storage", "", "keep its root filesystem with `overlay|dir|shifted`; default: the first that works here")
	bindLimits(fs, &s.Limits)
	fs.StringArrayVar(&s.ioMax, "io-max", nil, "limit a disk, `PATH:KEY=N,...`: rbps and wbps are bytes read and written per second, riops and wiops requests; PATH is its node, or lies on it")
	fs.StringArrayVar(&s.hugePages, "huge-pages", nil, "let it have so much in huge pages of a size, `SIZE=BYTES`, such as 2MB=64M")
	fs.StringArrayVar(&s.ulimits, "ulimit", nil, "limit each process of it, `NAME=SOFT[:HARD]`, such as nofile=4096:65536; the names are setrlimit's")
	bindCloudInit(fs, &s.CloudInit)
	fs.StringArrayVar(&s.credentials, "credential", nil, "give its systemd a credential, `NAME=VALUE|NAME:FILE`; FILE is read at each start")
	fs.BoolVarP(&s.quiet, "quiet", "q", false, "no notes on stderr, only errors")
	man.Under(fs, "Machine", "name", "profile", "hostname", "env", "env-file", "label", "user-data", "vendor-data", "network-config", "credential")
	s.nicFlags.bind(fs)
	s.securityFlags.bind(fs, &s.Security)
	man.Under(fs, "Files", "volume", "mount", "tmpfs", "device", "read-only", "ephemeral", "storage")
	man.Under(fs, "Limits", "memory", "memory-soft", "swap", "disk", "cpus", "cpu-set", "cpu-weight", "pids-limit", "io-max", "io-weight", "huge-pages", "ulimit")
	man.Under(fs, "Life", "boot", "no-boot", "restart", "timeout", "stop-timeout", "ready-timeout", "supervisor")
}

// spec makes the spec of image out of the flags, with cmd as the payload's command.
func (s *specFlags) spec(image string, cmd []string) (state.Spec, error) {
	out := s.Spec
	out.Image = image
	out.Init.Args = cmd
	switch {
	case s.boot && s.noBoot:
		return out, man.Misused("--boot and --no-boot exclude each other")
	case s.boot:
		out.Init.Mode = state.InitBoot
		out.Init.Args = nil
	case s.noBoot:
		out.Init.Mode = state.InitPayload
	}
	for _, fill := range []func(*state.Spec) error{s.environment, s.mounts, s.memory, s.nodes, s.attachments, s.published, s.resolving, s.labelled, s.secrets, s.disks, s.pages, s.processes, s.capabilities, s.mapped, s.tuned, s.profiled} {
		if err := fill(&out); err != nil {
			return out, err
		}
	}
	for _, x := range settings() {
		if x.shared() && x.entry == nil && s.given(x.name) && len(x.get(&out)) == 0 {
			out.Own(x.name, true)
		}
	}
	if out.Name == "" {
		out.Name = madeUpName()
	}
	return out, out.Check()
}

func (s *specFlags) environment(out *state.Spec) error {
	var err error
	out.Env, err = environment(s.envFiles, s.env)
	return err
}

// environment gathers KEY=VALUE from files and flags; a KEY alone takes the caller's value, if it has one.
func environment(files, flags []string) ([]string, error) {
	var all []string
	for _, name := range files {
		lines, err := envFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	var env []string
	for _, kv := range append(all, flags...) {
		if !strings.Contains(kv, "=") {
			value, ok := os.LookupEnv(kv)
			if !ok {
				continue
			}
			kv += "=" + value
		}
		env = append(env, kv)
	}
	return env, nil
}

// envFile reads lines of KEY=VALUE; empty ones and those that start with # do not count.
func envFile(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("env-file: %w", err)
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if l := strings.TrimSpace(s.Text()); l != "" && l[0] != '#' {
			lines = append(lines, l)
		}
	}
	return lines, s.Err()
}

func (s *specFlags) mounts(out *state.Spec) error {
	for _, v := range s.volumes {
		m, err := volume(v)
		if err != nil {
			return err
		}
		out.Mounts = append(out.Mounts, m)
	}
	return nil
}

func (s *specFlags) memory(out *state.Spec) error {
	for _, t := range s.tmpfs {
		m, err := tmpfs(t)
		if err != nil {
			return err
		}
		out.Tmpfs = append(out.Tmpfs, m)
	}
	return nil
}

func (s *specFlags) nodes(out *state.Spec) error {
	for _, text := range s.devices {
		d, err := device(text)
		if err != nil {
			return err
		}
		out.Devices = append(out.Devices, d)
	}
	return nil
}

// tmpfs reads DST[:OPTION,...].
func tmpfs(text string) (state.Tmpfs, error) {
	target, options, given := strings.Cut(text, ":")
	t := state.Tmpfs{Target: target}
	for _, o := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		switch {
		case !given, o == "rw", o == "nosuid", o == "nodev": // they are so anyway
		case key == "size":
			n, err := parseSize(value)
			if err == nil && n == 0 {
				err = errors.New("is none")
			}
			if err != nil {
				return t, man.Misused("tmpfs %q: size %q %v", text, value, err)
			}
			t.Size = n
		case key == "mode":
			t.Mode = value
		default:
			return t, man.Misused("tmpfs %q: %q is neither size=SIZE nor mode=MODE", text, o)
		}
	}
	return t, nil
}

// restartValue is a restart policy, as a flag.
type restartValue state.Restart

func (v *restartValue) Type() string { return "restart" }

func (v *restartValue) String() string {
	if v.Limit > 0 {
		return v.Policy + ":" + strconv.Itoa(v.Limit)
	}
	return v.Policy
}

func (v *restartValue) Set(s string) error {
	policy, limit, limited := strings.Cut(s, ":")
	n, err := strconv.ParseUint(limit, 10, 16)
	switch {
	case s == "no":
		*v = restartValue{}
		return nil
	case policy != state.RestartOnFailure && s != state.RestartAlways, limited && (err != nil || n == 0):
		return errors.New("is none of no, on-failure, on-failure:N, always")
	}
	*v = restartValue{policy, int(n)}
	return nil
}

func (s *specFlags) labelled(out *state.Spec) error {
	for _, l := range s.labels {
		k, v, _ := strings.Cut(l, "=")
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		out.Labels[k] = v
	}
	return nil
}

func (s *specFlags) profiled(out *state.Spec) error {
	if slices.Contains(s.profiles, state.NoProfile) && len(s.profiles) > 1 {
		return man.Misused("profile %s stands alone", state.NoProfile)
	}
	for _, p := range s.profiles {
		if p != state.NoProfile {
			out.Profiles = append(out.Profiles, p)
		}
	}
	return nil
}
