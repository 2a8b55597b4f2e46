package image

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containers/image/v5/oci/layout"
	"github.com/containers/image/v5/types"
	"github.com/opencontainers/go-digest"

	"croft/state"
)

// LayerProgress is how far one layer is.
type LayerProgress struct {
	Done, Total int64 // bytes as they come
	Here        bool  // the store had it
}

// PullOCI takes an OCI image into the store and gives it. Layers that the store has are neither downloaded nor written; the others
// come at the same time, and each is in the store as soon as it is verified. What has come of a layer that was interrupted is kept
// for the next pull.
func (s *Store) PullOCI(ctx context.Context, ref OCIReference, o PullOptions) (Image, error) {
	img, err := s.pullOCI(ctx, ref, o)
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", ref, explained(ref, err))
	}
	return img, nil
}

func (s *Store) pullOCI(ctx context.Context, ref OCIReference, o PullOptions) (Image, error) {
	if o.patience == (patience{}) {
		o.patience = usualPatience()
	}
	if err := s.checkAliases(o.Aliases, "", o.Reuse); err != nil {
		return Image{}, err
	}
	sys, done, err := o.system(ref)
	defer done()
	if err != nil {
		return Image{}, err
	}
	requirements, err := policy(ref.transport, ref.scopes())
	if err == nil {
		err = permitted(requirements)
	}
	if err != nil {
		return Image{}, err
	}
	var tree string
	if ref.archive() {
		work, err := s.newWork()
		if err != nil {
			return Image{}, err
		}
		defer work.remove()
		if err := s.unpackArchive(ctx, ref.path, work.tree, o.MaxBytes); err != nil {
			return Image{}, err
		}
		tree = work.tree
	}
	var src ociSource
	var found ociImage
	look := func(ctx context.Context) (err error) {
		if src, err = ref.open(ctx, sys, tree); err != nil {
			return err
		}
		if found, err = readOCI(ctx, src, ref.digest(), sys); err != nil {
			src.Close()
		}
		return err
	}
	err = o.patience.retry(ctx, func() error {
		if ref.Local() {
			return look(ctx)
		}
		return o.patience.within(ctx, look)
	})
	if err != nil {
		return Image{}, err
	}
	defer src.Close()
	if err := checkPolicy(ctx, requirements, src, found, ref.named()); err != nil {
		return Image{}, err
	}
	return s.take(ctx, src, found, taking{name: ref.name, origin: ref.origin(), local: ref.Local(), PullOptions: o})
}

// system is what the transports want to know for this pull; done clears what it needed.
func (o PullOptions) system(ref OCIReference) (sys *types.SystemContext, done func(), err error) {
	sys, done = registryContext(o.Insecure), func() {}
	if o.Architecture != "" { // else containers/image knows the variants that this processor runs
		if sys.ArchitectureChoice, sys.VariantChoice, err = platformOCI(o.Architecture); err != nil {
			return nil, done, err
		}
	}
	if ref.remote.CA == "" {
		return sys, done, nil
	}
	// The transport takes certificates by directories.
	if sys.DockerCertPath, err = os.MkdirTemp("", "croft-ca-"); err != nil {
		return nil, done, err
	}
	done = func() { os.RemoveAll(sys.DockerCertPath) }
	return sys, done, os.Symlink(ref.remote.CA, filepath.Join(sys.DockerCertPath, "ca.crt"))
}

// taking is what take has to know besides the image.
type taking struct {
	name   string  // that calls the image from then on; "" for none
	origin *Origin // nil for an image of this host
	local  bool    // its blobs are files already, and not worth being kept
	PullOptions
}

// take brings the layers of an image that has been read, and then its record.
func (s *Store) take(ctx context.Context, src ociSource, found ociImage, o taking) (Image, error) {
	work, err := s.newWork()
	if err != nil {
		return Image{}, err
	}
	defer work.remove()
	if err := s.locked(func() error { return work.use(found.layers) }); err != nil {
		return Image{}, err
	}
	p := &pulling{store: s, src: src, work: work, options: o, layers: make([]Layer, len(found.layers))}
	for _, l := range found.layers {
		p.progress = append(p.progress, LayerProgress{Total: l.blob.Size})
		p.compressed += l.blob.Size
	}
	if err := p.all(ctx, found.layers); err != nil {
		return Image{}, err
	}
	img := describeOCI(found.config)
	img.Schema, img.Fingerprint, img.Layers = schema, found.fingerprint, p.layers
	img.Origin = o.origin
	img.Imported = time.Now().UTC().Truncate(time.Second)
	if err := s.describeLayers(&img); err != nil {
		return Image{}, err
	}
	err = s.locked(func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.publish(img, ""); err != nil {
			return err
		}
		if err := s.addAliases(img.Fingerprint, o.Aliases, o.Reuse); err != nil {
			return err
		}
		if o.name == "" {
			return nil
		}
		return s.call(o.name, img.Fingerprint)
	})
	if err != nil {
		return Image{}, err
	}
	return s.Get(img.Fingerprint)
}

// describeLayers reads what the topmost layer with an os-release says, and adds up the sizes.
func (s *Store) describeLayers(img *Image) error {
	for i := len(img.Layers) - 1; i >= 0; i-- {
		l := img.Layers[i]
		img.Size += l.Size
		if img.OS != "" || l.Format != "" {
			continue
		}
		root, err := os.Open(s.LayerPath(l))
		if err != nil {
			return err
		}
		release := osRelease(root)
		root.Close()
		img.OS, img.Release = release["ID"], release["VERSION_ID"]
		if img.Release == "" {
			img.Release = release["VERSION_CODENAME"]
		}
		if img.Description == "" {
			img.Description = release["PRETTY_NAME"]
		}
	}
	return nil
}

// pulling is one pull while its layers come.
type pulling struct {
	store      *Store
	src        ociSource
	work       *work
	options    taking
	layers     []Layer // as they are in the store
	compressed int64   // bytes of all layers as they come

	mu       sync.Mutex
	progress []LayerProgress
	unpacked int64 // bytes of what is being unpacked and has been, uncompressed
}

// all brings every layer, as many at once as keep processors and network busy. The first failure ends it.
func (p *pulling) all(ctx context.Context, layers []ociLayer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const fewest, most = 3, 8
	slots := make(chan struct{}, min(max(runtime.NumCPU(), fewest), most))
	failed := make(chan error, len(layers))
	var group sync.WaitGroup
	for i, l := range layers {
		group.Go(func() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-slots }()
			if err := p.layer(ctx, i, l); err != nil {
				failed <- fmt.Errorf("layer %s: %w", l.blob.Digest, err)
				cancel()
			}
		})
	}
	group.Wait()
	close(failed)
	if err := <-failed; err != nil { // those after it were cancelled by it
		return err
	}
	return ctx.Err()
}

// layer brings one layer, unless the store has it or another process brings it meanwhile.
func (p *pulling) layer(ctx context.Context, i int, l ociLayer) error {
	want := Layer{Digest: l.diff.String()}
	if p.has(i, want) {
		return nil
	}
	claim, err := p.store.claimBlob(ctx, l.blob.Digest.Encoded())
	if err != nil {
		return err
	}
	defer claim.Release()
	if p.has(i, want) {
		return done(claim)
	}
	tree := filepath.Join(p.work.dir, l.diff.Encoded())
	kept := claim.File()
	if p.options.local {
		kept = nil
	}
	if want.Size, err = p.bring(ctx, i, l, kept, tree); err != nil {
		return err
	}
	if err := state.SyncFilesystem(tree); err != nil {
		return err
	}
	err = p.store.locked(func() (err error) {
		p.layers[i], err = p.store.adopt(tree, want)
		return err
	})
	return errors.Join(err, done(claim))
}

// done removes the file of a download that has come to its end. A sweep may have been faster.
func done(claim *state.Claim) error {
	err := os.Remove(claim.File().Name())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// has notes a layer that the store has.
func (p *pulling) has(i int, l Layer) bool {
	if !exists(p.store.LayerPath(l)) {
		return false
	}
	if known, err := p.store.recorded(l); err == nil {
		l = known
	}
	p.layers[i] = l
	p.tell(i, func(at *LayerProgress) { at.Done, at.Here = at.Total, true })
	return true
}

// bring downloads one layer and unpacks it into tree while it comes. Bytes that an earlier pull has left may be damaged: a layer
// that is not what it should be is then brought once more, from its beginning.
func (p *pulling) bring(ctx context.Context, i int, l ociLayer, kept *os.File, tree string) (size int64, err error) {
	var have int64
	if kept != nil {
		info, err := kept.Stat()
		if err != nil {
			return 0, err
		}
		have = min(info.Size(), l.blob.Size)
	}
	for ; ; have = 0 {
		if err := os.Mkdir(tree, 0o755); err != nil {
			return 0, err
		}
		if err := os.Chmod(tree, 0o755); err != nil { // whatever the umask
			return 0, err
		}
		size, err = p.unpack(ctx, i, l, kept, have, tree)
		if state.Full(err) { // what has come is in everybody's way
			return 0, errors.Join(err, forget(kept))
		}
		if err == nil || !errors.Is(err, state.ErrInvalid) {
			return size, err
		}
		if err := errors.Join(forget(kept), removeTree(tree)); err != nil {
			return 0, err
		}
		if have == 0 {
			return 0, err
		}
	}
}

// unpack reads one layer from where kept ends and unpacks all of it into tree. Both of its digests are compared, that of the bytes
// as they come and that of the archive in them.
func (p *pulling) unpack(ctx context.Context, i int, l ociLayer, kept *os.File, have int64, tree string) (int64, error) {
	b := &blob{ctx: ctx, src: p.src, info: l.blob, patience: p.options.patience, kept: kept, have: have}
	defer b.disconnect()
	if kept != nil {
		if _, err := kept.Seek(have, io.SeekStart); err != nil {
			return 0, err
		}
	}
	src := &source{ctx: ctx, r: b, total: l.blob.Size, progress: func(done, _ int64) {
		p.tell(i, func(at *LayerProgress) { at.Done = done })
	}}
	src.raw = bufio.NewReaderSize(src, 256<<10)
	in, sum, err := src.layer(ctx, func(n int64) error { return p.spend(n) })
	if err != nil {
		return 0, err
	}
	defer in.stop()
	size, _, err := p.store.Unpack(ctx, in, tree)
	if err == nil {
		err = in.drain()
	}
	if err != nil {
		return 0, in.cause(err)
	}
	if got := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum.Sum(nil))); got != l.blob.Digest {
		return 0, &sentence{"what came has another digest", state.ErrInvalid}
	}
	if in.digest != l.diff.Encoded() {
		return 0, &sentence{"what is in it has another digest than the image's configuration says", state.ErrInvalid}
	}
	return size, nil
}

// layer reads the source as the archive of a layer, and sums up the bytes as they come. spend is asked before more is unpacked.
func (s *source) layer(ctx context.Context, spend func(int64) error) (*ahead, hash.Hash, error) {
	head, err := s.peek()
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.New()
	plain, err := s.decoder(head, io.TeeReader(s.raw, sum))
	if err != nil {
		return nil, nil, s.diagnose(err)
	}
	meter := &metered{r: plain, spend: spend}
	diagnose := func(err error) error {
		if meter.over != nil {
			return meter.over
		}
		return s.diagnose(err)
	}
	tar := bufio.NewReaderSize(meter, 512)
	if head, err = tar.Peek(512); err != nil && err != io.EOF {
		return nil, nil, diagnose(err)
	}
	if !isTar(head) {
		return nil, nil, &sentence{"is no tar, compressed once or not at all", state.ErrInvalid}
	}
	return readAhead(ctx, tar, diagnose, 0), sum, nil
}

// metered reads r and gives account of what it read.
type metered struct {
	r     io.Reader
	spend func(int64) error
	over  error // what spend said at the end
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.over = m.spend(int64(n)); m.over != nil {
		return 0, m.over
	}
	return n, err
}

// An archive may unpack to so many times what it has compressed, and to so much whatever that is. gzip reaches a thousand with
// zeros; what people pack stays below ten.
const (
	bombRatio = 100
	bombFloor = 1 << 30
)

// mostBytes is how many bytes may be unpacked from so many.
func (o PullOptions) mostBytes(compressed int64) int64 {
	if o.MaxBytes > 0 {
		return o.MaxBytes
	}
	return max(bombFloor, compressed*bombRatio)
}

// spend counts n more bytes of all layers uncompressed.
func (p *pulling) spend(n int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unpacked += n
	limit := p.options.mostBytes(p.compressed)
	if p.unpacked <= limit {
		return nil
	}
	err := fmt.Errorf("an image that unpacks from %d bytes to more than %d %w", p.compressed, limit, state.ErrUnsupported)
	return state.Hint(err, "--max-size allows more")
}

func (p *pulling) tell(i int, change func(*LayerProgress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.progress[i])
	if p.options.Progress == nil {
		return
	}
	var done, total int64
	for _, l := range p.progress {
		if !l.Here {
			done, total = done+l.Done, total+l.Total
		}
	}
	if p.options.Layers != nil {
		p.options.Layers(p.progress)
	}
	p.options.Progress(done, total)
}

// usesName is the directory in which a pull names the layers that nobody may sweep although no image has them yet.
const usesName = "uses"

// use names the layers of w. The store is locked.
func (w *work) use(layers []ociLayer) error {
	dir := filepath.Join(w.dir, usesName)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, l := range layers {
		if err := os.WriteFile(filepath.Join(dir, l.diff.Encoded()), nil, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// usedByPulls gives the layers that living pulls have named.
func (s *Store) usedByPulls() ([]string, error) {
	dirs, err := filepath.Glob(filepath.Join(s.Dir, layersName, newPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, dir := range dirs {
		if abandoned(dir) {
			continue
		}
		names, err := digests(filepath.Join(dir, usesName))
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	return all, nil
}

// explained gives an error of a transport the sentinel that it lacks and the remedy that there may be. The transports' own types
// say less than their texts. A file that is missing is not the image: it may be a part of it, or a key.
func explained(ref OCIReference, err error) error {
	text := err.Error()
	has := func(all ...string) bool {
		return slices.ContainsFunc(all, func(what string) bool { return strings.Contains(text, what) })
	}
	var untagged layout.ImageNotFoundError
	switch host := hostOf(ref); {
	case has("manifest unknown", "name unknown", "repository name not known"), errors.As(err, &untagged):
		return &sentence{text, errors.Join(state.ErrNotExist, err)}
	case ref.Local() && !exists(ref.path):
		return &sentence{"no such file or directory", errors.Join(state.ErrNotExist, err)}
	case errors.Is(err, layout.ErrMoreThanOneImage):
		return state.Hint(several(err), "croft image pull "+ref.name+":TAG")
	case has("server gave HTTP response to HTTPS client"):
		return state.Hint(err, "--tls-verify=false asks neither for TLS nor for a certificate")
	case has("certificate signed by unknown authority", "certificate is not trusted"):
		return state.Hint(err, "put the authority's certificate into /etc/containers/certs.d/"+host+"/ca.crt")
	case has("tls: certificate required", "tls: bad certificate"):
		return state.Hint(err, "put a certificate of yours and its key into /etc/containers/certs.d/"+host+": NAME.cert, NAME.key")
	case has("unauthorized", "authentication required", "access to the resource is denied"):
		return state.Hint(err, "croft image login "+host)
	}
	return err
}
