package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/opencontainers/go-digest"
)

// An import of any bytes in any compression is refused and leaves nothing, or is an image that can be read again.
func FuzzImport(f *testing.F) {
	t := &testing.T{}
	plain := rootfsTar(t, "fuzz")[:4096]
	for _, data := range compressed(t, rootfsTar(t, "fuzz")) {
		f.Add(data)
	}
	f.Add(plain)
	f.Add(squashfsHead(96))
	f.Add(erofsHead(12, 1))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := testStore(t)
		s.Mount = func(string) (*os.File, bool, error) { return nil, false, errors.New("no mounts here") }
		img, err := s.Import(context.Background(), ImportOptions{Source: "-", Stdin: bytes.NewReader(data), MaxBytes: 8 << 20})
		if err != nil {
			if strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("more than a line: %v", err)
			}
			clean(t, s, 0, 0)
			return
		}
		if _, err := s.Get(img.Fingerprint); err != nil {
			t.Error(err)
		}
		clean(t, s, 1, 1)
	})
}

// An alias that may be used is one that can neither be taken for a fingerprint or a remote nor lead out of a directory.
func FuzzAlias(f *testing.F) {
	for _, alias := range []string{"debian/13", "a/../b", "docker:debian", "/", "a//b", "ab12cd", strings.Repeat("f", 64), "-a", "a.", "é"} {
		f.Add(alias)
	}
	aliases := map[string]string{"debian/13": "1", "debian/12": "2", "busybox": "3"}
	f.Fuzz(func(t *testing.T, alias string) {
		if near := nearest(alias, aliases, 3); near != "" && aliases[near] == "" {
			t.Errorf("%q is near to %q, which is none", alias, near)
		}
		suggest(alias, aliases)
		if CheckAlias(alias) != nil {
			return
		}
		if path.Clean(alias) != alias || path.IsAbs(alias) || strings.ContainsAny(alias, ": \n") || isDigest(alias) || !alnum(rune(alias[0])) {
			t.Errorf("%q may be an alias", alias)
		}
	})
}

// What an image says of itself is text for one line, whatever its os-release and its programs hold.
func FuzzDescribe(f *testing.F) {
	f.Add([]byte("ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian \\\"GNU\\\"\x1b[31m 13\"\n"), []byte(elf(62)))
	f.Add([]byte("PRETTY_NAME='\nID=\"\n=\n"), []byte("\x7fELF\x02\x02"))
	f.Fuzz(func(t *testing.T, release, program []byte) {
		tree := t.TempDir()
		for name, data := range map[string][]byte{"etc/os-release": release, "bin/sh": program} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(tree, name), data, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		img, err := describe(tree)
		if err != nil {
			t.Fatal(err)
		}
		presentable(t, img.OS, img.Release, img.Description)
	})
}

// metadata.yaml of any bytes is refused in a line, or read; then its templates are refused or of files in one directory, for
// files in a machine.
func FuzzMetadata(f *testing.F) {
	f.Add([]byte("architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  os: debian\n  description: \"a\\u001b[31m\"\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("properties: {a: {b: c}}\nexpiry_date: 99999999999999999999"))
	f.Add([]byte("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nproperties: *c"))
	f.Add([]byte("templates: {/etc/hostname: {when: [create], template: a.tpl, uid: \"0\", mode: 0644}}"))
	f.Add([]byte("templates: {../../x: {when: [start], template: ../a}}"))
	f.Add([]byte("templates: {/x: {template: a, mode: \"99\"}, /y/: {template: b}, /: {template: c}, \"a\\nb\": {template: ..}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), lxdMetadata)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		meta, err := readMetadata(file)
		if err == nil {
			var all []FileTemplate
			all, err = meta.templates()
			for _, one := range all {
				if path.Clean(one.Path) != one.Path || one.Path[0] != '/' || one.Path == "/" || path.Base(one.file) != one.file || one.file == ".." {
					t.Errorf("%q of %q", one.Path, one.file)
				}
			}
		}
		if err != nil {
			presentable(t, err.Error())
		}
	})
}

func presentable(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%q has control characters", text)
		}
	}
}

// Any archive is refused as a backup in a line, or gives entries of an image and of nothing else.
func FuzzBackup(f *testing.F) {
	seed := func(names map[string]string, order ...string) {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, name := range order {
			h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Uid: 1000000, Size: int64(len(names[name]))}
			if strings.HasSuffix(name, "/") {
				h.Typeflag = tar.TypeDir
			}
			if err := w.WriteHeader(h); err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write([]byte(names[name])); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Bytes())
	}
	config := "container: {config: {volatile.last_state.idmap: '[{\"Isuid\":true,\"Isgid\":true,\"Hostid\":1000000,\"Nsid\":0,\"Maprange\":65536}]'}}"
	seed(map[string]string{backupIndexed: "name: a\ntype: container", backupYAML: config, backupRoot + "metadata.yaml": "a: b"},
		backupIndexed, backupYAML, backupRoot+"metadata.yaml", backupRoot+"rootfs/", backupRoot+"rootfs/a")
	seed(map[string]string{backupIndexed: "optimized: true"}, backupIndexed)
	seed(nil, backupRoot+"rootfs/../../a")
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		b := &backupReader{check: func(Backup) error { return nil }}
		if err := b.filter(bytes.NewReader(data), tar.NewWriter(&out)); err != nil {
			presentable(t, err.Error())
			return
		}
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if top, _, _ := strings.Cut(h.Name, "/"); top != "rootfs" && top != lxdTemplates && top != lxdMetadata || path.Clean(h.Name) != strings.TrimSuffix(h.Name, "/") {
				t.Errorf("%q", h.Name)
			}
		}
	})
}

// A reference of any kind is none, is refused in a line, or is shown in a way that names the same image.
func FuzzReference(f *testing.F) {
	for _, text := range []string{
		"docker:nginx", "docker://library/debian:12", "quay.io/team/app@sha256:" + strings.Repeat("0", 64), "localhost:5000/a/b:c@sha256:f00",
		"oci:/srv/layout:v1", "oci::", "dir:../x", "a.b/../../etc", "docker:\x1b[31m", "[::1]:5000/app", "docker:" + strings.Repeat("a/", 200),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, is, err := ParseOCI(text)
		switch {
		case !is && err == nil:
		case err != nil:
			presentable(t, err.Error())
		default:
			again, is, err := ParseOCI(ref.String())
			if !is || err != nil || again.String() != ref.String() || again.digest() != ref.digest() {
				t.Errorf("%q is shown as %q, which is %q: %v, %v", text, ref, again, is, err)
			}
		}
	})
}

// A manifest and a configuration of any bytes are refused in a line, or give layers that can be names of files. %CONFIG% and %SIZE% of
// the manifest are what is right for the configuration.
func FuzzManifest(f *testing.F) {
	const layer = `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:` + zeros + `","size":7}`
	const oci = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%CONFIG%","size":%SIZE%},"layers":[` + layer + `]}`
	const config = `{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"User":"1:2","Volumes":{"/v":{}},"Labels":{"org.opencontainers.image.title":"t"}},"rootfs":{"type":"layers","diff_ids":["sha256:` + zeros + `"]}}`
	f.Add([]byte(oci), []byte(config))
	f.Add([]byte(strings.ReplaceAll(strings.ReplaceAll(oci, "oci.image.manifest.v1", "docker.distribution.manifest.v2"), "oci.image.config.v1", "docker.container.image.v1")), []byte(config))
	f.Add([]byte(strings.Replace(oci, "sha256:"+zeros, "sha256:../../x", 1)), []byte(config))
	f.Add([]byte(strings.Replace(oci, layer, layer+","+layer, 1)), []byte(config))
	f.Add([]byte(strings.Replace(oci, "%SIZE%", "1", 1)), []byte("{"))
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"sha256:`+zeros+`","platform":{"architecture":"amd64\u001b","os":"linux"}}]}`), []byte("null"))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		dir, sum := t.TempDir(), digest.FromBytes(config)
		manifest = bytes.ReplaceAll(manifest, []byte("%CONFIG%"), []byte(sum))
		manifest = bytes.ReplaceAll(manifest, []byte("%SIZE%"), fmt.Append(nil, len(config)))
		for name, data := range map[string][]byte{skopeoVersion: []byte("Directory Transport Version: 1.1\n"), "manifest.json": manifest, sum.Encoded(): config} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		src, err := openOCI(context.Background(), dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		found, err := readOCI(context.Background(), src, "", registryContext(false))
		if err != nil {
			presentable(t, err.Error())
			return
		}
		for _, l := range found.layers {
			if !isDigest(l.blob.Digest.Encoded()) || !isDigest(l.diff.Encoded()) || l.blob.Size < 0 {
				t.Errorf("layer %+v", l)
			}
		}
		presentable(t, describeOCI(found.config).Description)
	})
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"
