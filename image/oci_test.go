package image

import (
	"errors"
	"io/fs"
	"testing"

	"croft/state"
)

func TestParseOCI(t *testing.T) {
	const digest = "sha256:7dd342b916322eea91ebfe69a8c9c022a48d23a41ad16becfbe484e8d734cf38"
	for text, want := range map[string]string{
		"docker:nginx":                       "docker:nginx:latest",
		"docker:debian:12":                   "docker:debian:12",
		"docker://library/debian:12":         "docker:debian:12",
		"docker:docker.io/bitnami/redis":     "docker:bitnami/redis:latest",
		"docker:quay.io/team/app:2":          "quay.io/team/app:2",
		"docker.io/library/debian":           "docker:debian:latest",
		"registry.example:5000/app:tag":      "registry.example:5000/app:tag",
		"registry.example/app":               "registry.example/app:latest",
		"localhost/app":                      "localhost/app:latest",
		"localhost:5000/a/b":                 "localhost:5000/a/b:latest",
		"[::1]:5000/app":                     "",
		"quay.io/team/app@" + digest:         "quay.io/team/app@" + digest,
		"docker:debian:12@" + digest:         "docker:debian@" + digest,
		"oci:/srv/layout":                    "oci:/srv/layout",
		"oci:/srv/layout:v1":                 "oci:/srv/layout:v1",
		"oci:/srv/../layout/:v1":             "oci:/layout:v1",
		"dir:/srv/image":                     "dir:/srv/image",
		"dir:/srv/image:1":                   "dir:/srv/image:1",
		"oci-archive:/srv/a.tar":             "oci-archive:/srv/a.tar",
		"oci-archive:/srv//a.tar:v1":         "oci-archive:/srv/a.tar:v1",
		"docker-archive:/srv/a.tar:team/x:1": "docker-archive:/srv/a.tar:team/x:1",
		"debian/13":                          "",
		"images:debian/13":                   "",
		"ubuntu:24.04":                       "",
		"ubuntu:24.04/arm64":                 "",
		"f00dfeed":                           "",
		"example.org":                        "", // no image is named
		":5000/app":                          "",
		"registry.example:port/app":          "",
		"https://example.org/rootfs.tar.xz":  "",
	} {
		ref, ok, err := ParseOCI(text)
		if ok != (want != "") || err != nil || ref.String() != want {
			t.Errorf("%q is %q, %v, %v; want %q", text, ref, ok, err, want)
		}
	}
	for _, text := range []string{
		"docker:", "docker:Debian", "docker:debian:", "docker:debian@sha256:f00", "docker:debian@md5:d41d8cd98f00b204e9800998ecf8427e",
		"registry.example/", "registry.example/../../etc", "docker:a//b", "oci:", "dir:", "oci-archive:", "docker-archive::1", "docker:7dd342b916322eea91ebfe69a8c9c022a48d23a41ad16becfbe484e8d734cf38",
	} {
		if ref, ok, err := ParseOCI(text); !ok || !errors.Is(err, state.ErrInvalid) {
			t.Errorf("%q is %q, %v, %v; want a refusal", text, ref, ok, err)
		}
	}
}

func TestRemoteReference(t *testing.T) {
	for _, x := range []struct{ remote, url, name, want, whole string }{
		{"docker", "https://docker.io", "debian:12", "docker:debian:12", "docker.io/library/debian:12"},
		{"docker", "https://docker.io", "quay.io/team/app", "quay.io/team/app:latest", "quay.io/team/app:latest"},
		{"corp", "https://registry.example:5000", "app", "corp:app:latest", "registry.example:5000/app:latest"},
		{"corp", "https://registry.example/team/", "app:2", "corp:app:2", "registry.example/team/app:2"},
	} {
		ref, err := Remote{Name: x.remote, URL: x.url, Protocol: ProtocolOCI}.Reference(x.name)
		if err != nil || ref.String() != x.want || ref.ref.DockerReference().String() != x.whole {
			t.Errorf("%s:%s is %s, %s; %v", x.remote, x.name, ref, ref.ref.DockerReference(), err)
		}
	}
	if _, err := (Remote{Name: "corp", URL: "https://registry.example"}).Reference("App"); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("a capital letter: %v", err)
	}
}

// TestExplained: only an image that is missing is a thing that does not exist; a part of one, a key or a socket is not.
func TestExplained(t *testing.T) {
	dir := t.TempDir()
	missing := &fs.PathError{Op: "open", Path: dir + "/blobs/x", Err: fs.ErrNotExist}
	for text, want := range map[string]bool{"oci:" + dir: false, "docker:app": false, "oci:" + dir + "/none": true, "oci-archive:" + dir + "/none": true} {
		ref, _, err := ParseOCI(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := explained(ref, missing); errors.Is(err, state.ErrNotExist) != want {
			t.Errorf("%s: %v; want ErrNotExist: %v", text, err, want)
		}
	}
	ref, _, _ := ParseOCI("docker:app")
	if err := explained(ref, errors.New("reading manifest latest: manifest unknown")); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("a tag that the registry has not: %v", err)
	}
}

func TestPlatformsBothWays(t *testing.T) {
	for _, name := range []string{"x86_64", "i686", "aarch64", "armv7l", "armv5tel", "ppc64le", "s390x", "riscv64", "loongarch64"} {
		arch, variant, err := platformOCI(name)
		if back := architectureOCI(arch, variant); err != nil || back != name {
			t.Errorf("%s is %s/%s, which is %s; %v", name, arch, variant, back, err)
		}
	}
	if arch, variant, err := platformOCI("arm64"); arch != "arm64" || variant != "" || err != nil {
		t.Errorf("arm64 is %s/%s, %v", arch, variant, err)
	}
	if _, _, err := platformOCI("vax"); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("vax: %v", err)
	}
}

// An image may unpack to a hundred times what it has compressed, and to 1 GiB in any case; or to what the user allows.
func TestBombs(t *testing.T) {
	for _, x := range []struct{ compressed, allowed, limit int64 }{
		{1000, 0, 1 << 30}, {20 << 20, 0, 2000 << 20}, {1000, 5000, 5000}, {1 << 40, 5000, 5000},
	} {
		p := &pulling{compressed: x.compressed, options: taking{PullOptions: PullOptions{MaxBytes: x.allowed}}}
		if err := errors.Join(p.spend(x.limit-1), p.spend(1)); err != nil {
			t.Errorf("%d of %d: %v", x.limit, x.compressed, err)
		}
		if err := p.spend(1); !errors.Is(err, state.ErrUnsupported) {
			t.Errorf("more than %d of %d: %v", x.limit, x.compressed, err)
		}
	}
}
