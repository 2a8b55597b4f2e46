package rootfs

import (
	"archive/tar"
	"encoding/binary"
	"strings"
)

// owners says how a copy changes owners: `size` ids from `from` on become those from `to` on. The zero value changes none.
type owners struct {
	from, to int
	size     uint32
}

// id is what an owner becomes. One that no machine has becomes nobody, as a machine sees it through a shifting mount.
func (o owners) id(id uint32) uint32 {
	if o == (owners{}) {
		return id
	}
	n := int64(id) - int64(o.from)
	if n < 0 || n >= int64(o.size) {
		n = nobody
	}
	return uint32(int64(o.to) + n)
}

const nobody = 65534

// attribute is what the value of an extended attribute becomes: two of them hold ids.
func (o owners) attribute(name string, value []byte) []byte {
	switch {
	case o == (owners{}):
		return value
	case name == "security.capability":
		return o.capability(value)
	case name == "system.posix_acl_access", name == "system.posix_acl_default":
		return o.acl(value)
	}
	return value
}

// header changes all ids in the header of one file.
func (o owners) header(h *tar.Header) {
	if o == (owners{}) {
		return
	}
	h.Uid, h.Gid = int(o.id(uint32(h.Uid))), int(o.id(uint32(h.Gid)))
	o.records(h)
}

// records changes the ids in the extended attributes of a header.
func (o owners) records(h *tar.Header) {
	for key, value := range h.PAXRecords {
		name := strings.TrimPrefix(key, xattrRecord)
		if value = string(o.attribute(name, []byte(value))); name == capability {
			value = plainCapability(value)
		}
		h.PAXRecords[key] = value
	}
}

// capability makes the file capabilities those of the machine's root, and of nobody else's (linux/capability.h,
// vfs_ns_cap_data): version 3 with the id of the root for whom they count. Version 2 counts for the host's root alone.
func (o owners) capability(value []byte) []byte {
	const version, version3, flags, size2 = 0xff000000, 0x03000000, 0x00ffffff, 20
	if len(value) < size2 {
		return value
	}
	root := uint32(0)
	head := binary.LittleEndian.Uint32(value)
	if head&version == version3 && len(value) >= size2+4 {
		root = binary.LittleEndian.Uint32(value[size2:])
	}
	out := binary.LittleEndian.AppendUint32(nil, version3|head&flags)
	out = append(out, value[4:size2]...)
	return binary.LittleEndian.AppendUint32(out, o.id(root))
}

// acl changes the ids of named users and groups (linux/posix_acl_xattr.h): a head of four bytes, then entries of tag,
// permissions and id.
func (o owners) acl(value []byte) []byte {
	const head, entry, user, group = 4, 8, 0x02, 0x08
	out := append([]byte(nil), value...)
	for at := head; at+entry <= len(out); at += entry {
		if tag := binary.LittleEndian.Uint16(out[at:]); tag == user || tag == group {
			id := binary.LittleEndian.Uint32(out[at+4:])
			binary.LittleEndian.PutUint32(out[at+4:], o.id(id))
		}
	}
	return out
}
