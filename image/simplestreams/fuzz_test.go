package simplestreams

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"croft/state"
)

// FuzzIndex: whatever a server calls its index, what comes of it are paths inside the server's directory, or ErrInvalid.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"format":"index:1.0","index":{"images":{"datatype":"image-downloads","format":"products:1.0","path":"streams/v1/images.json","products":["a"]}}}`))
	f.Add([]byte(`{"format":"index:1.0","index":{"a":{"datatype":"image-downloads","path":"../a","products":["b"]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		paths, err := parseIndex(strings.NewReader(string(data)))
		if err != nil && !errors.Is(err, state.ErrInvalid) {
			t.Fatal(err)
		}
		for _, p := range paths {
			if !fs.ValidPath(p) {
				t.Errorf("path %q", p)
			}
		}
	})
}

// FuzzProducts: whatever a server calls a list of products, its lines in the catalogue read as they were written, and what
// it offers can be asked for without leaving the server's directory.
func FuzzProducts(f *testing.F) {
	f.Add([]byte(`{"format":"products:1.0","products":{"a":{"aliases":"a,b","arch":"amd64","requirements":{"cgroup":"v1"},"support_eol":"2029-05-31","versions":{"20260101":{"items":{
"m":{"ftype":"lxd.tar.xz","path":"m","size":1,"sha256":"` + sumA + `","combined_squashfs_sha256":"` + sumB + `"},"r":{"ftype":"squashfs","path":"r","size":1,"sha256":"` + sumC + `"}}}}}}}`))
	f.Add([]byte(`{"products":{"a":{"versions":{"20260101":{"items":{"u":{"ftype":"lxd_combined.tar.gz","path":"../u"}}}}}},"format":"products:1.0"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		products, err := listProducts(bytes.NewReader(data), 0)
		if err != nil && !errors.Is(err, state.ErrInvalid) {
			t.Fatal(err)
		}
		for _, p := range products {
			if again, ok := parseLine(strings.TrimSuffix(p.line(), "\n")); !ok || !reflect.DeepEqual(again, p) {
				t.Errorf("%+v is read as %+v", p, again)
			}
			builds, err := p.builds(bytes.NewReader(data))
			if (err == nil) != (p.Type != "") {
				t.Errorf("%+v has builds: %v", p, err)
			}
			for _, b := range builds {
				for _, file := range b.Files {
					if !fs.ValidPath(file.Path) || !isDigest(file.SHA256) || !isDigest(b.Fingerprint) {
						text, _ := json.Marshal(b)
						t.Errorf("%s", text)
					}
				}
			}
		}
	})
}
