package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"
)

// Where the settings of the host stand.
const (
	configFile = "/etc/croft/croft.toml"
	envConfig  = "CROFT_CONFIG" // another file instead
)

// hostSettings are what that file can say; what it does not say is zero.
type hostSettings struct {
	Root         absolutePath `toml:"root"`
	Run          absolutePath `toml:"run"`
	IDPool       idPool       `toml:"id-pool"`
	StopTimeout  wholeTime    `toml:"stop-timeout"`
	ReadyTimeout wholeTime    `toml:"ready-timeout"`
	Network      networkWish  `toml:"network"`
	Subnet       subnet       `toml:"subnet"`
	Publish      hostAddress  `toml:"publish-address"`
}

// Types of its values. What is wrong with one is said together with the line that it stands in.
type (
	absolutePath struct{ string }
	wholeTime    int // in seconds
	idPool       struct{ state.Range }
	networkWish  struct{ string } // as --network takes it
	subnet       struct{ netip.Prefix }
	hostAddress  struct{ netip.Addr }
)

func (p *subnet) UnmarshalText(text []byte) (err error) {
	const longest = 30 // the host's address and a machine's
	p.Prefix, err = netip.ParsePrefix(string(text))
	if err != nil || !p.Addr().Is4() || p.Bits() == 0 || p.Bits() > longest || p.Prefix != p.Masked() {
		return fmt.Errorf("%q is no IPv4 subnet like 10.42.0.0/16", text)
	}
	return nil
}

func (a *hostAddress) UnmarshalText(text []byte) (err error) {
	if a.Addr, err = netip.ParseAddr(string(text)); err != nil || a.IsUnspecified() || a.Zone() != "" {
		return fmt.Errorf("%q is no address like 127.0.0.1", text)
	}
	return nil
}

func (p *absolutePath) UnmarshalText(text []byte) error {
	if p.string = string(text); !filepath.IsAbs(p.string) {
		return fmt.Errorf("%q is not an absolute path", text)
	}
	return nil
}

func (t *wholeTime) UnmarshalText(text []byte) error {
	if err := (*secondsValue)(t).Set(string(text)); err != nil {
		return fmt.Errorf("%q %w", text, err)
	}
	return nil
}

func (n *networkWish) UnmarshalText(text []byte) error {
	n.string = string(text)
	_, err := attachment(n.string)
	return err
}

func (p *idPool) UnmarshalText(text []byte) error {
	var first, end uint32
	_, err := fmt.Sscanf(string(text)+"\n", "%d-%d\n", &first, &end)
	if err != nil || first < smallestID || end == math.MaxUint32 || end < first || end-first < smallestID-1 {
		return fmt.Errorf("%q is no range of 65536 ids or more above 65535, like %q", text, idText(run.DefaultPool()))
	}
	p.Range = state.Range{Base: first, Size: end - first + 1}
	return nil
}

// smallestID is where the ids end that a host gives to its own users and services.
const smallestID = 1 << 16

func idText(r state.Range) string { return fmt.Sprintf("%d-%d", r.Base, r.End()-1) }

// pool is where machines get their ids.
func (s hostSettings) pool() state.Range {
	if s.IDPool.Size == 0 {
		return run.DefaultPool()
	}
	return s.IDPool.Range
}

// network is where machines are connected that say nothing of it.
func (s hostSettings) network() string { return cmp.Or(s.Network.string, state.DefaultNetwork) }

// readHostSettings reads the file that is to be read; none at the usual place says nothing.
func readHostSettings() (path string, s hostSettings, err error) {
	path = cmp.Or(os.Getenv(envConfig), configFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == configFile {
		return path, s, nil
	}
	if err != nil {
		return path, s, fmt.Errorf("config: %w", err)
	}
	md, err := toml.Decode(string(text), &s)
	var wrong toml.ParseError
	if errors.As(err, &wrong) {
		at := fmt.Sprintf("%s:%d: ", path, wrong.Position.Line)
		if wrong.LastKey != "" {
			at += wrong.LastKey + ": "
		}
		return path, s, errors.New(at + wrong.Message)
	}
	if err != nil {
		return path, s, fmt.Errorf("%s: %w", path, err)
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		return path, s, unknownKey(path, string(text), unknown[0])
	}
	return path, s, nil
}

// unknownKey says where one is, and which was meant.
func unknownKey(path, text string, unknown toml.Key) error {
	line, last := 1, unknown[len(unknown)-1]
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); strings.HasPrefix(strings.Trim(l, "[\"'"), last) {
			break
		}
		line++
	}
	err := fmt.Errorf("%s:%d: no such key %q", path, line, unknown.String())
	if near := man.Nearest(unknown.String(), configKeys()); near != "" {
		return state.Hint(err, near)
	}
	return state.Hint(err, "croft config show lists them")
}

// hostSetting is one row of config show; its JSON names are a promise (docs/json.md).
type hostSetting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// hostRows are the settings in force and where each comes from, in the order of the file's fields.
func (a *app) hostRows(path string, s hostSettings) []hostSetting {
	seconds := func(n wholeTime, otherwise time.Duration) string {
		return durationText(cmp.Or(time.Duration(n)*time.Second, otherwise))
	}
	from := func(said bool) string {
		if said {
			return path
		}
		return "default"
	}
	return []hostSetting{
		{"root", a.root, cmp.Or(a.origin["root"], from(s.Root.string != ""))},
		{"run", a.run, cmp.Or(a.origin["run"], from(s.Run.string != ""))},
		{"id-pool", idText(s.pool()), from(s.IDPool.Size != 0)},
		{"stop-timeout", seconds(s.StopTimeout, state.DefaultStop), from(s.StopTimeout != 0)},
		{"ready-timeout", seconds(s.ReadyTimeout, state.DefaultReady), from(s.ReadyTimeout != 0)},
		{"network", s.network(), from(s.Network.string != "")},
		{"subnet", textOf(s.Subnet.IsValid(), s.Subnet, "any that is free"), from(s.Subnet.IsValid())},
		{"publish-address", textOf(s.Publish.IsValid(), s.Publish, "all"), from(s.Publish.IsValid())},
	}
}

func textOf(said bool, value fmt.Stringer, otherwise string) string {
	if said {
		return value.String()
	}
	return otherwise
}

func configKeys() (keys []string) {
	for _, r := range (&app{}).hostRows("", hostSettings{}) {
		keys = append(keys, r.Key)
	}
	return keys
}

// configure takes in the host's settings, below what flags and environment say.
func (a *app) configure() (path string, err error) {
	path, s, err := readHostSettings()
	if err != nil {
		return path, err
	}
	a.host = s
	if a.origin["root"] == "" {
		a.root = cmp.Or(s.Root.string, a.root)
	}
	if a.origin["run"] == "" {
		a.run = cmp.Or(s.Run.string, a.run)
	}
	return path, nil
}

func (a *app) configShow() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(context.Context, []string) error {
			path, err := a.configure()
			if err != nil {
				return err
			}
			return view[hostSetting]{
				{Head: "KEY", Cell: func(r hostSetting) string { return r.Key }},
				{Head: "VALUE", Cell: func(r hostSetting) string { return r.Value }},
				{Head: "ORIGIN", Cell: func(r hostSetting) string { return r.Origin }},
			}.write(os.Stdout, string(format), a.hostRows(path, a.host))
		}
	}
}
