package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"croft/integration/imageserver"
)

// offered is how many products the server has of which images are listed, localImages how many images this host.
const offered, localImages = 5000, 10

// measureOffers: to list what a server has takes little longer than to list what is here, and where that was never read no
// longer than to parse it.
func measureOffers(b *bench) error {
	web, settings := filepath.Join(b.work, "web"), filepath.Join(b.work, "settings")
	if err := imageserver.Large(web, offered); err != nil {
		return err
	}
	server, err := imageserver.Start(web)
	if err != nil {
		return err
	}
	defer server.Close()
	c := *b.croft
	c.root = filepath.Join(b.work, "offers")
	do := func(args ...string) command {
		cmd := c.do(args...)
		cmd.env = append(cmd.env, "CROFT_CONFIG="+filepath.Join(settings, "croft.toml"))
		return cmd
	}
	ca := filepath.Join(settings, "ca.pem")
	if err := os.Mkdir(settings, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{ca: string(server.CA), filepath.Join(settings, "croft.toml"): ""} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := b.output(do("remote", "add", "--ca", ca, "large", server.URL)); err != nil {
		return err
	}
	if err := c.smallImages(do); err != nil {
		return err
	}
	var cold, warm, here, parsed samples
	cached, list := filepath.Join(c.root, "images", "remotes"), do("image", "list", "large:")
	err = interleave(b.n,
		func(int) error {
			if err := os.RemoveAll(cached); err != nil {
				return err
			}
			return b.timed(&cold, list)
		},
		func(int) error { return b.timed(&warm, list) },
		func(int) error { return b.timed(&here, do("image", "list")) },
		func(int) error {
			return b.timed(&parsed, command{args: []string{"jq", "length", filepath.Join(web, "streams", "v1", "images.json")}})
		})
	if err != nil {
		return err
	}
	b.compare(fmt.Sprintf("list of %d images of a remote", offered), warm, fmt.Sprintf("of %d that are here", localImages), here, 3)
	b.compare("the same, read for the first time", cold, "jq length of it", parsed, 2)
	if err := os.RemoveAll(cached); err != nil {
		return err
	}
	peak, err := peakMemory(list)
	b.limit("memory of that", fmt.Sprintf("%.1f MB", float64(peak)/1e6), "<= 80 MB", peak <= 80e6)
	return err
}

// smallImages makes images of next to nothing.
func (c *croft) smallImages(do func(...string) command) error {
	for i := range localImages {
		tree := filepath.Join(c.b.work, fmt.Sprintf("tree%d", i))
		if err := os.MkdirAll(filepath.Join(tree, "etc"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, "etc", "number"), fmt.Append(nil, i), 0o644); err != nil {
			return err
		}
		if _, err := c.b.output(do("image", "import", "--alias", fmt.Sprintf("small/%d", i), tree)); err != nil {
			return err
		}
	}
	return nil
}

// peakMemory is the most that a command has had in memory, in bytes. It is looked at while it runs: what wait4(2) tells has in
// it what we had, whose memory the command shared until its exec.
func peakMemory(c command) (peak int64, err error) {
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = c.env
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	for tick := time.NewTicker(time.Millisecond); ; {
		select {
		case err := <-end:
			return peak, err
		case <-tick.C:
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)) // none once it has ended
			_, rest, _ := strings.Cut(string(status), "VmHWM:")
			var kilobytes int64
			fmt.Sscan(rest, &kilobytes)
			peak = max(peak, kilobytes<<10)
		}
	}
}
