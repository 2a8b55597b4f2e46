package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
)

// offer is one row of image list REMOTE:; its JSON names are a promise (docs/json.md).
type offer struct {
	Remote       string            `json:"remote"`
	Aliases      []string          `json:"aliases"`
	Fingerprint  string            `json:"fingerprint"`
	Architecture string            `json:"architecture"`
	OS           string            `json:"os"`
	Release      string            `json:"release"`
	Variant      string            `json:"variant"`
	Description  string            `json:"description"`
	Serial       string            `json:"serial"`
	Type         string            `json:"type"`
	Size         int64             `json:"size"`
	SignedBy     string            `json:"signed_by"`
	Supported    string            `json:"supported_until,omitempty"`
	Requirements map[string]string `json:"requirements,omitempty"`
}

func offerView() view[offer] {
	return view[offer]{
		{Head: "ALIAS", Cell: func(o offer) string { return o.Remote + ":" + first(o.Aliases) }},
		{Head: "VERSION", Cell: func(o offer) string { return o.Serial }},
		{Head: "ARCH", Cell: func(o offer) string { return o.Architecture }},
		{Head: "TYPE", Cell: func(o offer) string { return o.Type }},
		{Head: "SIZE", Cell: func(o offer) string { return sizeText(o.Size) }},
		{Head: "DESCRIPTION", Cell: func(o offer) string { return o.Description }},
	}
}

func offerOf(o run.Offer) offer {
	row := offer{
		Remote: o.Remote, Aliases: []string{}, Fingerprint: o.Fingerprint, Architecture: o.Architecture, OS: o.OS, Release: o.Release,
		Variant: o.Variant, Description: o.Description, Serial: o.Serial, Type: o.Type, Size: o.Size, SignedBy: o.SignedBy, Requirements: o.Requirements,
	}
	if o.Aliases != "" {
		row.Aliases = strings.Split(o.Aliases, ",")
	}
	if !o.SupportEnd.IsZero() {
		row.Supported = o.SupportEnd.Format(time.DateOnly)
	}
	return row
}

// freshList is how old a list may be that only is looked at. What is pulled is asked for in any case.
const freshList = 10 * time.Minute

// listOffers prints what a remote has: args are its name, with its colon, and words.
func (a *app) listOffers(ctx context.Context, args []string, arch string, quiet bool, format string) error {
	remote, word, is := strings.Cut(args[0], ":")
	words := args[1:]
	if !is {
		return man.Misused("%s is no remote: it has no colon, as in croft image list images: %[1]s or croft image list %[1]s:", args[0])
	}
	if word != "" { // images:debian is what comes to mind
		words = append(words, word)
	}
	debug.SetGCPercent(400) // thousands of rows, and then the end: to collect garbage takes longer than all the rest
	rows, err := a.offers(ctx, remote, words, arch)
	if err != nil {
		return err
	}
	if quiet {
		for _, o := range rows {
			fmt.Println(o.Fingerprint)
		}
		return nil
	}
	return offerView().write(os.Stdout, format, rows)
}

// offers lists what a remote has of an architecture, "" for this host's and "all", and of what has all of the words in it.
func (a *app) offers(ctx context.Context, remote string, words []string, arch string) ([]offer, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	all, err := e.Offers(ctx, remote, arch, freshList)
	if err != nil && (all == nil || ctx.Err() != nil) {
		return nil, err
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "croft: %v; this is what it had when it was last asked\n", err)
	}
	rows := []offer{}
	for _, o := range all {
		if slices.IndexFunc(words, func(w string) bool { return !mentions(o, w) }) < 0 {
			rows = append(rows, offerOf(o))
		}
	}
	return rows, nil
}

// mentions tells whether an offer has the word in what is shown of it, in small or capital letters.
func mentions(o run.Offer, word string) bool {
	word = strings.ToLower(word)
	has := func(text string) bool { return strings.Contains(strings.ToLower(text), word) }
	return has(o.Description) || has(o.Serial) || has(o.Type) || strings.HasPrefix(o.Fingerprint, word) || has(o.Aliases)
}

func (a *app) imagePull() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var o run.PullOptions
		fs.StringArrayVar(&o.Aliases, "alias", nil, "call this build of it `ALIAS` as well")
		fs.BoolVar(&o.Reuse, "reuse", false, "take the alias away from the image that has it")
		fs.Var((*sizeValue)(&o.MaxBytes), "max-size", "refuse more than `SIZE` uncompressed; default: a hundred times what it has compressed")
		bindSource(fs, &o)
		quiet := fs.BoolP("quiet", "q", false, "no progress")
		a.forced(fs)
		return func(ctx context.Context, refs []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			if len(o.Aliases) > 0 && len(refs) > 1 {
				return man.Misused("--alias is for one image, not for %d", len(refs))
			}
			if err := checkSource(o); err != nil {
				return err
			}
			if err := e.Room(a.force); err != nil {
				return err
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			return a.each(refs, func(ref string) error {
				o, end := told(o, ref, *quiet)
				img, err := e.Pull(ctx, ref, o)
				end(err == nil)
				if err == nil {
					fmt.Println(img.Fingerprint)
				}
				return err
			})
		}
	}
}

func (a *app) imageRefresh() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		quiet := fs.BoolP("quiet", "q", false, "no progress")
		a.forced(fs)
		return func(ctx context.Context, refs []string) error {
			e, err := a.engine()
			if err == nil {
				err = e.Room(a.force)
			}
			if err == nil && len(refs) == 0 {
				refs, err = e.Pulled()
			}
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			return a.each(refs, func(ref string) error {
				o, end := told(run.PullOptions{}, ref, *quiet)
				news, err := e.Refresh(ctx, ref, o)
				end(err == nil)
				for _, n := range news {
					fmt.Println(n.Name, n.Fingerprint)
				}
				return err
			})
		}
	}
}

// told has the options say on stderr how far a pull is; end ends that.
func told(o run.PullOptions, ref string, quiet bool) (_ run.PullOptions, end func(done bool)) {
	bar := stderrProgress(quiet)
	o.Progress = func(done, total int64) { bar.report("pull "+ref, done, total) }
	o.Layers = bar.layers
	o.Note = func(text string) {
		if !quiet {
			fmt.Fprintln(bar, "croft: "+text)
		}
	}
	return o, bar.end
}

// bindPull binds when the image of a new machine is looked for at its remote.
func (s *specFlags) bindPull(fs *pflag.FlagSet) {
	fs.Var(oneOf(&s.wanted.Pull, run.PullMissing, run.PullAlways, run.PullNever), "pull", "get its image from its remote when it is missing here, always or never: `missing|always|never`; default: missing")
	bindSource(fs, &s.wanted.PullOptions)
	man.Under(fs, "Image", "pull", "arch", "require-signature", "unsigned", "tls-verify")
}

// bindSource binds which image is taken, and what a remote has to prove for that.
func bindSource(fs *pflag.FlagSet, o *run.PullOptions) {
	fs.StringVar(&o.Architecture, "arch", "", "take it for `ARCH`, as uname -m says it; default: this host's")
	fs.BoolVar(&o.Signed, "require-signature", false, "take it only as a publisher has signed it whose key is known")
	fs.BoolVar(&o.Unsigned, "unsigned", false, "take it unsigned, although a key of its remote is known")
	bindTLSVerify(fs, &o.Insecure)
}

// checkSource says which of those flags contradict each other.
func checkSource(o run.PullOptions) error {
	if o.Signed && o.Unsigned {
		return man.Misused("--require-signature and --unsigned exclude each other")
	}
	return nil
}

// bindTLSVerify binds the flag under which everybody knows it, which is on unless it is turned off.
func bindTLSVerify(fs *pflag.FlagSet, insecure *bool) {
	fs.Var(&negated{insecure}, "tls-verify", "ask a registry for TLS and a certificate that is known: `true|false`")
	fs.Lookup("tls-verify").NoOptDefVal = "true"
}

// negated is a flag that says the contrary of what it sets.
type negated struct{ not *bool }

func (n *negated) Type() string { return "bool" }

func (n *negated) String() string { return fmt.Sprint(n.not == nil || !*n.not) }

func (n *negated) Set(s string) error {
	if s != "true" && s != "false" {
		return errors.New("is neither true nor false")
	}
	*n.not = s == "false"
	return nil
}

// obtain makes sure that the image of a new machine is here, and gives its name here.
func (a *app) obtain(ctx context.Context, flags *specFlags, ref string) (string, error) {
	if err := checkSource(flags.wanted.PullOptions); err != nil {
		return "", err
	}
	wanted := flags.wanted
	wanted.Ref = ref
	options, end := told(wanted.PullOptions, ref, flags.quiet)
	wanted.PullOptions = options
	name, err := a.opened.Obtain(ctx, wanted)
	end(err == nil)
	if err == nil && wanted.Pull != run.PullNever {
		_ = a.opened.Revalidate(name) // what is here is good enough
	}
	return name, err
}
