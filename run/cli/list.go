package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// machine is one row of list; its JSON names are a promise (docs/json.md).
type machine struct {
	Name        string            `json:"name"`
	UUID        string            `json:"uuid"`
	State       string            `json:"state"`
	Ready       bool              `json:"ready"`
	Image       string            `json:"image"`
	Fingerprint string            `json:"fingerprint"`
	IPv4        []string          `json:"ipv4"`
	IPv6        []string          `json:"ipv6"`
	Ports       []string          `json:"ports"`
	Created     *time.Time        `json:"created"`
	Started     *time.Time        `json:"started"`
	Uptime      int64             `json:"uptime_seconds"`
	IDs         state.Range       `json:"ids"`
	Labels      map[string]string `json:"labels"`
	ExitCode    *int              `json:"exit_code"`
	Privileged  bool              `json:"privileged"` // its root is the host's
	Error       string            `json:"error,omitempty"`

	nics    []state.NIC    // as asked for
	applied *state.Applied // nil unless it runs
}

// usage is read when a column wants it: list itself must stay quick.
func (m machine) usage() run.Usage {
	if m.applied == nil {
		return run.Usage{}
	}
	return run.UsageOf(m.applied)
}

// unit is of systemd, the one that holds it.
func (m machine) unit() string {
	if m.applied == nil {
		return ""
	}
	return m.applied.Unit
}

func machineView() view[machine] {
	plain := func(head string, cell func(machine) string, extra bool) column[machine] {
		return column[machine]{Head: head, Cell: cell, Extra: extra}
	}
	return view[machine]{
		plain("NAME", func(m machine) string { return m.Name }, false),
		plain("STATE", func(m machine) string { return m.State + privileged(m.Privileged) }, false),
		plain("IMAGE", func(m machine) string { return m.Image }, false),
		plain("IPV4", func(m machine) string { return strings.Join(m.IPv4, " ") }, false),
		plain("IPV6", func(m machine) string { return strings.Join(m.IPv6, " ") }, false),
		plain("PORTS", func(m machine) string { return strings.Join(m.Ports, " ") }, false),
		plain("UPTIME", func(m machine) string { return uptime(m) }, false),
		plain("CPU", func(m machine) string { return timeOrDash(m.usage().CPU) }, true),
		plain("MEMORY", func(m machine) string { return sizeOrDash(m.usage().Memory) }, true),
		plain("TASKS", func(m machine) string { return numberOrDash(m.usage().Tasks) }, true),
		plain("READY", func(m machine) string { return fmt.Sprint(m.Ready) }, true),
		plain("CREATED", func(m machine) string { return stamp(m.Created) }, true),
		plain("IDS", func(m machine) string { return fmt.Sprintf("%d+%d", m.IDs.Base, m.IDs.Size) }, true),
		plain("UUID", func(m machine) string { return m.UUID }, true),
		plain("UNIT", func(m machine) string { return m.unit() }, true),
	}
}

// privileged is the mark of a machine whose root is the host's.
func privileged(is bool) string {
	if is {
		return " PRIVILEGED"
	}
	return ""
}

func uptime(m machine) string {
	if m.Started == nil {
		return ""
	}
	return durationText(time.Duration(m.Uptime) * time.Second)
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Local().Format(time.RFC3339)
}

// machines lists all instances, damaged ones too.
func listed(e *run.Engine) ([]machine, error) {
	all, damaged, err := e.Dir.List()
	if err != nil {
		return nil, err
	}
	rows := []machine{}
	for _, in := range all {
		m, err := machineOf(e, in)
		if err != nil {
			return nil, err
		}
		rows = append(rows, m)
	}
	for _, d := range damaged {
		m := machine{Name: d.Name, State: state.Broken, Error: d.Err.Error(), IPv4: []string{}, IPv6: []string{}, Ports: []string{}, Labels: map[string]string{}}
		at := 0
		for at < len(rows) && rows[at].Name < m.Name {
			at++
		}
		rows = append(rows[:at], append([]machine{m}, rows[at:]...)...)
	}
	return rows, nil
}

func machineOf(e *run.Engine, in *state.Instance) (machine, error) {
	st, err := e.Dir.Status(in)
	if err != nil {
		return machine{}, err
	}
	m := machine{
		Name: in.Spec.Name, UUID: in.UUID, State: st.State, Ready: st.Ready, Image: in.Spec.Image,
		Fingerprint: in.Facts.Fingerprint, IPv4: []string{}, IPv6: []string{}, Ports: []string{},
		Created: &in.Created, IDs: in.Facts.Range, Labels: in.Spec.Labels, nics: in.Spec.NICs,
		Privileged: in.Spec.Security.Privileged,
	}
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	if !st.Since.IsZero() {
		m.Started, m.applied = &st.Since, in.Applied
		m.reach(&in.Applied.Facts)
		m.Uptime = int64(time.Since(st.Since) / time.Second)
	}
	if in.Exit != nil && (st.State == state.Stopped || st.State == state.Restarting) {
		m.ExitCode = &in.Exit.Code
	}
	return m, nil
}

// reach fills in at which addresses and ports the machine can be reached, as its record has them. What it has got from a
// LAN's DHCP nobody has written down.
func (m *machine) reach(f *state.Facts) {
	for _, l := range f.Links {
		if l.IP.IsValid() {
			m.IPv4 = append(m.IPv4, l.IP.Addr().String())
		}
		if l.IP6.IsValid() {
			m.IPv6 = append(m.IPv6, l.IP6.Addr().String())
		}
	}
	for _, p := range f.Ports {
		m.Ports = append(m.Ports, p.String())
	}
}

func (a *app) list() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := listFormat{"table"}
		var filters []string
		what := bindListing(fs)
		fs.Var(&format, "format", "print `table|json|yaml|csv|hosts|TEMPLATE`")
		fs.StringArrayVar(&filters, "filter", nil, "only those with `KEY=VALUE`: name, state, image, network, label=K or label=K=V")
		return func(_ context.Context, _ []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			rows, err := listed(e)
			if err != nil {
				return err
			}
			if rows, err = filtered(rows, filters); err != nil {
				return err
			}
			if format.formatValue == hostsFormat {
				return writeHosts(os.Stdout, rows)
			}
			return show(machineView(), format.String(), what, rows)
		}
	}
}

// listFormat also takes hosts.
type listFormat struct{ formatValue }

const hostsFormat = "hosts"

func (f *listFormat) Set(s string) error {
	if s == hostsFormat {
		f.formatValue = hostsFormat
		return nil
	}
	return f.formatValue.Set(s)
}

// writeHosts prints the names of those that run as lines for /etc/hosts.
func writeHosts(w io.Writer, rows []machine) error {
	var running []*state.Applied
	for _, m := range rows {
		if m.applied != nil {
			running = append(running, m.applied)
		}
	}
	_, err := w.Write(run.Hosts(running))
	return err
}

// listing is what of a list is shown, by flags that all lists have.
type listing struct {
	quiet   bool
	columns string
}

func bindListing(fs *pflag.FlagSet) *listing {
	l := &listing{}
	fs.BoolVarP(&l.quiet, "quiet", "q", false, "names alone")
	fs.StringVarP(&l.columns, "columns", "c", "", "show `COLUMNS`, separated by commas; +NAME adds one, all shows all")
	return l
}

// show prints rows in the form that was asked for.
func show[T any](v view[T], format string, what *listing, rows []T) error {
	if what.quiet {
		return v.quiet(os.Stdout, rows)
	}
	if what.columns != "" {
		var err error
		if v, err = v.pick(what.columns); err != nil {
			return err
		}
	}
	return v.write(os.Stdout, format, rows)
}

// filtered keeps what passes: one of the values of each key.
func filtered(rows []machine, filters []string) ([]machine, error) {
	keys := map[string][]string{}
	for _, f := range filters {
		k, v, ok := strings.Cut(f, "=")
		if !ok || filterValue(machine{}, k, v) == nil {
			return nil, man.Misused("filter %q: name=, state=, image=, network= or label= is known", f)
		}
		if k == "state" && !slices.Contains(state.States, v) {
			return nil, man.Misused("filter %q: the states are %s", f, strings.Join(state.States, ", "))
		}
		keys[k] = append(keys[k], v)
	}
	out := []machine{}
	for _, m := range rows {
		if passes(m, keys) {
			out = append(out, m)
		}
	}
	return out, nil
}

func passes(m machine, keys map[string][]string) bool {
	for k, values := range keys {
		any := false
		for _, v := range values {
			any = any || *filterValue(m, k, v)
		}
		if !any {
			return false
		}
	}
	return true
}

// filterValue says whether m has value for key; nil when there is no such key.
func filterValue(m machine, key, value string) *bool {
	var is bool
	switch key {
	case "name":
		is = m.Name == value
	case "state":
		is = m.State == value
	case "image":
		is = m.Image == value || strings.HasPrefix(m.Fingerprint, value) && value != ""
	case "network":
		is = slices.ContainsFunc(m.nics, func(n state.NIC) bool { return n.Network == value })
	case "label":
		k, v, exact := strings.Cut(value, "=")
		got, ok := m.Labels[k]
		is = ok && (!exact || got == v)
	default:
		return nil
	}
	return &is
}

// details is one element of inspect: the record, and what the kernel says now.
type details struct {
	Name     string           `json:"name"`
	State    string           `json:"state"`
	Ready    bool             `json:"ready"`
	PID      int              `json:"pid"`      // of the machine's init as the host sees it; 0: not running
	Machined string           `json:"machined"` // its name for machinectl; "": systemd-machined does not know it
	UUID     string           `json:"uuid"`
	Schema   int              `json:"schema"`
	Created  time.Time        `json:"created"`
	Spec     state.Spec       `json:"spec"`
	Facts    state.Facts      `json:"facts"`
	Applied  *state.Applied   `json:"applied"`
	Exit     *state.Exit      `json:"exit"`
	Restarts int              `json:"restarts"`
	Snapshot []state.Snapshot `json:"snapshots"`
	Disk     *int64           `json:"disk_bytes"` // what is kept of it; null where its filesystem does not count that
}

func (a *app) detail(ctx context.Context, name string) (details, error) {
	e, in, err := a.instance(name)
	if err != nil {
		return details{}, err
	}
	st, err := e.Dir.Status(in)
	if err != nil {
		return details{}, err
	}
	d := details{
		Name: name, State: st.State, Ready: st.Ready, UUID: in.UUID, Schema: in.Schema, Created: in.Created,
		Spec: in.Spec, Facts: in.Facts, Applied: in.Applied, Exit: in.Exit, Restarts: in.Restarts, Snapshot: in.Snapshots,
	}
	if d.Snapshot == nil {
		d.Snapshot = []state.Snapshot{}
	}
	if disk, err := e.Disk(in); err == nil && disk != nil {
		d.Disk = &disk.Used
	}
	if st.State == state.Running || st.State == state.Paused {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if k, err := e.Connect(ctx, in); err == nil {
			d.PID = k.PID
			k.Close()
			d.Machined = e.Registered(ctx, in)
		}
	}
	return d, nil
}

func (a *app) inspect() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("json")
		fs.Var(&format, "format", "print `json|yaml|TEMPLATE`")
		return func(ctx context.Context, names []string) error {
			rows := []details{}
			err := a.each(names, func(name string) error {
				d, err := a.detail(ctx, name)
				if err == nil {
					rows = append(rows, d)
				}
				return err
			})
			v := view[details]{{Head: "NAME", Cell: func(d details) string { return d.Name }}, {Head: "STATE", Cell: func(d details) string { return d.State }}}
			if werr := v.write(os.Stdout, string(format), rows); werr != nil {
				return werr
			}
			return err
		}
	}
}

func (a *app) info() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		security := fs.Bool("security", false, "tell which walls it has, and which of them were loosened")
		return func(ctx context.Context, args []string) error {
			if *security {
				return a.walls(ctx, args[0])
			}
			d, err := a.detail(ctx, args[0])
			if err != nil {
				return err
			}
			printFacts(12, slices.DeleteFunc(d.lines(), func(l [2]string) bool { return l[1] == "" }))
			return nil
		}
	}
}

// lines are what info tells, in its order; those without a text are left out.
func (d details) lines() [][2]string {
	out := [][2]string{{"Name", d.Name}, {"State", d.stateText() + privileged(d.Spec.Security.Privileged)}, {"Image", fmt.Sprintf("%s (%.12s)", d.Spec.Image, d.Facts.Fingerprint)}}
	if d.PID != 0 {
		out = append(out, [2]string{"Init", fmt.Sprintf("%s (pid %d on the host)", strings.Join(d.Facts.Init.Args, " "), d.PID)})
	}
	if d.Applied != nil {
		out = append(out, [2]string{"Unit", d.Applied.Unit}, [2]string{"Machinectl", d.Machined})
		out = append(out, [2]string{"Started", fmt.Sprintf("%s (up %s)", stamp(&d.Applied.Started), durationText(time.Since(d.Applied.Started)))})
	}
	if text := d.usage(); text != "" {
		out = append(out, [2]string{"Uses", text})
	}
	if d.Applied != nil && !d.Applied.Expires.IsZero() {
		out = append(out, [2]string{"Ends", fmt.Sprintf("%s (in %s)", stamp(&d.Applied.Expires), durationText(time.Until(d.Applied.Expires)))})
	}
	if d.Restarts > 0 {
		out = append(out, [2]string{"Restarts", fmt.Sprintf("%d in a row", d.Restarts)})
	}
	out = append(out, [2]string{"Profiles", strings.Join(d.Spec.Profiles, ", ")})
	out = append(out, [2]string{"Limits", strings.Join(limitLines(&d.Spec.Limits), ", ")})
	out = append(out, [2]string{"Created", stamp(&d.Created)})
	out = append(out, d.network()...)
	out = append(out, [2]string{"Ids", fmt.Sprintf("0-%d are %d-%d on the host", d.Facts.Range.Size-1, d.Facts.Range.Base, d.Facts.Range.End()-1)},
		[2]string{"Storage", d.storage()})
	for _, m := range d.Spec.Mounts {
		how := ""
		if m.ReadOnly {
			how = " (read-only)"
		}
		out = append(out, [2]string{"Volume", m.Source + " at " + m.Target + how})
	}
	for _, t := range d.Spec.Tmpfs {
		size := ""
		if t.Size > 0 {
			size = " (" + sizeText(t.Size) + ")"
		}
		out = append(out, [2]string{"In memory", t.Target + size})
	}
	for _, device := range d.Spec.Devices {
		out = append(out, [2]string{"Device", deviceArg(device)})
	}
	for _, l := range pairsOf(d.Spec.Labels) {
		out = append(out, [2]string{"Label", l})
	}
	return out
}

// network is how it is connected now, or will be when it starts.
func (d details) network() (out [][2]string) {
	spec, facts := d.Spec, d.Facts
	if d.Applied != nil {
		spec, facts = d.Applied.Spec, d.Applied.Facts
	}
	switch {
	case len(facts.Links) > 0:
	case len(spec.NICs) > 0:
		return [][2]string{{"Network", spec.NICs[0].Network}}
	default:
		return [][2]string{{"Network", state.NetworkNone}}
	}
	for _, l := range facts.Links {
		out = append(out, [2]string{"Network", linkText(l)})
	}
	for _, p := range facts.Ports {
		out = append(out, [2]string{"Port", p.String()})
	}
	return out
}

// linkText is what there is to say of a link in a line.
func linkText(l state.Link) string {
	words := []string{l.Network + ":", l.Name}
	for _, p := range []netip.Prefix{l.IP, l.IP6} {
		if p.IsValid() {
			words = append(words, p.String())
		}
	}
	if l.DHCP() {
		words = append(words, "asks for its address")
	}
	return strings.Join(append(words, l.MAC), " ")
}

func (d details) storage() string {
	text := d.Facts.Driver
	if d.Spec.Root.ReadOnly {
		text += ", read-only"
	}
	if d.Spec.Root.Ephemeral {
		text += ", new at every start"
	}
	if d.Spec.Security.Nesting {
		text += ", " + strings.Join(run.NestedPlaces(), " ") + " on the host's filesystem"
	}
	return text
}

// usage is what it uses now, as far as this host counts it; empty when it does not run.
func (d details) usage() string {
	var parts []string
	if d.Disk != nil {
		parts = append(parts, sizeText(*d.Disk)+" of files")
	}
	if d.Applied == nil || d.State == state.Stopped {
		return strings.Join(parts, ", ")
	}
	u := run.UsageOf(d.Applied)
	if u.Memory != nil {
		parts = append(parts, sizeText(*u.Memory)+" of memory")
	}
	if u.OOMKills != nil && *u.OOMKills > 0 {
		parts = append(parts, numberOrDash(u.OOMKills)+" killed for want of memory")
	}
	if u.Tasks != nil {
		parts = append(parts, numberOrDash(u.Tasks)+" tasks")
	}
	if u.CPU != nil {
		parts = append(parts, durationText(*u.CPU)+" of processor time so far")
	}
	return strings.Join(parts, ", ")
}

func (d details) stateText() string {
	switch {
	case d.State == state.Running && d.Ready:
		return "running, ready"
	case d.State == state.Running:
		return "running, not ready yet"
	case d.Exit != nil && (d.State == state.Stopped || d.State == state.Restarting):
		text := fmt.Sprintf("%s (%s, status %d, %s)", d.State, d.Exit.Reason, d.Exit.Code, stamp(&d.Exit.Time))
		if d.Exit.Error != "" {
			text += ": " + d.Exit.Error
		}
		return text
	}
	return d.State
}
