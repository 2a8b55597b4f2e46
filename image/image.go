// Package image keeps the images of one croft root: layers named by what they contain, one record per image, and the
// aliases that people call them by. It takes images in from archives, directories and files that hold a filesystem.
//
// It never mounts anything itself, never knows instances (who uses an image is asked of the caller) and never changes a layer
// once it is published: running machines share it.
package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"croft/state"
)

// schema is the version of image.json that this build writes. It reads older ones and refuses newer ones.
const schema = 1

// What an image was made of.
const (
	KindRootfs   = "rootfs" // an archive of a root filesystem, or a directory
	KindSquashfs = "squashfs"
	KindEROFS    = "erofs"
	KindLXD      = "lxd" // LXD's and Incus's unified and split images

	KindPublished = "published" // a machine: the layers of its image and one of what it had changed
)

// Image is one image in the store. The record is written once, at import; the aliases live apart from it.
type Image struct {
	Schema       int       `json:"schema"`
	Fingerprint  string    `json:"fingerprint"` // a hex sha256: of a rootfs uncompressed, of a published one of its record, of all other kinds as it came
	Kind         string    `json:"kind"`
	Architecture string    `json:"architecture,omitempty"` // as `uname -m` says it; empty when no program told
	OS           string    `json:"os,omitempty"`           // ID of os-release
	Release      string    `json:"release,omitempty"`      // VERSION_ID or VERSION_CODENAME of os-release
	Description  string    `json:"description,omitempty"`  // PRETTY_NAME of os-release
	Size         int64     `json:"size"`                   // of its layers
	Created      time.Time `json:"created"`                // LXD's creation date, else the time of the root directory
	Imported     time.Time `json:"imported"`
	Layers       []Layer   `json:"layers"` // lowest first

	Expires    *time.Time        `json:"expires,omitempty"`    // LXD's expiry date
	Properties map[string]string `json:"properties,omitempty"` // LXD's: os, release, variant, serial and others
	Config     *Config           `json:"config,omitempty"`     // an OCI image's: what to run in it

	Origin *Origin `json:"origin,omitempty"` // of an image that was pulled

	Aliases []string `json:"-"` // sorted; REMOTE:NAME is one that follows what the remote has
	Alias   string   `json:"-"` // the one of them that it was got by; "" when that was a fingerprint
	Damaged string   `json:"-"` // why the record cannot be used; empty when it can
}

// Origin says where an image was pulled from.
type Origin struct {
	Remote   string `json:"remote"`
	URL      string `json:"url"`                 // of the remote
	Name     string `json:"name"`                // that it was asked for by
	Serial   string `json:"serial,omitempty"`    // of the build, as the remote counts them
	SignedBy string `json:"signed_by,omitempty"` // fingerprint and name of the key; "" when nobody's was asked for
}

// Layer is one filesystem, shared by all images that have it: an unpacked tree or a file.
type Layer struct {
	Digest string `json:"digest"`           // "sha256:" and the hex sha256 of the uncompressed tar (the OCI diff id) or file
	Size   int64  `json:"size"`             // bytes of the unpacked files, or of the file
	Format string `json:"format,omitempty"` // of a file: squashfs or erofs; empty for a tree
}

// hex is the layer's name in the store.
func (l Layer) hex() string { return strings.TrimPrefix(l.Digest, "sha256:") }

// Host tells the architecture of this machine, as `uname -m` does in a process of the machine's native personality.
func Host() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Machine[:])
}

// Runs tells whether a machine of architecture host executes the image's programs natively. An image of unknown
// architecture is given the benefit of the doubt: execve will tell.
func (i Image) Runs(host string) bool {
	switch i.Architecture {
	case "", host:
		return true
	case "i686":
		return host == "x86_64"
	case "armv7l", "armv5tel":
		return host == "aarch64" || host == "armv7l" || host == "armv8l"
	}
	return false
}

// Name is how to call the image towards a person: its first alias, else the short fingerprint.
func (i Image) Name() string {
	if len(i.Aliases) > 0 {
		return i.Aliases[0]
	}
	return i.Fingerprint[:min(12, len(i.Fingerprint))]
}

// load reads one image's record, without its aliases. A record that cannot be used is an error; its text is Damaged.
func (s *Store) load(fingerprint string) (Image, error) {
	img := Image{Fingerprint: fingerprint}
	data, err := os.ReadFile(filepath.Join(s.Dir, fingerprint, recordName))
	if err != nil {
		return img, err
	}
	var read Image
	if err := json.Unmarshal(data, &read); err != nil {
		return img, fmt.Errorf("%s of image %s: %w", recordName, fingerprint, err)
	}
	return read, read.check(fingerprint)
}

// check refuses a record that would send its reader somewhere else in the filesystem.
func (i Image) check(fingerprint string) error {
	wrong := func(what string) error {
		return fmt.Errorf("%s of image %s: %s %w", recordName, fingerprint, what, state.ErrInvalid)
	}
	switch {
	case i.Schema > schema:
		return fmt.Errorf("image %s was written by a newer croft: schema %d %w", fingerprint, i.Schema, state.ErrUnsupported)
	case i.Schema < 1:
		return wrong("schema")
	case i.Fingerprint != fingerprint:
		return wrong("fingerprint")
	case len(i.Layers) == 0 || slices.ContainsFunc(i.Layers, func(l Layer) bool { return !isDigest(l.hex()) }):
		return wrong("list of layers")
	}
	return nil
}

// isDigest tells a whole hex sha256, as fingerprints and layer directories are named.
func isDigest(s string) bool { return len(s) == 64 && isHex(s) }

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
