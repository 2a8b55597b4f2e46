package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const sampleMetadata = `architecture: amd64
creation_date: 1700000000
expiry_date: 1800000000
properties:
  os: Alpine
  release: 3.22
  description: "Alpine\u001b[31m 3.22 (20251122)"
  serial: 20251122_13:00
templates:
  /etc/hostname: {when: [create, copy], template: hostname.tpl}
`

// unifiedTar is an LXD image in one archive, in the order that comes last in mind.
func unifiedTar(t *testing.T) []byte {
	t.Helper()
	return tarOf(t, "rootfs/etc/os-release", "ID=alpine\n", "rootfs/bin/sh", elf(62), "rootfs/metadata.yaml", "a file of the machine's",
		"templates/hostname.tpl", "{{ container.name }}\n", "metadata.yaml", sampleMetadata)
}

func sumOf(parts ...[]byte) string { return fmt.Sprintf("%x", sha256.Sum256(bytes.Join(parts, nil))) }

func TestImportUnified(t *testing.T) {
	for name, data := range compressed(t, unifiedTar(t)) {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			img := mustImport(t, s, data, "a")
			if img.Kind != KindLXD || img.Fingerprint != sumOf(data) {
				t.Errorf("kind %q, fingerprint %s, want lxd's own %s", img.Kind, img.Fingerprint, sumOf(data))
			}
			checkSample(t, s, img)
			if again := mustImport(t, s, data); again.Fingerprint != img.Fingerprint {
				t.Errorf("again it is %s", again.Fingerprint)
			}
			clean(t, s, 1, 1)
		})
	}
}

// checkSample looks at what is kept of sampleMetadata and the files around it.
func checkSample(t *testing.T, s *Store, img Image) {
	t.Helper()
	if !img.Created.Equal(time.Unix(1700000000, 0)) || img.Expires == nil || !img.Expires.Equal(time.Unix(1800000000, 0)) {
		t.Errorf("created %v, expires %v", img.Created, img.Expires)
	}
	if img.OS != "alpine" || img.Release != "3.22" || img.Architecture != "x86_64" || img.Description != "Alpine[31m 3.22 (20251122)" {
		t.Errorf("%q %q %q %q", img.OS, img.Release, img.Architecture, img.Description)
	}
	if len(img.Properties) != 4 || img.Properties["serial"] != "20251122_13:00" {
		t.Errorf("properties %v", img.Properties)
	}
	for path, want := range map[string]string{
		filepath.Join(s.Dir, img.Fingerprint, "metadata.yaml"):          sampleMetadata,
		filepath.Join(s.Dir, img.Fingerprint, "templates/hostname.tpl"): "{{ container.name }}\n",
		filepath.Join(s.LayerPath(img.Layers[0]), "etc/os-release"):     "ID=alpine\n",
	} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if exists(filepath.Join(s.LayerPath(img.Layers[0]), "templates")) {
		t.Error("the templates are in the root filesystem")
	}
}

// importedPair imports a split image out of two files.
func importedPair(t *testing.T, s *Store, metadata, rootfs []byte) (Image, error) {
	t.Helper()
	dir := t.TempDir()
	o := ImportOptions{Source: filepath.Join(dir, "metadata"), Rootfs: filepath.Join(dir, "rootfs")}
	for path, data := range map[string][]byte{o.Source: metadata, o.Rootfs: rootfs} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return s.Import(context.Background(), o)
}

// A split image in any compression shares its layer with the root filesystem imported by itself, until the last is gone.
func TestImportSplit(t *testing.T) {
	s := testStore(t)
	rootfs := tarOf(t, "etc/os-release", "ID=alpine\n", "bin/sh", elf(62))
	plain := mustImport(t, s, rootfs)
	metadata := compressed(t, tarOf(t, "metadata.yaml", sampleMetadata, "templates/hostname.tpl", "{{ container.name }}\n"))
	all := compressed(t, rootfs)
	for i, name := range slices.Sorted(maps.Keys(all)) {
		img, err := importedPair(t, s, metadata[name], all[name])
		if err != nil {
			t.Fatal(name, ": ", err)
		}
		if want := sumOf(metadata[name], all[name]); img.Kind != KindLXD || img.Fingerprint != want {
			t.Errorf("%s: kind %q, fingerprint %s, want lxd's own %s", name, img.Kind, img.Fingerprint, want)
		}
		checkSample(t, s, img)
		clean(t, s, i+2, 1)
	}
	images, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(plain.Fingerprint, nil); err != nil {
		t.Fatal(err)
	}
	clean(t, s, len(images)-1, 1)
	for _, img := range images {
		if img.Kind == KindLXD {
			if err := s.Remove(img.Fingerprint, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	clean(t, s, 0, 0)
}

func TestImportLXDRefuses(t *testing.T) {
	root := tarOf(t, "etc/hostname", "x")
	meta := func(text string) []byte { return tarOf(t, "metadata.yaml", text) }
	for name, c := range map[string]struct {
		metadata, rootfs []byte // rootfs nil: metadata alone
		want             string
	}{
		"metadata alone":      {meta("architecture: x86_64\n"), nil, "without its root filesystem"},
		"a virtual machine":   {tarOf(t, "metadata.yaml", "", "rootfs.img", "x"), nil, "virtual machine is not supported"},
		"rootfs is a link":    {tarOf(t, "metadata.yaml", "", "rootfs", "->/etc"), nil, "rootfs is no directory"},
		"an empty rootfs":     {tarOf(t, "metadata.yaml", "", "rootfs/README", "x"), nil, "holds no root filesystem"},
		"the wrong way round": {root, meta(""), "is no metadata of an LXD or Incus image"},
		"a squashfs first":    {squashfsHead(4096), root, "is no metadata of an LXD or Incus image"},
		"metadata twice":      {meta(""), meta(""), "without its root filesystem"},
		"a unified rootfs":    {meta(""), unifiedTar(t), "has its own metadata"},
		"not yaml":            {meta("\x00\x01"), root, "metadata.yaml: "},
		"a list":              {meta("- a\n- b\n"), root, "metadata.yaml: line 1: cannot unmarshal"},
		"a giant":             {meta("# " + strings.Repeat("x", maxMetadataFile)), root, "has more than 1048576 bytes"},
		"a need for v1":       {meta("properties: {requirements.cgroup: v1}\n"), root, "its init needs cgroup v1"},
		"giant metadata":      {meta(strings.Repeat("x", maxMetadataArchive)), root, "an image of more than 67108864 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			var err error
			if c.rootfs == nil {
				_, err = imported(t, s, c.metadata)
			} else {
				_, err = importedPair(t, s, c.metadata, c.rootfs)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, c.want)
			}
			clean(t, s, 0, 0)
		})
	}
}

// Times that no calendar has are none.
func TestImportLXDTimes(t *testing.T) {
	for _, seconds := range []string{"-1", "0", "9223372036854775807", "253402300800"} {
		s := testStore(t)
		img := mustImport(t, s, tarOf(t, "metadata.yaml", "expiry_date: "+seconds+"\ncreation_date: "+seconds, "rootfs/etc/hostname", "x"))
		if img.Expires != nil || img.Created.Year() > 9999 {
			t.Errorf("%s: created %v, expires %v", seconds, img.Created, img.Expires)
		}
	}
}

// A root filesystem may have a file of that name.
func TestImportNotLXD(t *testing.T) {
	s := testStore(t)
	img := mustImport(t, s, tarOf(t, "metadata.yaml", "x", "etc/hostname", "x"))
	if img.Kind != KindRootfs {
		t.Errorf("kind %q", img.Kind)
	}
	_, err := imported(t, s, tarOf(t, "metadata.yaml", "->/etc/passwd", "rootfs/etc/hostname", "x"))
	if err == nil || !strings.Contains(err.Error(), "holds no root filesystem") {
		t.Errorf("its metadata.yaml is a link: %v", err)
	}
}
