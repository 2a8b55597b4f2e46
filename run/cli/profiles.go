package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"croft/man"
	"croft/run"
	"croft/state"

	"gopkg.in/yaml.v3"
)

// source is where a machine has settings from beside itself: a profile, or the settings of the host.
type source struct {
	origin string
	spec   state.Spec          // what it says
	none   map[string][]string // of settings that it says to be as if nothing were said: false, no, none
}

// say adds what one line says.
func (f *source) say(n named, values []string) error {
	if err := n.set(&f.spec, values); err != nil {
		return err
	}
	delete(f.none, n.name)
	if len(n.get(&f.spec)) == 0 && len(values) > 0 {
		if f.none == nil {
			f.none = map[string][]string{}
		}
		f.none[n.name] = values
	}
	return nil
}

// values are those of one setting; none, when it says nothing of it.
func (f *source) values(x setting) []string {
	if values := x.get(&f.spec); len(values) > 0 {
		return values
	}
	return f.none[x.name]
}

// sources are the host's settings and then what the profiles say, each coming before those in front of it.
func (a *app) sources(profiles []string) ([]source, error) {
	host, err := a.host.source()
	if err != nil {
		return nil, err
	}
	all := []source{host}
	for _, name := range profiles {
		p, err := a.profile(name)
		if err != nil {
			return nil, err
		}
		f, err := profileSource(p)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// profile reads one.
func (a *app) profile(name string) (run.Profile, error) {
	e, err := a.engine()
	if err != nil {
		return run.Profile{}, err
	}
	p, err := e.Profile(name)
	return p, a.missingProfile(name, err)
}

// missingProfile says of one that is not there which was meant, or how it comes to be. Another error, or nil, stays what it is.
func (a *app) missingProfile(name string, err error) error {
	if !errors.Is(err, state.ErrNotExist) {
		return err
	}
	names, _ := a.opened.Profiles()
	if near := man.Nearest(name, names); near != "" {
		return state.Hint(err, near)
	}
	return state.Hint(err, "croft profile create "+name)
}

// source is what machines get of the host's settings.
func (s hostSettings) source() (source, error) {
	f := source{origin: state.OriginHost}
	f.spec.Timeouts = state.Timeouts{Stop: int(s.StopTimeout), Ready: int(s.ReadyTimeout)}
	network, err := settingOf("network")
	if err == nil {
		err = f.say(network, []string{s.network()})
	}
	return f, err
}

// profileSource reads a profile.
func profileSource(p run.Profile) (source, error) {
	f, err := parseProfile(p.Text)
	if err != nil { // it is the file that is wrong, and not what was typed now
		return f, state.Hint(fmt.Errorf("profile %s: %s: %s", p.Name, p.Where(), saying(err)), hintOf(err))
	}
	f.origin = p.Name
	return f, nil
}

// saying is what an error says, without a pointer to any help.
func saying(err error) string {
	var m *man.Misuse
	if errors.As(err, &m) {
		return m.Say
	}
	return err.Error()
}

// parseProfile reads the text of a profile: a mapping of keys, as set takes them, to values or lists of values.
func parseProfile(text []byte) (f source, err error) {
	lines, err := linesOf(text)
	if err != nil {
		return f, err
	}
	for _, line := range lines {
		if err := line.into(&f); err != nil {
			wrong := &man.Misuse{Say: fmt.Sprintf("line %d: %s", line.key.Line, saying(err)), Hint: hintOf(err)}
			return f, wrong
		}
	}
	whole := f.spec // what else a machine must have
	whole.Name, whole.Image = "machine", "image"
	if len(f.none["network"]) == 0 && whole.NICs == nil {
		whole.NICs = []state.NIC{{Network: state.DefaultNetwork}}
	}
	return f, whole.Check()
}

// into adds the line to what a profile says.
func (line line) into(f *source) error {
	n, err := settingOf(line.key.Value)
	switch {
	case err != nil:
		return err
	case n.name == "profile":
		return man.Misused("a profile has no profiles: a machine may have several")
	case n.fixed != "":
		return man.Misused("%s is for a machine to say, when it is made", n.name)
	}
	for _, v := range line.values {
		// What set would take from its caller is nobody's here.
		switch {
		case v == "": // as unset, of profile set
		case n.name == "env" && n.one == "" && !strings.Contains(v, "="):
			return man.Misused("env %s: is not KEY=VALUE", v)
		case n.name == "volume" && !filepath.IsAbs(v):
			return man.Misused("volume %s: the path on the host is not absolute", v)
		}
	}
	if len(line.values) == 0 { // empty is not said
		return nil
	}
	return f.say(n, line.values)
}

// expand gives s what the sources say of settings that it does not say itself, and takes what they say no more.
func expand(s *state.Spec, sources []source) error {
	was, origins := *s, map[string]string{}
	for _, x := range settings() {
		if !x.shared() {
			continue
		}
		values := x.expanded(&was, sources, origins)
		if slices.Equal(values, x.get(s)) {
			continue
		}
		if err := x.put(s, values); err != nil {
			if from := origins[x.name]; from != "" {
				err = fmt.Errorf("profile %s: %s: %s", from, x.name, saying(err))
			}
			return err
		}
	}
	s.Origins = origins
	return nil
}

// shared says whether machines may have it from a profile.
func (x setting) shared() bool { return x.fixed == "" && x.name != "profile" }

// expanded are the values of a setting, and its origins.
func (x setting) expanded(was *state.Spec, sources []source, origins map[string]string) (values []string) {
	own := x.get(was)
	if x.entry == nil {
		from, foreign := was.Origins[x.name]
		switch {
		case foreign && from == state.OriginOwn:
			origins[x.name] = from
			return own
		case !foreign && len(own) > 0:
			return own
		}
		for i := range sources {
			said := sources[i].values(x)
			if said == nil {
				continue
			}
			if values = said; from == state.OriginHost && sources[i].origin == from {
				values = own // the machine was made with it; what the host's settings say now is for new ones
			}
			origins[x.name] = sources[i].origin
		}
		return values
	}
	n := named{setting: x}
	for i := range sources {
		for _, v := range sources[i].values(x) {
			values = n.with(values, x.entry(v), v)
			origins[x.key(v)] = sources[i].origin
		}
	}
	for _, v := range own {
		if _, foreign := was.Origins[x.key(v)]; !foreign {
			values = n.with(values, x.entry(v), v)
			delete(origins, x.key(v))
		}
	}
	return values
}

// key is what a value is called among the origins.
func (x setting) key(value string) string {
	if x.entry == nil {
		return x.name
	}
	return x.name + "." + x.entry(value)
}

// expand is expand with what the profiles of s say now.
func (a *app) expand(s *state.Spec) error {
	sources, err := a.sources(s.Profiles)
	if err != nil {
		return err
	}
	return expand(s, sources)
}

// fresh gives in what its profiles say by now, whose files may have been edited by hand, before it starts.
func (a *app) fresh(e *run.Engine, in *state.Instance) (*state.Instance, error) {
	spec := in.Spec
	if len(spec.Profiles) == 0 {
		return in, nil
	}
	err := a.expand(&spec)
	if err == nil && !reflect.DeepEqual(spec, in.Spec) {
		_, in, err = e.Reconfigure(spec.Name, a.expand)
	}
	switch {
	case errors.Is(err, state.ErrNotExist):
		return nil, state.Hint(fmt.Errorf("start %s: %w", spec.Name, err), hintOf(err)+", or croft set "+spec.Name+" profile="+state.DefaultProfile)
	case err != nil:
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return in, nil
}

// assign gives s what was said. It is the machine's own from then on; where it was that there shall be nothing, what the
// profiles say counts again.
func (a *app) assign(s *state.Spec, said []assignment) error {
	was, again := before(s), false
	for _, x := range said {
		if err := x.set(s, x.values); err != nil {
			return err
		}
		empty := slices.Contains(x.values, "")
		if empty {
			s.Own(x.name, false)
		}
		again = again || empty || x.name == "profile"
	}
	own(&was, s, said)
	if !again {
		return nil
	}
	return a.expand(s)
}

// before is s as it was before a change. That one of before there were profiles has no network was its own wish.
func before(s *state.Spec) state.Spec {
	if len(s.Profiles) == 0 && len(s.Origins) == 0 && len(s.NICs) == 0 {
		s.Own("network", true)
	}
	return *s
}

// own notes what of s is the machine's own by now: what differs from before, and what was said although it is the same.
func own(was, s *state.Spec, said []assignment) {
	for _, x := range settings() {
		if !x.shared() {
			continue
		}
		old, now := x.get(was), x.get(s)
		switch spoken := x.spoken(said, s); {
		case x.entry != nil:
			for _, v := range now {
				if !slices.Contains(old, v) || slices.Contains(spoken, x.entry(v)) {
					s.Own(x.key(v), false)
				}
			}
		case len(spoken) > 0:
			s.Own(x.name, len(now) == 0)
		case !slices.Equal(old, now):
			s.Own(x.name, false)
		}
	}
}

// spoken are the values that were said to a spec of a setting, of a list the names of its entries.
func (x setting) spoken(said []assignment, to *state.Spec) (all []string) {
	for _, s := range said {
		if s.name != x.name && s.lies(to).name != x.name {
			continue
		}
		for _, v := range s.values {
			switch {
			case v == "":
			case x.entry == nil:
				all = append(all, v)
			case s.one != "":
				all = append(all, s.one)
			default:
				all = append(all, x.entry(v))
			}
		}
	}
	return all
}

// originOf is where a value of a setting comes from, for people.
func (n named) originOf(s *state.Spec, value string) string {
	var key string
	switch {
	case n.one != "":
		key = n.name + "." + n.one
	case value != "":
		key = n.lies(s).key(value)
	default:
		key = n.name
	}
	from, foreign := s.Origins[key]
	switch {
	case !foreign && value == "":
		return "default"
	case from == state.OriginOwn:
		return "machine"
	case from == state.OriginHost:
		return from
	}
	return "profile " + from
}

// lies is the setting that holds a value which is there: a name of LXD's may be that of another one.
func (n named) lies(s *state.Spec) setting {
	without := *s
	for _, x := range settings() {
		if x.name == n.name {
			return x
		}
	}
	_ = n.put(&without, nil) // which no setting refuses
	for _, x := range settings() {
		if !slices.Equal(x.get(s), x.get(&without)) {
			return x
		}
	}
	return n.setting
}

// line is one of a mapping of keys to values or lists of values.
type line struct {
	key    *yaml.Node
	values []string
}

// linesOf reads such a mapping. Nothing but comments is one without lines.
func linesOf(text []byte) ([]line, error) {
	doc, err := mappingOf(text)
	if err != nil {
		return nil, err
	}
	var all []line
	pairs := doc.Content[0].Content
	for i := 0; i+1 < len(pairs); i += 2 {
		key, value := pairs[i], pairs[i+1]
		if slices.ContainsFunc(all, func(l line) bool { return l.key.Value == key.Value }) {
			return nil, man.Misused("line %d: %s: stands there twice", key.Line, key.Value)
		}
		l := line{key: key}
		list := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			list = value.Content
		}
		for _, v := range list {
			if v.Kind != yaml.ScalarNode {
				return nil, man.Misused("line %d: %s: is neither a value nor a list of values", key.Line, key.Value)
			}
			if v.Tag != "!!null" && v.Value != "" {
				l.values = append(l.values, v.Value)
			}
		}
		all = append(all, l)
	}
	return all, nil
}

// mappingOf reads the YAML of a mapping: a document with that alone in it.
func mappingOf(text []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, man.Misused("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 { // yaml forgets comments that belong to nothing
		return &yaml.Node{Kind: yaml.DocumentNode, HeadComment: string(text), Content: []*yaml.Node{{Kind: yaml.MappingNode}}}, nil
	}
	if doc.Content[0].Kind != yaml.MappingNode {
		return nil, man.Misused("there are no lines of KEY: VALUE")
	}
	return &doc, nil
}
