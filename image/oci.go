package image

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/image/v5/directory"
	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/oci/layout"
	"github.com/containers/image/v5/types"
	"github.com/opencontainers/go-digest"

	"croft/state"
)

// KindOCI is an image of a registry or of an OCI layout: one or more layers, and what to run in them.
const KindOCI = "oci"

// OCIReference names an image in a registry, or in a directory or an archive of this host.
type OCIReference struct {
	name      string               // as the user would write it, with its tag; the alias of what is pulled
	transport string               // as containers/image and its policies call it
	path      string               // of the directory or archive; "" at a registry
	tag       string               // that calls the image in there; "" for the only one
	ref       types.ImageReference // of containers/image; nil for an archive, which has to be unpacked first

	remote Remote // that it was asked for at; the zero Remote when it names a registry itself
}

// String is the reference as it is shown and as the pulled image is called.
func (r OCIReference) String() string { return r.name }

// Local says that the image lies on this host: to look at it again costs next to nothing.
func (r OCIReference) Local() bool { return r.path != "" }

// ParseOCI reads a reference to an OCI image:
//
//	docker:NAME[:TAG][@DIGEST]      at Docker Hub, or at the host that NAME begins with
//	HOST[:PORT]/NAME[:TAG][@DIGEST] in that registry; HOST has a dot, or a port, or is localhost
//	oci:DIR[:TAG]                   in an OCI layout
//	dir:DIR                         in a directory written by skopeo
//	oci-archive:FILE[:TAG]          in a tar of an OCI layout
//	docker-archive:FILE[:NAME:TAG]  in a tar written by docker save
//
// ok is false, with no error, for what has none of these forms: it may be an alias, or name another remote.
func ParseOCI(text string) (r OCIReference, ok bool, err error) {
	transport, rest, _ := strings.Cut(text, ":")
	switch {
	case transport == "docker":
		r, err = registryReference(strings.TrimPrefix(rest, "//"))
	case slices.Contains(localTransports[:], transport):
		r, err = localReference(transport, rest)
	case hasHost(text):
		r, err = registryReference(text)
	default:
		return OCIReference{}, false, nil
	}
	if err != nil {
		return OCIReference{}, true, fmt.Errorf("image %q: %w", text, &sentence{shown(err.Error()), state.ErrMisnamed})
	}
	return r, true, nil
}

// hasHost tells a registry's name at the beginning from the first part of an image's, by the rule of docker.
func hasHost(text string) bool {
	host, _, more := strings.Cut(text, "/")
	name, port, ported := strings.Cut(host, ":")
	if !more || name == "" || ported && (port == "" || strings.Trim(port, "0123456789") != "") {
		return false
	}
	return ported || strings.Contains(name, ".") || name == "localhost"
}

func registryReference(text string) (OCIReference, error) {
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return OCIReference{}, err
	}
	if digested, is := named.(reference.Canonical); is {
		// With both, the digest says which image it is and the tag how it was called once.
		if named, err = reference.WithDigest(reference.TrimNamed(named), digested.Digest()); err != nil {
			return OCIReference{}, err
		}
	}
	named = reference.TagNameOnly(named)
	ref, err := docker.NewReference(named)
	if err != nil {
		return OCIReference{}, err
	}
	name := reference.FamiliarString(named)
	if reference.Domain(named) == dockerHub {
		name = "docker:" + name
	}
	return OCIReference{name: name, transport: docker.Transport.Name(), ref: ref}, nil
}

// The transports of containers/image for what lies on this host.
const (
	transportLayout = "oci"
	transportDir    = "dir"
	transportTar    = "oci-archive"
	transportSaved  = "docker-archive"
)

var localTransports = [...]string{transportLayout, transportDir, transportTar, transportSaved}

func localReference(transport, text string) (r OCIReference, err error) {
	r.transport, r.path = transport, text
	if transport != transportDir {
		r.path, r.tag, _ = strings.Cut(text, ":")
	}
	if r.path == "" {
		return OCIReference{}, fmt.Errorf("names neither a file nor a directory")
	}
	if r.path, err = filepath.Abs(r.path); err != nil {
		return OCIReference{}, err
	}
	r.name = transport + ":" + r.path
	if r.tag != "" {
		r.name += ":" + r.tag
	}
	switch transport {
	case transportDir:
		r.ref, err = directory.NewReference(r.path)
	case transportLayout:
		r.ref, err = layout.NewReference(r.path, r.tag)
	}
	return r, err
}

// Reference is what a remote that speaks to a registry calls name: its URL names the registry and, below that, where all it has is.
func (r Remote) Reference(name string) (OCIReference, error) {
	place := strings.Trim(strings.TrimPrefix(strings.TrimPrefix(r.URL, "https://"), "http://"), "/")
	if place != dockerHub {
		name = place + "/" + name
	}
	ref, err := registryReference(strings.TrimPrefix(name, "//"))
	if err != nil {
		return OCIReference{}, fmt.Errorf("image %s:%s: %w", r.Name, shown(name), &sentence{shown(err.Error()), state.ErrMisnamed})
	}
	if rest, is := strings.CutPrefix(ref.name, place+"/"); is {
		ref.name = r.Name + ":" + rest
	}
	ref.remote = r
	return ref, nil
}

const (
	dockerHub = "docker.io" // the registry of names that name none
	latest    = "latest"    // the tag of names that have none
)

// digest is the one that the reference asks for; "" when it has a tag.
func (r OCIReference) digest() digest.Digest {
	if named, is := r.named().(reference.Canonical); is {
		return named.Digest()
	}
	return ""
}

// origin is what the record of a pulled image says of where it came from.
func (r OCIReference) origin() *Origin {
	if r.Local() {
		return nil
	}
	return &Origin{Remote: r.remote.Name, URL: "https://" + hostOf(r), Name: r.name}
}

// named is what a registry calls the image; nil for one of this host.
func (r OCIReference) named() reference.Named {
	if r.ref == nil {
		return nil
	}
	return r.ref.DockerReference()
}

// archive says that the image lies in a file.
func (r OCIReference) archive() bool { return r.ref == nil }

// scopes are the names that a policy may have for the image.
func (r OCIReference) scopes() []string {
	if r.archive() {
		return pathScopes(r.path)
	}
	return append([]string{r.ref.PolicyConfigurationIdentity()}, r.ref.PolicyConfigurationNamespaces()...)
}

// open begins to read the image: of a registry its manifest has come when this returns. tree is where an archive has been unpacked.
func (r OCIReference) open(ctx context.Context, sys *types.SystemContext, tree string) (ociSource, error) {
	if r.archive() {
		return openUnpacked(ctx, r.transport, tree, r.tag)
	}
	return r.ref.NewImageSource(ctx, sys)
}

// hostOf is the registry of ref, as certificates and credentials are kept by.
func hostOf(ref OCIReference) string {
	if named := ref.named(); named != nil {
		return reference.Domain(named)
	}
	return ""
}
