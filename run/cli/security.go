package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

// securityFlags are the flags of confinement that are lists.
type securityFlags struct {
	capAdd, capDrop []string
	sysctls, idMaps []string
}

func (f *securityFlags) bind(fs *pflag.FlagSet, s *state.Security) {
	fs.BoolVar(&s.Privileged, "privileged", false, "do without a user namespace: its root is the host's root, and no wall is one for it")
	fs.BoolVar(&s.Nesting, "nesting", false, "let it run machines and containers of its own: 1048576 ids, and a place for them on a filesystem of the host's")
	fs.StringArrayVar(&f.capAdd, "cap-add", nil, "let its root have the capability `CAP` as well, such as SYSLOG, or ALL")
	fs.StringArrayVar(&f.capDrop, "cap-drop", nil, "have its root do without the capability `CAP`, or ALL")
	fs.Var(switchValue{&s.NoNewPrivileges}, "no-new-privileges", "let no program of it raise its rights, as sudo does: `true|false`; default: true with --no-boot")
	fs.Lookup("no-new-privileges").NoOptDefVal = "true"
	fs.Var((*profileValue)(&s.Seccomp), "seccomp", "filter its system calls by the profile `FILE`, as docker and podman take it, or not at all: unconfined; default: croft's own filter")
	fs.StringVar(&s.AppArmor, "apparmor", "", "confine it by the loaded AppArmor profile `NAME`, or unconfined; default: a profile of its own, where there is AppArmor")
	fs.StringVar(&s.SELinux, "selinux", "", "label its processes with the SELinux `TYPE`, or USER:ROLE:TYPE:LEVEL, and what is mounted for them to suit; default: croft's own label")
	fs.StringArrayVar(&f.sysctls, "sysctl", nil, "set `KEY=VALUE` before its init runs: net., user. and fs.mqueue. keys, and kernel's of System V IPC")
	fs.StringArrayVar(&f.idMaps, "idmap", nil, "show users or groups of the host on its volumes as others: `KIND HOST[-HOST] GUEST[-GUEST]`, where KIND is both, uid or gid")
	man.Under(fs, "Security", "privileged", "nesting", "idmap", "cap-add", "cap-drop", "no-new-privileges", "seccomp", "apparmor", "selinux", "sysctl")
}

// capabilities fills in the capabilities that were added and dropped.
func (f *securityFlags) capabilities(out *state.Spec) error {
	out.Security.CapAdd, out.Security.CapDrop = capabilityNames(f.capAdd), capabilityNames(f.capDrop)
	return nil
}

// mapped fills in the id maps of volumes.
func (f *securityFlags) mapped(out *state.Spec) error {
	out.Security.IDMap = nil
	for _, text := range f.idMaps {
		m, err := state.ParseIDMap(text)
		if err != nil {
			return man.Misused("idmap %v", err)
		}
		out.Security.IDMap = append(out.Security.IDMap, m)
	}
	return nil
}

func capabilityNames(words []string) (names []string) {
	for _, w := range words {
		names = append(names, state.CapabilityName(w))
	}
	return names
}

func (f *securityFlags) tuned(out *state.Spec) error {
	for _, s := range f.sysctls {
		key, value, found := strings.Cut(s, "=")
		if !found {
			return man.Misused("sysctl %q is not KEY=VALUE", s)
		}
		if out.Security.Sysctls == nil {
			out.Security.Sysctls = map[string]string{}
		}
		out.Security.Sysctls[key] = value
	}
	return nil
}

// profileValue is a filter of system calls as a flag; a relative path is the caller's.
type profileValue string

func (v *profileValue) Type() string { return "file" }

func (v *profileValue) String() string { return string(*v) }

func (v *profileValue) Set(s string) (err error) {
	if s != state.Unconfined && s != "" {
		s, err = filepath.Abs(s)
	}
	*v = profileValue(s)
	return err
}

// switchValue is a switch that may be left open, as a flag.
type switchValue struct{ to **bool }

func (v switchValue) Type() string { return "switch" }

func (v switchValue) String() string {
	if v.to == nil || *v.to == nil { // pflag asks the zero value
		return ""
	}
	return strconv.FormatBool(**v.to)
}

func (v switchValue) Set(s string) error {
	on, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("is neither true nor false")
	}
	*v.to = &on
	return nil
}

// securitySettings are the rows of confinement.
func securitySettings() []setting {
	names := func(at func(*state.Spec) *[]string) field {
		return field{
			get: func(s *state.Spec) []string { return *at(s) },
			put: func(s *state.Spec, values []string) error {
				*at(s) = capabilityNames(values)
				return nil
			},
		}
	}
	return []setting{
		{name: "privileged", fixed: madeAnew, field: yes(func(s *state.Spec) *bool { return &s.Security.Privileged })},
		{name: "nesting", field: yes(func(s *state.Spec) *bool { return &s.Security.Nesting })},
		{name: "idmap", entry: itself, field: field{
			get: func(s *state.Spec) (all []string) {
				for _, m := range s.Security.IDMap {
					all = append(all, m.String())
				}
				return all
			},
			put: func(s *state.Spec, values []string) error { return (&securityFlags{idMaps: values}).mapped(s) },
		}},
		{name: "cap-add", entry: state.CapabilityName, field: names(func(s *state.Spec) *[]string { return &s.Security.CapAdd })},
		{name: "cap-drop", entry: state.CapabilityName, field: names(func(s *state.Spec) *[]string { return &s.Security.CapDrop })},
		{name: "no-new-privileges", field: tristate(func(s *state.Spec) **bool { return &s.Security.NoNewPrivileges })},
		{name: "seccomp", field: as(func(s *state.Spec) *string { return &s.Security.Seccomp }, func(s *string) pflag.Value { return (*profileValue)(s) })},
		{name: "apparmor", field: text(func(s *state.Spec) *string { return &s.Security.AppArmor })},
		{name: "selinux", field: text(func(s *state.Spec) *string { return &s.Security.SELinux })},
		{name: "sysctl", entry: beforeEquals, pairs: true, field: field{
			get: func(s *state.Spec) []string { return pairsOf(s.Security.Sysctls) },
			put: func(s *state.Spec, values []string) error {
				s.Security.Sysctls = nil
				return (&securityFlags{sysctls: values}).tuned(s)
			},
		}},
	}
}

// walls prints what keeps the machine apart.
func (a *app) walls(ctx context.Context, name string) error {
	e, in, err := a.instance(name)
	if err != nil {
		return err
	}
	all, err := e.Walls(ctx, in)
	if err != nil {
		return fmt.Errorf("info %s: %w", name, err)
	}
	lines := [][2]string{}
	for _, w := range all {
		lines = append(lines, [2]string{w.Name, fmt.Sprintf("%-9s %s", w.State, w.Text)})
	}
	printFacts(19, lines)
	return nil
}
