// Package fetch gets files from web servers over https: small ones when they have changed, large ones in a way that goes
// on where it was broken off, from mirrors where the server has them not, and never more bytes than it was told to take.
//
// It knows nothing of images, and never talks to anybody in the clear.
package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"croft/state"
)

// ErrGone is the error of a file that neither the server nor any mirror has.
var ErrGone = errors.New("is not there")

// Server says where files are.
type Server struct {
	Name    string   // for errors, and shown to people
	URL     string   // https, what paths are relative to
	Mirrors []string // URLs that have the same, asked in turn when the server fails
	CA      string   // a file of PEM certificates that sign the server's; "" for the host's own
	Agent   string   // what we say that we are
}

// Client gets the files of one server.
type Client struct {
	name  string
	agent string
	bases []*url.URL
	http  http.Client

	Patience time.Duration // how long a server may send nothing
	Pause    time.Duration // before a failed request is made again; it doubles from one to the next
}

const (
	attempts  = 5               // in a row that bring no byte
	longPause = 2 * time.Minute // a server that wants us to wait longer has to be asked another day
)

// New makes a client; nothing is asked yet.
func New(s Server) (*Client, error) {
	c := &Client{name: s.Name, agent: s.Agent, Patience: 30 * time.Second, Pause: time.Second / 2}
	for _, text := range append([]string{s.URL}, s.Mirrors...) {
		base, err := CheckURL(text)
		if err != nil {
			return nil, err
		}
		c.bases = append(c.bases, base)
	}
	transport := &http.Transport{ // of HTTP/1.1: for one large file at a time there is nothing to gain from 2
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 15 * time.Second,
		IdleConnTimeout:     30 * time.Second,
	}
	if s.CA != "" {
		roots, err := authorities(s.CA)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	c.http = http.Client{Transport: transport, CheckRedirect: checkRedirect}
	return c, nil
}

// CheckURL parses what a server or mirror may be called by.
func CheckURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err == nil && u.Scheme == "https" && u.Host == "":
		return nil, fmt.Errorf("URL %q %w: it names no host", text, state.ErrMisnamed)
	case err != nil || u.Scheme != "https":
		return nil, fmt.Errorf("URL %q %w: it begins with https://", text, state.ErrMisnamed)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, fmt.Errorf("URL %q %w: it has neither user, query nor fragment", text, state.ErrMisnamed)
	}
	return u, nil
}

func authorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, wrongly("%s: no certificate in it", file)
	}
	return roots, nil
}

// checkRedirect keeps a server from sending us where it has no business: into the clear, or to what listens on this host.
func checkRedirect(next *http.Request, before []*http.Request) error {
	from := before[0].URL
	switch {
	case len(before) >= 10:
		return wrongly("redirects more than 10 times")
	case next.URL.Scheme != "https":
		return wrongly("redirects to %s:, which is not https", next.URL.Scheme)
	case !local(next.Context(), from.Hostname()) && local(next.Context(), next.URL.Hostname()):
		return wrongly("redirects to %s, which is this host itself", next.URL.Hostname())
	}
	return nil
}

// wrong is an error of what the server sends: asking it again is of no use.
type wrong string

func (w wrong) Error() string { return string(w) }

func (w wrong) Unwrap() error { return state.ErrInvalid }

func wrongly(format string, args ...any) error { return wrong(fmt.Sprintf(format, args...)) }

// local tells whether a host is the one we are on, by its name or by what the name means.
func local(ctx context.Context, host string) bool {
	if at, err := netip.ParseAddr(host); err == nil {
		return at.IsLoopback() || at.IsUnspecified()
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	all, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host) // whoever cannot be found will not be reached
	for _, at := range all {
		if at.Unmap().IsLoopback() || at.IsUnspecified() {
			return true
		}
	}
	return false
}

// fault is an error of one request; retry says that the same one may go better later.
type fault struct {
	err   error
	retry bool
	after time.Duration // that the server asked for
}

func (f *fault) Error() string { return f.err.Error() }

func (f *fault) Unwrap() error { return f.err }

// about names server and file.
func (c *Client) about(file string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", c.name, file, err)
}

// ask makes one request of the first server; the caller closes the body of the answer, and calls end once it has been read.
func (c *Client) ask(ctx context.Context, file string, header http.Header) (*http.Response, func(), error) {
	ctx, end := context.WithCancelCause(ctx)
	stop := func() { end(nil) }
	at := *c.bases[0]
	at.Path, at.RawPath = path.Join("/", at.Path, file), ""
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		stop()
		return nil, nil, err
	}
	request.Header = header.Clone()
	request.Header.Set("User-Agent", c.agent)
	silence := time.AfterFunc(c.Patience, func() { end(errSilent) })
	answer, err := c.http.Do(request)
	if err != nil {
		err = c.explain(ctx, err) // before stop, which looks like a reason
		silence.Stop()
		stop()
		return nil, nil, err
	}
	answer.Body = &watched{ReadCloser: answer.Body, client: c, ctx: ctx, silence: silence}
	return answer, func() { silence.Stop(); stop() }, nil
}

var errSilent = errors.New("the server sends nothing any more")

// watched is a body that the server has to go on sending.
type watched struct {
	io.ReadCloser
	client  *Client
	ctx     context.Context
	silence *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	w.silence.Reset(w.client.Patience)
	n, err := w.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = w.client.explain(w.ctx, err)
	}
	return n, err
}

// explain says in a few words why a request failed.
func (c *Client) explain(ctx context.Context, err error) error {
	var redirect wrong
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var lookup *net.DNSError
	var outer *url.Error
	switch {
	case context.Cause(ctx) == errSilent:
		return &fault{err: errSilent, retry: true}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &redirect):
		return redirect
	case errors.As(err, &unknown):
		return state.Hint(errors.New("its certificate is of an authority that nobody here knows"), "croft remote add --ca FILE names one")
	case errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &record):
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return fmt.Errorf("TLS: %w", err)
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return fmt.Errorf("there is no host called %s", lookup.Name)
	case errors.As(err, &lookup):
		return fmt.Errorf("the name %s cannot be looked up: %s", lookup.Name, lookup.Err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &fault{err: errors.New("the connection was cut"), retry: true}
	}
	if errors.As(err, &outer) {
		err = outer.Err
	}
	return &fault{err: err, retry: true}
}

// check makes an error of an answer that does not carry the file.
func check(answer *http.Response) error {
	text := fmt.Errorf("the server answers %s", answer.Status)
	switch code := answer.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent, code == http.StatusNotModified:
		return nil
	case code == http.StatusNotFound, code == http.StatusGone:
		return ErrGone
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
		return &fault{err: text, retry: true, after: time.Duration(max(seconds, 0)) * time.Second}
	case code >= 500:
		return &fault{err: text, retry: true}
	}
	return text
}

// InTurn calls try for the server and then for each of its mirrors, with a client of that one alone, until one has what is
// right. Of all errors it gives the one that says most.
func (c *Client) InTurn(ctx context.Context, try func(one *Client) error) error {
	var worst error
	for n := range c.bases {
		one := *c
		one.bases = c.bases[n : n+1]
		err := try(&one)
		if err == nil || ctx.Err() != nil || state.Full(err) {
			return err
		}
		if worst == nil || gravity(err) >= gravity(worst) {
			worst = err
		}
	}
	return worst
}

// gravity orders errors by how much they say: that a file is not there is the least, that it is wrong the most.
func gravity(err error) int {
	switch {
	case errors.Is(err, ErrGone):
		return 0
	case errors.Is(err, state.ErrInvalid):
		return 2
	}
	return 1
}

// patiently makes requests of one server until one succeeds. What may go better later is tried again after a pause, as
// long as it brings anything now and then: progress tells how many bytes there are.
func (c *Client) patiently(ctx context.Context, progress func() int64, request func() error) error {
	pause := c.Pause
	for failed := 1; ; failed++ {
		before := progress()
		err := request()
		var f *fault
		if err == nil || !errors.As(err, &f) || !f.retry {
			return err
		}
		if progress() > before {
			failed, pause = 1, c.Pause
		}
		wait := max(pause, f.after)
		if failed == attempts || wait > longPause {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		pause *= 2
	}
}

// Version is what a server calls the version of a file; a zero one is none.
type Version struct {
	ETag     string `json:"etag,omitempty"`
	Modified string `json:"modified,omitempty"`
}

// Get writes the small file to out, which it empties first, unless the server still has the version that is given: then
// changed is false. More than limit bytes are ErrInvalid.
func (c *Client) Get(ctx context.Context, file string, limit int64, have Version, out *os.File) (now Version, changed bool, err error) {
	header := http.Header{}
	if have.ETag != "" {
		header.Set("If-None-Match", have.ETag)
	}
	if have.Modified != "" {
		header.Set("If-Modified-Since", have.Modified)
	}
	get := func(one *Client) error {
		answer, end, err := one.ask(ctx, file, header)
		if err != nil {
			return err
		}
		defer end()
		defer answer.Body.Close()
		if err := check(answer); err != nil {
			return err
		}
		if answer.StatusCode == http.StatusNotModified {
			now, changed = have, false
			return nil
		}
		now, changed = Version{answer.Header.Get("ETag"), answer.Header.Get("Last-Modified")}, true
		return rewrite(out, answer.Body, limit)
	}
	err = c.InTurn(ctx, func(one *Client) error {
		return one.patiently(ctx, func() int64 { return 0 }, func() error { return get(one) })
	})
	return now, changed, c.about(file, err)
}

// rewrite makes out hold what r gives and nothing else.
func rewrite(out *os.File, r io.Reader, limit int64) error {
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := out.Truncate(0); err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = wrongly("it has more than %d MiB", limit>>20)
	}
	return err
}
