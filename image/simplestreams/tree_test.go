package simplestreams

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"croft/state"
)

func addBuild(t *testing.T, tree Tree, image TreeImage, content string) (TreeImage, error) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"metadata", "root"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return tree.Add(image, filepath.Join(dir, "metadata"), filepath.Join(dir, "root"))
}

// A build that is in the tree is not there twice, whatever its date: it gets another name.
func TestTreeHasABuildOnce(t *testing.T) {
	tree := Tree{t.TempDir()}
	image := TreeImage{OS: "Debian", Release: "13", Variant: "default", Arch: "amd64", Serial: "20260102_03:04", Type: Squashfs, Aliases: []string{"debian/13"}}
	first, err := addBuild(t, tree, image, "one")
	if err != nil {
		t.Fatal(err)
	}
	for _, image.Serial = range []string{"20260102_03:04", "20260203_04:05"} {
		image.Aliases = []string{"debian/trixie"}
		again, err := addBuild(t, tree, image, "one")
		if err != nil || again.Serial != first.Serial || again.Fingerprint != first.Fingerprint || len(again.Aliases) != 2 {
			t.Errorf("%+v: %v", again, err)
		}
	}
	if _, err := addBuild(t, tree, image, "two"); err != nil {
		t.Error(err)
	}
	image.Serial = first.Serial
	if _, err := addBuild(t, tree, image, "three"); !errors.Is(err, state.ErrExist) {
		t.Errorf("another build of the same minute: %v", err)
	}
	if all, err := tree.List(); err != nil || len(all) != 2 {
		t.Errorf("%+v: %v", all, err)
	}
	if wrong, err := tree.Verify(); err != nil || len(wrong) > 0 {
		t.Error(wrong, err)
	}
}

// A client of croft's reads of a tree what was put into it, in both types.
func TestTreeIsRead(t *testing.T) {
	tree := Tree{t.TempDir()}
	for _, kind := range []string{Squashfs, Tar} {
		image := TreeImage{OS: "Debian GNU", Release: "13", Variant: kind, Arch: "amd64", Serial: "20260102_03:04", Type: kind, Aliases: []string{"debian/" + kind}}
		if _, err := addBuild(t, tree, image, kind); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(filepath.Join(tree.Dir, treeList))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	listed, err := tree.List()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = parseProducts(f, func(p product, _, _ int64) {
		builds, why, err := p.builds()
		if err != nil || len(builds) != 1 {
			t.Fatalf("%+v: %s, %v", builds, why, err)
		}
		b := builds[0]
		if l := listed[seen]; b.Type != p.Variant || b.Fingerprint != l.Fingerprint || b.Files[0].Path != l.Files[0] || b.Files[1].Path != l.Files[1] {
			t.Errorf("%+v\n%+v", b, l)
		}
		seen++
	})
	if err != nil || seen != 2 {
		t.Error(seen, err)
	}
	if wrong, err := tree.Verify(); err != nil || len(wrong) > 0 {
		t.Error(wrong, err)
	}
}

// An alias goes to who was given it last, among those of one architecture.
func TestTreeAliases(t *testing.T) {
	tree := Tree{t.TempDir()}
	for _, of := range [][2]string{{"12", "amd64"}, {"12", "arm64"}, {"13", "amd64"}} {
		image := TreeImage{OS: "debian", Release: of[0], Variant: "default", Arch: of[1], Serial: "20260102_03:04", Type: Tar, Aliases: []string{"stable"}}
		if _, err := addBuild(t, tree, image, of[0]+of[1]); err != nil {
			t.Fatal(err)
		}
	}
	all, err := tree.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range all {
		if has := len(image.Aliases) == 1; has != (image.Release == "13" || image.Arch == "arm64") {
			t.Errorf("%+v", image)
		}
	}
}

// A build is there once, and a name that leads out of the tree is none.
func TestTreeRefuses(t *testing.T) {
	tree := Tree{t.TempDir()}
	image := TreeImage{OS: "debian", Release: "13", Variant: "default", Arch: "amd64", Serial: "20260102_03:04", Type: Tar}
	if _, err := addBuild(t, tree, image, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := addBuild(t, tree, image, "other"); !errors.Is(err, state.ErrExist) {
		t.Error(err)
	}
	image.Serial = "../../../../../../x"
	if _, err := addBuild(t, tree, image, ""); !errors.Is(err, state.ErrInvalid) {
		t.Error(err)
	}
	image.Serial, image.OS = "20260102_03:05", "../.."
	if got, err := addBuild(t, tree, image, ""); err != nil || got.Files[0] != "images/none/13/amd64/default/20260102_03:05/incus.tar.xz" {
		t.Error(got.Files, err)
	}
	if wrong, err := tree.Verify(); err != nil || len(wrong) > 0 {
		t.Error(wrong, err)
	}
}
