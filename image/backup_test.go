package image

import (
	"archive/tar"
	"testing"
)

// What names an id of the host in a shifted backup names the container's afterwards: owners, file capabilities, access lists.
func TestBackupUnshifts(t *testing.T) {
	b := &backupReader{ids: []idRange{
		{UIDs: true, Host: 1000000, Guest: 0, Size: 65536},
		{GIDs: true, Host: 2000000, Guest: 0, Size: 65536},
	}}
	const (
		version3 = "\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // then the id of a root
		version2 = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
		cap, acl = "SCHILY.xattr.security.capability", "SCHILY.xattr.system.posix_acl_access"
	)
	h := &tar.Header{Uid: 1000007, Gid: 2000008, PAXRecords: map[string]string{
		cap: version3 + "\x40\x42\x0f\x00",
		// A user 1000005, a group 2000006, and the mask, which names nobody.
		acl:        "\x02\x00\x00\x00\x02\x00\x04\x00\x45\x42\x0f\x00\x08\x00\x04\x00\x86\x84\x1e\x00\x10\x00\x04\x00\xff\xff\xff\xff",
		"user.any": "\x45\x42\x0f\x00",
	}}
	b.unshift(h)
	if h.Uid != 7 || h.Gid != 8 {
		t.Errorf("%d:%d", h.Uid, h.Gid)
	}
	if got := h.PAXRecords[cap]; got != version2 {
		t.Errorf("%q", got)
	}
	if got, want := h.PAXRecords[acl], "\x02\x00\x00\x00\x02\x00\x04\x00\x05\x00\x00\x00\x08\x00\x04\x00\x06\x00\x00\x00\x10\x00\x04\x00\xff\xff\xff\xff"; got != want {
		t.Errorf("%q", got)
	}
	// Of an id that the container did not have it saw nobody.
	h = &tar.Header{Uid: 5}
	if b.unshift(h); h.Uid != 65534 {
		t.Error(h.Uid)
	}
	// The root directory belongs to root: nothing is shifted here, whatever the configuration says.
	if b.root(&tar.Header{Uid: 0}); b.ids != nil || !b.seen {
		t.Error(b.ids)
	}
}
