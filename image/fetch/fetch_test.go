package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"croft/integration/imageserver"
	"croft/state"
)

// site is a server with one file in it, and a client that is in a hurry.
type site struct {
	*imageserver.Server
	client *Client
	dir    string
	data   []byte
	file   File
}

func newSite(t *testing.T, mirrors ...string) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), data: make([]byte, 300<<10)}
	rand.New(rand.NewSource(1)).Read(s.data)
	sum := sha256.Sum256(s.data)
	s.file = File{Path: "images/root", Size: int64(len(s.data)), SHA256: hex.EncodeToString(sum[:])}
	s.write(t, s.file.Path, s.data)
	server, err := imageserver.Start(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	s.Server = server
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, server.CA, 0o644); err != nil {
		t.Fatal(err)
	}
	s.client, err = New(Server{Name: "corp", URL: server.URL, Mirrors: mirrors, CA: ca, Agent: "croft"})
	if err != nil {
		t.Fatal(err)
	}
	s.client.Pause, s.client.Patience = time.Millisecond, 300*time.Millisecond
	return s
}

func (s *site) write(t *testing.T, path string, data []byte) {
	t.Helper()
	name := filepath.Join(s.dir, path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// check tells what a Save that ended with err has to have left: the file, or nothing that looks like it.
func (s *site) check(t *testing.T, to string, err error) {
	t.Helper()
	data, read := os.ReadFile(to)
	switch {
	case err == nil && !bytes.Equal(data, s.data):
		t.Errorf("saved are %d bytes that are not the file's: %v", len(data), read)
	case err != nil && !errors.Is(read, os.ErrNotExist):
		t.Errorf("after %v the file is there", err)
	}
}

func TestSave(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault imageserver.Fault
		want  string // in the error; "" is none
		part  bool   // what has come stays, to go on with
	}{
		{"as it should be", imageserver.Fault{Kind: "500", Path: "elsewhere"}, "", false},
		{"cut twice", imageserver.Fault{Kind: "cut", Value: "70000", Times: 2}, "", false},
		{"cut again and again, with some bytes each time", imageserver.Fault{Kind: "cut", Value: "20000"}, "", false},
		{"cut before the first byte", imageserver.Fault{Kind: "cut", Value: "0"}, "the connection was cut", true},
		{"stalled once", imageserver.Fault{Kind: "stall", Value: "70000", Times: 1}, "", false},
		{"stalled for ever", imageserver.Fault{Kind: "stall", Value: "0"}, "the server sends nothing any more", true},
		{"truncated", imageserver.Fault{Kind: "truncate"}, "it has 1000 bytes where the index says 307200", false},
		{"too long", imageserver.Fault{Kind: "grow"}, "it has 307210 bytes where the index says 307200", false},
		{"corrupt", imageserver.Fault{Kind: "corrupt"}, "its sha256 is", false},
		{"too many requests, once", imageserver.Fault{Kind: "429", Times: 1}, "", false},
		{"broken, twice", imageserver.Fault{Kind: "500", Times: 2}, "", false},
		{"broken", imageserver.Fault{Kind: "500"}, "the server answers 500", true},
		{"forbidden", imageserver.Fault{Kind: "403"}, "the server answers 403", true},
		{"gone", imageserver.Fault{Kind: "404"}, "is not there", true},
		{"redirected into the clear", imageserver.Fault{Kind: "redirect", Value: "http://127.0.0.1:1/"}, "redirects to http:, which is not https", false},
		{"redirected to a file", imageserver.Fault{Kind: "redirect", Value: "file:///etc/passwd"}, "redirects to file:, which is not https", false},
		{"redirected in a circle", imageserver.Fault{Kind: "redirect", Value: "/images/root"}, "redirects more than 10 times", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.fault.Path = orRoot(c.fault.Path)
			s.Break(c.fault)
			to := filepath.Join(t.TempDir(), "root")
			var last int64
			err := s.client.Save(context.Background(), s.file, to, func(done int64) { last = done })
			s.check(t, to, err)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), "corp: images/root: "+c.want) {
				t.Errorf("%v, and not %q", err, c.want)
			}
			if err == nil && last != s.file.Size {
				t.Errorf("progress ended at %d", last)
			}
			if _, err := os.Stat(to + partSuffix); (err == nil) != c.part {
				t.Errorf("what is left of it: %v", err)
			}
		})
	}
}

func orRoot(path string) string {
	if path == "" {
		return "images/root"
	}
	return path
}

// TestResume goes on with what another process has left.
func TestResume(t *testing.T) {
	s := newSite(t)
	before := s.aside(t, []byte("metadata"))
	sum := sha256.Sum256(append([]byte("metadata"), s.data...))
	s.file.Before, s.file.Combined = before, hex.EncodeToString(sum[:])
	for name, part := range map[string][]byte{
		"half of it": s.data[:len(s.data)/2], "all of it": s.data, "nothing": {}, "another file": []byte("another file"),
		"more than there is": append(slices.Clone(s.data), "more"...),
	} {
		to := filepath.Join(t.TempDir(), "root")
		if err := os.WriteFile(to+partSuffix, part, 0o600); err != nil {
			t.Fatal(err)
		}
		s.Asked()
		err := s.client.Save(context.Background(), s.file, to, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.check(t, to, err)
		asked := s.Asked()
		if name == "half of it" && !slices.Equal(asked, []string{"/images/root bytes=153600- 206"}) || name == "all of it" && len(asked) > 0 {
			t.Errorf("%s: asked for %q", name, asked)
		}
		if err := s.client.Save(context.Background(), s.file, to, nil); err != nil || len(s.Asked()) > 0 {
			t.Errorf("%s: what is verified is asked for again: %v", name, err)
		}
	}
	s.file.Combined = strings.Repeat("0", 64)
	to := filepath.Join(t.TempDir(), "root")
	if err := s.client.Save(context.Background(), s.file, to, nil); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("a wrong fingerprint: %v", err)
	}
	s.check(t, to, state.ErrInvalid)
}

func (s *site) aside(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "before")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestInterrupt leaves what has come when it is told to stop.
func TestInterrupt(t *testing.T) {
	s := newSite(t)
	s.Break(imageserver.Fault{Kind: "stall", Path: "root", Value: "70000"})
	ctx, cancel := context.WithCancel(context.Background())
	to := filepath.Join(t.TempDir(), "root")
	err := s.client.Save(ctx, s.file, to, func(done int64) {
		if done >= 70000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || Saved(to) < 70000 {
		t.Errorf("%v, with %d bytes saved", err, Saved(to))
	}
	s.check(t, to, err)
}

func TestMirrors(t *testing.T) {
	mirror := newSite(t)
	s := newSite(t, mirror.URL)
	// One authority signs for both: the client trusts one file.
	both := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(both, append(slices.Clone(s.CA), mirror.CA...), 0o644); err != nil {
		t.Fatal(err)
	}
	client, err := New(Server{Name: "corp", URL: s.URL, Mirrors: []string{mirror.URL}, CA: both, Agent: "croft"})
	if err != nil {
		t.Fatal(err)
	}
	client.Pause, client.Patience = time.Millisecond, 300*time.Millisecond
	for _, kind := range []string{"404", "500", "403", "corrupt", "truncate", "grow"} {
		s.Break(imageserver.Fault{Kind: kind, Path: "root"})
		to := filepath.Join(t.TempDir(), "root")
		err := client.Save(context.Background(), s.file, to, nil)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		s.check(t, to, err)
		s.Mend()
	}
	mirror.Break(imageserver.Fault{Kind: "404", Path: "root"})
	s.Break(imageserver.Fault{Kind: "500", Path: "root"})
	if err := client.Save(context.Background(), s.file, filepath.Join(t.TempDir(), "root"), nil); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("of two failures the one that says less was told: %v", err)
	}
	s.Mend()
	mirror.Mend()

	// What is left of a wrong one is nothing, and what is left of the next one is gone on with.
	s.Break(imageserver.Fault{Kind: "corrupt", Path: "root"})
	mirror.Break(imageserver.Fault{Kind: "403", Path: "root"})
	to := filepath.Join(t.TempDir(), "root")
	err = client.Save(context.Background(), s.file, to, nil)
	s.check(t, to, err)
	if _, left := os.Stat(to + partSuffix); !errors.Is(err, state.ErrInvalid) || left == nil {
		t.Errorf("%v, and of it is left: %v", err, left)
	}
	mirror.Mend()
	mirror.Break(imageserver.Fault{Kind: "cut", Path: "root", Value: "70000", Times: 1})
	mirror.Break(imageserver.Fault{Kind: "403", Path: "root"})
	if err := client.Save(context.Background(), s.file, to, nil); !errors.Is(err, state.ErrInvalid) || Saved(to) < 70000 {
		t.Errorf("%v, and %d bytes are saved of what was right", err, Saved(to))
	}
}

func TestGet(t *testing.T) {
	s := newSite(t)
	s.write(t, "index.json", []byte("{}"))
	out, err := os.Create(filepath.Join(t.TempDir(), "index"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	now, changed, err := s.client.Get(context.Background(), "index.json", 10, Version{}, out)
	if err != nil || !changed || now.ETag == "" {
		t.Fatal(now, changed, err)
	}
	if _, changed, err := s.client.Get(context.Background(), "index.json", 10, now, out); err != nil || changed {
		t.Errorf("what has not changed is sent again: %v", err)
	}
	s.write(t, "index.json", []byte("{ }"))
	if _, changed, err := s.client.Get(context.Background(), "index.json", 10, now, out); err != nil || !changed {
		t.Errorf("what has changed is not sent: %v", err)
	}
	if data, err := os.ReadFile(out.Name()); string(data) != "{ }" {
		t.Errorf("%q: %v", data, err)
	}
	s.Break(imageserver.Fault{Kind: "endless", Path: "index"})
	if _, _, err := s.client.Get(context.Background(), "index.json", 3<<20, Version{}, out); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("what has no end: %v", err)
	}
}

func TestServersThatCannotBeReached(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct{ server Server }{
		"authority that nobody here knows": {Server{URL: s.URL}},
		"no host called nowhere.invalid":   {Server{URL: "https://nowhere.invalid"}},
		"connection refused":               {Server{URL: "https://127.0.0.1:1"}},
	} {
		c.server.Name = "corp"
		client, err := New(c.server)
		if err != nil {
			t.Fatal(err)
		}
		client.Pause = time.Millisecond
		to := filepath.Join(t.TempDir(), "root")
		err = client.Save(context.Background(), s.file, to, nil)
		if err == nil || !strings.Contains(err.Error(), name) && !strings.Contains(err.Error(), "cannot be looked up") {
			t.Errorf("%v, and not %s", err, name)
		}
		s.check(t, to, err)
	}
}

func TestRedirects(t *testing.T) {
	for _, c := range []struct {
		from, to string
		follow   bool
	}{
		{"https://192.0.2.1/a", "https://192.0.2.2/a", true},
		{"https://127.0.0.1/a", "https://127.0.0.1:8443/a", true},
		{"https://192.0.2.1/a", "https://127.0.0.1/a", false},
		{"https://192.0.2.1/a", "https://[::1]/a", false},
		{"https://192.0.2.1/a", "https://[::ffff:127.0.0.1]/a", false},
		{"https://192.0.2.1/a", "https://0.0.0.0/a", false},
		{"https://192.0.2.1/a", "https://localhost/a", false},
		{"https://192.0.2.1/a", "https://a.localhost/a", false},
		{"https://192.0.2.1/a", "http://192.0.2.1/a", false},
		{"https://192.0.2.1/a", "file:///etc/passwd", false},
	} {
		request := func(text string) *http.Request {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			return (&http.Request{URL: u}).WithContext(context.Background())
		}
		if err := checkRedirect(request(c.to), []*http.Request{request(c.from)}); (err == nil) != c.follow {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for _, bad := range []string{"", "images.example.com", "http://images.example.com", "https://", "file:///srv", "https://user:word@images.example.com", "https://images.example.com?a=b"} {
		if _, err := CheckURL(bad); !errors.Is(err, state.ErrMisnamed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
