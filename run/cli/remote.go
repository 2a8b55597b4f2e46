package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
)

// site is one row of remote list; its JSON names are a promise (docs/json.md).
type site struct {
	Name       string   `json:"name"`
	URL        string   `json:"url"`
	Protocol   string   `json:"protocol"`
	Default    bool     `json:"default"`
	Signatures string   `json:"signatures"` // required or unchecked
	Keys       []string `json:"keys"`       // fingerprints
	Mirrors    []string `json:"mirrors"`
	CA         string   `json:"ca,omitempty"`
}

func siteView() view[site] {
	return view[site]{
		{Head: "NAME", Cell: func(p site) string {
			if p.Default {
				return p.Name + " (default)"
			}
			return p.Name
		}},
		{Head: "PROTOCOL", Cell: func(p site) string { return p.Protocol }},
		{Head: "SIGNATURES", Cell: func(p site) string { return p.Signatures }},
		{Head: "URL", Cell: func(p site) string { return p.URL }},
	}
}

func siteOf(r run.Remote, remotes *run.Remotes) (site, error) {
	p := site{
		Name: r.Name, URL: r.URL, Protocol: r.Protocol, Default: r.Name == remotes.Default, Signatures: "unchecked", Keys: []string{}, Mirrors: r.Mirrors, CA: r.CA,
	}
	keys, err := remotes.Keys(r)
	if keys != nil {
		p.Signatures, p.Keys = "required", keys.Fingerprints()
	} else if r.Signed {
		p.Signatures = "required"
	}
	if p.Mirrors == nil {
		p.Mirrors = []string{}
	}
	return p, err
}

func (a *app) remoteList() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(context.Context, []string) error {
			remotes, err := a.remotes()
			if err != nil {
				return err
			}
			rows := []site{}
			for _, r := range remotes.List() {
				row, _ := siteOf(r, remotes) // what is wrong with its keys is said when they are needed
				rows = append(rows, row)
			}
			return siteView().write(os.Stdout, string(format), rows)
		}
	}
}

func (a *app) remoteInfo() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("yaml")
		fs.Var(&format, "format", "print `yaml|json|TEMPLATE`")
		return func(_ context.Context, names []string) error {
			remotes, err := a.remotes()
			if err != nil {
				return err
			}
			rows := []site{}
			err = a.each(names, func(name string) error {
				r, err := remotes.Get(remoteName(name))
				if err != nil {
					return err
				}
				row, err := siteOf(r, remotes)
				rows = append(rows, row)
				return err
			})
			return errors.Join(siteView().found(os.Stdout, string(format), rows), err)
		}
	}
}

func (a *app) remoteAdd() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var r run.Remote
		fs.Var(oneOf(&r.Protocol, run.ProtocolStreams, run.ProtocolOCI), "protocol", "it speaks `simplestreams|oci`; default: simplestreams")
		fs.StringArrayVar(&r.Mirrors, "mirror", nil, "a `URL` that has the same, asked when the first fails")
		fs.StringVar(&r.CA, "ca", "", "trust the authorities whose certificates are in `FILE`, and no others")
		fs.BoolVar(&r.Unsigned, "unsigned", false, "do not ask for signatures, although a key is known")
		fs.BoolVar(&r.Signed, "require-signature", false, "refuse what is not signed, although no key is known yet")
		keys := fs.StringArray("key", nil, "refuse what is not signed by a public key of OpenPGP in `FILE`")
		return func(_ context.Context, args []string) error {
			if r.Unsigned && len(*keys) > 0 {
				return man.Misused("--key and --unsigned exclude each other")
			}
			remotes, err := a.remotes()
			if err != nil {
				return err
			}
			r.Name, r.URL = remoteName(args[0]), args[1]
			if r.Protocol == "" {
				r.Protocol = run.ProtocolStreams
			}
			if r.CA != "" {
				if r.CA, err = filepath.Abs(r.CA); err != nil {
					return err
				}
			}
			return remotes.Add(r, *keys)
		}
	}
}

func (a *app) remoteRemove() func(*pflag.FlagSet) man.Run {
	return func(*pflag.FlagSet) man.Run {
		return func(_ context.Context, names []string) error {
			return a.each(names, func(name string) error {
				remotes, err := a.remotes()
				if err != nil {
					return err
				}
				return remotes.Remove(remoteName(name))
			})
		}
	}
}

func (a *app) remoteSetDefault() func(*pflag.FlagSet) man.Run {
	return func(*pflag.FlagSet) man.Run {
		return func(_ context.Context, args []string) error {
			remotes, err := a.remotes()
			if err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return remotes.SetDefault(remoteName(name))
		}
	}
}

// remotes reads the remotes of this host.
func (a *app) remotes() (*run.Remotes, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	return e.Remotes()
}

// remoteName takes the colon off that stands behind the name of a remote where it calls images.
func remoteName(word string) string {
	if n := len(word) - 1; n > 0 && word[n] == ':' {
		return word[:n]
	}
	return word
}

// remotes are the commands about where images come from.
func remoteVerbs(a *app) []*man.Command {
	return []*man.Command{{
		Name: "remote", Short: "Say where images come from", See: []string{"image", "images"},
		Long: "A remote is a server of images: one that speaks simplestreams, as those of linuxcontainers.org and of Ubuntu, or a registry. REMOTE:NAME calls an image there; a NAME alone is looked for here first, and then at the default remote.\n\nWhat is added and removed stands in remotes.json, beside the host's settings.",
		Sub: []*man.Command{
			{Name: "list", Aliases: []string{"ls"}, Short: "List remotes", New: a.remoteList(), Long: "Lists the remotes of this host.", Examples: []man.Example{{Say: "All of them", Do: "croft remote list"}}},
			{Name: "info", Aliases: []string{"show"}, Args: "REMOTE...", Short: "Describe remotes", New: a.remoteInfo(), Long: "Prints all that is known of each remote.", Examples: []man.Example{{Say: "One", Do: "croft remote info images"}}},
			{
				Name: "add", Args: "NAME URL", Short: "Add a remote", New: a.remoteAdd(),
				Long:     "Calls the server at URL, which begins with https://, by NAME. Nothing is asked of it yet.\n\nIts lists of images have to be signed when a key of its is known: by --key, or by croft itself, which knows those of linuxcontainers.org and of Ubuntu. What is signed says what every file of an image has to be.",
				Examples: []man.Example{{Say: "One with a certificate of your own", Do: "croft remote add --ca ca.pem corp https://images.example.com"}, {Say: "One that signs what it offers", Do: "croft remote add --key images.asc corp https://images.example.com"}, {Say: "A registry", Do: "croft remote add --protocol oci quay https://quay.io"}},
			},
			{Name: "rm", Aliases: []string{"remove", "delete"}, Args: "REMOTE...", Short: "Remove remotes", New: a.remoteRemove(), Long: "Takes remotes away, and the keys that were added for them. The images that came from them stay.", Examples: []man.Example{{Say: "One", Do: "croft remote rm corp"}}},
			{
				Name: "set-default", Aliases: []string{"switch"}, Args: "[REMOTE]", Short: "Choose whom a name without a remote belongs to", New: a.remoteSetDefault(),
				Long:     "Has a NAME that calls nothing here looked for at REMOTE; without REMOTE it is looked for nowhere else.",
				Examples: []man.Example{{Say: "Ubuntu, so that croft run 24.04 is one", Do: "croft remote set-default ubuntu"}},
			},
		},
	}}
}
