package cli

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

// specFlags binds the flags that describe a machine straight into a spec.
type specFlags struct {
	state.Spec
	env, envFiles []string
	volumes       []string
	networks      []string
	labels        []string
	boot, noBoot  bool
	quiet         bool
}

func (s *specFlags) bind(fs *pflag.FlagSet) {
	fs.StringVar(&s.Name, "name", "", "call the machine `NAME`; without it one is made up")
	fs.StringVar(&s.Hostname, "hostname", "", "its host name is `NAME`; default: its own name")
	fs.StringArrayVarP(&s.env, "env", "e", nil, "set `KEY=VALUE` for its init and for all that is exec'd; KEY alone takes the caller's")
	fs.StringArrayVar(&s.envFiles, "env-file", nil, "read such lines from `FILE`")
	fs.StringArrayVarP(&s.volumes, "volume", "v", nil, "bind `SRC:DST[:ro]` of the host into it; what a user owns belongs to its root")
	fs.StringArrayVar(&s.networks, "network", nil, "connect it to `none|host`; default: none, loopback only")
	fs.StringArrayVarP(&s.labels, "label", "l", nil, "attach `KEY=VALUE` to it")
	fs.BoolVar(&s.boot, "boot", false, "boot the image's init, or fail")
	fs.BoolVar(&s.noBoot, "no-boot", false, "run CMD under a tiny init instead of booting the image's")
	fs.Var((*secondsValue)(&s.Timeouts.Stop), "stop-timeout", "kill it when a clean stop takes longer than `DURATION`")
	fs.Var((*secondsValue)(&s.Timeouts.Ready), "ready-timeout", "give up waiting for it to be up after `DURATION`")
	fs.StringVar(&s.Root.Driver, "storage", "", "keep its root filesystem with `overlay|dir`; default: overlay where it works")
	fs.BoolVarP(&s.quiet, "quiet", "q", false, "no notes on stderr, only errors")
	man.Under(fs, "Machine", "name", "hostname", "env", "env-file", "volume", "network", "label", "storage")
	man.Under(fs, "Init", "boot", "no-boot", "stop-timeout", "ready-timeout")
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
		if len(cmd) == 0 {
			return out, man.Misused("--no-boot needs a CMD")
		}
	}
	for _, fill := range []func(*state.Spec) error{s.environment, s.mounts, s.attachments, s.labelled} {
		if err := fill(&out); err != nil {
			return out, err
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

// volume reads SRC:DST[:OPTION,...]. A relative SRC is the caller's.
func volume(text string) (state.Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return state.Mount{}, man.Misused("volume %q is not SRC:DST[:ro]", text)
	}
	src, err := filepath.Abs(parts[0])
	if err != nil {
		return state.Mount{}, err
	}
	m := state.Mount{Source: src, Target: parts[1]}
	if len(parts) == 3 {
		for _, o := range strings.Split(parts[2], ",") {
			switch o {
			case "ro":
				m.ReadOnly = true
			case "rw", "idmap": // both are so anyway
			default:
				return m, man.Misused("volume %q: %q is neither ro nor idmap", text, o)
			}
		}
	}
	return m, nil
}

func (s *specFlags) attachments(out *state.Spec) error {
	for _, n := range s.networks {
		if n != state.NetworkNone {
			out.NICs = append(out.NICs, state.NIC{Network: n})
		}
	}
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
