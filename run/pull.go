package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"croft/image"
	"croft/state"
)

// When the image of a new machine is looked for at its remote.
const (
	PullMissing = "missing" // where it is not here
	PullAlways  = "always"  // in any case, for it may be newer there
	PullNever   = "never"
)

// Remotes are the remotes of this host.
func (e *Engine) Remotes() (*image.Remotes, error) { return image.OpenRemotes(e.Settings) }

// Wanted is an image that is asked for by [REMOTE:]NAME.
type Wanted struct {
	Ref  string
	Pull string // PullMissing and so on
	PullOptions
}

// Obtain makes sure that the image that is wanted is here, and gives what it is called here: an alias or fingerprint of
// this store, or REMOTE:NAME. A name without a remote that calls nothing here is the default remote's.
func (e *Engine) Obtain(ctx context.Context, w Wanted) (string, error) {
	remotes, unread := e.Remotes() // of no concern to who only wants what is here
	if ref, is, err := e.registry(remotes, w.Ref); is {
		return e.obtainOCI(ctx, ref, err, w)
	}
	here := e.present(w.Ref, w)
	ours := w.Pull != PullAlways || !strings.Contains(w.Ref, ":")
	if here == nil && ours || here != nil && !errors.Is(here, state.ErrNotExist) {
		return w.Ref, here
	}
	if unread != nil {
		return w.Ref, unread
	}
	remote, name, err := e.locate(remotes, w.Ref)
	if err != nil || remote.Name == "" { // nobody but this store could have it
		if err == nil {
			err = here
		}
		return w.Ref, err
	}
	ref := remote.Name + ":" + name
	if w.Pull != PullAlways {
		if err := e.present(ref, w); err == nil || !errors.Is(err, state.ErrNotExist) {
			return ref, err
		}
	}
	if w.Pull == PullNever {
		return ref, state.Hint(fmt.Errorf("image %s: is not here: %w", ref, state.ErrNotExist), "croft image pull "+ref)
	}
	img, err := e.pull(ctx, remotes, remote, name, w.PullOptions)
	switch {
	case err == nil:
		return called(img, ref), nil
	case ref == w.Ref:
		return ref, err
	case errors.Is(err, state.ErrNotExist) && near(here): // this store has one that is called much like it
		return ref, here
	}
	return ref, fmt.Errorf("image %s: is not here, and %w", w.Ref, err)
}

// present looks for an image in this store. One that a remote may have as it is wanted is missing where it is not so here.
func (e *Engine) present(ref string, w Wanted) error {
	img, err := e.Images.Get(ref)
	switch {
	case err != nil:
		return err
	case w.Architecture != "" && img.Architecture != "" && !image.SameArchitecture(w.Architecture, img.Architecture):
		err = fmt.Errorf("image %s: it is here for %s, and not for %s", ref, img.Architecture, w.Architecture)
	case w.Signed && (img.Origin == nil || img.Origin.SignedBy == ""):
		err = fmt.Errorf("image %s: it came without a signature", ref)
	}
	if err != nil && strings.Contains(ref, ":") {
		err = fmt.Errorf("%w: %w", err, state.ErrNotExist)
	}
	return err
}

// called is the name that an image was pulled by: the one that it was asked for by, or, for another architecture than this
// host's, that and the architecture.
func called(img Image, ref string) string {
	for _, alias := range img.Aliases {
		if alias == ref || strings.HasPrefix(alias, ref+"/") {
			return alias
		}
	}
	return img.Fingerprint
}

// obtainOCI is Obtain for an image of a registry or of a directory of this host; err is what is wrong with the reference.
func (e *Engine) obtainOCI(ctx context.Context, ref image.OCIReference, err error, w Wanted) (string, error) {
	if err != nil {
		return w.Ref, err
	}
	name := ref.String()
	img, here := e.Images.Get(name)
	switch {
	case here != nil && !errors.Is(here, state.ErrNotExist):
		return name, here
	case w.Pull == PullNever && here != nil:
		return name, state.Hint(fmt.Errorf("image %s: is not here: %w", name, state.ErrNotExist), "croft image pull "+name)
	case w.Pull == PullNever, w.Pull != PullAlways && here == nil && !ref.Local() && w.fits(img):
		return name, nil
	}
	_, err = e.pullOCI(ctx, ref, w.PullOptions)
	return name, err
}

func (e *Engine) pullOCI(ctx context.Context, ref image.OCIReference, o PullOptions) (Image, error) {
	if o.Signed {
		return Image{}, fmt.Errorf("pull %s: to ask for a signature of what is at a registry %w", ref, state.ErrUnsupported)
	}
	return e.Images.PullOCI(ctx, ref, o)
}

// fits says whether an image is of the architecture that is wanted.
func (w Wanted) fits(img Image) bool {
	return w.Architecture == "" && img.Runs(image.Host()) || image.SameArchitecture(w.Architecture, img.Architecture)
}

// registry reads a reference to an OCI image; is tells that it is one. What is the name of a remote before a colon names that
// remote, and an alias of one's own calls what it calls. Of no remotes, nil, nothing is known.
func (e *Engine) registry(remotes *image.Remotes, ref string) (r image.OCIReference, is bool, err error) {
	if remotes == nil {
		return r, false, nil
	}
	prefix, name, has := strings.Cut(ref, ":")
	if !has {
		if img, err := e.Images.Get(ref); err == nil && !strings.Contains(img.Alias, ":") {
			return r, false, nil
		}
	}
	remote, err := remotes.Get(prefix)
	if has && err == nil {
		if remote.Protocol == image.ProtocolOCI {
			r, err = remote.Reference(name)
		}
		return r, remote.Protocol == image.ProtocolOCI, err
	}
	if r, is, err = image.ParseOCI(ref); is || has {
		return r, is, err
	}
	if remote, err := remotes.Get(remotes.Default); err == nil && remote.Protocol == image.ProtocolOCI {
		r, err = remote.Reference(ref)
		return r, true, err
	}
	return r, false, nil
}

// near says whether an error knows what was probably meant.
func near(err error) bool {
	var hinted *state.Hinted
	return errors.As(err, &hinted) && strings.HasPrefix(hinted.Hint, "use ")
}

// locate divides a reference into a remote and the name that the image has there. No remote is one that has only this
// store to be looked for in.
func (e *Engine) locate(remotes *image.Remotes, ref string) (image.Remote, string, error) {
	prefix, name, has := strings.Cut(ref, ":")
	if !has {
		prefix, name = remotes.Default, ref
	}
	if ref == "" {
		return image.Remote{}, "", fmt.Errorf("an image without a name %w", state.ErrInvalid)
	}
	if prefix == "" {
		return image.Remote{}, "", nil
	}
	if name == "" {
		name = "default"
	}
	remote, err := remotes.Get(prefix)
	if has && errors.Is(err, state.ErrNotExist) && !near(err) {
		if _, missing := e.Images.Get(ref); missing != nil {
			err = missing // no remote was meant: debian:13 as docker has it
		}
	}
	return remote, name, err
}

// staleAfter is how old what a remote says may be before a run asks it behind the machine's back.
const staleAfter = 6 * time.Hour

// Revalidate asks the remote of an image that was not pulled just now for a newer one when nobody has asked it for long, in
// a process that nobody waits for: this machine gets what is here, the next one what comes of that.
func (e *Engine) Revalidate(ref string) error {
	prefix, _, has := strings.Cut(ref, ":")
	if !has {
		return nil
	}
	remotes, err := e.Remotes()
	if err != nil {
		return err
	}
	remote, err := remotes.Get(prefix)
	if err != nil || e.Images.Checked(remote, staleAfter) {
		return nil // of a remote that is gone there is nothing to be had
	}
	return e.errand("image", "refresh", ref)
}

// errand has croft do something in a process that nobody waits for (errand.c).
func (e *Engine) errand(args ...string) error {
	cmd := e.another(append([]string{"errand"}, args...)...)
	cmd.Env = append(os.Environ(), envRoot+"="+e.Dir.Root, envRun+"="+e.Dir.Run)
	if err := onHost(cmd.Run); err != nil {
		return fmt.Errorf("errand: %w", err)
	}
	return nil
}

// Refreshed is a name that calls a newer image than before.
type Refreshed struct {
	Name        string // REMOTE:NAME
	Fingerprint string
	Before      string // the fingerprint that it called
}

// Refresh pulls what the remote has by now under the name that an image was pulled by, of which ref is a name or the
// fingerprint. What it calls then is told if it is another image. The earlier one stays as long as anything wants it.
func (e *Engine) Refresh(ctx context.Context, ref string, o PullOptions) (news []Refreshed, err error) {
	img, err := e.Images.Get(ref)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(slices.Clone(img.Aliases), func(name string) bool { return !strings.Contains(name, ":") })
	if strings.Contains(img.Alias, ":") {
		names = []string{img.Alias}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("image %s: it came from no remote, or has been replaced: %w", ref, state.ErrUnsupported)
	}
	for _, name := range names {
		now, err := e.Pull(ctx, name, o)
		if err != nil {
			return news, err
		}
		if now.Fingerprint != img.Fingerprint {
			news = append(news, Refreshed{name, now.Fingerprint, img.Fingerprint})
		}
	}
	return news, nil
}

// Pulled lists the names of images that can be asked for at a remote or registry, sorted. What lies on this host is looked
// at each time that it is used, and of a remote that was removed there is nothing to be had.
func (e *Engine) Pulled() ([]string, error) {
	remotes, err := e.Remotes()
	if err != nil {
		return nil, err
	}
	aliases, err := e.Images.Aliases()
	maps.DeleteFunc(aliases, func(name, _ string) bool {
		prefix, _, has := strings.Cut(name, ":")
		_, gone := remotes.Get(prefix)
		oci, is, err := image.ParseOCI(name)
		return !has || gone != nil && (!is || err != nil || oci.Local())
	})
	return slices.Sorted(maps.Keys(aliases)), err
}

// Pull brings what a remote has under a name into the store.
func (e *Engine) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	remotes, err := e.Remotes()
	if err != nil {
		return Image{}, err
	}
	if oci, is, err := e.registry(remotes, ref); is {
		if err != nil {
			return Image{}, err
		}
		return e.pullOCI(ctx, oci, o)
	}
	remote, name, err := e.locate(remotes, ref)
	if err == nil && remote.Name == "" {
		err = state.Hint(fmt.Errorf("image %s: there is no default remote: %w", ref, state.ErrNotExist), "croft remote set-default REMOTE")
	}
	if err != nil {
		return Image{}, err
	}
	return e.pull(ctx, remotes, remote, name, o)
}

func (e *Engine) pull(ctx context.Context, remotes *image.Remotes, remote image.Remote, name string, o PullOptions) (Image, error) {
	if o.Signed || o.Unsigned {
		remote.Signed, remote.Unsigned = o.Signed, o.Unsigned
	}
	keys, err := remotes.Keys(remote)
	if err != nil {
		return Image{}, err
	}
	o.Remote, o.Name, o.Keys = remote, name, keys
	return e.Images.Pull(ctx, o)
}

// Offers lists what a remote has for an architecture, "" for what this host runs and "all", as it was no longer ago than
// fresh; see image.Store.Offers.
func (e *Engine) Offers(ctx context.Context, remote, arch string, fresh time.Duration) ([]Offer, error) {
	remotes, err := e.Remotes()
	if err != nil {
		return nil, err
	}
	one, err := remotes.Get(remote)
	if err != nil {
		return nil, err
	}
	keys, err := remotes.Keys(one)
	if err != nil {
		return nil, err
	}
	host := image.Host()
	return e.Images.Offers(ctx, one, keys, fresh, func(a string) bool {
		return a == arch || arch == "all" || arch == "" && image.Image{Architecture: a}.Runs(host)
	})
}
