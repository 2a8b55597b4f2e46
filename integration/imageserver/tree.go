package imageserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Image is one build of a product, as a publisher has it.
type Image struct {
	Aliases      string // divided by commas
	OS           string
	Release      string
	Title        string
	Variant      string
	Arch         string // as Debian says it
	Serial       string
	Label        string
	SupportEnd   string
	Requirements map[string]string
	Files        []string // a unified image, or metadata and then the root filesystem: a squashfs or a tar.xz, by name
	LXD          bool     // the metadata is LXD's alone, as at Ubuntu's server
}

// The parts of a list of products, in the order of the two public servers.
type (
	products struct {
		ContentID string              `json:"content_id"`
		DataType  string              `json:"datatype"`
		Format    string              `json:"format"`
		Products  map[string]*product `json:"products"`
		Updated   string              `json:"updated"`
	}
	product struct {
		Aliases      string              `json:"aliases"`
		Arch         string              `json:"arch"`
		OS           string              `json:"os"`
		Release      string              `json:"release"`
		Title        string              `json:"release_title"`
		Requirements map[string]string   `json:"requirements"`
		SupportEnd   string              `json:"support_eol,omitempty"`
		Variant      string              `json:"variant,omitempty"`
		Versions     map[string]*version `json:"versions"`
	}
	version struct {
		Items map[string]*item `json:"items"`
		Label string           `json:"label,omitempty"`
	}
	item struct {
		Type             string `json:"ftype"`
		SHA256           string `json:"sha256"`
		Size             int64  `json:"size"`
		Path             string `json:"path"`
		Combined         string `json:"combined_sha256,omitempty"`
		CombinedRootXZ   string `json:"combined_rootxz_sha256,omitempty"`
		CombinedSquashfs string `json:"combined_squashfs_sha256,omitempty"`
	}
)

// Write makes a tree of the images in dir: their files are hard links.
func Write(dir string, images []Image) error {
	all := map[string]*product{}
	for _, i := range images {
		key := strings.Join([]string{strings.ToLower(i.OS), i.Release, i.Arch, i.Variant}, ":")
		p := all[key]
		if p == nil {
			p = &product{Versions: map[string]*version{}}
			all[key] = p
		}
		p.Aliases, p.Arch, p.OS, p.Release, p.Title = i.Aliases, i.Arch, i.OS, i.Release, i.Title
		p.Requirements, p.SupportEnd, p.Variant = i.Requirements, i.SupportEnd, i.Variant
		items, err := i.place(dir)
		if err != nil {
			return err
		}
		if p.Versions[i.Serial] == nil {
			p.Versions[i.Serial] = &version{Items: map[string]*item{}, Label: i.Label}
		}
		maps.Copy(p.Versions[i.Serial].Items, items)
	}
	return writeLists(dir, all)
}

// place puts the files of an image into the tree and describes them.
func (i Image) place(dir string) (map[string]*item, error) {
	at := filepath.Join("images", strings.ToLower(i.OS), i.Release, i.Arch, i.Variant, i.Serial)
	if err := os.MkdirAll(filepath.Join(dir, at), 0o755); err != nil {
		return nil, err
	}
	var all []*item
	combined := sha256.New()
	for _, file := range i.Files {
		one, err := describe(file, combined)
		if err != nil {
			return nil, err
		}
		one.Path = filepath.Join(at, filepath.Base(file))
		to := filepath.Join(dir, one.Path)
		os.Remove(to)
		if err := os.Link(file, to); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	sum := hex.EncodeToString(combined.Sum(nil))
	if len(all) == 1 {
		all[0].Type = "incus_combined.tar.gz"
		return map[string]*item{all[0].Type: all[0]}, nil
	}
	metadata, root := all[0], all[1]
	items := map[string]*item{}
	if strings.HasSuffix(root.Path, ".squashfs") {
		root.Type, metadata.CombinedSquashfs = "squashfs", sum
		items["root.squashfs"] = root
	} else {
		root.Type, metadata.CombinedRootXZ, metadata.Combined = "root.tar.xz", sum, sum
		items["root.tar.xz"] = root
	}
	metadata.Type = "lxd.tar.xz"
	items["lxd.tar.xz"] = metadata
	if !i.LXD {
		incus := *metadata
		incus.Type = "incus.tar.xz"
		items["incus.tar.xz"] = &incus
	}
	return items, nil
}

func describe(file string, combined hash.Hash) (*item, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(sum, combined), f)
	return &item{Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}

// writeLists writes the index, and the one list that it names.
func writeLists(dir string, all map[string]*product) error {
	streams := filepath.Join(dir, "streams", "v1")
	if err := os.MkdirAll(streams, 0o755); err != nil {
		return err
	}
	now := time.Now().UTC().Format(time.RFC1123Z)
	index := map[string]any{
		"format": "index:1.0", "updated": now,
		"index": map[string]any{
			"images":  map[string]any{"datatype": "image-downloads", "format": "products:1.0", "path": "streams/v1/images.json", "products": slices.Sorted(maps.Keys(all))},
			"com.aws": map[string]any{"datatype": "image-ids", "format": "products:1.0", "path": "streams/v1/aws.json", "products": []string{"aws"}},
		},
	}
	list := products{"images", "image-downloads", "products:1.0", all, now}
	for name, what := range map[string]any{"index.json": index, "images.json": list} {
		data, err := json.Marshal(what)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(streams, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Large makes the lists of a server with so many products, each with three builds of two forms, as linuxcontainers.org has
// them. There are no files behind them.
func Large(dir string, n int) error {
	all := map[string]*product{}
	systems := []string{"Alpine", "Archlinux", "Centos", "Debian", "Fedora", "Gentoo", "Opensuse", "Rockylinux", "Ubuntu", "Voidlinux"}
	arches := []string{"amd64", "arm64", "armhf", "ppc64el", "riscv64", "s390x"}
	variants := []string{"default", "cloud"}
	for i := range n {
		os, arch, variant := systems[i%len(systems)], arches[i/10%len(arches)], variants[i/60%len(variants)]
		release := fmt.Sprintf("%d.%d", 1+i/1200, i/120%10)
		name := strings.ToLower(os)
		p := &product{Arch: arch, OS: os, Release: release, Title: release, Variant: variant, Requirements: map[string]string{}, Versions: map[string]*version{}}
		p.Aliases = strings.Join([]string{name + "/" + release + "/" + variant, name + "/" + release}, ",")
		for day := range 3 {
			serial := fmt.Sprintf("202611%02d_05:24", 18+day)
			p.Versions[serial] = largeVersion(strings.Join([]string{"images", name, release, arch, variant, serial}, "/"))
		}
		all[strings.Join([]string{name, release, arch, variant}, ":")] = p
	}
	if len(all) != n {
		return fmt.Errorf("%d products have the names of others", n-len(all))
	}
	return writeLists(dir, all)
}

func largeVersion(at string) *version {
	sum := func(of string) string {
		s := sha256.Sum256([]byte(at + of))
		return hex.EncodeToString(s[:])
	}
	v := &version{Items: map[string]*item{}}
	for _, kind := range []string{"incus.tar.xz", "lxd.tar.xz"} {
		v.Items[kind] = &item{
			Type: kind, SHA256: sum(kind), Size: 704, Path: at + "/incus.tar.xz",
			Combined: sum("tar"), CombinedRootXZ: sum("tar"), CombinedSquashfs: sum("squashfs"),
		}
	}
	v.Items["root.tar.xz"] = &item{Type: "root.tar.xz", SHA256: sum("root"), Size: 96 << 20, Path: at + "/rootfs.tar.xz"}
	v.Items["root.squashfs"] = &item{Type: "squashfs", SHA256: sum("fs"), Size: 110 << 20, Path: at + "/rootfs.squashfs"}
	return v
}
