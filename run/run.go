// Package run is the engine: it turns a record into a running machine and back into nothing.
//
// The order of a start stands once, as the table in steps.go; what each step needs is decided before by pure
// functions (plan.go, oci.go). Once started a machine is held by the keeper (keeper.c), not by Go. This
// package never parses a command line and never prints: faces do (run/cli).
package run

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"croft/idmap"
	"croft/image"
	"croft/image/simplestreams"
	"croft/rootfs"
	"croft/state"
)

// Version of this build, stamped by the Makefile.
var Version = "dev" // a variable only because the linker can set nothing else

// Engine works on the instances of one croft root.
type Engine struct {
	Dir    *state.Dir
	Images *image.Store
	Pool   state.Range       // machines get their ids out of it
	Ports  netip.Addr        // where ports are published that are given without an address; zero: at all addresses
	Subnet netip.Prefix      // networks get their IPv4 subnets out of it; zero: out of what is private and free
	Log    func(line string) // takes what a start logs; nil: nobody reads it

	Settings string // the directory of the host's settings; remotes and their keys stand there
}

// Open gives the engine of the root and run directories, making them where they are missing.
func Open(root, runDir string) (*Engine, error) {
	dir, err := state.Open(root, runDir)
	if err != nil {
		return nil, err
	}
	ports, _ := netip.ParseAddr(os.Getenv(envPorts)) // as Pool, of whoever started this process of a machine
	return &Engine{Dir: dir, Images: images(dir), Pool: inheritPool(), Ports: ports}, nil
}

// DefaultPool is where machines get their ids unless it is said otherwise.
func DefaultPool() state.Range { return idmap.Pool }

// inheritPool is the pool of whoever started this process of a machine.
func inheritPool() state.Range {
	var r state.Range
	if _, err := fmt.Sscanf(os.Getenv(envPool), "%d+%d", &r.Base, &r.Size); err != nil {
		return DefaultPool()
	}
	return r
}

// These are the store's: faces know the engine and not what stands below it.
type (
	Image         = image.Image
	ImageConfig   = image.Config
	ImportOptions = image.ImportOptions
	ExportOptions = image.ExportOptions
	PullOptions   = image.PullOptions
	LayerProgress = image.LayerProgress
	Remote        = image.Remote
	Remotes       = image.Remotes
	Offer         = image.Offer
	Origin        = image.Origin
	Tree          = simplestreams.Tree
	TreeImage     = simplestreams.TreeImage
)

// The formats of an exported image.
const (
	FormatUnified = image.FormatUnified
	FormatSplit   = image.FormatSplit
	FormatOCI     = image.FormatOCI
)

// Protocols that a remote may speak.
const (
	ProtocolStreams = image.ProtocolStreams
	ProtocolOCI     = image.ProtocolOCI
)

// Login keeps the password of a registry that takes it; Logout forgets it, that of all registries for "".
func Login(ctx context.Context, registry, user, password string, insecure bool) error {
	return image.Login(ctx, registry, user, password, insecure)
}

func Logout(registry string) error { return image.Logout(registry) }

func images(dir *state.Dir) *image.Store {
	return &image.Store{Dir: dir.Images(), Unpack: unpack, Pack: rootfs.Pack, Mount: rootfs.MountFile, Merge: rootfs.Merge, OpenLayer: rootfs.OpenLayer}
}

// Unique is, by fingerprint, how many bytes of each image no other one of them has.
func Unique(images []Image) map[string]int64 { return image.Unique(images) }

// CheckAlias tells whether alias may name an image.
func CheckAlias(alias string) error { return image.CheckAlias(alias) }

// Privileged says whether this process may do what machines need.
func Privileged() bool { return os.Geteuid() == 0 }
