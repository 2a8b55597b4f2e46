package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/containers/image/v5/manifest"
	"github.com/opencontainers/go-digest"

	"croft/state"
)

// simpleSigning is what a signature of containers-signature(5) says once it is known whose it is.
type simpleSigning struct {
	Critical struct {
		Type  string `json:"type"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

// signers are the keys of a requirement.
type signers struct{ ring openpgp.EntityList }

// keys reads the keys of a requirement, armored or not.
func (r requirement) keys() (signers, error) {
	if r.KeyType != "GPGKeys" {
		return signers{}, fmt.Errorf("keys of type %q %w", r.KeyType, state.ErrUnsupported)
	}
	var all [][]byte
	paths := slices.Clone(r.KeyPaths)
	if r.KeyPath != "" {
		paths = append(paths, r.KeyPath)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return signers{}, err
		}
		all = append(all, data)
	}
	if len(r.KeyData) > 0 {
		all = append(all, r.KeyData)
	}
	var keys signers
	for _, data := range all {
		read := openpgp.ReadKeyRing
		if bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN")) {
			read = openpgp.ReadArmoredKeyRing
		}
		ring, err := read(bytes.NewReader(data))
		if err != nil {
			return signers{}, fmt.Errorf("keys: %w", err)
		}
		keys.ring = append(keys.ring, ring...)
	}
	if len(keys.ring) == 0 {
		return signers{}, fmt.Errorf("a requirement of %s without keys %w", signedBy, state.ErrInvalid)
	}
	return keys, nil
}

// verify says what is wrong with a signature: whose it is, and only then what it says.
func (s signers) verify(signature []byte, found ociImage, accepts func(name string) error) error {
	message, err := openpgp.ReadMessage(bytes.NewReader(signature), s.ring, nil, nil)
	if err != nil {
		return fmt.Errorf("the signature is damaged: %w", err)
	}
	// Nothing of it may be used before all of it has been read: only then is the signature checked.
	text, err := io.ReadAll(io.LimitReader(message.UnverifiedBody, maxOCIConfig))
	switch {
	case err != nil:
		return err
	case !message.IsSigned || message.SignedBy == nil:
		return errors.New("it is signed by none of the keys that may do so")
	case message.SignatureError != nil:
		return message.SignatureError
	case message.Signature == nil:
		return errors.New("the signature does not fit")
	}
	var says simpleSigning
	if err := strictly(text, &says); err != nil {
		return fmt.Errorf("what is signed is damaged: %w", err)
	}
	if says.Critical.Type != "atomic container signature" {
		return fmt.Errorf("what is signed is %q", says.Critical.Type)
	}
	if ok, err := manifest.MatchesDigest(found.manifest, says.Critical.Image.Digest); err != nil || !ok {
		return errors.New("the signature is for another image")
	}
	return accepts(says.Critical.Identity.Reference)
}
