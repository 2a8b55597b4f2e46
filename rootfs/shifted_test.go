package rootfs

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// onOverlay mounts an overlay for the test and gives its directory.
func onOverlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, map[string]string{"low/": "", "up/": "", "work/": "", "at/": ""})
	at := filepath.Join(dir, "at")
	options := "lowerdir=" + dir + "/low,upperdir=" + dir + "/up,workdir=" + dir + "/work"
	try(t, unix.Mount("overlay", at, "overlay", 0, options))
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

// The driver is for overlays, so the whole suite passes on one.
func TestShiftedOnOverlay(t *testing.T) {
	if !private(t) {
		return
	}
	for _, s := range suite {
		if s.name == "layers: one, three, many" || s.name == "remove with a mount inside" {
			continue // they make rigs, or roots, of their own
		}
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, Shifted{})
			r.root.Dir = filepath.Join(onOverlay(t), "roots", "web")
			try(t, os.MkdirAll(filepath.Dir(r.root.Dir), 0o711))
			s.test(r)
		})
	}
}

// Killed between the rename of a new copy and the removal of the old one both are there, and either may be the one that
// is asked for next.
func TestShiftedTwice(t *testing.T) {
	if !private(t) {
		return
	}
	other := state.Range{Base: base.Base + 3*idmap.Size, Size: idmap.Size}
	for _, next := range []state.Range{base, other} {
		r := newRig(t, Shifted{})
		r.mount()
		r.does("echo mine >/mine; rm /etc/motd", "")
		r.unmount()
		try(t, copyShifted(r.root, int(other.Base), []int{int(base.Base)}))
		put(t, r.root.Dir, map[string]string{".new-fs/half": "of a copy that was interrupted"})
		r.userns = namespace(t, next)
		r.mount()
		r.does("cat /mine; ls -ln /mine | { read a b c d e; echo $c; }; ls /etc", "mine\n0\nconf.d\nhostname\n")
		if others, err := otherShifted(r.root, int(next.Base)); err != nil || others != nil {
			t.Errorf("left: %v, %v", others, err)
		}
	}
}

func TestShiftedAttributes(t *testing.T) {
	if !private(t) {
		return
	}
	r := newRig(t, Shifted{})
	image := r.root.Layers[0]
	acl := []byte{2, 0, 0, 0}
	entry := func(tag, perm uint16, id uint32) {
		acl = binary.LittleEndian.AppendUint16(acl, tag)
		acl = binary.LittleEndian.AppendUint16(acl, perm)
		acl = binary.LittleEndian.AppendUint32(acl, id)
	}
	const user, userNamed, group, groupNamed, mask, rest, none = 1, 2, 4, 8, 16, 32, 0xffffffff
	entry(user, 6, none)
	entry(userNamed, 4, 33)
	entry(group, 4, none)
	entry(groupNamed, 4, 44)
	entry(mask, 4, none)
	entry(rest, 0, none)
	try(t, unix.Setxattr(filepath.Join(image, "etc/motd"), "system.posix_acl_access", acl, 0))
	try(t, os.Lchown(filepath.Join(image, "etc/conf.d/a"), 100000, 65535))
	hole := filepath.Join(image, "hole")
	f, err := os.Create(hole)
	try(t, err)
	_, err = f.WriteAt([]byte("end"), 1<<26)
	try(t, err)
	try(t, f.Close())
	r.hash = hash(t, r.root.Layers)
	r.mount()

	value := make([]byte, 100)
	n, err := unix.Getxattr(r.disk("etc/motd"), "system.posix_acl_access", value)
	try(t, err)
	want := append([]byte(nil), acl...)
	binary.LittleEndian.PutUint32(want[4+8+4:], base.Base+33)
	binary.LittleEndian.PutUint32(want[4+3*8+4:], base.Base+44)
	if got := string(value[:n]); got != string(want) {
		t.Errorf("acl on disk is %x, want %x", got, want)
	}
	r.does("stat -c '%u %g' /etc/conf.d/a", "65534 65535\n")
	var st unix.Stat_t
	try(t, unix.Stat(r.disk("hole"), &st))
	if st.Size != 1<<26+3 || st.Blocks > 100 {
		t.Errorf("a file of %d bytes with a hole takes %d blocks", st.Size, st.Blocks)
	}
	end := make([]byte, 3)
	copied, err := os.Open(r.disk("hole"))
	try(t, err)
	defer copied.Close()
	if _, err := copied.ReadAt(end, 1<<26); err != nil || string(end) != "end" {
		t.Errorf("it ends in %q, %v", end, err)
	}
}
