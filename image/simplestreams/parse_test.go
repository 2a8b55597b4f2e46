package simplestreams

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"croft/image/fetch"
	"croft/integration/imageserver"
	"croft/state"
)

const (
	sumA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	sumC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

// likeIncus is a list as linuxcontainers.org makes them, likeUbuntu one as cloud-images.ubuntu.com does.
const (
	likeIncus = `{"content_id":"images","datatype":"image-downloads","format":"products:1.0","products":{
"debian:trixie:amd64:default":{"aliases":"debian/trixie/default,debian/13/default,debian/trixie,debian/13","arch":"amd64","os":"Debian","release":"trixie","release_title":"trixie","requirements":{},"variant":"default","versions":{
 "20261119_05:24":{"items":{
  "incus.tar.xz":{"ftype":"incus.tar.xz","path":"images/debian/trixie/amd64/default/20261119_05:24/incus.tar.xz","size":704,"sha256":"` + sumA + `","combined_squashfs_sha256":"` + sumB + `","combined_rootxz_sha256":"` + sumC + `","combined_sha256":"` + sumC + `"},
  "lxd.tar.xz":{"ftype":"lxd.tar.xz","path":"images/debian/trixie/amd64/default/20261119_05:24/incus.tar.xz","size":704,"sha256":"` + sumA + `","combined_squashfs_sha256":"` + sumB + `"},
  "root.squashfs":{"ftype":"squashfs","path":"images/debian/trixie/amd64/default/20261119_05:24/rootfs.squashfs","size":1000,"sha256":"` + sumC + `"},
  "root.tar.xz":{"ftype":"root.tar.xz","path":"images/debian/trixie/amd64/default/20261119_05:24/rootfs.tar.xz","size":900,"sha256":"` + sumB + `"},
  "disk.qcow2":{"ftype":"disk-kvm.img","path":"images/debian/trixie/amd64/default/20261119_05:24/disk.qcow2","size":9000,"sha256":"` + sumB + `"}}},
 "20261120_05:24":{"items":{
  "incus.tar.xz":{"ftype":"incus.tar.xz","path":"i","size":704,"sha256":"` + sumA + `","combined_rootxz_sha256":"` + sumC + `"},
  "root.tar.xz":{"ftype":"root.tar.xz","path":"r","size":900,"sha256":"` + sumB + `"}}},
 "latest":{"items":{"incus.tar.xz":{"ftype":"incus.tar.xz","path":"../../etc/passwd","size":1}}}}},
"debian:trixie:arm64:default":{"aliases":"debian/trixie,debian/13","arch":"arm64","os":"Debian","release":"trixie","versions":{
 "20261119_05:24":{"items":{
  "incus.tar.xz":{"ftype":"incus.tar.xz","path":"a","size":704,"sha256":"` + sumA + `","combined_squashfs_sha256":"` + sumB + `"},
  "root.squashfs":{"ftype":"squashfs","path":"b","size":1000,"sha256":"` + sumC + `"}}}}},
"centos:7:amd64:default":{"aliases":"centos/7","arch":"amd64","os":"Centos","release":"7","requirements":{"cgroup":"v1"},"versions":{
 "20240101":{"items":{
  "lxd.tar.xz":{"ftype":"lxd.tar.xz","path":"a","size":704,"sha256":"` + sumA + `","combined_squashfs_sha256":"` + sumB + `"},
  "root.squashfs":{"ftype":"squashfs","path":"b","size":1000,"sha256":"` + sumC + `"}}}}},
"nixos:x:amd64:default":{"aliases":"nixos","arch":"amd64","os":"Nixos","release":"x","requirements":{"nesting":true},"versions":{
 "20240101":{"items":{"incus.tar.xz":{"ftype":"incus.tar.xz","path":"a","size":704,"sha256":"` + sumA + `"},"disk":{"ftype":"disk-kvm.img","path":"b","size":1}}}}}
}}`
	likeUbuntu = `{"datatype":"image-downloads","format":"products:1.0","updated":"x","license":"y","products":{
"com.ubuntu.cloud:server:24.04:amd64":{"aliases":"24.04,n,noble,default,lts","arch":"amd64","os":"ubuntu","release":"noble","release_codename":"Noble Numbat","release_title":"24.04 LTS","support_eol":"2029-05-31","supported":true,"version":"24.04","versions":{
 "20260225":{"label":"release","pubname":"p","items":{
  "lxd.tar.xz":{"ftype":"lxd.tar.xz","path":"server/releases/noble/release-20260225/ubuntu-24.04-server-cloudimg-amd64-lxd.tar.xz","size":400,"sha256":"` + sumA + `","combined_rootxz_sha256":"` + sumB + `","combined_squashfs_sha256":"` + sumC + `","combined_disk1-img_sha256":"` + sumB + `"},
  "squashfs":{"ftype":"squashfs","path":"server/releases/noble/release-20260225/ubuntu-24.04-server-cloudimg-amd64.squashfs","size":5000,"sha256":"` + sumB + `"},
  "manifest":{"ftype":"manifest","path":"m","size":1}}},
 "20260225.1":{"label":"release","items":{"manifest":{"ftype":"manifest","path":"m","size":1}}}}}}}`
)

// catalogOf makes a catalogue of one list.
func catalogOf(t *testing.T, list string) *Catalog {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "list.json"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	h := header{Format: format, URL: "https://images.example.com", Lists: lists("list.json")}
	if err := writeCatalog(dir, h); err != nil {
		t.Fatal(err)
	}
	c, err := readCatalog(dir, h.URL)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func lists(file string) []list { return []list{{Path: "streams/v1/images.json", File: file}} }

func amd64(arch string) bool { return arch == "amd64" }

func TestLookup(t *testing.T) {
	for name, want := range map[string]struct {
		list, arch, description string
		builds                  []string // TYPE SERIAL
	}{
		"debian/13":               {likeIncus, "amd64", "Debian trixie amd64 (20261120_05:24)", []string{"tar 20261120_05:24", "squashfs 20261119_05:24"}},
		"debian/trixie/default":   {likeIncus, "amd64", "Debian trixie amd64 (20261120_05:24)", []string{"tar 20261120_05:24", "squashfs 20261119_05:24"}},
		"debian/13/arm64":         {likeIncus, "arm64", "Debian trixie arm64 (20261119_05:24)", []string{"squashfs 20261119_05:24"}},
		"centos/7":                {likeIncus, "amd64", "Centos 7 amd64 (20240101)", []string{"squashfs 20240101"}},
		"noble":                   {likeUbuntu, "amd64", "ubuntu 24.04 LTS amd64 (release) (20260225)", []string{"squashfs 20260225"}},
		"default":                 {likeUbuntu, "amd64", "ubuntu 24.04 LTS amd64 (release) (20260225)", []string{"squashfs 20260225"}},
		"debian/trixie/cloud":     {list: likeIncus},
		"debian/trixie/":          {list: likeIncus},
		"debian/13/default/amd64": {likeIncus, "amd64", "Debian trixie amd64 (20261120_05:24)", []string{"tar 20261120_05:24", "squashfs 20261119_05:24"}},
	} {
		c := catalogOf(t, want.list)
		p, ok := c.Lookup(name, amd64)
		if ok != (want.arch != "") || p.Arch != want.arch || p.Description != want.description {
			t.Errorf("%s is %+v", name, p)
		}
		if !ok {
			continue
		}
		builds, err := c.Builds(p)
		var got []string
		for _, b := range builds {
			got = append(got, b.Type+" "+b.Serial)
		}
		if err != nil || !slices.Equal(got, want.builds) {
			t.Errorf("%s has the builds %q: %v", name, got, err)
		}
	}
}

func TestProductsOfNoUse(t *testing.T) {
	c := catalogOf(t, likeIncus)
	if p, ok := c.Lookup("nixos", amd64); !ok || p.Type != "" || p.Why != "it is for virtual machines alone" || p.Requirements["nesting"] != "true" {
		t.Errorf("%+v", p)
	}
	if p, _ := c.Lookup("centos/7", amd64); p.Requirements["cgroup"] != "v1" {
		t.Errorf("%+v", p)
	}
	c = catalogOf(t, likeUbuntu)
	if p, _ := c.Lookup("noble", amd64); p.SupportEnd.Year() != 2029 || p.Size != 5400 || p.Fingerprint != sumC {
		t.Errorf("%+v", p)
	}
	for change, why := range map[[2]string]string{
		{`"path":"a"`, `"path":"../a"`}:                                         "leads out of the server's directory",
		{`"path":"b"`, `"path":"/etc/shadow"`}:                                  "leads out of the server's directory",
		{`"path":"b"`, `"path":"https://elsewhere/b"`}:                          "leads out of the server's directory",
		{`"path":"b"`, `"path":"a\\b"`}:                                         "leads out of the server's directory",
		{`"combined_squashfs_sha256":"` + sumB + `"`, `"x":""`}:                 "it has no fingerprint",
		{`_squashfs_sha256":"` + sumB + `"`, `_squashfs_sha256":"../../x"`}:     "is none",
		{`"size":1000`, `"size":-1`}:                                            "size or sha256 of b is missing",
		{`"size":704`, `"size":10000000000`}:                                    "a, which describes it, has more than 64 MiB",
		{`"size":1000`, `"size":0`}:                                             "size or sha256 of b is missing",
		{`"sha256":"` + sumC + `"`, `"sha256":"` + strings.ToUpper(sumC) + `"`}: "size or sha256 of b is missing",
	} {
		at := strings.Index(likeIncus, `"centos:7`)
		c := catalogOf(t, likeIncus[:at]+strings.Replace(likeIncus[at:], change[0], change[1], 1))
		p, ok := c.Lookup("centos/7", amd64)
		if !ok || p.Type != "" || !strings.Contains(p.Why, why) {
			t.Errorf("%s: %+v", change[1], p)
		}
		if _, ok := c.Lookup("debian/13", amd64); !ok {
			t.Errorf("%s: another product suffers from it", change[1])
		}
	}
}

func TestBadLists(t *testing.T) {
	for _, bad := range []string{
		"", "{", "[]", "null", "{}", `{"products":{}}`, `{"format":"index:1.0","products":{}}`, `{"format":"products:1.0","products":[]}`,
		`{"format":"products:1.0","products":{"a":1}}`, `{"format":"products:1.0","products":{"a":{}`, likeIncus[:len(likeIncus)/2],
		`{"format":"products:1.0","products":{"a":{"versions":{"20260101":{"items":{"a":{"size":"many"}}}}}}}`, "\x00\xff",
	} {
		if err := parseProducts(strings.NewReader(bad), func(product, int64, int64) {}); !errors.Is(err, state.ErrInvalid) {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	for _, bad := range []string{
		"", "{", "[]", "{}", `{"format":"products:1.0"}`, `{"format":"index:1.0","index":{"a":{"datatype":"image-downloads","path":"../a","products":["b"]}}}`,
		`{"format":"index:1.0","index":{"a":{"datatype":"image-downloads","path":"file:///a","products":["b"]}}}`,
	} {
		if _, err := parseIndex(strings.NewReader(bad)); !errors.Is(err, state.ErrInvalid) {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	paths, err := parseIndex(strings.NewReader(`{"format":"index:1.0","index":{
		"b":{"datatype":"image-downloads","path":"streams/v1/b.json","products":["x"]}, "c":{"datatype":"image-downloads","path":"streams/v1/b.json","products":["y"]},
		"a":{"datatype":"image-downloads","path":"streams/v1/com.ubuntu.cloud:released:download.json","products":["x"]},
		"empty":{"datatype":"image-downloads","path":"streams/v1/e.json"}, "ids":{"datatype":"image-ids","path":"streams/v1/i.json","products":["x"]}}}`))
	if err != nil || !slices.Equal(paths, []string{"streams/v1/b.json", "streams/v1/com.ubuntu.cloud:released:download.json"}) {
		t.Errorf("%q: %v", paths, err)
	}
}

// TestLargeValues reads what has no end, which has to be noticed before it is in memory, and much that is small.
func TestLargeValues(t *testing.T) {
	for name, begin := range map[string]string{
		"product":    `{"format":"products:1.0","products":{"a":{"aliases":"`,
		"name":       `{"format":"products:1.0","products":{"`,
		"other":      `{"format":"products:1.0","license":"`,
		"whitespace": `{"format":"products:1.0",` + " ",
	} {
		fill := byte('x')
		if name == "whitespace" {
			fill = ' '
		}
		in := &endless{begin: strings.NewReader(begin), fill: fill, limit: 4 * maxValue}
		err := parseProducts(in, func(product, int64, int64) {})
		if !errors.Is(err, state.ErrInvalid) || !strings.Contains(err.Error(), "8 MiB") || in.read > maxValue+2*maxRead {
			t.Errorf("%s: %v, after %d bytes", name, err, in.read)
		}
	}
	list := `{"format":"products:1.0","products":{`
	for n := range 5 {
		list += fmt.Sprintf(`"%d":{"aliases":%q},`, n, strings.Repeat("x", maxValue/2))
	}
	all := 0
	err := parseProducts(strings.NewReader(strings.TrimSuffix(list, ",")+"}}"), func(product, int64, int64) { all++ })
	if err != nil || all != 5 {
		t.Errorf("%d products: %v", all, err)
	}
}

// endless gives begin and then the same byte, as if it would never end.
type endless struct {
	begin *strings.Reader
	fill  byte
	read  int
	limit int
}

func (e *endless) Read(p []byte) (int, error) {
	n, _ := e.begin.Read(p)
	for ; n < len(p); n++ {
		p[n] = e.fill
	}
	if e.read += n; e.read > e.limit {
		return 0, errors.New("nobody has noticed")
	}
	return n, nil
}

// TestCatalogIsKept asks a server again and again while what it has changes, and what is kept is damaged.
func TestCatalogIsKept(t *testing.T) {
	web := t.TempDir()
	if err := imageserver.Large(web, 20); err != nil {
		t.Fatal(err)
	}
	server, err := imageserver.Start(web)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, server.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := fetch.New(fetch.Server{Name: "corp", URL: server.URL, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	files.Pause = 1
	s := &Server{Files: files, Name: "corp", URL: server.URL, Cache: filepath.Join(t.TempDir(), "corp")}
	ask := func(what string, products int, asked ...string) {
		t.Helper()
		server.Asked()
		c, err := s.Catalog(context.Background(), 0)
		if err != nil || len(c.Products) != products {
			t.Fatalf("%s: %v", what, err)
		}
		if got := server.Asked(); !slices.Equal(got, asked) {
			t.Errorf("%s: asked for %q", what, got)
		}
		entries, err := os.ReadDir(s.Cache)
		if err != nil || len(entries) != 3 {
			t.Errorf("%s: what is kept is %v: %v", what, entries, err)
		}
	}
	const index, images = "/streams/v1/index.json ", "/streams/v1/images.json "
	ask("at first", 20, index+"200", images+"200")
	ask("when nothing has changed", 20, index+"304", images+"304")
	if err := imageserver.Large(web, 30); err != nil {
		t.Fatal(err)
	}
	ask("when it has", 30, index+"200", images+"200")
	if err := os.WriteFile(filepath.Join(s.Cache, catalogName), []byte("{}\nnonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask("when what is kept is damaged", 30, index+"200", images+"200")
	server.Break(imageserver.Fault{Kind: "500"})
	if c, err := s.Catalog(context.Background(), 0); err == nil || c == nil || len(c.Products) != 30 {
		t.Errorf("when the server is broken, what it had is not told: %v", err)
	}
	server.Mend()
	server.Break(imageserver.Fault{Kind: "truncate", Path: "index"})
	if err := imageserver.Large(web, 31); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Catalog(context.Background(), 0); !errors.Is(err, state.ErrInvalid) || c != nil {
		t.Errorf("when it says what is no index: %v", err)
	}
	server.Mend()
	if _, err := s.Catalog(context.Background(), 0); err != nil {
		t.Error(err)
	}
}
