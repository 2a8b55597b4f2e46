package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Projects: quotactl(2), with linux/quota.h and linux/dqblk_xfs.h, and the attributes of linux/fs.h.
const (
	projectKind   = 2 // PRJQUOTA
	getQuota      = 0x800007
	setQuota      = 0x800008
	getState      = 'X'<<8 + 8 // Q_XGETQSTATV, of any filesystem
	stateEnforced = 1 << 5     // FS_QUOTA_PDQ_ENFD
	validLimits   = 1          // QIF_BLIMITS
	quotaBlock    = 1024

	getAttributes = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes = 0x401c5820 // FS_IOC_FSSETXATTR
	inherits      = 0x200      // FS_XFLAG_PROJINHERIT
)

// accounts is struct if_dqblk.
type accounts struct {
	hard, soft, space              uint64 // limits in blocks, space in bytes
	hardInodes, softInodes, inodes uint64
	spaceTime, inodeTime           uint64
	valid                          uint32
	_                              uint32
}

// fsAttributes is struct fsxattr.
type fsAttributes struct {
	flags, _, _, project, _ uint32
	_                       [8]byte
}

func quotactl(f *os.File, command, id uint32, at unsafe.Pointer) error {
	_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), uintptr(command<<8|projectKind), uintptr(id), uintptr(at), 0, 0)
	if e != 0 {
		return os.NewSyscallError("quotactl_fd", e)
	}
	return nil
}

// limitsProjects says whether the filesystem of f heeds quotas of projects, and does not merely count.
func limitsProjects(f *os.File) (bool, error) {
	var state struct { // fs_quota_statv
		version int8
		_       uint8
		flags   uint16
		_       [252]byte
	}
	state.version = 1
	err := quotactl(f, getState, 0, unsafe.Pointer(&state))
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) { // none of any kind are on
		return false, nil
	}
	return state.flags&stateEnforced != 0, err
}

// usesProject says whether a project has files, or a limit.
func usesProject(f *os.File, id uint32) (bool, error) {
	var a accounts
	err := quotactl(f, getQuota, id, unsafe.Pointer(&a))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) { // xfs keeps none of what is nobody's
		return false, nil
	}
	return a.hard+a.soft+a.space+a.hardInodes+a.softInodes+a.inodes > 0, err
}

// projectQuota is the account of a project on the filesystem of f.
type projectQuota struct {
	f  *os.File
	id uint32
}

func (p projectQuota) disk() (Disk, error) {
	var a accounts
	err := quotactl(p.f, getQuota, p.id, unsafe.Pointer(&a))
	return Disk{int64(a.space), int64(a.hard * quotaBlock)}, err
}

func (p projectQuota) limit(bytes int64) error {
	blocks := uint64(bytes) / quotaBlock
	a := accounts{hard: blocks, soft: blocks, valid: validLimits}
	return quotactl(p.f, setQuota, p.id, unsafe.Pointer(&a))
}

func projectOf(f *os.File) (uint32, error) {
	var a fsAttributes
	err := ioctlAt(f, getAttributes, unsafe.Pointer(&a))
	return a.project, os.NewSyscallError("ioctl(FS_IOC_FSGETXATTR)", err)
}

func setProject(f *os.File, id uint32) error {
	var a fsAttributes
	if err := ioctlAt(f, getAttributes, unsafe.Pointer(&a)); err != nil {
		return os.NewSyscallError("ioctl(FS_IOC_FSGETXATTR)", err)
	}
	a.project, a.flags = id, a.flags|inherits
	return os.NewSyscallError("ioctl(FS_IOC_FSSETXATTR)", ioctlAt(f, setAttributes, unsafe.Pointer(&a)))
}

// Subvolumes and their qgroups: linux/btrfs.h and linux/btrfs_tree.h.
const (
	makeVolume  = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	lookUpInode = 0xd0009412 // BTRFS_IOC_INO_LOOKUP
	fsInfo      = 0x8400941f // BTRFS_IOC_FS_INFO
	searchTree  = 0xd0009411 // BTRFS_IOC_TREE_SEARCH
	limitQgroup = 0x8030942b // BTRFS_IOC_QGROUP_LIMIT

	rootInode    = 256 // BTRFS_FIRST_FREE_OBJECTID: of a subvolume's top directory
	quotaTree    = 8   // BTRFS_QUOTA_TREE_OBJECTID
	infoItem     = 242 // BTRFS_QGROUP_INFO_KEY
	limitItem    = 244 // BTRFS_QGROUP_LIMIT_KEY
	mostReferred = 1   // BTRFS_QGROUP_LIMIT_MAX_RFER
)

// hasQgroups says whether the btrfs of f counts what subvolumes use.
func hasQgroups(f *os.File) bool {
	var info [1024]byte
	if ioctlAt(f, fsInfo, unsafe.Pointer(&info)) != nil {
		return false
	}
	id := info[16:32]
	name := fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	_, err := os.Stat(filepath.Join("/sys/fs/btrfs", name, "qgroups"))
	return err == nil
}

func createSubvolume(parent *os.File, name string) error {
	var args [4096]byte // btrfs_ioctl_vol_args: a descriptor that is not used, and the name
	copy(args[8:len(args)-1], name)
	return os.NewSyscallError("ioctl(BTRFS_IOC_SUBVOL_CREATE)", ioctlAt(parent, makeVolume, unsafe.Pointer(&args)))
}

// subvolume is the number of the subvolume whose top directory f is; 0 when it is the top of none.
func subvolume(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Ino != rootInode {
		return 0, os.NewSyscallError("fstat", err)
	}
	args := [512]uint64{1: rootInode} // btrfs_ioctl_ino_lookup_args: the tree, the inode, and its path
	err := ioctlAt(f, lookUpInode, unsafe.Pointer(&args))
	return args[0], os.NewSyscallError("ioctl(BTRFS_IOC_INO_LOOKUP)", err)
}

// qgroup is the account of the subvolume of f.
type qgroup struct {
	f  *os.File
	id uint64
}

// disk reads the items of the group: what counts is what the subvolume refers to, be it shared or not. What was written
// just now comes with the next sync.
func (q qgroup) disk() (Disk, error) {
	var used, limit uint64
	info, err := q.item(infoItem)
	if len(info) >= 16 {
		used = binary.LittleEndian.Uint64(info[8:])
	}
	if err != nil {
		return Disk{}, err
	}
	set, err := q.item(limitItem)
	if len(set) >= 16 && binary.LittleEndian.Uint64(set)&mostReferred != 0 {
		limit = binary.LittleEndian.Uint64(set[8:])
	}
	return Disk{int64(used), int64(limit)}, err
}

// item is the one of that kind in the tree of quotas; none when there is none.
func (q qgroup) item(kind uint32) ([]byte, error) {
	var args struct { // btrfs_ioctl_search_args
		tree, minObject, maxObject, minOffset, maxOffset, minTransaction, maxTransaction uint64
		minKind, maxKind, items, _                                                       uint32
		_                                                                                [4]uint64
		found                                                                            [3992]byte
	}
	args.tree, args.minOffset, args.maxOffset, args.maxTransaction = quotaTree, q.id, q.id, math.MaxUint64
	args.minKind, args.maxKind, args.items = kind, kind, 1
	if err := ioctlAt(q.f, searchTree, unsafe.Pointer(&args)); err != nil {
		return nil, os.NewSyscallError("ioctl(BTRFS_IOC_TREE_SEARCH)", err)
	}
	if args.items == 0 {
		return nil, nil
	}
	const header = 32 // btrfs_ioctl_search_header
	size := min(binary.NativeEndian.Uint32(args.found[28:]), uint32(len(args.found)-header))
	return args.found[header : header+size], nil
}

func (q qgroup) limit(bytes int64) error {
	args := struct{ group, flags, referred, exclusive, _, _ uint64 }{q.id, mostReferred, uint64(bytes), 0, 0, 0}
	if bytes == 0 {
		args.referred = math.MaxUint64 // it is cleared
	}
	return os.NewSyscallError("ioctl(BTRFS_IOC_QGROUP_LIMIT)", ioctlAt(q.f, limitQgroup, unsafe.Pointer(&args)))
}
