package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"croft/image/fetch"
	"croft/image/simplestreams"
	"croft/state"
)

// PullOptions say what to pull from a remote, and what to call it here.
type PullOptions struct {
	Remote       Remote
	Name         string              // that the remote calls it by
	Keys         *simplestreams.Keys // that it has to be signed by; nil when it need not be
	Signed       bool                // it has to be, whatever counts for the remote otherwise; see Remote
	Unsigned     bool                // it need not be
	Architecture string              // as `uname -m` says it; "" is this host's
	Aliases      []string
	Reuse        bool  // take aliases away from the images that have them
	MaxBytes     int64 // most bytes of its archives uncompressed; 0 is a bound that follows from what they have compressed

	Insecure bool // of an OCI image: neither TLS nor a certificate that is known is asked of the registry

	Progress func(done, total int64) // is told how many bytes of it are here; may be nil
	Layers   func([]LayerProgress)   // is told before that how far each layer of an OCI image is, to be read at once; may be nil
	Note     func(text string)       // is told what a person may want to know meanwhile; may be nil

	patience patience // with a registry
}

func (o *PullOptions) note(format string, args ...any) {
	if o.Note != nil {
		o.Note(fmt.Sprintf(format, args...))
	}
}

// Pull brings the image that a remote offers by a name into the store, and has REMOTE:NAME call it from then on. Of what
// is here already it moves nothing but names.
func (s *Store) Pull(ctx context.Context, o PullOptions) (Image, error) {
	if o.Remote.Protocol != ProtocolStreams {
		return Image{}, fmt.Errorf("pull %s:%s: a remote of protocol %s %w", o.Remote.Name, o.Name, o.Remote.Protocol, state.ErrUnsupported)
	}
	img, err := s.pullStream(ctx, o)
	if err != nil {
		return Image{}, fmt.Errorf("pull %s:%s: %w", o.Remote.Name, o.Name, err)
	}
	return img, nil
}

// agent is what croft says that it is. linuxcontainers.org makes other lists for what says that it is LXD.
const agent = "croft"

// client gets the files of a remote.
func (r Remote) client() (*fetch.Client, error) {
	return fetch.New(fetch.Server{Name: r.Name, URL: r.URL, Mirrors: r.Mirrors, CA: r.CA, Agent: agent})
}

// server is the one that speaks simplestreams at a remote.
func (s *Store) server(r Remote, keys *simplestreams.Keys) (*simplestreams.Server, error) {
	files, err := r.client()
	if err != nil {
		return nil, err
	}
	return &simplestreams.Server{Files: files, Name: r.Name, URL: r.URL, Cache: s.cache(r), Keys: keys}, nil
}

// cache is where what a remote offers is kept.
func (s *Store) cache(r Remote) string {
	sum := sha256.Sum256([]byte(r.URL))
	return filepath.Join(s.Dir, remotesDir, r.Name+"-"+hex.EncodeToString(sum[:6]))
}

// Checked tells whether there is no need to ask the remote, for that was done no longer ago, or because it is of a kind
// that cannot be asked for all.
func (s *Store) Checked(r Remote, ago time.Duration) bool {
	return r.Protocol != ProtocolStreams || time.Since(simplestreams.Checked(s.cache(r))) < ago
}

const (
	remotesDir   = "remotes"   // of the store: what remotes offer, as they were last asked
	downloadsDir = "downloads" // of the store: what is on its way, FINGERPRINT/metadata and root
)

func (s *Store) pullStream(ctx context.Context, o PullOptions) (Image, error) {
	server, err := s.server(o.Remote, o.Keys)
	if err != nil {
		return Image{}, err
	}
	if err := s.checkAliases(o.Aliases, "", o.Reuse); err != nil { // before an hour's work
		return Image{}, err
	}
	if err := s.mkdirs(); err != nil {
		return Image{}, err
	}
	catalog, err := server.Catalog(ctx, 0)
	if err != nil && catalog != nil && ctx.Err() == nil {
		o.note("%v; going by what it offered %s ago", err, time.Since(catalog.Checked).Round(time.Minute))
	} else if err != nil {
		return Image{}, err
	}
	product, err := find(catalog, o.Remote, o.Name, o.Architecture)
	if err != nil {
		return Image{}, err
	}
	if err := needs(product.Requirements); err != nil {
		return Image{}, err
	}
	builds, err := catalog.Builds(product)
	if err != nil {
		return Image{}, err
	}
	p := pulled{remote: o.Remote, name: o.Name, product: product, signedBy: catalog.SignedBy}
	if o.Architecture != "" && o.Architecture != Host() {
		p.name = strings.TrimSuffix(o.Name, "/"+product.Arch) + "/" + product.Arch
	}
	for n, b := range builds {
		p.build = b
		img, err := s.pullBuild(ctx, server, &p, o)
		if !errors.Is(err, fetch.ErrGone) || n == len(builds)-1 {
			return img, err
		}
		o.note("%v; taking the build before that, %s", err, builds[n+1].Serial)
	}
	return Image{}, fmt.Errorf("no build of it: %w", state.ErrNotExist)
}

// offered says of an architecture in a server's words whether it is the one that is wanted; "" is this host's.
func offered(want string) func(arch string) bool {
	if want == "" {
		want = Host()
	}
	return func(arch string) bool { return architectureNamed(arch) == want }
}

// find finds what the remote calls name. A host that can run other architectures than its own takes those as well when
// there is nothing for its own.
func find(c *simplestreams.Catalog, r Remote, name, arch string) (simplestreams.Product, error) {
	p, ok := c.Lookup(name, offered(arch))
	if !ok && arch == "" {
		p, ok = c.Lookup(name, func(a string) bool {
			return Image{Architecture: architectureNamed(a)}.Runs(Host()) && architectureNamed(a) != ""
		})
	}
	if !ok {
		return p, notOffered(c, r, name, arch)
	}
	if p.Type == "" || p.Type == simplestreams.VM {
		return p, fmt.Errorf("%s: %w", p.Why, state.ErrUnsupported)
	}
	return p, nil
}

// notOffered says why a name calls nothing at a remote, and what was probably meant.
func notOffered(c *simplestreams.Catalog, r Remote, name, arch string) error {
	if other, ok := c.Lookup(name, func(string) bool { return true }); ok {
		err := fmt.Errorf("it is there for %s, and not for %s: %w", other.Arch, orElse(arch, Host()), state.ErrNotExist)
		return state.Hint(err, "croft image list --arch all "+r.Name+": "+name)
	}
	names := map[string]bool{}
	for _, p := range c.Products {
		if offered(arch)(p.Arch) && p.Type != "" {
			for alias := range strings.SplitSeq(p.Aliases, ",") {
				names[alias] = true
			}
		}
	}
	hint := "croft image list " + r.Name + ":"
	if near := nearest(name, names, 3); near != "" {
		hint = "use " + r.Name + ":" + near
	}
	return state.Hint(state.ErrNotExist, hint)
}

// requirementPrefix begins the name of a property that says what a machine has to be like, as LXD writes it down.
const requirementPrefix = "requirements."

// requirements are those of its properties, without the word before their names.
func (i Image) requirements() map[string]string {
	all := map[string]string{}
	for name, value := range i.Properties {
		if key, is := strings.CutPrefix(name, requirementPrefix); is {
			all[key] = value
		}
	}
	return all
}

// needs says what of an image's requirements machines of croft do not meet.
func needs(requirements map[string]string) error {
	switch {
	case requirements["cgroup"] == "v1":
		return fmt.Errorf("its init needs cgroup v1, and machines have cgroup v2: %w", state.ErrUnsupported)
	case requirements["privileged"] == "true":
		return fmt.Errorf("it needs a privileged container, which machines are not: %w", state.ErrUnsupported)
	}
	return nil
}

// pulled is what the remote says of an image. nil is an image that did not come from one.
type pulled struct {
	remote   Remote
	name     string
	product  simplestreams.Product
	build    simplestreams.Build
	signedBy string
}

// ref is what the image is called here.
func (p *pulled) ref() string { return p.remote.Name + ":" + p.name }

// describe adds to an image what the remote says of it.
func (p *pulled) describe(img *Image) {
	if p == nil {
		return
	}
	img.Origin = &Origin{Remote: p.remote.Name, URL: p.remote.URL, Name: p.name, Serial: p.build.Serial, SignedBy: p.signedBy}
	if img.Expires == nil && !p.product.SupportEnd.IsZero() {
		img.Expires = &p.product.SupportEnd
	}
	img.Properties = maps.Clone(img.Properties)
	for key, value := range p.product.Requirements {
		if img.Properties == nil {
			img.Properties = map[string]string{}
		}
		img.Properties[requirementPrefix+key] = value
	}
}

// follow has the name that an image was pulled by call it. The store is locked.
func (s *Store) follow(p *pulled, fingerprint string) error {
	if p == nil {
		return nil
	}
	return s.call(p.ref(), fingerprint)
}

// call has a reference call the image, whatever it called before. The store is locked.
func (s *Store) call(ref, fingerprint string) error {
	aliases, err := s.Aliases()
	if err != nil || aliases[ref] == fingerprint {
		return err
	}
	aliases[ref] = fingerprint
	return s.writeAliases(aliases)
}

// pullBuild brings one build into the store. Who pulls one that somebody else is pulling waits, and has it then.
func (s *Store) pullBuild(ctx context.Context, server *simplestreams.Server, p *pulled, o PullOptions) (Image, error) {
	if img, err := s.here(p, o); !errors.Is(err, state.ErrNotExist) {
		return img, err
	}
	if root := p.build.Files[len(p.build.Files)-1]; p.build.Type == simplestreams.Squashfs && o.MaxBytes > 0 && root.Size > o.MaxBytes {
		return Image{}, fmt.Errorf("%s: an image of more than %d bytes %w", root.Path, o.MaxBytes, state.ErrInvalid)
	}
	dir := filepath.Join(s.Dir, downloadsDir, p.build.Fingerprint)
	claim, err := s.claimDownload(ctx, dir, p, o)
	if err != nil {
		return Image{}, err
	}
	defer claim.Release()
	if img, err := s.here(p, o); !errors.Is(err, state.ErrNotExist) {
		return img, errors.Join(err, os.RemoveAll(dir))
	}
	if err := download(ctx, server.Files, p.build, dir, o.Progress); err != nil {
		return Image{}, err
	}
	img, err := s.importBuild(ctx, p, dir, o)
	if err != nil {
		return Image{}, err
	}
	return img, os.RemoveAll(dir)
}

// here gives the names to the image if it is in the store; else ErrNotExist.
func (s *Store) here(p *pulled, o PullOptions) (img Image, err error) {
	if _, err := s.load(p.build.Fingerprint); err != nil {
		return img, state.ErrNotExist // a damaged one is pulled anew
	}
	err = s.locked(func() error {
		if img, err = s.load(p.build.Fingerprint); err != nil {
			return state.ErrNotExist
		}
		if img.Origin == nil || img.Origin.SignedBy == "" && p.signedBy != "" {
			if err := s.trace(p, img); err != nil {
				return err
			}
		}
		if err := s.follow(p, img.Fingerprint); err != nil {
			return err
		}
		return s.addAliases(img.Fingerprint, o.Aliases, o.Reuse)
	})
	if err != nil {
		return img, err
	}
	return s.Get(img.Fingerprint)
}

// trace writes down where an image can be had that had been imported from a file, or pulled from where nobody signs.
func (s *Store) trace(p *pulled, img Image) error {
	p.describe(&img)
	return s.writeRecord(filepath.Join(s.Dir, img.Fingerprint), img)
}

// claimDownload makes dir and gives the lock on it, as soon as nobody else has it.
func (s *Store) claimDownload(ctx context.Context, dir string, p *pulled, o PullOptions) (*state.Claim, error) {
	for told := false; ; {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		claim, err := state.ClaimFile(filepath.Join(dir, lockName))
		switch {
		case err == nil:
			return claim, nil
		case errors.Is(err, os.ErrNotExist): // whoever had it is done, and has removed it
			continue
		case !errors.Is(err, state.ErrRunning):
			return nil, err
		}
		if !told {
			o.note("%s:%s is being downloaded by another croft; waiting for that", o.Remote.Name, o.Name)
			told = true
		}
		if o.Progress != nil {
			o.Progress(saved(dir, p.build), p.build.Size())
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// place is where the n-th file of a build is downloaded to.
func place(dir string, b simplestreams.Build, n int) string {
	if n == 0 && len(b.Files) > 1 {
		return filepath.Join(dir, "metadata")
	}
	return filepath.Join(dir, "root")
}

// saved tells how many bytes of a build are in dir.
func saved(dir string, b simplestreams.Build) (total int64) {
	for n := range b.Files {
		total += min(fetch.Saved(place(dir, b, n)), b.Files[n].Size)
	}
	return total
}

// download brings the files of a build into dir, verified: each by its own sum, and all by the fingerprint.
func download(ctx context.Context, c *fetch.Client, b simplestreams.Build, dir string, progress func(done, total int64)) error {
	var before int64
	for n, f := range b.Files {
		file := fetch.File{Path: f.Path, Size: f.Size, SHA256: f.SHA256}
		if n > 0 {
			file.Before, file.Combined = place(dir, b, 0), b.Fingerprint
		}
		err := c.Save(ctx, file, place(dir, b, n), func(done int64) {
			if progress != nil {
				progress(before+done, b.Size())
			}
		})
		if err != nil {
			return err
		}
		before += f.Size
	}
	return nil
}

// importBuild makes an image of the files of a build, which lie in dir and are verified.
func (s *Store) importBuild(ctx context.Context, p *pulled, dir string, o PullOptions) (Image, error) {
	i := ImportOptions{Source: place(dir, p.build, 0), Aliases: o.Aliases, Reuse: o.Reuse, MaxBytes: o.mostBytes(p.build.Size()), pulled: p}
	if p.build.Type != simplestreams.Unified {
		i.Rootfs = place(dir, p.build, 1)
	}
	if p.build.Type != simplestreams.Squashfs {
		return s.Import(ctx, i)
	}
	work, err := s.newWork()
	if err != nil {
		return Image{}, err
	}
	defer work.remove()
	came, err := s.adoptPair(ctx, work, i)
	if err != nil {
		return Image{}, err
	}
	return s.keep(ctx, came, i)
}

// adoptPair is importPair for a squashfs that nobody else has, and that is verified and synced: it is neither read nor
// copied, however large it is.
func (s *Store) adoptPair(ctx context.Context, w *work, o ImportOptions) (*arrival, error) {
	metadata, b := filepath.Join(w.dir, "metadata"), o.pulled.build
	if err := s.importMetadata(ctx, metadata, sha256.New(), o); err != nil {
		return nil, fmt.Errorf("%s: %w", b.Files[0].Path, err)
	}
	came, err := s.adoptFile(ctx, w, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.Files[1].Path, err)
	}
	if err := came.addMetadata(metadata, b.Fingerprint); err != nil {
		return nil, fmt.Errorf("%s: %w", b.Files[0].Path, err)
	}
	return came, nil
}

func (s *Store) adoptFile(ctx context.Context, w *work, o ImportOptions) (*arrival, error) {
	f, err := os.OpenFile(o.Rootfs, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	want := o.pulled.build.Files[1]
	head := make([]byte, 2048)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	head = head[:n]
	if kind := filesystem(head); kind == "" {
		return nil, &sentence{"is no squashfs", state.ErrInvalid}
	}
	if padded := inBlocks(want.Size); padded > want.Size {
		if err := errors.Join(f.Truncate(padded), f.Sync()); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(w.dir, "file")
	if err := os.Link(o.Rootfs, file); err != nil { // it stays where it was until the image is made
		return nil, err
	}
	return s.takeFile(ctx, w, file, Layer{Digest: "sha256:" + want.SHA256, Size: want.Size, Format: filesystem(head)}, bytes.Clone(head), o)
}

// Offer is an image that a remote has: one product for one architecture, in its newest build.
type Offer struct {
	Remote       string
	Aliases      string // divided by commas
	Fingerprint  string
	Architecture string // as `uname -m` says it; as the remote does where nobody else knows it
	OS           string
	Release      string
	Variant      string
	Description  string
	Serial       string
	Type         string // squashfs, tar or unified
	Size         int64  // of what is downloaded
	SupportEnd   time.Time
	Requirements map[string]string
	SignedBy     string // see Origin
}

// Offers lists what a remote has for the architectures that are wanted, in the words of Offer, as it was no longer ago than
// fresh. What no container can be made of is left out. With an error it may be what the remote had when it was last asked.
func (s *Store) Offers(ctx context.Context, r Remote, keys *simplestreams.Keys, fresh time.Duration, wanted func(arch string) bool) ([]Offer, error) {
	if r.Protocol != ProtocolStreams {
		return nil, fmt.Errorf("remote %s: a list of what is at a registry %w", r.Name, state.ErrUnsupported)
	}
	server, err := s.server(r, keys)
	if err != nil {
		return nil, err
	}
	catalog, err := server.Catalog(ctx, fresh)
	if catalog == nil {
		return nil, err
	}
	var all []Offer
	for _, p := range catalog.Products {
		arch := orElse(architectureNamed(p.Arch), p.Arch)
		if p.Type == "" || !wanted(arch) {
			continue
		}
		all = append(all, Offer{
			Remote: r.Name, Aliases: p.Aliases, Fingerprint: p.Fingerprint, Architecture: arch,
			OS: p.OS, Release: p.Release, Variant: p.Variant, Description: p.Description, Serial: p.Serial, Type: p.Type,
			Size: p.Size, SupportEnd: p.SupportEnd, Requirements: p.Requirements, SignedBy: catalog.SignedBy,
		})
	}
	return all, err
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
