package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// profileVerbs are the commands about profiles.
func profileVerbs(a *app) *man.Command {
	return &man.Command{
		Name: "profile", Short: "Keep settings that machines share", Long: profileText, See: []string{"set", "run", "get"},
		Sub: []*man.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Short: "List profiles", New: a.profileList(),
				Long: "Lists the profiles that there are, where each stands, and how many machines have it.", Examples: []man.Example{{Say: "All of them", Do: "croft profile list"}},
			},
			{
				Name: "show", Aliases: []string{"info", "inspect"}, Args: "PROFILE...", Short: "Print what profiles say", New: a.profileShow(),
				Long: "Prints the settings of each profile, where it stands, and the machines that have it.", Examples: []man.Example{{Say: "One", Do: "croft profile show ci"}, {Say: "Who has it", Do: `croft profile show --format '{{join .UsedBy " "}}' ci`}},
			},
			{
				Name: "create", Aliases: []string{"add"}, Args: "PROFILE [KEY=VALUE...]", Short: "Make a profile", New: a.profileCreate(),
				Long: "Makes a profile. KEY=VALUE is as `croft set` takes it.", Examples: []man.Example{{Say: "What all web servers have", Do: "croft profile create web memory=1GiB env=LANG=C.UTF-8 label=tier=front"}, {Say: "From a file", Do: "croft profile create web\ncroft profile edit web <web.yaml"}},
			},
			{
				Name: "set", Args: "PROFILE KEY=VALUE...", Short: "Change a profile", New: a.profileSet(),
				Long: "Changes what a profile says, and by that all machines that have it. A shipped one is copied to the host's own first.", Examples: []man.Example{{Say: "More memory for all of them", Do: "croft profile set web memory=2GiB"}, {Say: "For every machine that names no profile", Do: "croft profile set default network=lan"}},
			},
			{
				Name: "unset", Args: "PROFILE KEY...", Short: "Have a profile say less", New: a.profileUnset(),
				Long: "Takes settings, or with KEY.ENTRY one entry of a list, out of a profile, and by that out of all machines that have them by it.", Examples: []man.Example{{Say: "One variable", Do: "croft profile unset web env.LANG"}},
			},
			{
				Name: "edit", Args: "PROFILE", Short: "Change a profile in an editor", New: a.profileEdit(),
				Long: "Opens the profile in $VISUAL or $EDITOR, else vi, and takes what was saved. What is wrong is told, and the editor opens again; whoever gives up keeps the file. Where stdin is no terminal the text is read from there.", Examples: []man.Example{{Say: "In the editor", Do: "croft profile edit web"}, {Say: "From a file", Do: "croft profile edit web <web.yaml"}},
			},
			{
				Name: "copy", Aliases: []string{"cp"}, Args: "PROFILE NEW", Short: "Make a profile like another", New: a.profileCopy(),
				Long: "Makes a profile that says what another one says now.", Examples: []man.Example{{Say: "One of one's own, to be changed", Do: "croft profile copy small tiny"}},
			},
			{
				Name: "rm", Aliases: []string{"delete", "remove"}, Args: "PROFILE...", Short: "Remove profiles", New: a.profileRemove(),
				Long: "Removes each profile. One that machines have is refused, and they are named. Where the host's own stood in the place of a shipped one, that counts again.", Examples: []man.Example{{Say: "Remove one", Do: "croft profile rm web"}},
			},
		},
	}
}

const profileText = `A profile is a set of settings with a name, for machines to have: ` + "`croft run --profile web`" + `, ` + "`croft set NAME profile=web`" + `. A machine may have several: of a setting that two of them say the later one's counts, and the machine's own comes before all. Of a list (env, label, volume, publish and so on) that holds for each entry. A machine that names none has ` + "`default`" + `; --profile none is without any.

Each is a file, /etc/croft/profiles/NAME.yaml, of keys and values as ` + "`croft get`" + ` and ` + "`croft set`" + ` know them, lists as lists of YAML; LXD's names of keys are understood. There are some already: ` + "`default`" + `, which says nothing, ` + "`small`, `ci` and `docker`" + `. A file in /usr/share/croft/profiles takes the place of one of those, and one in /etc/croft/profiles of both.

A change by ` + "`croft profile`" + ` reaches the machines that have it at once: those that run get at once what ` + "`croft set`" + ` changes at once, the rest at their next start. Each gets all of it or, when it cannot be, nothing, and that is told. A file that was edited by hand counts for each machine from its next ` + "`croft start`" + `. ` + "`croft get --origin NAME`" + ` tells where each setting of a machine comes from. To change one by ` + "`croft set`" + ` makes it the machine's own; ` + "`croft unset`" + ` gives the profile's back.

    memory: 1GiB
    env:
      - LANG=C.UTF-8
    volume:
      - /srv/shared:/srv/shared:ro`

// profile is one row of profile list; its JSON names are a promise (docs/json.md).
type profile struct {
	Name     string              `json:"name"`
	Path     string              `json:"path"` // "": built in
	Settings map[string][]string `json:"settings"`
	UsedBy   []string            `json:"used_by"`         // names of machines
	Error    string              `json:"error,omitempty"` // what is wrong with its file
}

func (a *app) profileOf(p run.Profile) (profile, error) {
	row := profile{Name: p.Name, Path: p.Path, Settings: map[string][]string{}}
	f, err := profileSource(p)
	if err != nil {
		row.Error = saying(err)
	}
	for _, x := range settings() {
		if values := f.values(x); values != nil {
			row.Settings[x.name] = values
		}
	}
	users, err := a.opened.ProfileUsers(p.Name)
	row.UsedBy = append([]string{}, users...)
	return row, err
}

func profileView() view[profile] {
	return view[profile]{
		{Head: "NAME", Cell: func(p profile) string { return p.Name }},
		{Head: "FROM", Cell: func(p profile) string { return run.Profile{Path: p.Path}.Where() }},
		{Head: "SETTINGS", Cell: func(p profile) string {
			if p.Error != "" {
				return "cannot be read"
			}
			return strconv.Itoa(len(p.Settings))
		}},
		{Head: "MACHINES", Cell: func(p profile) string { return strconv.Itoa(len(p.UsedBy)) }},
	}
}

func (a *app) profileList() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		what := bindListing(fs)
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(context.Context, []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			names, err := e.Profiles()
			rows := []profile{}
			for _, name := range names {
				p, gone := e.Profile(name)
				if gone != nil {
					continue
				}
				row, wrong := a.profileOf(p)
				rows, err = append(rows, row), errors.Join(err, wrong)
			}
			return errors.Join(show(profileView(), string(format), what, rows), err)
		}
	}
}

func (a *app) profileShow() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("yaml")
		fs.Var(&format, "format", "print `yaml|json|TEMPLATE`")
		return func(_ context.Context, names []string) error {
			if _, err := a.engine(); err != nil {
				return err
			}
			rows := []profile{}
			err := a.each(names, func(name string) error {
				p, err := a.profile(name)
				if err != nil {
					return err
				}
				row, err := a.profileOf(p)
				rows = append(rows, row)
				return err
			})
			return errors.Join(profileView().found(os.Stdout, string(format), rows), err)
		}
	}
}

func (a *app) profileCreate() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		return func(_ context.Context, args []string) error {
			said, err := assignments(fs, nil, args[1:])
			if err != nil {
				return err
			}
			text, err := rewritten([]byte("# Settings of the machines that have this profile: croft help profile\n"), said, nil)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.CreateProfile(args[0], text)
		}
	}
}

func (a *app) profileSet() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		quiet := fs.BoolP("quiet", "q", false, "no notes on stderr, only errors")
		return func(_ context.Context, args []string) error {
			said, err := assignments(fs, nil, args[1:])
			if err != nil {
				return err
			}
			return a.changeProfile(args[0], *quiet, func(p run.Profile) ([]byte, error) { return rewritten(p.Text, said, nil) })
		}
	}
}

func (a *app) profileUnset() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		quiet := fs.BoolP("quiet", "q", false, "no notes on stderr, only errors")
		return func(_ context.Context, args []string) error {
			keys, err := settingsOf(args[1:])
			if err != nil {
				return err
			}
			return a.changeProfile(args[0], *quiet, func(p run.Profile) ([]byte, error) { return rewritten(p.Text, nil, keys) })
		}
	}
}

func (a *app) profileEdit() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		quiet := fs.BoolP("quiet", "q", false, "no notes on stderr, only errors")
		return func(_ context.Context, args []string) error {
			was, err := a.profile(args[0])
			if err != nil {
				return err
			}
			return editing{name: was.Name, command: "croft profile edit", text: was.Text, quiet: *quiet}.from(os.Stdin, func(text []byte, stale bool) error {
				return a.changeProfile(was.Name, *quiet, func(p run.Profile) ([]byte, error) {
					if stale && !bytes.Equal(p.Text, was.Text) {
						return nil, errStale
					}
					return text, nil
				})
			})
		}
	}
}

func (a *app) profileCopy() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		return func(_ context.Context, args []string) error {
			p, err := a.profile(args[0])
			if err != nil {
				return err
			}
			return a.opened.CreateProfile(args[1], p.Text)
		}
	}
}

func (a *app) profileRemove() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		quiet := fs.BoolP("quiet", "q", false, "no notes on stderr, only errors")
		return func(_ context.Context, names []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return a.each(names, func(name string) error {
				back, err := e.RemoveProfile(name)
				if err != nil || !back {
					return err
				}
				return a.spread(name, *quiet)
			})
		}
	}
}

// changeProfile changes the text of a profile and then its machines. A text that is none changes nothing.
func (a *app) changeProfile(name string, quiet bool, change func(run.Profile) ([]byte, error)) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	err = e.ChangeProfile(name, func(p run.Profile) ([]byte, error) {
		text, err := change(p)
		if err == nil {
			_, err = parseProfile(text)
		}
		return text, err
	})
	if err != nil {
		return a.missingProfile(name, err)
	}
	return a.spread(name, quiet)
}

// spread has the machines of a profile follow it, each as a whole or not at all.
func (a *app) spread(name string, quiet bool) error {
	users, err := a.opened.ProfileUsers(name)
	if err != nil {
		return err
	}
	return a.each(users, func(machine string) error {
		return a.reconfigure("profile "+name+": not for", machine, quiet, a.expand)
	})
}

// rewritten is the text of a profile with what is said now, and without what shall be said no more. What else stands in it,
// comments among it, stays.
func rewritten(text []byte, said []assignment, gone []named) ([]byte, error) {
	doc, err := mappingOf(text)
	if err != nil {
		return nil, err
	}
	p := (*profilePage)(doc.Content[0])
	for _, n := range gone {
		p.remove(n)
	}
	for _, s := range said {
		if err := p.say(s); err != nil {
			return nil, err
		}
	}
	if len(p.Content) == 0 {
		text = bytes.Join(comments(text), nil)
	} else if text, err = encoded(doc); err != nil {
		return nil, err
	}
	_, err = parseProfile(text)
	return text, err
}

// comments are the lines of a text that are nothing else.
func comments(text []byte) (all [][]byte) {
	for l := range bytes.Lines(text) {
		if blank(l) {
			all = append(all, l)
		}
	}
	return all
}

// encoded is YAML as croft writes it.
func encoded(doc *yaml.Node) ([]byte, error) {
	var text bytes.Buffer
	e := yaml.NewEncoder(&text)
	e.SetIndent(2)
	if err := e.Encode(doc); err != nil {
		return nil, err
	}
	return text.Bytes(), e.Close()
}

// profilePage is the mapping of a profile's text: keys, and after each its value.
type profilePage yaml.Node

// say puts what was said where the setting stands, or behind all. An entry of a list takes the place of the one of its name.
func (p *profilePage) say(s assignment) error {
	var f source // which tells what it amounts to
	if err := (line{&yaml.Node{Value: s.word}, s.values}).into(&f); err != nil {
		return err
	}
	last := s.values[len(s.values)-1]
	switch {
	case s.entry == nil && last == "":
		p.remove(s.named)
	case s.many:
		*p.at(s.setting, f) = yaml.Node{Kind: yaml.SequenceNode, Content: words(s.values)}
	case s.entry == nil:
		p.at(s.setting, f).SetString(last)
	default:
		if slices.Contains(s.values, "") {
			p.remove(s.named)
		}
		for _, v := range f.values(s.setting) {
			p.enter(s.setting, v, f)
		}
	}
	return nil
}

// enter puts an entry into a list.
func (p *profilePage) enter(x setting, v string, f source) {
	list := p.at(x, f)
	if list.Kind != yaml.SequenceNode {
		*list = yaml.Node{Kind: yaml.SequenceNode, Content: scalars(*list)}
	}
	same := func(old *yaml.Node) bool { return x.entry(old.Value) == x.entry(v) }
	if i := slices.IndexFunc(list.Content, same); i >= 0 {
		list.Content[i].SetString(v)
		return
	}
	list.Content = append(list.Content, words([]string{v})...)
	p.filter(func(l pageLine) bool { return l.name == x.name && l.one == x.entry(v) }) // it had a line of its own
}

// scalars is a value as the list that it stands for.
func scalars(n yaml.Node) []*yaml.Node {
	if n.Value == "" {
		return nil
	}
	return []*yaml.Node{&n}
}

func words(texts []string) (all []*yaml.Node) {
	for _, text := range texts {
		n := &yaml.Node{}
		n.SetString(text)
		all = append(all, n)
	}
	return all
}

// at is the value of the line for what f says of x. One that says it under another name, such as LXD's, becomes it.
func (p *profilePage) at(x setting, f source) (value *yaml.Node) {
	p.filter(func(l pageLine) bool {
		if l.one != "" || !slices.ContainsFunc(settings(), func(x setting) bool { return l.means.values(x) != nil && f.values(x) != nil }) {
			return false
		}
		if value != nil {
			return true
		}
		value = l.value
		if l.name != x.name {
			l.key.SetString(x.name)
		}
		return false
	})
	if value == nil {
		value = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
		p.Content = append(p.Content, words([]string{x.name})[0], value)
	}
	return value
}

// remove takes out what is said of a setting, or of one entry of it, under whatever name.
func (p *profilePage) remove(n named) {
	var all source
	p.filter(func(l pageLine) bool {
		all.say(l.named, l.said) // what is wrong is told when all is read
		return false
	})
	x := n.lies(&all.spec)
	p.filter(func(l pageLine) bool {
		switch {
		case n.one == "":
			return l.name == n.name || l.means.values(x) != nil
		case l.name != n.name:
			return false
		case l.one != "":
			return l.one == n.one
		case l.value.Kind != yaml.SequenceNode:
			return n.entry(l.value.Value) == n.one
		}
		l.value.Content = slices.DeleteFunc(l.value.Content, func(v *yaml.Node) bool { return n.entry(v.Value) == n.one })
		return len(l.value.Content) == 0
	})
}

// pageLine is a key and its value as they stand there, and what they amount to.
type pageLine struct {
	named
	key, value *yaml.Node
	said       []string
	means      source
}

// filter takes out the lines that gone says.
func (p *profilePage) filter(gone func(l pageLine) bool) {
	var left []*yaml.Node
	for i := 0; i+1 < len(p.Content); i += 2 {
		key, value := p.Content[i], p.Content[i+1]
		n, err := settingOf(key.Value)
		if err == nil {
			l := pageLine{named: n, key: key, value: value}
			for _, v := range append(scalars(*value), value.Content...) {
				l.said = append(l.said, v.Value)
			}
			err = l.means.say(n, l.said)
			if err == nil && gone(l) {
				continue
			}
		}
		left = append(left, key, value)
	}
	p.Content = left
}
