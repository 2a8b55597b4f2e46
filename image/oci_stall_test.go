package image

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imgspecs "github.com/opencontainers/image-spec/specs-go"
	imgspec "github.com/opencontainers/image-spec/specs-go/v1"

	"croft/integration/imageserver"
)

// registryWith answers as a registry that has one image, app:1, of one layer.
func registryWith(t *testing.T, layer []byte) (_ http.Handler, blobs map[string]digest.Digest) {
	t.Helper()
	all, kinds := map[string][]byte{}, map[string]string{}
	add := func(kind string, v any) imgspec.Descriptor {
		data, is := v.([]byte)
		if !is {
			var err error
			if data, err = json.Marshal(v); err != nil {
				t.Fatal(err)
			}
		}
		d := digest.FromBytes(data)
		all[d.String()], kinds[d.String()] = data, kind
		return imgspec.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}
	}
	config := add(imgspec.MediaTypeImageConfig, imgspec.Image{
		Platform: imgspec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: imgspec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	one := add(imgspec.MediaTypeImageLayer, layer)
	manifest := add(imgspec.MediaTypeImageManifest, imgspec.Manifest{
		Versioned: imgspecs.Versioned{SchemaVersion: 2}, MediaType: imgspec.MediaTypeImageManifest, Config: config, Layers: []imgspec.Descriptor{one},
	})
	all["1"], kinds["1"] = all[manifest.Digest.String()], imgspec.MediaTypeImageManifest
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Base(r.URL.Path)
		if r.URL.Path == "/v2/" {
			return
		}
		if all[name] == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", kinds[name])
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(all[name])))
	}), map[string]digest.Digest{"config": config.Digest, "layer": one.Digest}
}

// TestStalledRegistry pulls from a registry that stops in the middle of an answer and keeps the connection: once is put up with,
// what has come is gone on with, and for ever is an error.
func TestStalledRegistry(t *testing.T) {
	handler, blobs := registryWith(t, rootfsTar(t, ""))
	registry := httptest.NewServer(handler)
	defer registry.Close()
	front, err := imageserver.Start(registry.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	at, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	ref, _, err := ParseOCI(at.Host + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	pull := func(s *Store) error {
		_, err := s.PullOCI(context.Background(), ref, PullOptions{Insecure: true, patience: patience{tries: 3, pause: time.Millisecond, stall: 500 * time.Millisecond}})
		return err
	}
	for _, x := range []struct{ name, part, once, forever string }{ // after how many bytes
		{"manifest", "/manifests/", "100", "100"},
		{"configuration", blobs["config"].String(), "100", "100"},
		{"layer", blobs["layer"].String(), "5000", "0"}, // with some at each try it would come to its end
	} {
		t.Run(x.name, func(t *testing.T) {
			defer front.Mend()
			s := testStore(t)
			front.Break(imageserver.Fault{Kind: "stall", Path: x.part, Value: x.forever})
			if err := pull(s); !errors.Is(err, errStalled) {
				t.Errorf("for ever: %v", err)
			}
			front.Mend()
			front.Asked()
			front.Break(imageserver.Fault{Kind: "stall", Path: x.part, Value: x.once, Times: 1})
			if err := pull(s); err != nil {
				t.Errorf("once: %v", err)
			}
			if asked := strings.Join(front.Asked(), "\n"); x.name == "layer" && !strings.Contains(asked, x.part+" bytes=5000- 206") {
				t.Errorf("the layer was not gone on with:\n%s", asked)
			}
			clean(t, s, 1, 1)
		})
	}
}
