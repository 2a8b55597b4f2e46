package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// setting is one thing that can be said of a machine. It is called what run's flag is called, and its values are
// written as that flag takes them: set, get, unset, edit, explain and completion follow from the table of them.
type setting struct {
	name  string
	live  bool                      // holds at once for a machine that runs, and not from its next start
	says  string                    // what it means, where no flag of run tells that: LXD's keys that are none
	fixed string                    // not to be changed once the machine is made; the hint says what helps
	entry func(value string) string // of a list: what an entry is called
	pairs bool                      // the entries are NAME=VALUE
	many  bool                      // a list without names for its entries: all of it changes together
	field
}

// field is where a setting lies in a spec. No values are the default, and what was never said.
type field struct {
	get func(s *state.Spec) []string
	put func(s *state.Spec, values []string) error // whole or not at all; what it puts is no part of what was there
}

// settings is the table, in the order of get and edit.
func settings() []setting {
	return slices.Concat([]setting{
		{name: "name", fixed: "croft rename OLD NEW", field: text(func(s *state.Spec) *string { return &s.Name })},
		{name: "image", fixed: madeAnew, field: text(func(s *state.Spec) *string { return &s.Image })},
		{name: "profile", live: true, many: true, field: field{
			get: func(s *state.Spec) []string { return s.Profiles },
			put: func(s *state.Spec, values []string) error {
				s.Profiles = nil
				return (&specFlags{profiles: values}).profiled(s)
			},
		}},
		{name: "boot", fixed: madeAnew, field: mode(state.InitBoot)},
		{name: "no-boot", fixed: madeAnew, field: mode(state.InitPayload)},
		{name: "storage", fixed: madeAnew, field: text(func(s *state.Spec) *string { return &s.Root.Driver })},
		{name: "hostname", field: text(func(s *state.Spec) *string { return &s.Hostname })},
		{name: "env", entry: beforeEquals, pairs: true, field: field{
			get: func(s *state.Spec) []string { return s.Env },
			put: func(s *state.Spec, values []string) error {
				s.Env = nil
				return (&specFlags{env: values}).environment(s)
			},
		}},
		{name: "volume", live: true, entry: targetOf, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, m := range s.Mounts {
					all = append(all, volumeText(m))
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.Mounts = nil
				return (&specFlags{volumes: values}).mounts(s)
			},
		}},
		{name: "tmpfs", entry: atTarget, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, t := range s.Tmpfs {
					all = append(all, tmpfsText(t))
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.Tmpfs = nil
				return (&specFlags{tmpfs: values}).memory(s)
			},
		}},
		{name: "device", live: true, entry: deviceEntry, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, d := range s.Devices {
					all = append(all, deviceArg(d))
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.Devices = nil
				return (&specFlags{devices: values}).nodes(s)
			},
		}},
		{name: "read-only", field: yes(func(s *state.Spec) *bool { return &s.Root.ReadOnly })},
		{name: "ephemeral", field: yes(func(s *state.Spec) *bool { return &s.Root.Ephemeral })},
		{name: "network", many: true, field: field{
			get: func(s *state.Spec) (all []string) {
				for i, n := range s.NICs {
					all = append(all, attachmentText(n, i == 0))
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.NICs = nil
				return (&nicFlags{networks: values}).attachments(s)
			},
		}},
		{name: "ip", field: pin("ip")},
		{name: "ip6", field: pin("ip6")},
		{name: "mac", field: pin("mac")},
		{name: "publish", live: true, entry: publishedAs, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, p := range s.Ports {
					all = append(all, p.String())
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.Ports = nil
				return (&nicFlags{ports: values}).published(s)
			},
		}},
		{name: "dns", many: true, field: field{
			get: func(s *state.Spec) []string { return s.DNS },
			put: func(s *state.Spec, values []string) error {
				s.DNS = nil
				return (&nicFlags{servers: values}).resolving(s)
			},
		}},
		{name: "add-host", entry: itself, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, h := range s.AddHosts {
					all = append(all, h.Name+":"+h.Address)
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.AddHosts = nil
				return (&nicFlags{hostNames: values}).resolving(s)
			},
		}},
		{name: "memory", live: true, field: limit(func(l *state.Limits) pflag.Value { return memoryValue{&l.Memory, &l.MemoryPercent} })},
		{name: "memory-soft", live: true, field: limit(func(l *state.Limits) pflag.Value { return memoryValue{&l.MemorySoft, &l.MemorySoftPercent} })},
		{name: "swap", live: true, field: limit(func(l *state.Limits) pflag.Value { return swapValue{&l.Swap} })},
		{name: "disk", live: true, field: limit(func(l *state.Limits) pflag.Value { return (*diskValue)(&l.Disk) })},
		{name: "cpus", live: true, field: limit(func(l *state.Limits) pflag.Value { return cpusValue{&l.CPUs, &l.CPUPeriod} })},
		{name: "cpu-set", live: true, field: text(func(s *state.Spec) *string { return &s.Limits.CPUSet })},
		{name: "cpu-weight", live: true, field: weight(func(s *state.Spec) *int { return &s.Limits.CPUWeight })},
		{name: "pids-limit", live: true, field: as(func(s *state.Spec) *int64 { return &s.Limits.PIDs }, func(n *int64) pflag.Value { return (*pidsValue)(n) })},
		{name: "io-max", live: true, entry: deviceOf, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, m := range s.Limits.IOMax {
					all = append(all, ioMaxText(m))
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.Limits.IOMax = nil
				return (&specFlags{ioMax: values}).disks(s)
			},
		}},
		{name: "io-weight", live: true, field: weight(func(s *state.Spec) *int { return &s.Limits.IOWeight })},
		{name: "huge-pages", live: true, entry: beforeEquals, pairs: true, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, p := range s.Limits.HugePages {
					all = append(all, p.Size+"="+exactSize(p.Bytes))
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.Limits.HugePages = nil
				return (&specFlags{hugePages: values}).pages(s)
			},
		}},
		{name: "ulimit", live: true, entry: beforeEquals, pairs: true, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, u := range s.Limits.Ulimits {
					all = append(all, ulimitText(u))
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.Limits.Ulimits = nil
				return (&specFlags{ulimits: values}).processes(s)
			},
		}},
		{name: "user-data", field: text(func(s *state.Spec) *string { return &s.CloudInit.UserData })},
		{name: "vendor-data", field: text(func(s *state.Spec) *string { return &s.CloudInit.VendorData })},
		{name: "network-config", field: text(func(s *state.Spec) *string { return &s.CloudInit.NetworkConfig })},
		{name: "credential", entry: credentialName, pairs: true, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, c := range s.Credentials {
					all = append(all, credentialText(c))
				}
				return all
			},
			put: func(s *state.Spec, values []string) error {
				s.Credentials = nil
				return (&specFlags{credentials: values}).secrets(s)
			},
		}},
		{name: "label", live: true, entry: beforeEquals, pairs: true, field: field{
			get: func(s *state.Spec) []string { return pairsOf(s.Labels) },
			put: func(s *state.Spec, values []string) error {
				s.Labels = nil
				return (&specFlags{labels: values}).labelled(s)
			},
		}},
		{name: "rm", live: true, field: yes(func(s *state.Spec) *bool { return &s.Remove })},
		{name: "restart", live: true, field: as(func(s *state.Spec) *state.Restart { return &s.Restart }, func(r *state.Restart) pflag.Value { return (*restartValue)(r) })},
		{name: "timeout", field: wholeSeconds(func(s *state.Spec) *int { return &s.Timeouts.Life })},
		{name: "stop-timeout", live: true, field: wholeSeconds(func(s *state.Spec) *int { return &s.Timeouts.Stop })},
		{name: "ready-timeout", field: wholeSeconds(func(s *state.Spec) *int { return &s.Timeouts.Ready })},
		{name: "supervisor", field: text(func(s *state.Spec) *string { return &s.Supervisor })},
		{name: "boot.autostart", live: true, says: "start it whenever the host starts: true, false; unset: when it ran as the host went down", field: tristate(func(s *state.Spec) **bool { return &s.Boot.Autostart })},
		{name: "boot.autostart.priority", live: true, says: "start it before those with a lower number when the host starts", field: as(func(s *state.Spec) *int { return &s.Boot.Priority }, func(n *int) pflag.Value { return (*priorityValue)(n) })},
		{name: "security.protection.delete", live: true, says: "refuse to remove it: true", field: yes(func(s *state.Spec) *bool { return &s.Protect })},
		{name: "boot.host_shutdown_timeout", says: "kill it when a stop by the host takes longer; unset: its stop-timeout", field: wholeSeconds(func(s *state.Spec) *int { return &s.Boot.Shutdown })},
	}, securitySettings())
}

// limit is a limit of one value.
func limit(at func(*state.Limits) pflag.Value) field {
	return field{
		get: func(s *state.Spec) []string { return some(at(&s.Limits).String()) },
		put: func(s *state.Spec, values []string) error {
			value, err := only(values)
			if err != nil {
				return err
			}
			return at(&s.Limits).Set(cmp.Or(value, unlimited))
		},
	}
}

const madeAnew = "croft create, for another machine with it"

// text is a field of words; the empty one is none.
func text(at func(*state.Spec) *string) field {
	return field{
		get: func(s *state.Spec) []string { return some(*at(s)) },
		put: func(s *state.Spec, values []string) (err error) {
			*at(s), err = only(values)
			return err
		},
	}
}

// yes is a switch.
func yes(at func(*state.Spec) *bool) field {
	return field{
		get: func(s *state.Spec) []string {
			if !*at(s) {
				return nil
			}
			return []string{"true"}
		},
		put: func(s *state.Spec, values []string) error {
			*at(s) = false
			value, err := only(values)
			if value == "" || err != nil {
				return err
			}
			if *at(s), err = strconv.ParseBool(value); err != nil {
				return errors.New("is neither true nor false")
			}
			return nil
		},
	}
}

// tristate is a switch that may be left open.
func tristate(at func(*state.Spec) **bool) field {
	return as(at, func(b **bool) pflag.Value { return switchValue{b} })
}

// priorityValue is a whole number of which a higher one comes first, as a flag.
type priorityValue int

func (v *priorityValue) Type() string { return "number" }

func (v *priorityValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.Itoa(int(*v))
}

func (v *priorityValue) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return errors.New("is no whole number")
	}
	*v = priorityValue(n)
	return nil
}

// wholeSeconds is a time as state keeps it.
func wholeSeconds(at func(*state.Spec) *int) field {
	return as(at, func(n *int) pflag.Value { return (*secondsValue)(n) })
}

// as is a field that is read and written as a flag.
func as[T any](at func(*state.Spec) *T, flag func(*T) pflag.Value) field {
	return field{
		get: func(s *state.Spec) []string { return some(flag(at(s)).String()) },
		put: func(s *state.Spec, values []string) error {
			var unset T
			*at(s) = unset
			value, err := only(values)
			if value == "" || err != nil {
				return err
			}
			return flag(at(s)).Set(value)
		},
	}
}

// mode is one of the two switches that choose PID 1.
func mode(word string) field {
	return field{get: func(s *state.Spec) []string {
		if s.Init.Mode != word {
			return nil
		}
		return []string{"true"}
	}}
}

// pin is what the first of a machine's NICs has by wish.
func pin(name string) field {
	return field{
		get: func(s *state.Spec) []string {
			if len(s.NICs) == 0 {
				return nil
			}
			return some(*pinOf(&s.NICs[0], name))
		},
		put: func(s *state.Spec, values []string) error {
			value, err := only(values)
			switch {
			case err != nil:
				return err
			case len(s.NICs) > 0:
				s.NICs = slices.Clone(s.NICs)
				*pinOf(&s.NICs[0], name) = value
			case value != "":
				return errors.New("there is no network to have it in")
			}
			return nil
		},
	}
}

func some(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

// only is the one value, empty for none.
func only(values []string) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", errors.New("is one value and no list")
}

func pairsOf(m map[string]string) (all []string) {
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return all
}

func itself(value string) string { return value }

func beforeEquals(value string) string {
	name, _, _ := strings.Cut(value, "=")
	return name
}

// targetOf is where in the machine a volume lies.
func targetOf(value string) string {
	if parts := strings.Split(value, ":"); len(parts) > 1 {
		return path.Clean(parts[1])
	}
	return value
}

// atTarget is where in the machine a directory in memory lies.
func atTarget(value string) string {
	target, _, _ := strings.Cut(value, ":")
	return path.Clean(target)
}

// tmpfsText writes a directory in memory as --tmpfs takes it.
func tmpfsText(t state.Tmpfs) string {
	var options []string
	if t.Size > 0 {
		options = append(options, "size="+strconv.FormatInt(t.Size, 10))
	}
	if t.Mode != "" {
		options = append(options, "mode="+t.Mode)
	}
	if options == nil {
		return t.Target
	}
	return t.Target + ":" + strings.Join(options, ",")
}

// named is a setting as a word calls it: the whole, or with KEY.ENTRY one entry of a list.
type named struct {
	setting
	word, one string
}

// settingOf finds what word calls. LXD's names are understood where croft has the thing: environment.A is env.A,
// user.A is the label of that name, linux.sysctl.A is sysctl.A, and limits have theirs (limits_lxd.go).
func settingOf(word string) (named, error) {
	key, one, dotted := strings.Cut(croftName(word), ".")
	switch {
	case dotted && key == "linux" && strings.HasPrefix(one, "sysctl."):
		key, one = "sysctl", strings.TrimPrefix(one, "sysctl.")
	case dotted && key == "environment":
		key = "env"
	case dotted && key == "user":
		key, one = "label", word
	}
	var names []string
	for _, s := range lxdLimits() {
		if s.name == word {
			return named{s, word, ""}, nil
		}
		names = append(names, s.name)
	}
	for _, n := range lxdNames {
		names = append(names, n[0])
	}
	for _, s := range settings() {
		if s.name == word || s.name == key && !dotted {
			return named{s, word, ""}, nil
		}
		if s.name == key && s.entry != nil && one != "" {
			return named{s, word, one}, nil
		}
		names = append(names, s.name)
	}
	err := &man.Misuse{Say: fmt.Sprintf("no such key %q", word)}
	near := man.Nearest(word, names)
	if near == "" {
		near = man.Nearest(key, names)
	}
	err.Hint = near
	return named{}, err
}

func settingsOf(words []string) ([]named, error) {
	var all []named
	for _, word := range words {
		n, err := settingOf(word)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// values are those that are meant: all, or those of the one entry.
func (n named) values(s *state.Spec) []string {
	all := n.get(s)
	if n.one == "" {
		return all
	}
	var out []string
	for _, v := range all {
		if n.entry(v) == n.one {
			if n.pairs {
				v = v[len(n.one)+1:]
			}
			out = append(out, v)
		}
	}
	return out
}

// set gives s the values. In a list they take the place of entries of the same name and stand beside the others; an
// empty value is what unset does.
func (n named) set(s *state.Spec, values []string) error {
	if n.fixed != "" {
		if strings.Join(values, " ") == strings.Join(n.get(s), " ") { // none is written as an empty one
			return nil
		}
		return state.Hint(man.Misused("%s cannot be changed any more", n.name), n.fixed)
	}
	var now []string
	if n.entry != nil {
		now = slices.Clone(n.get(s))
	}
	for _, v := range values {
		switch {
		case n.one != "" && n.pairs:
			now = n.with(now, n.one, n.one+"="+v)
		case n.one != "" && v != "" && n.entry(v) != n.one:
			return man.Misused("%s: %s is not at %s", n.word, v, n.one)
		case v == "" && n.one != "":
			now = n.without(now, n.one)
		case v == "":
			now = nil
		case n.entry == nil:
			now = append(now, v)
		default:
			now = n.with(now, n.entry(v), v)
		}
	}
	err := n.put(s, now)
	if errors.As(err, new(*man.Misuse)) { // it says what it is about
		return err
	}
	if err != nil {
		return man.Misused("%s %s: %v", n.word, strings.Join(values, " "), err)
	}
	return nil
}

func (n named) with(list []string, name, value string) []string {
	for i, v := range list {
		if n.entry(v) == name {
			list[i] = value
			return list
		}
	}
	return append(list, value)
}

func (n named) without(list []string, name string) []string {
	return slices.DeleteFunc(list, func(v string) bool { return n.entry(v) == name })
}

// unset takes the setting, or the one entry, back to what it is when nothing is said.
func (n named) unset(s *state.Spec) error {
	switch {
	case n.fixed != "":
		return n.set(s, nil)
	case n.one == "":
		return n.put(s, nil)
	}
	return n.put(s, n.without(slices.Clone(n.get(s)), n.one))
}

// assignment is what a command line says of one key.
type assignment struct {
	named
	values []string
}

// bindSettings binds the flags that are settings.
func bindSettings(fs *pflag.FlagSet, flags *specFlags) {
	flags.bind(fs)
	fs.BoolVar(&flags.Remove, "rm", false, "remove it when it stops")
}

func (a *app) set() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var flags specFlags
		bindSettings(fs, &flags)
		for _, s := range settings() {
			if f := fs.Lookup(s.name); f != nil && s.fixed != "" {
				f.Hidden = true // understood, and answered with what helps
			}
		}
		return func(_ context.Context, args []string) error {
			said, err := assignments(fs, flags.envFiles, args[1:])
			if err != nil {
				return err
			}
			if len(said) == 0 {
				return man.Misused("nothing to set: a flag or KEY=VALUE is missing")
			}
			return a.reconfigure("set", args[0], flags.quiet, func(s *state.Spec) error { return a.assign(s, said) })
		}
	}
}

// assignments are those of the flags that were given, and after them those of the operands.
func assignments(fs *pflag.FlagSet, envFiles, operands []string) ([]assignment, error) {
	var all []assignment
	lines, err := environment(envFiles, nil)
	if err != nil {
		return nil, err
	}
	for _, s := range settings() {
		var values []string
		if s.name == "env" {
			values = lines
		}
		if f := fs.Lookup(s.name); f != nil && f.Changed {
			if list, ok := f.Value.(pflag.SliceValue); ok {
				values = append(values, list.GetSlice()...)
			} else {
				values = append(values, f.Value.String())
			}
		}
		if values != nil {
			all = append(all, assignment{named{setting: s, word: "--" + s.name}, values})
		}
	}
	for _, o := range operands {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			return nil, man.Misused("%q is not KEY=VALUE", o)
		}
		n, err := settingOf(key)
		if err != nil {
			return nil, err
		}
		if last := len(all) - 1; n.many && last >= 0 && all[last].word == n.word {
			all[last].values = append(all[last].values, value)
			continue
		}
		all = append(all, assignment{n, []string{value}})
	}
	return all, nil
}

// reconfigure changes a machine's spec, and says what a running one will only have from its next start and what that will
// cost.
func (a *app) reconfigure(verb, name string, quiet bool, change func(*state.Spec) error) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	before, after, err := e.Reconfigure(name, change)
	var misuse *man.Misuse
	switch {
	case errors.As(err, &misuse), errors.Is(err, state.ErrNotExist):
		return err
	case err != nil:
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	if after.Spec.CloudInit != before.Spec.CloudInit {
		if err := (&specFlags{quiet: quiet}).noteUnread(e, after); err != nil {
			return err
		}
	}
	if later := waiting(e, before, after); len(later) > 0 && !quiet {
		fmt.Fprintf(os.Stderr, "%s is running: %s will hold from its next start\n", name, strings.Join(later, ", "))
	}
	if !slices.Equal(before.Spec.Ports, after.Spec.Ports) && !quiet {
		hintPorts(e, name)
	}
	if _, err := os.Lstat(e.Dir.RootOf(name)); err == nil && after.Spec.Root.Ephemeral && !before.Spec.Root.Ephemeral && !quiet {
		fmt.Fprintf(os.Stderr, "%s is ephemeral: all that it has written will be gone at its next start\n", name)
	}
	return nil
}

// waiting names the settings that were changed just now and that the running machine does not have yet.
func waiting(e *run.Engine, before, after *state.Instance) (names []string) {
	for _, s := range pending(e, after) {
		if !slices.Equal(s.get(&before.Spec), s.get(&after.Spec)) {
			names = append(names, s.name)
		}
	}
	return names
}

// pending are the settings that a running machine will only have from its next start.
func pending(e *run.Engine, in *state.Instance) (all []setting) {
	if held, err := e.Dir.Claimed(in.Spec.Name); in.Applied == nil || err != nil || !held {
		return nil
	}
	for _, s := range settings() {
		if !s.live && !slices.Equal(s.get(&in.Applied.Spec), s.get(&in.Spec)) {
			all = append(all, s)
		}
	}
	return all
}

func (a *app) unset() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		quiet := fs.BoolP("quiet", "q", false, "no notes on stderr, only errors")
		return func(_ context.Context, args []string) error {
			keys, err := settingsOf(args[1:])
			if err != nil {
				return err
			}
			return a.reconfigure("unset", args[0], *quiet, func(s *state.Spec) error {
				was := before(s)
				for _, n := range keys {
					if err := n.unset(s); err != nil {
						return err
					}
					s.Own(n.name, false)
				}
				own(&was, s, nil)
				return a.expand(s)
			})
		}
	}
}

// keyValue is one line of get; its JSON names are a promise (docs/json.md).
type keyValue struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // machine, host, profile NAME; default: nobody has said anything
}

func (a *app) get() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		origin := fs.Bool("origin", false, "print a table that tells where each value comes from: machine, host, or a profile")
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(_ context.Context, args []string) error {
			keys, err := settingsOf(args[1:])
			if err != nil {
				return err
			}
			_, in, err := a.instance(args[0])
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				for _, s := range settings() {
					keys = append(keys, named{setting: s, word: s.name})
				}
			}
			rows := keyValues(&in.Spec, keys)
			if *origin || format != "table" {
				return view[keyValue]{
					{Head: "KEY", Cell: func(r keyValue) string { return r.Key }},
					{Head: "VALUE", Cell: func(r keyValue) string { return r.Value }},
					{Head: "ORIGIN", Cell: func(r keyValue) string { return r.Origin }},
				}.write(os.Stdout, string(format), rows)
			}
			for _, r := range rows {
				if len(args) == 2 {
					printText(r.Value)
					continue
				}
				if strings.Contains(r.Value, "\n") {
					r.Value = strconv.Quote(r.Value)
				}
				fmt.Println(harmless(r.Key) + "=" + harmless(r.Value))
			}
			return nil
		}
	}
}

// keyValues has one row for each value, and one for a key without any.
func keyValues(s *state.Spec, keys []named) []keyValue {
	rows := []keyValue{}
	for _, n := range keys {
		values := n.values(s)
		if len(values) == 0 {
			values = []string{""}
		}
		for _, v := range values {
			rows = append(rows, keyValue{n.word, v, n.originOf(s, v)})
		}
	}
	return rows
}

// keyNames are what completion offers for a key.
func keyNames() (names []string) {
	for _, s := range settings() {
		names = append(names, s.name)
	}
	return names
}
