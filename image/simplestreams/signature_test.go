package simplestreams

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// TestPublishersKeys reads the keys that croft comes with: they have to be those that their publishers name, and able to
// verify today.
func TestPublishersKeys(t *testing.T) {
	for file, want := range map[string]string{
		"linuxcontainers.asc": "E7FB0CAEC8173D669066514CBAEFF88C22F6E216",
		"ubuntu.asc":          "D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81",
	} {
		data, err := os.ReadFile(filepath.Join("..", "keys", file))
		if err != nil {
			t.Fatal(err)
		}
		var keys Keys
		if err := keys.Add(data); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if got := keys.Fingerprints(); !slices.Equal(got, []string{want}) {
			t.Errorf("%s has the keys %v", file, got)
		}
		key := keys.entities[0]
		if usable := keys.entities.KeysByIdUsage(key.PrimaryKey.KeyId, packet.KeyFlagSign); len(usable) == 0 {
			t.Errorf("%s: no key of it may sign", file)
		}
		if self, _ := key.PrimarySelfSignature(); key.PrimaryKey.KeyExpired(self, time.Now()) {
			t.Errorf("%s: has expired", file)
		}
	}
}

func TestDetachedSignatures(t *testing.T) {
	ours, err := openpgp.NewEntity("ours", "", "ours@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	keys := &Keys{openpgp.EntityList{ours}}
	text := "what is signed"
	var binary, armored bytes.Buffer
	if err := openpgp.DetachSign(&binary, ours, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	if err := openpgp.ArmoredDetachSign(&armored, ours, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	for _, signature := range [][]byte{binary.Bytes(), armored.Bytes()} {
		if _, err := keys.detached(strings.NewReader(text), signature); err != nil {
			t.Error(err)
		}
		if _, err := keys.detached(strings.NewReader(text+"!"), signature); err == nil {
			t.Error("another text than was signed is taken")
		}
		if _, err := keys.detached(strings.NewReader(text), signature[:len(signature)/2]); err == nil {
			t.Error("half a signature is taken")
		}
		if _, err := (&Keys{}).detached(strings.NewReader(text), signature); err == nil {
			t.Error("a key that is not known is taken")
		}
	}
	if !keys.accept(signer(ours)) || keys.accept("") || !(*Keys)(nil).accept("") {
		t.Error("a catalogue that was signed is refused, or one that was not is taken")
	}
}
