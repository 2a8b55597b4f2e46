package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
)

// picture is one row of image list; its JSON names are a promise (docs/json.md).
type picture struct {
	Fingerprint  string    `json:"fingerprint"`
	Aliases      []string  `json:"aliases"`
	Kind         string    `json:"kind"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Release      string    `json:"release"`
	Description  string    `json:"description"`
	Size         int64     `json:"size"`
	Created      time.Time `json:"created"`
	Imported     time.Time `json:"imported"`
	Unique       int64     `json:"unique"` // bytes that no other image has
	UsedBy       []string  `json:"used_by"`
	Layers       []layer   `json:"layers"`

	Expires    *time.Time        `json:"expires,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	Origin     *run.Origin       `json:"origin,omitempty"` // of one that was pulled
	Config     *run.ImageConfig  `json:"config,omitempty"`
	LastUsed   *time.Time        `json:"last_used,omitempty"` // when a machine was last made of it or removed
	Error      string            `json:"error,omitempty"`
}

type layer struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Format string `json:"format"`
}

func pictureView() view[picture] {
	return view[picture]{
		{Head: "ALIAS", Cell: func(p picture) string { return first(p.Aliases) }},
		{Head: "FINGERPRINT", Cell: func(p picture) string { return p.Fingerprint[:12] }},
		{Head: "KIND", Cell: func(p picture) string { return p.Kind }},
		{Head: "ARCH", Cell: func(p picture) string { return p.Architecture }},
		{Head: "SIZE", Cell: func(p picture) string { return sizeText(p.Size) }},
		{Head: "UNIQUE", Cell: func(p picture) string { return sizeText(p.Unique) }},
		{Head: "IMPORTED", Cell: func(p picture) string { return durationText(time.Since(p.Imported)) + " ago" }},
		{Head: "DESCRIPTION", Cell: func(p picture) string {
			if p.Error != "" {
				return "damaged: " + p.Error
			}
			return p.Description
		}},
	}
}

func first(all []string) string {
	switch len(all) {
	case 0:
		return ""
	case 1:
		return all[0]
	}
	return fmt.Sprintf("%s (+%d)", all[0], len(all)-1)
}

// pictures are the rows of images, given all that there are: what is of one alone they tell together.
func pictures(e *run.Engine, images, all []run.Image) []picture {
	rows, unique := []picture{}, run.Unique(all)
	for _, i := range images {
		p := pictureOf(i, e.Users(i.Fingerprint))
		p.Unique = unique[i.Fingerprint]
		if at, ok := e.Images.LastUsed(i.Fingerprint); ok {
			p.LastUsed = &at
		}
		rows = append(rows, p)
	}
	return rows
}

func pictureOf(i run.Image, users []string) picture {
	p := picture{
		Fingerprint: i.Fingerprint, Aliases: i.Aliases, Kind: i.Kind, Architecture: i.Architecture, OS: i.OS,
		Release: i.Release, Description: i.Description, Size: i.Size, Created: i.Created, Imported: i.Imported,
		UsedBy: users, Layers: []layer{}, Expires: i.Expires, Properties: i.Properties, Origin: i.Origin, Config: i.Config,
		Error: i.Damaged,
	}
	for _, l := range i.Layers {
		if l.Format == "" {
			l.Format = "tree"
		}
		p.Layers = append(p.Layers, layer(l))
	}
	if p.Aliases == nil {
		p.Aliases = []string{}
	}
	if p.UsedBy == nil {
		p.UsedBy = []string{}
	}
	return p
}

func (a *app) imageImport() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var aliases []string
		fs.StringArrayVar(&aliases, "alias", nil, "call the image `ALIAS`")
		reuse := fs.Bool("reuse", false, "take the alias away from the image that has it")
		quiet := fs.BoolP("quiet", "q", false, "no progress")
		a.forced(fs)
		var limit int64
		fs.Var((*sizeValue)(&limit), "max-size", "refuse an archive of more than `SIZE` uncompressed")
		return func(ctx context.Context, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			rootfs := ""
			if len(args) == 2 {
				rootfs = args[1]
			}
			if (args[0] == "-" || rootfs == "-") && isTerminal(os.Stdin) {
				return man.Misused("an archive is expected on stdin, and that is a terminal")
			}
			if args[0] == "-" && rootfs == "-" {
				return man.Misused("stdin can be one of the two, not both")
			}
			if err := e.Room(a.force); err != nil {
				return fmt.Errorf("import %s: %w", args[0], err)
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			bar := stderrProgress(*quiet)
			img, err := e.Images.Import(ctx, run.ImportOptions{
				Source: args[0], Rootfs: rootfs, Stdin: os.Stdin, Aliases: aliases, Reuse: *reuse, MaxBytes: limit,
				Progress: func(done, total int64) { bar.report("import "+args[0], done, total) },
			})
			bar.end(err == nil)
			if err != nil {
				return err
			}
			fmt.Println(img.Fingerprint)
			return nil
		}
	}
}

func (a *app) imageList() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		quiet := fs.BoolP("quiet", "q", false, "fingerprints alone")
		arch := fs.String("arch", "", "of a remote: those for `ARCH`, as uname -m says it, or all; default: what runs here")
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				return a.listOffers(ctx, args, *arch, *quiet, string(format))
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			images, err := e.Images.List()
			if err != nil {
				return err
			}
			rows := pictures(e, images, images)
			if *quiet {
				for _, p := range rows {
					fmt.Println(p.Fingerprint)
				}
				return nil
			}
			return pictureView().write(os.Stdout, string(format), rows)
		}
	}
}

func (a *app) imageInfo() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("yaml")
		fs.Var(&format, "format", "print `yaml|json|TEMPLATE`")
		return func(_ context.Context, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			all, err := e.Images.List()
			if err != nil {
				return err
			}
			var found []run.Image
			err = a.each(args, func(ref string) error {
				img, err := e.Images.Get(ref)
				if err == nil {
					found = append(found, img)
				}
				return err
			})
			return errors.Join(pictureView().found(os.Stdout, string(format), pictures(e, found, all)), err)
		}
	}
}

func (a *app) imageRemove() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		return func(_ context.Context, refs []string) error {
			return a.each(refs, func(ref string) error {
				e, err := a.engine()
				if err != nil {
					return err
				}
				return e.Images.Remove(ref, e.Users)
			})
		}
	}
}

func (a *app) imageAlias() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		reuse := fs.Bool("reuse", false, "take the alias away from the image that has it")
		remove := fs.BoolP("delete", "d", false, "take the alias away and leave the image")
		return func(_ context.Context, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			switch {
			case *remove && len(args) == 1:
				return e.Images.RemoveAlias(args[0])
			case *remove:
				return man.Misused("--delete takes an ALIAS and nothing else")
			case len(args) != 2:
				return man.Misused("IMAGE is missing")
			}
			return e.Images.SetAlias(args[0], args[1], *reuse)
		}
	}
}
