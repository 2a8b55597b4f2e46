package simplestreams

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"croft/image/fetch"
	"croft/state"
)

// Catalog is what a server offered when it was last asked.
type Catalog struct {
	Products []Product // by operating system, release, variant and architecture
	SignedBy string    // the fingerprint of the key that signed the lists, and whose it is; "" when nobody has
	Checked  time.Time // when the server was last asked

	dir    string // of the cache
	header header
}

// Product is what a server has of one operating system, release and variant for one architecture, in its newest build.
type Product struct {
	Aliases      string // divided by commas
	Arch         string // as the server says: amd64
	OS           string
	Release      string
	Variant      string
	Description  string
	Serial       string
	Type         string // Squashfs, Tar, Unified or VM; "" when it cannot be had
	Why          string // it cannot be had
	Size         int64
	Fingerprint  string
	SupportEnd   time.Time // zero: nobody knows
	Requirements map[string]string

	list           int // which of the header's lists it stands in, and where
	offset, length int64
}

// The cache of a server is a directory with the lists as they came, and one file that tells of each product one line:
// the first line is a header, in JSON; the fields of the others are divided by tabs. A list has many megabytes, of which
// to list what there is needs few.
const (
	catalogName = "catalog"
	format      = 1 // of the file
)

// header is the catalogue's first line.
type header struct {
	Format   int           `json:"format"`
	URL      string        `json:"url"`
	SignedBy string        `json:"signed_by,omitempty"`
	SignedAt time.Time     `json:"signed_at,omitzero"` // the index; of all that we have had of it the latest
	Index    fetch.Version `json:"index"`
	Lists    []list        `json:"lists"`
}

// list is a list of products: its path at the server, and the file in the cache that holds it.
type list struct {
	Path    string        `json:"path"`
	Version fetch.Version `json:"version"`
	File    string        `json:"file"`

	SignedAt time.Time `json:"signed_at,omitzero"` // as that of the index
}

// writeCatalog makes the catalogue of the lists that h names in dir.
func writeCatalog(dir string, h header) error {
	var all []Product
	for n, l := range h.Lists {
		products, err := readProducts(filepath.Join(dir, l.File), n)
		if err != nil {
			return fmt.Errorf("%s: %w", l.Path, err)
		}
		all = append(all, products...)
	}
	slices.SortStableFunc(all, inOrder)
	out, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	w := bufio.NewWriterSize(out, 64<<10)
	if err := json.NewEncoder(w).Encode(h); err != nil {
		return err
	}
	for _, p := range all {
		if _, err := w.WriteString(p.line()); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return os.Rename(out.Name(), filepath.Join(dir, catalogName))
}

// readProducts reads the n-th list, which lies in the cache.
func readProducts(file string, n int) ([]Product, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return listProducts(f, n)
}

func listProducts(r io.Reader, n int) (all []Product, err error) {
	err = parseProducts(r, func(p product, offset, length int64) {
		builds, why, err := p.builds()
		if err != nil {
			why = err.Error() // whoever asks for it will hear it; the others are none the worse
		}
		entry := Product{
			Arch: printable(p.Arch), OS: printable(p.OS), Release: printable(p.Release), Variant: printable(p.Variant), Why: why,
			SupportEnd: p.supportEnd(), Requirements: p.requirements(), list: n, offset: offset, length: length,
		}
		var aliases []string
		for alias := range strings.SplitSeq(p.Aliases, ",") {
			if alias = printable(strings.TrimSpace(alias)); alias != "" {
				aliases = append(aliases, alias)
			}
		}
		entry.Aliases = strings.Join(aliases, ",")
		if len(builds) > 0 {
			b := builds[0]
			entry.Serial, entry.Type, entry.Size, entry.Fingerprint = b.Serial, b.Type, b.Size(), b.Fingerprint
			entry.Description = p.description(b)
		}
		all = append(all, entry)
	})
	return all, err
}

func inOrder(a, b Product) int {
	for _, by := range [][2]string{{a.OS, b.OS}, {a.Release, b.Release}, {a.Variant, b.Variant}, {b.Serial, a.Serial}, {a.Arch, b.Arch}} {
		if c := strings.Compare(by[0], by[1]); c != 0 {
			return c
		}
	}
	return 0
}

// fields is how many a line has.
const fields = 16

func (p Product) line() string {
	var day, needs string
	if !p.SupportEnd.IsZero() {
		day = p.SupportEnd.Format(time.DateOnly)
	}
	for _, key := range slices.Sorted(maps.Keys(p.Requirements)) {
		needs += key + "=" + p.Requirements[key] + ";"
	}
	return strings.Join([]string{
		p.Aliases, p.Arch, p.OS, p.Release, p.Variant, p.Description, p.Serial, p.Type, p.Why,
		strconv.FormatInt(p.Size, 10), p.Fingerprint, day, needs,
		strconv.Itoa(p.list), strconv.FormatInt(p.offset, 10), strconv.FormatInt(p.length, 10),
	}, "\t") + "\n"
}

// parseLine undoes line. ok is false for what no line is.
func parseLine(line string) (p Product, ok bool) {
	var f [fields]string
	for n := range fields {
		f[n], line, ok = strings.Cut(line, "\t")
		if ok != (n < fields-1) {
			return p, false
		}
	}
	p.Aliases, p.Arch, p.OS, p.Release, p.Variant, p.Description, p.Serial, p.Type, p.Why, p.Fingerprint = f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[10]
	if f[11] != "" {
		p.SupportEnd, _ = time.Parse(time.DateOnly, f[11])
	}
	if f[12] != "" {
		p.Requirements = map[string]string{}
		for need := range strings.SplitSeq(strings.TrimSuffix(f[12], ";"), ";") {
			key, value, _ := strings.Cut(need, "=")
			p.Requirements[key] = value
		}
	}
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		ok = ok && err == nil
		return n
	}
	ok = true
	p.Size, p.list, p.offset, p.length = number(f[9]), int(number(f[13])), number(f[14]), number(f[15])
	return p, ok
}

// errNoCatalog says that there is nothing in the cache that this build of croft can use.
var errNoCatalog = errors.New("no catalogue")

// readCatalog reads what writeCatalog has made of the server at url.
func readCatalog(dir, url string) (*Catalog, error) {
	f, err := os.Open(filepath.Join(dir, catalogName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoCatalog
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var data strings.Builder // all lines are parts of it: nothing is copied
	data.Grow(int(info.Size()))
	if _, err := io.Copy(&data, f); err != nil {
		return nil, err
	}
	c := &Catalog{dir: dir, Checked: info.ModTime()}
	first, rest, _ := strings.Cut(data.String(), "\n")
	if json.Unmarshal([]byte(first), &c.header) != nil || c.header.Format != format || c.header.URL != url {
		return nil, errNoCatalog
	}
	c.SignedBy = c.header.SignedBy
	c.Products = make([]Product, 0, strings.Count(rest, "\n"))
	for line := range strings.Lines(rest) {
		p, ok := parseLine(strings.TrimSuffix(line, "\n"))
		if !ok || p.list < 0 || p.list >= len(c.header.Lists) {
			return nil, errNoCatalog
		}
		c.Products = append(c.Products, p)
	}
	return c, nil
}

// Checked is when the server whose cache this is was last asked; zero is never.
func Checked(cache string) time.Time {
	info, err := os.Stat(filepath.Join(cache, catalogName))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Lookup finds what the server calls name, for an architecture of which runs says that it is wanted. A name may end in
// the architecture that is meant, as the server says it: debian/13/arm64.
func (c *Catalog) Lookup(name string, runs func(arch string) bool) (Product, bool) {
	for _, p := range c.Products {
		for alias := range strings.SplitSeq(p.Aliases, ",") {
			if alias == name && runs(p.Arch) || len(name) > len(alias) && name == alias+"/"+p.Arch {
				return p, true
			}
		}
	}
	return Product{}, false
}

// Builds are all builds of the product that can be had, the newest first.
func (c *Catalog) Builds(p Product) ([]Build, error) {
	f, err := os.Open(filepath.Join(c.dir, c.header.Lists[p.list].File))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return p.builds(f)
}

// builds reads the product's own part of its list.
func (p Product) builds(list io.ReaderAt) ([]Build, error) {
	text := make([]byte, p.length)
	if _, err := list.ReadAt(text, p.offset); err != nil && err != io.EOF {
		return nil, err
	}
	var full product
	if err := json.Unmarshal(bytes.TrimLeft(text, ": \t\r\n"), &full); err != nil {
		return nil, corrupt(err)
	}
	all, why, err := full.builds()
	if err == nil && why != "" {
		err = fmt.Errorf("%s: %w", why, state.ErrUnsupported)
	}
	return all, err
}
