package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// within gives an error that must come, and not take for ever.
func within(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it hangs")
	}
}

// Mounted by host root, who is nobody in the shifted upper, overlayfs comes up read-only and says so only in
// the kernel's log: here it must be an error.
func TestReadOnlyOverlayIsLoud(t *testing.T) {
	if !private(t) {
		return
	}
	r := newRig(t, Overlay{})
	r.create()
	all, err := cloneTrees([]string{r.root.Layers[0], upperOf(r.root)}, r.userns)
	try(t, err)
	defer all.close()
	err = all.mountByFd(r.at)
	if errors.Is(err, errNoFdLayers) {
		err = all.mountByPath(0, scratchOf(r.at), r.at)
	}
	try(t, err)
	err = writable(r.at)
	if !errors.Is(err, state.ErrUnsupported) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("%v, want it to say that it is read-only", err)
	}
	if n := r.mounted(); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

// Mount(2) would cut the list of layers off after a page, and with it the upper.
func TestTooManyLayersByPath(t *testing.T) {
	if !private(t, PathMode+"=path") {
		return
	}
	r := newRig(t, Overlay{})
	image := r.root.Layers
	defer func() { r.root.Layers = image }()
	for range 300 {
		r.root.Layers = append(r.root.Layers[:len(r.root.Layers):len(r.root.Layers)], image[0])
	}
	r.create()
	if err := r.driver.Mount(r.root, r.userns, r.at); !errors.Is(err, state.ErrUnsupported) || !strings.Contains(err.Error(), "too many") {
		t.Errorf("%v, want that it says so", err)
	}
	if n := r.mounted(); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

// Overlayfs must not follow what a machine plants in its upper to reach files that its layers hide.
func TestOverlayOptions(t *testing.T) {
	for _, mode := range []string{"fd", "path"} {
		t.Run(mode, func(t *testing.T) {
			if private(t, PathMode+"="+mode) {
				overlayOptionsHold(newRig(t, Overlay{}))
			}
		})
	}
}

func overlayOptionsHold(r *rig) {
	t := r.T
	r.mount()
	data, err := os.ReadFile("/proc/self/mountinfo")
	try(t, err)
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, " "+r.at+" ") {
			continue
		}
		for _, o := range []string{"redirect_dir=nofollow"} { // the kernel shows only what differs from its defaults
			if !strings.Contains(line, o) {
				t.Errorf("%s is not among %s", o, line)
			}
		}
		if strings.Contains(line, "metacopy=on") || strings.Contains(line, "index=on") {
			t.Error(line)
		}
		if strings.Contains(line, r.root.Dir) || strings.Contains(line, r.root.Layers[0]) {
			t.Errorf("the machine can read paths of the host: %s", line)
		}
		return
	}
	t.Error("it is not mounted")
}

func TestPickOnOverlay(t *testing.T) {
	if !private(t) {
		return
	}
	dir := t.TempDir()
	if name, err := Pick(dir); err != nil || name != "overlay" {
		t.Errorf("%s: %q %v", dir, name, err)
	}
	put(t, dir, map[string]string{"low/": "", "up/": "", "work/": "", "at/": ""})
	at := filepath.Join(dir, "at")
	options := "lowerdir=" + dir + "/low,upperdir=" + dir + "/up,workdir=" + dir + "/work"
	try(t, unix.Mount("overlay", at, "overlay", 0, options))
	defer unix.Unmount(at, unix.MNT_DETACH)
	if name, err := Pick(at); err != nil || name != "shifted" {
		t.Errorf("on an overlay: %q %v", name, err)
	}
	if left := dirNames(t, at); left != nil {
		t.Errorf("left: %v", left)
	}
	memory := filepath.Join(dir, "low")
	try(t, unix.Mount("none", memory, "tmpfs", 0, ""))
	defer unix.Unmount(memory, unix.MNT_DETACH)
	if name, err := Pick(memory); err != nil || name != "overlay" {
		t.Errorf("in memory: %q %v", name, err)
	}
	if left := dirNames(t, memory); left != nil {
		t.Errorf("left: %v", left)
	}
	if _, err := Pick(filepath.Join(dir, "no")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestDriversByName(t *testing.T) {
	for name, want := range map[string]bool{"overlay": true, "dir": true, "shifted": true, "": false, "zfs": false} {
		if d, ok := Drivers(name); ok != want || want == (d == nil) {
			t.Errorf("%q: %v, %v", name, d, ok)
		}
	}
}

func TestClear(t *testing.T) {
	if !private(t) {
		return
	}
	precious := t.TempDir()
	put(t, precious, map[string]string{"data": "x"})
	dir := filepath.Join(t.TempDir(), "web")
	put(t, dir, map[string]string{"a/b c/": "", "d/": ""})
	for _, at := range []string{"a", "a", "d"} { // one over the other
		try(t, unix.Mount(precious, filepath.Join(dir, at), "", unix.MS_BIND, ""))
	}
	put(t, dir+"-other", map[string]string{"x/": ""})
	try(t, unix.Mount(precious, dir+"-other/x", "", unix.MS_BIND, ""))
	for range 2 {
		try(t, Clear(dir))
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("it is still there")
	}
	if points, err := mountsBelow(filepath.Dir(dir)); err != nil || len(points) != 1 || !strings.HasSuffix(points[0], "-other/x") {
		t.Errorf("mounted: %v, %v", points, err)
	}
	if got := dirNames(t, precious); len(got) != 1 {
		t.Errorf("what was mounted holds %v", got)
	}
	unix.Unmount(dir+"-other/x", 0)
}
