package simplestreams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgp "github.com/ProtonMail/go-crypto/openpgp/errors"

	"croft/image/fetch"
	"croft/state"
)

// Keys are those that may sign what a server offers. nil is for servers of which signatures do not count.
type Keys struct{ entities openpgp.EntityList }

// Add takes in the public keys in data, armored or not.
func (k *Keys) Add(data []byte) error {
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN")) {
		read = openpgp.ReadArmoredKeyRing
	}
	entities, err := read(bytes.NewReader(data))
	if err == nil && len(entities) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return wrongly("no public key of OpenPGP (%v)", err)
	}
	k.entities = append(k.entities, entities...)
	return nil
}

// Fingerprints are those of the keys, in capital hex, sorted.
func (k *Keys) Fingerprints() (all []string) {
	for _, e := range k.entities {
		all = append(all, fingerprint(e))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func fingerprint(e *openpgp.Entity) string { return fmt.Sprintf("%X", e.PrimaryKey.Fingerprint) }

// accept says whether lists that were signed so may be used.
func (k *Keys) accept(signedBy string) bool {
	return k == nil || slices.ContainsFunc(k.entities, func(e *openpgp.Entity) bool { return signedBy == signer(e) })
}

// signer is a key as it is shown to people: its fingerprint, and whose it says that it is.
func signer(e *openpgp.Entity) string {
	text := fingerprint(e)
	if id := e.PrimaryIdentity(); id != nil {
		text += " " + printable(id.Name)
	}
	return text
}

const (
	maxSignature = 64 << 10
	maxSigned    = 64 << 20 // of a file with its signature in it, all of which has to be in memory
)

// signed is what a good signature says: whose it is, and when it was made. The zero value is none.
type signed struct {
	by string // see signer
	at time.Time
}

// check has file, which came from path, verified, and gives what its signature says. A signature stands beside the file (.gpg,
// .asc), or around a copy of it (.sjson), which then takes the place of what is in file: a publisher changes that whole,
// and the other two one after the other.
func (s *Server) check(ctx context.Context, path string, file *os.File) (signed, error) {
	for _, suffix := range []string{".gpg", ".asc"} {
		signature, err := s.small(ctx, path+suffix, maxSignature)
		if errors.Is(err, fetch.ErrGone) {
			continue
		}
		if err != nil {
			return signed{}, err
		}
		good, wrong := s.Keys.detached(file, signature)
		if wrong == nil {
			return good, nil
		}
		if good, err := s.checkCopy(ctx, path, file); err == nil {
			return good, nil
		}
		return signed{}, s.about(path, wrong)
	}
	return s.checkCopy(ctx, path, file)
}

func (s *Server) about(path string, err error) error {
	return fmt.Errorf("%s: %s: %w", s.Name, path, err)
}

// checkCopy replaces what is in file by the signed copy that the server has of it.
func (s *Server) checkCopy(ctx context.Context, path string, file *os.File) (signed, error) {
	at := strings.TrimSuffix(path, ".json") + ".sjson"
	text, err := s.small(ctx, at, maxSigned)
	if errors.Is(err, fetch.ErrGone) {
		return signed{}, state.Hint(s.about(path, errNotSigned), "croft remote add --unsigned, for a server that does not sign")
	}
	if err != nil {
		return signed{}, err
	}
	block, _ := clearsign.Decode(text)
	if block == nil {
		return signed{}, s.about(at, wrongly("no text with a signature"))
	}
	good, err := s.Keys.verify(bytes.NewReader(block.Bytes), block.ArmoredSignature.Body)
	if err != nil {
		return signed{}, s.about(at, err)
	}
	if err := file.Truncate(0); err != nil {
		return signed{}, err
	}
	_, err = file.WriteAt(block.Plaintext, 0)
	return good, err
}

const errNotSigned = wrong("it is not signed, and has to be")

// small gets a small file as a whole.
func (s *Server) small(ctx context.Context, path string, limit int64) ([]byte, error) {
	file, err := os.CreateTemp(s.Cache, ".new-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, _, err := s.Files.Get(ctx, path, limit, fetch.Version{}, file); err != nil {
		return nil, err
	}
	return os.ReadFile(file.Name())
}

// detached verifies a signature of what is in file.
func (k *Keys) detached(file io.ReadSeeker, signature []byte) (signed, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return signed{}, err
	}
	var packets io.Reader = bytes.NewReader(signature)
	if bytes.HasPrefix(bytes.TrimSpace(signature), []byte("-----BEGIN")) {
		block, err := armor.Decode(packets)
		if err != nil {
			return signed{}, k.explain(err)
		}
		packets = block.Body
	}
	return k.verify(file, packets)
}

func (k *Keys) verify(text, signature io.Reader) (signed, error) {
	packet, by, err := openpgp.VerifyDetachedSignature(k.entities, text, signature, nil)
	if err != nil {
		return signed{}, k.explain(err)
	}
	return signed{signer(by), packet.CreationTime.UTC()}, nil
}

// explain says in a few words why a signature is not good.
func (k *Keys) explain(err error) error {
	text := ""
	switch {
	case errors.Is(err, pgp.ErrUnknownIssuer):
		text = "it is signed by nobody whose key is here"
	case errors.Is(err, pgp.ErrKeyExpired):
		text = "the key that signed it has expired"
	case errors.Is(err, pgp.ErrKeyRevoked):
		text = "the key that signed it was revoked"
	case errors.Is(err, pgp.ErrSignatureExpired):
		text = "its signature has expired"
	default:
		text = "its signature is wrong (" + printable(err.Error()) + ")"
	}
	return wrongly("%s; known is %s", text, strings.Join(k.Fingerprints(), ", "))
}
