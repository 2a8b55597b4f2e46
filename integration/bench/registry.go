package main

import (
	"archive/tar"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"croft/integration/imageserver"
)

// The image of measureRegistry: so many layers of so many files of so many bytes, 300 MB in all. Text of no meaning, of which
// gzip leaves about half.
const imageLayers, layerFiles, layerFileBytes = 4, 300, 250_000

func layoutDir() string { return filepath.Join(benchDir(), "layout") }

// makeLayout makes an OCI layout, once: large, and other, which has another layer in place of the topmost.
func makeLayout() error {
	if _, err := os.Stat(layoutDir()); err == nil {
		return nil
	}
	aside := layoutDir() + ".new"
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if _, err := tool("umoci", "init", "--layout", aside); err != nil {
		return err
	}
	if _, err := tool("umoci", "new", "--image", aside+":large"); err != nil {
		return err
	}
	add := func(tag string, layer int) error {
		file := filepath.Join(benchDir(), "layer.tar")
		defer os.Remove(file)
		if err := makeLayer(file, layer); err != nil {
			return err
		}
		_, err := tool("umoci", "raw", "add-layer", "--image", aside+":"+tag, file)
		return err
	}
	for layer := range imageLayers {
		if layer == imageLayers-1 {
			if _, err := tool("umoci", "tag", "--image", aside+":large", "other"); err != nil {
				return err
			}
			if err := add("other", imageLayers); err != nil {
				return err
			}
		}
		if err := add("large", layer); err != nil {
			return err
		}
	}
	return os.Rename(aside, layoutDir())
}

func makeLayer(path string, layer int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	random, text := make([]byte, layerFileBytes/2), make([]byte, layerFileBytes)
	for i := range layerFiles {
		if _, err := rand.Read(random); err != nil {
			return err
		}
		hex.Encode(text, random)
		h := &tar.Header{Name: fmt.Sprintf("srv/layer%d/file%d", layer, i), Mode: 0o644, Size: layerFileBytes, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), f.Close())
}

// startRegistry starts Debian's docker-registry on loopback.
func (b *bench) startRegistry() (addr string, stop func(), err error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = free.Addr().String()
	config := filepath.Join(b.work, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n",
		filepath.Join(b.work, "registry"), addr)
	if err := errors.Join(os.WriteFile(config, []byte(text), 0o600), free.Close()); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait() }
	err = await("registry", 20*time.Second, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err != nil {
		stop()
	}
	return addr, stop, err
}

// measureRegistry: an image of a registry is a machine that can be started in half the time that skopeo and umoci need for a tree,
// and of a second one that shares layers only the others come.
func measureRegistry(b *bench) error {
	addr, stop, err := b.startRegistry()
	if err != nil {
		return err
	}
	defer stop()
	for _, tag := range []string{"large", "other"} {
		if _, err := tool("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "oci:"+layoutDir()+":"+tag, "docker://"+addr+"/"+tag); err != nil {
			return err
		}
	}
	c := *b.croft
	c.root = filepath.Join(b.work, "pulled")
	create := c.do("create", "--network", "none", "--tls-verify=false", "--no-boot", "--name", "pulled", addr+"/large", "true")
	forget := func() error {
		_, err := b.output(c.do("rm", "pulled"))
		if err == nil {
			_, err = b.output(c.do("image", "rm", addr+"/large:latest"))
		}
		return err
	}
	tree := filepath.Join(b.work, "tree")
	peer := command{args: []string{"sh", "-ec", `mkdir "$1"
		skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$2/large" "oci:$1/layout:large"
		umoci unpack --image "$1/layout:large" "$1/bundle"`, "sh", tree, addr}}
	var ours, theirs samples
	err = interleave(max(3, b.n/4),
		func(int) error { return errors.Join(b.timed(&ours, create), forget()) },
		func(int) error { return errors.Join(b.timed(&theirs, peer), os.RemoveAll(tree)) })
	if err != nil {
		return err
	}
	b.compare(fmt.Sprintf("pull of %d layers, %d MB, to a machine", imageLayers, imageLayers*layerFiles*layerFileBytes/1_000_000), ours,
		"skopeo copy and umoci unpack", theirs, 0.5)
	peak, err := peakMemory(create)
	if err != nil {
		return err
	}
	b.limit("memory of that", fmt.Sprintf("%.1f MB", float64(peak)/1e6), "<= 100 MB", peak <= 100e6)
	return b.measureShared(&c, addr)
}

// measureShared pulls the image that shares all layers but one with what is there.
func (b *bench) measureShared(c *croft, addr string) error {
	front, err := imageserver.Start("http://" + addr)
	if err != nil {
		return err
	}
	defer front.Close()
	before := c.disk()
	if _, err := b.output(c.do("image", "pull", "--tls-verify=false", front.Host()+"/other")); err != nil {
		return err
	}
	const layer, slack = layerFiles * layerFileBytes, 1 << 20
	served, written := front.Sent(), c.disk()-before
	b.limit("pull of an image that shares three of four layers: downloaded; on disk",
		fmt.Sprintf("%.1f MB; %.1f MB", float64(served)/1e6, float64(written)/1e6), fmt.Sprintf("<= %d MB, the fourth", (layer+slack)/1_000_000),
		served <= layer && written <= layer*21/20+slack)
	_, err = b.output(c.do("rm", "pulled"))
	return err
}
