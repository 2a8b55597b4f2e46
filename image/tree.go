package image

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"

	"croft/image/simplestreams"
	"croft/state"
)

// AddToTree puts an image into the tree of an image server, called by the aliases there, or by those it has here when none
// are given.
func (s *Store) AddToTree(ctx context.Context, dir, ref string, aliases []string) (added simplestreams.TreeImage, err error) {
	img, err := s.Get(ref)
	if err != nil {
		return added, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return added, err
	}
	work, err := os.MkdirTemp(dir, newPrefix) // there: the files are moved to their places
	if err != nil {
		return added, err
	}
	defer os.RemoveAll(work)
	metadata, root := filepath.Join(work, "metadata"), filepath.Join(work, "root")
	if err := replaceFile(metadata, func(f *os.File) error {
		return s.compressXZ(ctx, f, func(w io.Writer) error { return s.writeMetadata(img, w) })
	}); err != nil {
		return added, err
	}
	image := treeImage(img, aliases)
	image.Type = simplestreams.Squashfs
	err = replaceFile(root, func(f *os.File) error { return s.writeSquashfs(ctx, img, f) })
	if errors.Is(err, errNoSquashfs) {
		image.Type = simplestreams.Tar
		err = replaceFile(root, func(f *os.File) error {
			return s.compressXZ(ctx, f, func(w io.Writer) error { return s.writeTree(ctx, img, w) })
		})
	}
	if err != nil {
		return added, err
	}
	tree := simplestreams.Tree{Dir: dir}
	added, err = tree.Add(image, metadata, root)
	if errors.Is(err, state.ErrExist) { // made in the same minute
		image.Serial = img.Created.Format("20060102_15:04:05")
		added, err = tree.Add(image, metadata, root)
	}
	return added, err
}

// treeImage says of an image what an image server does.
func treeImage(img Image, aliases []string) simplestreams.TreeImage {
	t := simplestreams.TreeImage{
		OS: orElse(img.Properties["os"], img.OS), Release: orElse(img.Properties["release"], img.Release),
		Variant: orElse(img.Properties["variant"], "default"), Arch: debianArchitecture(img.Architecture),
		Serial: img.Created.Format("20060102_15:04"), Aliases: aliases, Requirements: img.requirements(),
	}
	if len(aliases) == 0 {
		t.Aliases = ownAliases(img)
	}
	if _, said := img.Properties["variant"]; img.Kind == KindPublished && !said && len(t.Aliases) > 0 {
		t.Variant = t.Aliases[0] // or all that is made of Debian 13 would be builds of one thing
	}
	return t
}

// ownAliases are those that do not name a remote.
func ownAliases(img Image) []string {
	return slices.DeleteFunc(slices.Clone(img.Aliases), func(a string) bool { return strings.Contains(a, ":") })
}

// compressXZ has write fill f compressed with xz: by the program, which uses all processors, or slowly without.
func (s *Store) compressXZ(ctx context.Context, f *os.File, write func(io.Writer) error) error {
	tool, err := exec.LookPath("xz")
	if err != nil {
		z, err := xz.NewWriter(f)
		if err == nil {
			err = write(z)
		}
		if err == nil {
			err = z.Close()
		}
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	defer r.Close()
	cmd := exec.CommandContext(ctx, tool, "-T0", "-6", "-c")
	cmd.Stdin, cmd.Stdout = r, f
	if err := cmd.Run(); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	return nil
}

// debianArchitecture gives Debian's word, which image servers use, for what `uname -m` says.
func debianArchitecture(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "i686":
		return "i386"
	case "aarch64":
		return "arm64"
	case "armv7l":
		return "armhf"
	case "armv5tel":
		return "armel"
	case "ppc64le":
		return "ppc64el"
	case "loongarch64":
		return "loong64"
	}
	return machine // riscv64, s390x
}
