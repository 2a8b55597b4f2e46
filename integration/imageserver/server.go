// Package imageserver is an image server for the tests: a directory, or another server's answers, served over https, with a
// certificate authority of its own, that does to what it sends whatever a network or a publisher might.
package imageserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Server serves a directory on a port of 127.0.0.1.
type Server struct {
	URL string
	CA  []byte // the certificate of its authority, PEM

	dir    string                 // what it serves, or
	behind *httputil.ReverseProxy // who answers in its place
	here   *os.File               // with it: the network namespace
	server *http.Server
	quit   chan struct{}

	mu     sync.Mutex
	faults []*Fault
	asked  []string
	sent   int64
}

// ProxiedName is another name of the host in the URL, which only a proxy knows: those of loopback are never asked of one.
const ProxiedName = "images.invalid"

// Fault is what happens to requests of which the path has Path in it.
type Fault struct {
	Kind  string // cut, truncate, corrupt, grow, stall, endless, redirect, or an HTTP status
	Path  string
	Value string // of redirect: where to; of cut, truncate and stall: after how many bytes; of a status: its Retry-After
	Times int    // 0 is always
	done  int
}

// Start begins to serve what is a directory, or the URL of a server.
func Start(what string) (*Server, error) {
	authority, certificate, err := certificates()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "https://" + listener.Addr().String(), CA: authority, dir: what, quit: make(chan struct{})}
	if at, err := url.Parse(what); err == nil && at.Host != "" {
		s.behind = httputil.NewSingleHostReverseProxy(at)
		s.behind.ErrorLog = log.New(io.Discard, "", 0)
		if s.here, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return nil, err
		}
		s.behind.Transport = &http.Transport{DialContext: s.dial, DisableKeepAlives: true}
	}
	s.server = &http.Server{
		Handler:   http.HandlerFunc(s.answer),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
		ErrorLog:  log.New(io.Discard, "", 0), // clients hang up here, and that is no news
	}
	go s.server.ServeTLS(listener, "", "")
	return s, nil
}

// dial connects from the network namespace in which the server listens; this thread may be in another.
func (s *Server) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err = os.NewSyscallError("setns", unix.Setns(int(s.here.Fd()), unix.CLONE_NEWNET)); err == nil {
			conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		}
	}()
	<-done
	return conn, err
}

// Close ends it, with all that is being sent.
func (s *Server) Close() error {
	close(s.quit)
	err := s.server.Close()
	if s.here != nil {
		err = errors.Join(err, s.here.Close())
	}
	return err
}

// Break adds a fault; of two that fit a request the first that is not used up happens.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Mend takes all faults away.
func (s *Server) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Asked tells what was asked for since the last call, one line a request: the path, the range, and the status.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// Host is where it listens, HOST:PORT.
func (s *Server) Host() string { return strings.TrimPrefix(s.URL, "https://") }

// Sent is how many bytes have been sent since it began, headers not counted.
func (s *Server) Sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// fault is the one that happens to a request, nil for none.
func (s *Server) fault(path string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if strings.Contains(path, f.Path) && (f.Times == 0 || f.done < f.Times) {
			f.done++
			return f
		}
	}
	return nil
}

func (s *Server) note(r *http.Request, w *status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent += w.sent
	line := fmt.Sprintf("%s %s %d", r.URL.Path, r.Header.Get("Range"), w.code)
	s.asked = append(s.asked, strings.Join(strings.Fields(line), " "))
}

// status remembers what has been answered.
type status struct {
	http.ResponseWriter
	code int
	sent int64
}

func (w *status) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

func (w *status) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	recorded := &status{ResponseWriter: w, code: http.StatusOK}
	defer func() {
		s.note(r, recorded)
		if failed := recover(); failed != nil {
			panic(failed) // http.ErrAbortHandler: the connection is cut
		}
	}()
	name := filepath.Join(s.dir, filepath.FromSlash(r.URL.Path))
	if info, err := os.Stat(name); err == nil {
		recorded.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	}
	f := s.fault(r.URL.Path)
	switch {
	case f != nil:
		s.misbehave(recorded, r, name, f)
	case s.behind != nil:
		s.behind.ServeHTTP(recorded, r)
	default:
		http.ServeFile(recorded, r, name)
	}
}

// whole is all that would be sent in answer to a request, whatever part of it was asked for.
func (s *Server) whole(w *status, r *http.Request, name string) ([]byte, error) {
	if s.behind == nil {
		return os.ReadFile(name)
	}
	r = r.Clone(r.Context())
	r.Header.Del("Range")
	answer := httptest.NewRecorder()
	s.behind.ServeHTTP(answer, r)
	if answer.Code != http.StatusOK {
		return nil, fmt.Errorf("it would be answered by %d", answer.Code)
	}
	w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
	return answer.Body.Bytes(), nil
}

func (s *Server) misbehave(w *status, r *http.Request, name string, f *Fault) {
	after := 1000
	fmt.Sscan(f.Value, &after)
	data, err := s.whole(w, r, name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	var code int
	switch f.Kind {
	case "redirect":
		http.Redirect(w, r, f.Value, http.StatusFound)
	case "corrupt":
		data[len(data)/2] ^= 0x55
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
	case "grow":
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(append(data, "more of it"...)))
	case "truncate":
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data[:min(after, len(data))]))
	case "endless":
		for zeros := make([]byte, 1<<20); ; {
			if _, err := w.Write(zeros); err != nil {
				return
			}
		}
	case "cut", "stall":
		http.ServeContent(&short{w, after, s.quit, f.Kind == "stall", r}, r, name, time.Time{}, bytes.NewReader(data))
	default:
		fmt.Sscan(f.Kind, &code)
		if f.Value != "" {
			w.Header().Set("Retry-After", f.Value)
		}
		http.Error(w, http.StatusText(code), code)
	}
}

// short is a connection that is cut, or on which nothing comes any more, after so many bytes.
type short struct {
	*status
	left  int
	quit  chan struct{}
	stall bool
	r     *http.Request
}

func (w *short) Write(p []byte) (int, error) {
	if len(p) <= w.left {
		w.left -= len(p)
		return w.status.Write(p)
	}
	w.status.Write(p[:w.left])
	w.status.ResponseWriter.(http.Flusher).Flush()
	if w.stall {
		select {
		case <-w.quit:
		case <-w.r.Context().Done():
		}
	}
	panic(http.ErrAbortHandler)
}

// certificates makes an authority, and a certificate of it for 127.0.0.1.
func certificates() (authority []byte, server tls.Certificate, err error) {
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "image server of the tests"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(240 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, server, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, server, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost", ProxiedName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, server, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, server, err
	}
	authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	return authority, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
