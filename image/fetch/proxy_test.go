package fetch

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"croft/integration/imageserver"
)

// connectProxy passes on what is meant for name to the address to, and counts that.
func connectProxy(t *testing.T, name, to string) (url string, passed *atomic.Int32) {
	t.Helper()
	passed = &atomic.Int32{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host, _, _ := net.SplitHostPort(r.Host); r.Method != http.MethodConnect || host != name {
			http.Error(w, "not here", http.StatusForbidden)
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer server.Close()
		passed.Add(1)
		w.WriteHeader(http.StatusOK)
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		go io.Copy(server, client)
		io.Copy(client, server)
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL, passed
}

// TestProxy gets a file by way of a proxy, and past it, in processes of their own: net/http reads the variables once.
func TestProxy(t *testing.T) {
	if url := os.Getenv("CROFT_TEST_PROXIED"); url != "" {
		getProxied(t, url)
		return
	}
	s := newSite(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CA, 0o644); err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(s.URL, "https://")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	proxy, passed := connectProxy(t, imageserver.ProxiedName, address)
	for _, c := range []struct {
		name, host, except string
		passes, fails      bool
	}{
		{"a name that the proxy knows", imageserver.ProxiedName, "", true, false},
		{"one that it refuses", "other.invalid", "", false, true},
		{"one that it is not asked for", imageserver.ProxiedName, ".invalid", false, true},
		{"loopback", "127.0.0.1", "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			passed.Store(0)
			client := exec.Command(os.Args[0], "-test.run=^TestProxy$")
			client.Env = append(os.Environ(), "HTTPS_PROXY="+proxy, "https_proxy=", "NO_PROXY="+c.except, "no_proxy=",
				"CROFT_TEST_PROXIED=https://"+c.host+":"+port, "CROFT_TEST_CA="+ca)
			out, err := client.CombinedOutput()
			if (err != nil) != c.fails || (passed.Load() > 0) != c.passes {
				t.Errorf("%v, passed on %d times: %s", err, passed.Load(), out)
			}
			if refused := strings.Contains(string(out), "Forbidden"); refused != (c.host == "other.invalid") {
				t.Errorf("refused by the proxy: %v: %s", refused, out)
			}
		})
	}
}

// getProxied is the process in the test's environment.
func getProxied(t *testing.T, url string) {
	client, err := New(Server{Name: "corp", URL: url, CA: os.Getenv("CROFT_TEST_CA"), Agent: "croft"})
	if err != nil {
		t.Fatal(err)
	}
	client.Pause = time.Millisecond
	out, err := os.Create(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, _, err := client.Get(context.Background(), "images/root", 1<<20, Version{}, out); err != nil {
		t.Fatal(err)
	}
}
