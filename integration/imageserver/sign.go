package imageserver

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// NewKey makes a key to sign with, as of a week ago; an expired one was good for an hour.
func NewKey(name string, expired bool) (*openpgp.Entity, error) {
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return time.Now().Add(-7 * 24 * time.Hour) }}
	if expired {
		config.KeyLifetimeSecs = 3600
	}
	return openpgp.NewEntity(name, "", name+"@example.com", config)
}

// WriteKey writes the public half of a key.
func WriteKey(w io.Writer, key *openpgp.Entity) error {
	out, err := armor.Encode(w, openpgp.PublicKeyType, nil)
	if err != nil {
		return err
	}
	if err := key.Serialize(out); err != nil {
		return err
	}
	return out.Close()
}

// Sign signs the lists of a tree, beside them as .gpg or around copies of them as .sjson, and takes other signatures away.
// Old are signatures of when the key was made.
func Sign(dir string, key *openpgp.Entity, around, old bool) error {
	config := &packet.Config{}
	if old {
		config.Time = func() time.Time { return key.PrimaryKey.CreationTime }
	}
	lists, err := filepath.Glob(filepath.Join(dir, "streams", "v1", "*.json"))
	if err != nil {
		return err
	}
	for _, list := range lists {
		beside, copied := list+".gpg", strings.TrimSuffix(list, ".json")+".sjson"
		os.Remove(beside)
		os.Remove(copied)
		if around {
			err = signAround(list, copied, key, config)
		} else {
			err = signBeside(list, beside, key, config)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func signBeside(list, to string, key *openpgp.Entity, config *packet.Config) error {
	text, err := os.Open(list)
	if err != nil {
		return err
	}
	defer text.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	return openpgp.ArmoredDetachSign(out, key, text, config)
}

func signAround(list, to string, key *openpgp.Entity, config *packet.Config) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	w, err := clearsign.Encode(out, key.PrivateKey, config)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	return w.Close()
}
