package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
)

// publishing is the command that makes an image of a machine.
func publishing(a *app) *man.Command {
	return &man.Command{
		Name: "publish", Args: "NAME [PROPERTY=VALUE...]", Peers: []string{"commit"}, Short: "Make an image of a machine", New: a.publish(), Long: publishText,
		Examples: []man.Example{
			{Say: "One for all that come after", Do: "croft exec base apt-get install -y nginx\ncroft stop base\ncroft publish base --alias web description='Debian with nginx'\ncroft run -d --name web1 web"},
			{Say: "In place of the image that has the name now", Do: "croft publish base --alias web --reuse"},
		}, See: []string{"image", "diff", "cp"},
	}
}

const publishText = `Makes an image of what a machine has on its disk and prints the fingerprint. The image shares the layers of the machine's own image and has one more, of what the machine has changed: it takes the time and the room of the changes. The templates of an LXD or Incus image come along.

Stop the machine before. One that runs is frozen while its files are read, and what its programs had not written yet is not in the image.

Properties are shown by croft image info. An empty value takes one away that the machine's image has; os, release and description are shown in lists.`

// imagesOut are the commands that take images out of here.
func imagesOut(a *app) []*man.Command {
	return []*man.Command{{
		Name: "export", Args: "IMAGE FILE|-", Short: "Write an image to a file", New: a.imageExport(), Long: exportText,
		Examples: []man.Example{
			{Say: "For LXD, Incus or another croft", Do: "croft image export debian/13 debian.tar.gz\nlxc image import debian.tar.gz --alias debian"},
			{Say: "The same in two files, whose names it prints", Do: "croft image export --format split debian/13 debian"},
			{Say: "For docker, podman and skopeo", Do: "croft image export --format oci debian/13 debian.oci.tar\npodman load -i debian.oci.tar"},
		},
	}, {
		Name: "tree", Args: "DIR add|rm|list|verify [IMAGE...]", Short: "Keep an image server in a directory", New: a.imageTree(), Long: treeText,
		Examples: []man.Example{
			{Say: "An image server of one's own", Do: "croft image tree /srv/images add debian/13\ncroft image tree /srv/images list"},
			{Say: "Those who use it", Do: "croft remote add corp https://images.example.com\nincus remote add corp https://images.example.com --protocol simplestreams"},
		},
	}, {
		Name: "prune", Short: "Remove images that nothing uses", New: a.imagePrune(),
		Long:     "Removes images that have no name and that no machine is made of; with --unused-for those with names as well, when that is so for that long. Prints each with what it takes of the disk. `croft prune` removes more.",
		Examples: []man.Example{{Say: "What nobody has wanted for a month", Do: "croft image prune --unused-for 30d"}, {Say: "What would it be?", Do: "croft image prune --unused-for 10d --dry-run"}},
	}}
}

const treeText = `Keeps in DIR what any web server can serve as an image server to croft, LXD and Incus: lists in streams/v1, as simplestreams has them, and below images for each build a file of metadata and one of the root filesystem, a squashfs or, without mksquashfs, a tar.xz.

- ` + "`add`" + ` puts images into it, under the aliases that they have here or those of --alias. An image of an operating system, release, variant and architecture that is there already is a newer build of it. An alias goes to the product that was added last.
- ` + "`rm`" + ` takes out one build by its fingerprint, or with an alias all builds of it.
- ` + "`list`" + ` lists the builds.
- ` + "`verify`" + ` reads everything and prints what is missing, damaged or in no list; the status is 1 then.

Servers can go on serving meanwhile: the lists are replaced when all files are there.`

func (a *app) imageTree() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var aliases []string
		fs.StringArrayVar(&aliases, "alias", nil, "add: call the image `ALIAS` there")
		format := formatValue("table")
		fs.Var(&format, "format", "list: print `table|json|yaml|csv|TEMPLATE`")
		return func(ctx context.Context, args []string) error {
			tree, do, images := run.Tree{Dir: args[0]}, args[1], args[2:]
			switch {
			case (do == "add" || do == "rm") && len(images) == 0:
				return man.Misused("%s: IMAGE is missing", do)
			case (do == "list" || do == "verify") && len(images) > 0:
				return man.Misused("%s takes no IMAGE", do)
			case do != "add" && len(aliases) > 0, len(images) > 1 && len(aliases) > 0:
				return man.Misused("--alias is for one image that is added")
			}
			switch do {
			case "add":
				ctx, cancel := interruptible(ctx)
				defer cancel()
				return a.each(images, func(ref string) error { return a.addToTree(ctx, tree, ref, aliases) })
			case "rm":
				return a.each(images, tree.Remove)
			case "list":
				all, err := tree.List()
				if err != nil {
					return err
				}
				return treeView().write(os.Stdout, string(format), all)
			case "verify":
				return verifyTree(tree)
			}
			return man.Misused("%q is none of add, rm, list and verify", do)
		}
	}
}

func (a *app) addToTree(ctx context.Context, tree run.Tree, ref string, aliases []string) error {
	for _, alias := range aliases {
		if err := run.CheckAlias(alias); err != nil {
			return err
		}
	}
	e, err := a.engine()
	if err != nil {
		return err
	}
	added, err := e.Images.AddToTree(ctx, tree.Dir, ref, aliases)
	if err != nil {
		return fmt.Errorf("add %s: %w", ref, err)
	}
	fmt.Println(added.Fingerprint)
	return nil
}

func treeView() view[run.TreeImage] {
	return view[run.TreeImage]{
		{Head: "ALIAS", Cell: func(t run.TreeImage) string { return first(t.Aliases) }},
		{Head: "FINGERPRINT", Cell: func(t run.TreeImage) string { return t.Fingerprint[:min(12, len(t.Fingerprint))] }},
		{Head: "OS", Cell: func(t run.TreeImage) string { return t.OS }},
		{Head: "RELEASE", Cell: func(t run.TreeImage) string { return t.Release }},
		{Head: "VARIANT", Cell: func(t run.TreeImage) string { return t.Variant }},
		{Head: "ARCH", Cell: func(t run.TreeImage) string { return t.Arch }},
		{Head: "SERIAL", Cell: func(t run.TreeImage) string { return t.Serial }},
		{Head: "TYPE", Cell: func(t run.TreeImage) string { return t.Type }},
		{Head: "SIZE", Cell: func(t run.TreeImage) string { return sizeText(t.Size) }},
	}
}

func verifyTree(tree run.Tree) error {
	wrong, err := tree.Verify()
	if err != nil {
		return err
	}
	for _, line := range wrong {
		fmt.Println(line)
	}
	switch len(wrong) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s: one thing is wrong", tree.Dir)
	}
	return fmt.Errorf("%s: %d things are wrong", tree.Dir, len(wrong))
}

const exportText = `Writes an image in a form that others take, and prints the name of each file. The same image makes the same bytes each time.

- ` + "`unified`" + `: one tar of LXD and Incus, compressed with gzip, with metadata.yaml, the templates and the root filesystem.
- ` + "`split`" + `: the metadata in FILE.tar.gz and the root filesystem in FILE.squashfs, or in FILE.rootfs.tar.gz where there is no mksquashfs. An image that is a squashfs is written as it is.
- ` + "`oci`" + `: an OCI archive with a layer for each of the image's.

Imported again it is an image of the same files with another fingerprint, since that is one of the bytes that came.`

func (a *app) imageExport() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := run.FormatUnified
		fs.Var(oneOf(&format, run.FormatUnified, run.FormatSplit, run.FormatOCI), "format", "write `unified|split|oci`")
		return func(ctx context.Context, args []string) error {
			if args[1] == "-" && format == run.FormatSplit {
				return man.Misused("split makes two files, and stdout is one")
			}
			if args[1] == "-" && isTerminal(os.Stdout) {
				return man.Misused("an archive is not written to a terminal")
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			files, err := e.Images.Export(ctx, args[0], run.ExportOptions{Format: format, Target: args[1], Stdout: os.Stdout})
			if err != nil {
				return err
			}
			for _, f := range files {
				fmt.Println(f)
			}
			return nil
		}
	}
}

func (a *app) publish() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var aliases []string
		fs.StringArrayVar(&aliases, "alias", nil, "call the image `ALIAS`")
		reuse := fs.Bool("reuse", false, "take the alias away from the image that has it")
		a.forced(fs)
		return func(ctx context.Context, args []string) error {
			properties, err := propertiesOf(args[1:])
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if err := e.Room(a.force); err != nil {
				return fmt.Errorf("publish %s: %w", args[0], err)
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			img, err := e.Publish(ctx, args[0], run.Publishing{
				Aliases: aliases, Reuse: *reuse, Properties: properties,
				Frozen: func() {
					fmt.Fprintf(os.Stderr, "croft: %s runs: it is frozen for the copy, and what its programs have not written yet will be missing\n", args[0])
				},
			})
			if err != nil {
				return fmt.Errorf("publish %w", err)
			}
			fmt.Println(img.Fingerprint)
			return nil
		}
	}
}

// propertiesOf reads the properties of an image as they are typed.
func propertiesOf(words []string) (map[string]string, error) {
	properties := map[string]string{}
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			return nil, man.Misused("%q is not PROPERTY=VALUE", word)
		}
		properties[name] = value
	}
	return properties, nil
}
