package simplestreams

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
)

// entry is one list of products that an index names.
type entry struct {
	DataType string   `json:"datatype"`
	Path     string   `json:"path"`
	Products []string `json:"products"`
}

// parseIndex gives the paths of the lists of images that an index names, sorted, each once.
func parseIndex(r io.Reader) ([]string, error) {
	var index struct {
		Format string           `json:"format"`
		Index  map[string]entry `json:"index"`
	}
	if err := json.NewDecoder(r).Decode(&index); err != nil {
		return nil, corrupt(err)
	}
	if !strings.HasPrefix(index.Format, "index:") {
		return nil, wrongly("it says that it is %q, not an index", printable(index.Format))
	}
	paths := map[string]bool{}
	for _, e := range index.Index {
		if e.DataType != imageDownloads || len(e.Products) == 0 {
			continue // cloud providers' ids of images, and the like
		}
		if err := checkPath(e.Path); err != nil {
			return nil, err
		}
		paths[e.Path] = true
	}
	return slices.Sorted(maps.Keys(paths)), nil
}

const imageDownloads = "image-downloads"

// checkPath refuses what would leave the server's directory.
func checkPath(p string) error {
	if !fs.ValidPath(p) || p == "." || path.Clean(p) != p || strings.ContainsFunc(p, func(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }) {
		return wrongly("a path in it, %q, leads out of the server's directory", printable(p))
	}
	return nil
}

func corrupt(err error) error {
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return wrongly("it ends too early")
	case errors.As(err, &syntax), errors.As(err, &mistyped):
		return wrongly("it is no JSON of simplestreams (%s)", printable(err.Error()))
	}
	return err
}

// product is one product in a list: an operating system, its release and variant, for one architecture.
type product struct {
	Aliases         string             `json:"aliases"`
	Arch            string             `json:"arch"`
	OS              string             `json:"os"`
	Release         string             `json:"release"`
	Title           string             `json:"release_title"`
	Version         string             `json:"version"`
	Variant         string             `json:"variant"`
	SupportEnd      string             `json:"support_eol"`
	Requirements    map[string]any     `json:"requirements"`
	LXDRequirements map[string]any     `json:"lxd_requirements"`
	Versions        map[string]version `json:"versions"`
}

type version struct {
	Label string          `json:"label"`
	Items map[string]item `json:"items"`
}

type item struct {
	Type             string `json:"ftype"`
	Path             string `json:"path"`
	Size             int64  `json:"size"`
	SHA256           string `json:"sha256"`
	CombinedType     string `json:"combined_type"`
	Combined         string `json:"combined_sha256"`
	CombinedRootXZ   string `json:"combined_rootxz_sha256"`
	CombinedSquashfs string `json:"combined_squashfs_sha256"`
}

// parseProducts reads a list of products and calls each with every one, and with where in the file its value lies, with
// the colon and blanks before it.
func parseProducts(r io.Reader, each func(p product, offset, length int64)) error {
	in := &sparing{r: r}
	d := json.NewDecoder(in)
	in.taken = d.InputOffset
	if err := delimiter(d, '{'); err != nil {
		return err
	}
	format := ""
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return corrupt(err)
		}
		switch key {
		case "format":
			err = d.Decode(&format)
		case "products":
			err = eachProduct(d, each)
		default:
			var skipped json.RawMessage
			err = d.Decode(&skipped)
		}
		if err != nil {
			return corrupt(err)
		}
	}
	if err := delimiter(d, '}'); err != nil {
		return err
	}
	if !strings.HasPrefix(format, "products:") {
		return wrongly("it says that it is %q, not a list of products", printable(format))
	}
	return nil
}

// A value of a list has to fit into memory as a whole. Ubuntu's largest product has half a megabyte.
const (
	maxValue = 8 << 20
	maxRead  = 64 << 10 // how far a decoder may read ahead of what it gives
)

// sparing is what a decoder reads from, which ends it at a value that is too large.
type sparing struct {
	r     io.Reader
	read  int64
	taken func() int64 // how many of those the decoder has given
}

func (s *sparing) Read(p []byte) (int, error) {
	if s.read-s.taken() > maxValue+maxRead {
		return 0, wrongly("a value in it has more than %d MiB", maxValue>>20)
	}
	n, err := s.r.Read(p[:min(len(p), maxRead)])
	s.read += int64(n)
	return n, err
}

func eachProduct(d *json.Decoder, each func(product, int64, int64)) error {
	if err := delimiter(d, '{'); err != nil {
		return err
	}
	for d.More() {
		if _, err := d.Token(); err != nil { // its name, which nobody calls it by
			return err
		}
		from := d.InputOffset()
		var p product
		if err := d.Decode(&p); err != nil {
			return err
		}
		each(p, from, d.InputOffset()-from)
	}
	return delimiter(d, '}')
}

func delimiter(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err == nil && got != want {
		err = wrongly("it is no JSON of simplestreams (%v where %v belongs)", got, want)
	}
	if err != nil {
		return corrupt(err)
	}
	return nil
}

// What the types of items are called. What describes an image comes from Incus, LXD, or both with the same bytes.
var (
	metadataTypes = [...]string{"incus.tar.xz", "lxd.tar.xz"}
	unifiedTypes  = [...]string{"incus_combined.tar.gz", "lxd_combined.tar.gz"}
)

// Types of images: what the root filesystem comes as.
const (
	Squashfs = "squashfs"
	Tar      = "tar"
	Unified  = "unified"         // metadata and root filesystem in one tar
	VM       = "virtual-machine" // of which there is nothing for a container
)

// Build is one image that can be had: one build of a product, and the files that it is.
type Build struct {
	Serial      string // which build; a later one sorts behind an earlier one
	Label       string
	Type        string
	Fingerprint string // the sha256 of all files, one after the other
	Files       []File // Unified: one; else the metadata and then the root filesystem
}

// File is one file of a build.
type File struct {
	Path   string // relative to the server's URL
	Size   int64
	SHA256 string
}

// Size is that of all files.
func (b Build) Size() (total int64) {
	for _, f := range b.Files {
		total += f.Size
	}
	return total
}

// builds are those of a product that a container can be made of, the newest first, of each the form that is quickest to
// use. why says what is wrong with the others, when there is none.
func (p product) builds() (all []Build, why string, err error) {
	serials := slices.Sorted(maps.Keys(p.Versions))
	slices.Reverse(serials)
	for _, serial := range serials {
		if !dated(serial) {
			continue
		}
		b, reason, err := p.Versions[serial].build()
		if err != nil {
			return nil, "", fmt.Errorf("build %s: %w", printable(serial), err)
		}
		if reason != "" {
			why = reason
			continue
		}
		b.Serial = printable(serial)
		all = append(all, b)
	}
	if len(all) > 0 {
		why = ""
	} else if why == "" {
		why = "it has no builds"
	}
	return all, why, nil
}

// dated tells whether a build is named as builds are: YYYYMMDD, and anything behind it.
func dated(serial string) bool {
	return len(serial) >= 8 && strings.Trim(serial[:8], "0123456789") == ""
}

// build gives the best form of a version, or why there is none.
func (v version) build() (b Build, why string, err error) {
	b.Label = printable(v.Label)
	metadata, hasMetadata := v.item(metadataTypes[:]...)
	squashfs, hasSquashfs := v.item("squashfs")
	tar, hasTar := v.item("root.tar.xz")
	unified, hasUnified := v.item(unifiedTypes[:]...)
	switch {
	case hasMetadata && hasSquashfs && metadata.CombinedSquashfs != "":
		b.Type, b.Fingerprint = Squashfs, metadata.CombinedSquashfs
		b.Files, err = files(metadata, squashfs)
	case hasMetadata && hasTar && metadata.combinedTar() != "":
		b.Type, b.Fingerprint = Tar, metadata.combinedTar()
		b.Files, err = files(metadata, tar)
	case hasUnified && unified.CombinedType != VM && unified.SHA256 != "":
		b.Type, b.Fingerprint = Unified, unified.SHA256
		b.Files, err = files(unified)
	case hasMetadata && (hasSquashfs || hasTar), hasUnified && unified.CombinedType != VM:
		return b, "it has no fingerprint", nil
	case hasMetadata, hasUnified:
		return b, "it is for virtual machines alone", nil
	default:
		return b, "it has nothing that LXD or Incus would take", nil
	}
	if err == nil && !isDigest(b.Fingerprint) {
		err = wrongly("its fingerprint %q is none", printable(b.Fingerprint))
	}
	return b, "", err
}

func (i item) combinedTar() string {
	if i.CombinedRootXZ != "" {
		return i.CombinedRootXZ
	}
	return i.Combined
}

// item is the one of the first of the types that there is. Their keys mean nothing: at linuxcontainers.org that of a
// squashfs is root.squashfs.
func (v version) item(types ...string) (item, bool) {
	for _, want := range types {
		for _, key := range slices.Sorted(maps.Keys(v.Items)) {
			if v.Items[key].Type == want {
				return v.Items[key], true
			}
		}
	}
	return item{}, false
}

// maxMetadata is how large the archive may be that describes an image: it has templates and a few lines of text.
const maxMetadata = 64 << 20

func files(items ...item) ([]File, error) {
	var all []File
	for _, i := range items {
		if err := checkPath(i.Path); err != nil {
			return nil, err
		}
		if i.Size <= 0 || !isDigest(i.SHA256) {
			return nil, wrongly("size or sha256 of %s is missing, or none", i.Path)
		}
		if slices.Contains(metadataTypes[:], i.Type) && i.Size > maxMetadata {
			return nil, wrongly("%s, which describes it, has more than %d MiB", i.Path, maxMetadata>>20)
		}
		all = append(all, File{i.Path, i.Size, i.SHA256})
	}
	return all, nil
}

func isDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// requirements are what the product says that an instance must be like, nil for nothing; LXD's word wins over Incus's.
func (p product) requirements() (all map[string]string) {
	for _, from := range []map[string]any{p.Requirements, p.LXDRequirements} {
		for key, value := range from {
			name, text := printable(key), printable(fmt.Sprint(value))
			if strings.ContainsAny(name, ";=") || strings.Contains(text, ";") {
				continue // nobody means that, and no line could hold it
			}
			if all == nil {
				all = map[string]string{}
			}
			all[name] = text
		}
	}
	return all
}

// supportEnd is the day on which the publisher's support ends; zero is never, or nobody knows.
func (p product) supportEnd() time.Time {
	day, err := time.Parse(time.DateOnly, p.SupportEnd)
	if err != nil {
		return time.Time{}
	}
	return day
}

// description is in the words of LXD: Debian trixie amd64 (20260225_05:24).
func (p product) description(b Build) string {
	text := p.OS
	for _, word := range []string{orElse(p.Title, p.Release), p.Arch, parenthesis(p.Variant, "default"), parenthesis(b.Label, ""), parenthesis(b.Serial, "")} {
		if word != "" {
			text += " " + word
		}
	}
	return printable(text)
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func parenthesis(word, unless string) string {
	if word == "" || word == unless {
		return ""
	}
	return "(" + word + ")"
}

// printable is text of a server's as it may go to a terminal, and into a line of the catalogue.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	return strings.ToValidUTF8(text[:min(len(text), 500)], "")
}
