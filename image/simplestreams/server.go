// Package simplestreams reads what image servers offer: an index, signed or not, that names lists of products, of which
// each has builds, and each build the files that an image of LXD or Incus is made of. It keeps what it has read in a
// directory, and asks the server what has changed since.
//
// It never downloads an image itself, and does not know what becomes of one.
package simplestreams

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"croft/image/fetch"
	"croft/state"
)

// Server is one that speaks simplestreams.
type Server struct {
	Files *fetch.Client
	Name  string
	URL   string
	Cache string // a directory for this server alone, made when it is needed
	Keys  *Keys  // that its lists have to be signed by; nil where signatures do not count
}

// wrong is an error of what a server says.
type wrong string

func (w wrong) Error() string { return string(w) }

func (w wrong) Unwrap() error { return state.ErrInvalid }

func wrongly(format string, args ...any) error { return wrong(fmt.Sprintf(format, args...)) }

const (
	indexPath = "streams/v1/index.json"

	maxIndex = 16 << 20
	maxList  = 512 << 20
)

// Catalog gives what the server offers, as it was no longer ago than fresh. When the server cannot be asked it is an
// error, together with what it offered when it could, if that is known.
func (s *Server) Catalog(ctx context.Context, fresh time.Duration) (*Catalog, error) {
	known, err := readCatalog(s.Cache, s.URL)
	if err != nil && !errors.Is(err, errNoCatalog) {
		return nil, err
	}
	if known != nil && !s.Keys.accept(known.SignedBy) {
		known = nil // it was read when other keys counted
	}
	if known != nil && time.Since(known.Checked) < fresh && time.Since(known.Checked) >= 0 {
		return known, nil
	}
	if err := os.MkdirAll(s.Cache, 0o700); err != nil {
		return known, err
	}
	lock, err := state.Lock(filepath.Join(s.Cache, ".lock"))
	if err != nil {
		return known, err
	}
	defer lock.Close()
	err = s.Files.InTurn(ctx, func(one *fetch.Client) error {
		at := *s
		at.Files = one // a list and its signature have to come from one place
		return at.update(ctx, known)
	})
	if errors.Is(err, state.ErrInvalid) {
		return nil, err // it can be asked, and what it says now is not to be used: this is no time for what it said before
	}
	if err != nil {
		return known, err
	}
	return readCatalog(s.Cache, s.URL)
}

// update asks the server for what has changed since known, nil for nothing known, and makes a new catalogue of it.
func (s *Server) update(ctx context.Context, known *Catalog) error {
	had := header{}
	if known != nil {
		had = known.header
	}
	now := header{Format: format, URL: s.URL}
	index, err := s.get(ctx, indexPath, maxIndex, had.Index, signed{had.SignedBy, had.SignedAt})
	if err != nil {
		return err
	}
	defer index.discard()
	now.Index, now.SignedBy, now.SignedAt = index.version, index.signed.by, index.signed.at
	var paths []string
	if index.changed {
		if paths, err = parseIndex(index.file); err != nil {
			return fmt.Errorf("%s: %s: %w", s.Name, indexPath, err)
		}
	} else {
		for _, l := range had.Lists {
			paths = append(paths, l.Path)
		}
	}
	same := !index.changed
	for _, path := range paths {
		l, changed, err := s.list(ctx, path, had)
		if err != nil {
			return err
		}
		now.Lists = append(now.Lists, l)
		same = same && !changed
	}
	if same {
		at := time.Now()
		return os.Chtimes(filepath.Join(s.Cache, catalogName), at, at)
	}
	if err := writeCatalog(s.Cache, now); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return s.sweep(now)
}

// list gets a list of products, unless it is the one that lies in the cache.
func (s *Server) list(ctx context.Context, path string, had header) (l list, changed bool, err error) {
	at := slices.IndexFunc(had.Lists, func(l list) bool { return l.Path == path })
	if at >= 0 {
		l = had.Lists[at]
		if _, err := os.Stat(filepath.Join(s.Cache, l.File)); err != nil {
			l = list{SignedAt: l.SignedAt}
		}
	}
	came, err := s.get(ctx, path, maxList, l.Version, signed{had.SignedBy, l.SignedAt})
	if err != nil {
		return l, false, err
	}
	defer came.discard()
	if !came.changed {
		return l, false, nil
	}
	sum := sha256.Sum256([]byte(path + "\n" + time.Now().String()))
	l = list{Path: path, Version: came.version, SignedAt: came.signed.at, File: hex.EncodeToString(sum[:8]) + ".json"}
	return l, true, os.Rename(came.file.Name(), filepath.Join(s.Cache, l.File))
}

// reply is what the server has sent for a path: a new version of the file, unless the old one still is what it has.
type reply struct {
	file    *os.File // read from the start; nil when it has not changed
	version fetch.Version
	changed bool
	signed  signed
}

func (r *reply) discard() {
	if r.file != nil {
		r.file.Close()
		os.Remove(r.file.Name()) // unless it was kept, under another name
	}
}

// get asks for a file that the server signs, if it does. had is the version that we have, and before what its signature
// said.
func (s *Server) get(ctx context.Context, path string, limit int64, had fetch.Version, before signed) (*reply, error) {
	file, err := os.CreateTemp(s.Cache, ".new-")
	if err != nil {
		return nil, err
	}
	r := &reply{file: file}
	if s.Keys != nil {
		r.signed = before
	}
	r.version, r.changed, err = s.Files.Get(ctx, path, limit, had, file)
	if err == nil && r.changed && s.Keys != nil {
		if r.signed, err = s.check(ctx, path, file); err == nil {
			r.signed.at, err = s.notBack(path, r.signed.at, before.at)
		}
	}
	if err == nil && r.changed {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil || !r.changed {
		r.discard()
		r.file = nil
	}
	return r, err
}

// notBack refuses a file that was signed before one that we have had of it, and gives the later of both times: whoever
// can only send what was signed once must not take us back to a build whose holes are known. Of a time in the future nobody
// could ever have a later one.
func (s *Server) notBack(path string, at, before time.Time) (time.Time, error) {
	if now := time.Now(); at.After(now) {
		at = now.UTC().Truncate(time.Second)
	}
	if at.After(before) {
		return at, nil
	}
	if before.Sub(at) <= together {
		return before, nil
	}
	err := s.about(path, fmt.Errorf("it was signed on %s, and we have had the one of %s", at.Format(time.DateTime), before.Format(time.DateTime)))
	return at, state.Hint(err, "if its publisher went back, rm -r "+s.Cache)
}

// together is how far apart the signatures of one publication may be made, and how long a publisher's own mirrors need to have it.
const together = time.Hour

// sweep deletes what of the cache the catalogue does not name.
func (s *Server) sweep(h header) error {
	entries, err := os.ReadDir(s.Cache)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if name == catalogName || name == ".lock" || slices.ContainsFunc(h.Lists, func(l list) bool { return l.File == name }) {
			continue
		}
		if err := os.Remove(filepath.Join(s.Cache, name)); err != nil {
			return err
		}
	}
	return nil
}
