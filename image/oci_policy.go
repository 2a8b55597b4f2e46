package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/image/v5/docker/reference"
	"github.com/opencontainers/go-digest"

	"croft/state"
)

// containers-policy.json(5) says which images may come in: a list of requirements for each place that they come from, all of which
// must hold. A host without such a file has no policy. What croft cannot check is refused and never passed over.

// The types of requirements that croft knows.
const (
	acceptAnything = "insecureAcceptAnything"
	rejectAll      = "reject"
	signedBy       = "signedBy"
)

// requirement is one of a policy, as it stands there.
type requirement struct {
	Type string `json:"type"`

	// Of signedBy. One of the three has the keys; data is in base64.
	KeyType        string    `json:"keyType"`
	KeyPath        string    `json:"keyPath"`
	KeyPaths       []string  `json:"keyPaths"`
	KeyData        []byte    `json:"keyData"`
	SignedIdentity *identity `json:"signedIdentity"`
}

// identity says what the signature has to say that the image is called.
type identity struct {
	Type             string `json:"type"`
	DockerReference  string `json:"dockerReference"`
	DockerRepository string `json:"dockerRepository"`
	Prefix           string `json:"prefix"`
	SignedPrefix     string `json:"signedPrefix"`
}

// policy gives the requirements for an image of a transport; scopes are its names in the policy, the narrowest first. No file is no
// requirement.
func policy(transport string, scopes []string) ([]requirement, error) {
	path, data, err := policyFile()
	if err != nil || path == "" {
		return nil, err
	}
	var file struct {
		Default    []json.RawMessage                       `json:"default"`
		Transports map[string]map[string][]json.RawMessage `json:"transports"`
	}
	if err := strictly(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	chosen := file.Default
	for _, scope := range append(slices.Clone(scopes), "") {
		if here, is := file.Transports[transport][scope]; is {
			chosen = here
			break
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%s: no requirement for this image, not even that there is none: %w", path, state.ErrInvalid)
	}
	var all []requirement
	for _, text := range chosen {
		r, err := readRequirement(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// policyFile reads the user's policy or else the host's; no path is neither.
func policyFile() (path string, data []byte, err error) {
	paths := []string{"/etc/containers/policy.json"}
	if home := os.Getenv("HOME"); home != "" {
		paths = append([]string{filepath.Join(home, ".config/containers/policy.json")}, paths...)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return path, data, err
		}
	}
	return "", nil, nil
}

// readRequirement reads one requirement; one that croft cannot check is ErrUnsupported.
func readRequirement(text json.RawMessage) (r requirement, err error) {
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(text, &kind); err != nil {
		return r, &sentence{err.Error(), errors.Join(state.ErrInvalid, err)}
	}
	switch kind.Type {
	case acceptAnything, rejectAll, signedBy:
		return r, strictly(text, &r)
	}
	return r, fmt.Errorf("a requirement of type %q, which would have to be checked, %w", kind.Type, state.ErrUnsupported)
}

// strictly reads JSON in which nothing may stand that is not known: in a policy it would be a wish that nobody hears.
func strictly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &sentence{err.Error(), errors.Join(state.ErrInvalid, err)}
	}
	return nil
}

// signatures is what has them: all transports of containers/image.
type signatures interface {
	GetSignatures(ctx context.Context, instance *digest.Digest) ([][]byte, error)
}

// permitted says early, and with nobody asked, whether the policy lets anything of this kind in.
func permitted(requirements []requirement) error {
	for _, r := range requirements {
		if r.Type == rejectAll {
			return &sentence{"policy.json rejects it", state.ErrUnsupported}
		}
	}
	return nil
}

// checkPolicy holds an image that has been read against the requirements; ref is nil for one that nobody has named.
func checkPolicy(ctx context.Context, requirements []requirement, src ociSource, found ociImage, ref reference.Named) error {
	for _, r := range requirements {
		if r.Type != signedBy {
			continue
		}
		from, is := src.(signatures)
		if !is {
			return &sentence{"policy.json wants it to be signed, and an archive has no signatures", state.ErrUnsupported}
		}
		if err := r.check(ctx, from, found, ref); err != nil {
			return err
		}
	}
	return nil
}

// check wants one signature at least that is as the requirement says. What was wrong with the others is of interest only when there
// is none.
func (r requirement) check(ctx context.Context, src signatures, found ociImage, ref reference.Named) error {
	keys, err := r.keys()
	if err != nil {
		return fmt.Errorf("policy.json: %w", err)
	}
	all, err := src.GetSignatures(ctx, found.instance)
	if err != nil {
		return fmt.Errorf("signatures: %w", err)
	}
	wrong := errors.New("it has none")
	for _, signature := range all {
		if wrong = keys.verify(signature, found, func(name string) error { return r.SignedIdentity.accepts(ref, name) }); wrong == nil {
			return nil
		}
	}
	return &sentence{"policy.json wants it to be signed: " + shown(wrong.Error()), errors.Join(state.ErrInvalid, wrong)}
}

// accepts says whether a signature that calls the image name is one for the image that was asked for by ref. nil stands for
// matchRepoDigestOrExact.
func (i *identity) accepts(ref reference.Named, name string) error {
	signed, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("the signature calls it %q: %w", name, err)
	}
	kind := "matchRepoDigestOrExact"
	if i != nil {
		kind = i.Type
	}
	fits := false
	switch want := ref; kind {
	case "exactReference", "exactRepository":
		text := i.DockerReference + i.DockerRepository
		if want, err = reference.ParseNormalizedNamed(text); err != nil {
			return fmt.Errorf("%s %q: %w", kind, text, err)
		}
		fits = kind == "exactReference" && signed.String() == want.String() || kind == "exactRepository" && signed.Name() == want.Name()
	case "matchExact", "matchRepository", "matchRepoDigestOrExact", "remapIdentity":
		if want == nil {
			return fmt.Errorf("%s: the image has no name of a registry", kind)
		}
		if kind == "remapIdentity" {
			if want, err = i.remapped(want); err != nil {
				return err
			}
		}
		_, byDigest := want.(reference.Digested)
		sameName := signed.Name() == want.Name()
		fits = kind == "matchRepository" && sameName || kind != "matchRepository" && signed.String() == want.String() ||
			kind != "matchExact" && byDigest && sameName
	default:
		return fmt.Errorf("a signedIdentity of type %q %w", kind, state.ErrUnsupported)
	}
	if !fits {
		return fmt.Errorf("the signature is for %s", signed)
	}
	return nil
}

// remapped gives ref with one prefix of whole parts in place of another; a reference without it stays.
func (i *identity) remapped(ref reference.Named) (reference.Named, error) {
	text := ref.String()
	rest, is := strings.CutPrefix(text, i.Prefix)
	if !is || i.Prefix == "" || rest != "" && !strings.ContainsRune("/:@", rune(rest[0])) {
		return ref, nil
	}
	if rest != "" && rest[0] == ':' && !strings.Contains(i.Prefix, "/") {
		return ref, nil // it goes on with a port
	}
	return reference.ParseNamed(i.SignedPrefix + rest)
}
