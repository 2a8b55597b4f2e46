package netsetup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// As much of bpf(2) as the programs for ::1 need. A library for all of it would be a thirtieth of the binary.

// instruction is one of a program, as linux/bpf.h has it; wide ones are two.
type instruction struct {
	code      byte
	registers byte // destination in the lower half, source in the upper
	offset    int16
	value     int32
}

// Registers: r0 is what a call returns, r1 to r5 are its arguments, r6 and up survive it, r10 is the end of the stack.
const (
	r0 = iota
	r1
	r2
	r3
	r4
	r6  = 6
	r10 = 10
)

func op(code, destination, source byte, offset int16, value int32) instruction {
	return instruction{code, destination | source<<4, offset, value}
}

func load32(to, from byte, offset int16) instruction {
	return op(unix.BPF_LDX|unix.BPF_MEM|unix.BPF_W, to, from, offset, 0)
}

func store32(to byte, offset int16, from byte) instruction {
	return op(unix.BPF_STX|unix.BPF_MEM|unix.BPF_W, to, from, offset, 0)
}

func store64(to byte, offset int16, from byte) instruction {
	return op(unix.BPF_STX|unix.BPF_MEM|unix.BPF_DW, to, from, offset, 0)
}

func move(to, from byte) instruction {
	return op(unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_X, to, from, 0, 0)
}
func or(to, from byte) instruction { return op(unix.BPF_ALU64|unix.BPF_OR|unix.BPF_X, to, from, 0, 0) }

func set(to byte, value int32) instruction {
	return op(unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_K, to, 0, 0, value)
}

func add(to byte, value int32) instruction {
	return op(unix.BPF_ALU64|unix.BPF_ADD|unix.BPF_K, to, 0, 0, value)
}

func shiftLeft(to byte, bits int32) instruction {
	return op(unix.BPF_ALU64|unix.BPF_LSH|unix.BPF_K, to, 0, 0, bits)
}

// set64 takes the place of two instructions.
func set64(to byte, value uint64) []instruction {
	const code = unix.BPF_LD | unix.BPF_IMM | unix.BPF_DW
	return []instruction{op(code, to, 0, 0, int32(value)), op(0, 0, 0, 0, int32(value>>32))}
}

func setMap(to byte, m *os.File) []instruction {
	const code = unix.BPF_LD | unix.BPF_IMM | unix.BPF_DW
	return []instruction{op(code, to, unix.BPF_PSEUDO_MAP_FD, 0, int32(m.Fd())), {}}
}

// toEnd is the offset of a jump to the last two instructions of a program; assemble puts in how far that is.
const toEnd = -1

func endIfZero(r byte) instruction { return op(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, r, 0, toEnd, 0) }

func endUnless(r byte, value int32) instruction {
	return op(unix.BPF_JMP|unix.BPF_JNE|unix.BPF_K, r, 0, toEnd, value)
}

func endUnlessSame(a, b byte) instruction {
	return op(unix.BPF_JMP|unix.BPF_JNE|unix.BPF_X, a, b, toEnd, 0)
}

// Functions of the kernel's, by their numbers in linux/bpf.h.
const (
	mapLookUp    = 1
	mapUpdate    = 2
	socketCookie = 46
	netnsCookie  = 122
)

func call(function int32) instruction { return op(unix.BPF_JMP|unix.BPF_CALL, 0, 0, 0, function) }

// assemble ends a program, with a return of 1.
func assemble(program []instruction) []byte {
	end := len(program)
	program = append(program, set(r0, 1), op(unix.BPF_JMP|unix.BPF_EXIT, 0, 0, 0, 0))
	var b []byte
	for i, in := range program {
		if in.code&7 == unix.BPF_JMP && in.offset == toEnd {
			in.offset = int16(end - i - 1)
		}
		b = append(b, in.code, in.registers)
		b = binary.NativeEndian.AppendUint16(b, uint16(in.offset))
		b = binary.NativeEndian.AppendUint32(b, uint32(in.value))
	}
	return b
}

// bpf calls bpf(2). What it gives is a number, or a file.
func bpf[T any](command uintptr, attributes *T) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(attributes)), unsafe.Sizeof(*attributes))
	if errno != 0 {
		return 0, os.NewSyscallError("bpf", errno)
	}
	return int(n), nil
}

// pointer is the address of b as attributes have it, which is good until pins are taken out.
func pointer(pins *runtime.Pinner, b []byte) uint64 {
	if len(b) == 0 {
		return 0
	}
	pins.Pin(&b[0])
	return uint64(uintptr(unsafe.Pointer(&b[0])))
}

func bpfFile[T any](command uintptr, attributes *T) (*os.File, error) {
	fd, err := bpf(command, attributes)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "bpf"), nil
}

func objectName(s string) (name [unix.BPF_OBJ_NAME_LEN]byte) {
	copy(name[:len(name)-1], strings.ReplaceAll(s, "-", "_"))
	return name
}

// newMap makes a map for entries of these sizes in bytes.
func newMap(name string, kind, key, value, entries, flags uint32) (*os.File, error) {
	return bpfFile(unix.BPF_MAP_CREATE, &struct {
		kind, key, value, entries, flags, inner, node uint32
		name                                          [unix.BPF_OBJ_NAME_LEN]byte
	}{kind: kind, key: key, value: value, entries: entries, flags: flags, name: objectName(name)})
}

// mapEntry does something about the entry of a key; value is read, written, or is to have the next key.
func mapEntry(command uintptr, m *os.File, key, value []byte) error {
	var pins runtime.Pinner
	defer pins.Unpin()
	_, err := bpf(command, &struct {
		fd, _             uint32
		key, value, flags uint64
	}{fd: uint32(m.Fd()), key: pointer(&pins, key), value: pointer(&pins, value)})
	return err
}

// mapKeys are all keys of a map.
func mapKeys(m *os.File, size int) (keys [][]byte, err error) {
	var last []byte
	for {
		next := make([]byte, size)
		err := mapEntry(unix.BPF_MAP_GET_NEXT_KEY, m, last, next)
		if errors.Is(err, unix.ENOENT) {
			return keys, nil
		}
		if err != nil {
			return nil, err
		}
		keys, last = append(keys, next), next
	}
}

// loadProgram has the kernel check a program that is asked about addresses.
func loadProgram(name string, attach uint32, code []byte) (*os.File, error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	return bpfFile(unix.BPF_PROG_LOAD, &struct {
		kind, instructions  uint32
		code, license       uint64
		logLevel, logSize   uint32
		log                 uint64
		kernelVersion, flag uint32
		name                [unix.BPF_OBJ_NAME_LEN]byte
		device, attach      uint32
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, instructions: uint32(len(code) / 8),
		code: pointer(&pins, code), license: pointer(&pins, []byte("Apache-2.0\x00")), name: objectName(name), attach: attach,
	})
}

// attachProgram attaches a program to a cgroup; whatever others have attached there stays.
func attachProgram(cgroup, program *os.File, at uint32) error {
	return attachment(unix.BPF_PROG_ATTACH, cgroup, program, at, unix.BPF_F_ALLOW_MULTI)
}

func detachProgram(cgroup, program *os.File, at uint32) error {
	return attachment(unix.BPF_PROG_DETACH, cgroup, program, at, 0)
}

func attachment(command uintptr, cgroup, program *os.File, at, flags uint32) error {
	_, err := bpf(command, &struct{ target, program, attach, flags, replace uint32 }{
		target: uint32(cgroup.Fd()), program: uint32(program.Fd()), attach: at, flags: flags,
	})
	return err
}

// attachedPrograms opens the programs of that name at a cgroup.
func attachedPrograms(name string, cgroup *os.File, attach uint32) (found []*os.File, err error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	ids := make([]byte, 4*64) // the kernel attaches no more
	query := &struct {
		target, attach, flags, attachFlags uint32
		ids                                uint64
		count, _                           uint32
	}{target: uint32(cgroup.Fd()), attach: attach, ids: pointer(&pins, ids), count: uint32(len(ids) / 4)}
	if _, err = bpf(unix.BPF_PROG_QUERY, query); err != nil {
		return nil, err
	}
	for i := range query.count {
		program, err := openID(unix.BPF_PROG_GET_FD_BY_ID, binary.NativeEndian.Uint32(ids[4*i:]))
		if errors.Is(err, unix.ENOENT) { // detached meanwhile
			continue
		}
		if err != nil {
			return found, err
		}
		info, _, err := programInfo(program)
		if wanted := objectName(name); err == nil && bytes.Equal(info.name[:], wanted[:]) {
			found = append(found, program)
			continue
		}
		program.Close()
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

func openID(command uintptr, id uint32) (*os.File, error) {
	return bpfFile(command, &struct{ id, next, flags uint32 }{id: id})
}

// bpfProgramInfo is the beginning of struct bpf_prog_info.
type bpfProgramInfo struct {
	kind, id               uint32
	_                      [8]byte
	_, _                   uint32
	_, _, _                uint64
	_, maps                uint32
	mapIDs                 uint64
	name                   [unix.BPF_OBJ_NAME_LEN]byte
	_, _, _, _, _, _, _, _ uint32
}

// programInfo tells of a program, and the ids of its maps.
func programInfo(program *os.File) (info *bpfProgramInfo, maps []uint32, err error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	ids := make([]byte, 4*8)
	info = &bpfProgramInfo{maps: uint32(len(ids) / 4), mapIDs: pointer(&pins, ids)}
	pins.Pin(info)
	_, err = bpf(unix.BPF_OBJ_GET_INFO_BY_FD, &struct {
		fd, size uint32
		info     uint64
	}{fd: uint32(program.Fd()), size: uint32(unsafe.Sizeof(*info)), info: uint64(uintptr(unsafe.Pointer(info)))})
	for i := range min(info.maps, uint32(len(ids)/4)) {
		maps = append(maps, binary.NativeEndian.Uint32(ids[4*i:]))
	}
	return info, maps, err
}
