package run

// #include "payload.h"
import "C"

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// payloadInit makes the program of the tiny init: its code out of this binary (payload.c), with an ELF header
// before it, in a sealed memory file. nil where it is not written for this architecture: then the command is
// PID 1 itself.
func payloadInit() (*os.File, error) {
	p := C.croft_payload()
	return sealed(p, p.entry)
}

// terminalFree makes the program that an init is executed by where nobody but itself can take its terminal away. nil
// where it is not written for this architecture.
func terminalFree() (*os.File, error) {
	p := C.croft_payload()
	return sealed(p, p.boot)
}

func sealed(p C.struct_payload, entry C.size_t) (*os.File, error) {
	if p.size == 0 {
		return nil, nil
	}
	code := unsafe.Slice((*byte)(p.code), int(p.size))
	fd, err := unix.MemfdCreate("croft-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // MFD_EXEC came with Linux 6.3
		fd, err = unix.MemfdCreate("croft-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "croft-init")
	if _, err := f.Write(program(code, uint64(entry))); err != nil {
		f.Close()
		return nil, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("fcntl(F_ADD_SEALS): %w", err)
	}
	return f, nil
}

// program is the smallest ELF executable that the kernel runs: one segment with all of it, and a stack that
// holds no code (elf(5)).
func program(code []byte, entry uint64) []byte {
	const at, headers, codeAt = 0x400000, 64, 192
	size := uint64(codeAt + len(code))
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine()), Version: uint32(elf.EV_CURRENT), Entry: at + codeAt + entry,
		Phoff: headers, Ehsize: headers, Phentsize: 56, Phnum: 2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: at, Paddr: at, Filesz: size, Memsz: size, Align: 0x1000},
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W)},
	}
	var out bytes.Buffer
	binary.Write(&out, binary.LittleEndian, h) // a Buffer takes everything
	binary.Write(&out, binary.LittleEndian, segments)
	out.Write(make([]byte, codeAt-out.Len()))
	out.Write(code)
	return out.Bytes()
}

func machine() elf.Machine {
	switch runtime.GOARCH {
	case "amd64":
		return elf.EM_X86_64
	case "arm64":
		return elf.EM_AARCH64
	case "riscv64":
		return elf.EM_RISCV
	}
	return elf.EM_NONE
}

// runnable says early, and in words, what the tiny init could only say with a status: the command is not in
// the machine or is no program.
func runnable(root *os.File, name, dir string, env []string) error {
	places := []string{name}
	if !path.IsAbs(name) {
		places[0] = path.Join("/", dir, name)
	}
	if !strings.Contains(name, "/") {
		places = nil
		for _, dir := range strings.Split(pathOf(env), ":") {
			places = append(places, path.Join("/", dir, name))
		}
	}
	result := &CommandError{StatusNotFound, fmt.Sprintf("exec %s: not found", name)}
	for _, p := range places {
		var st unix.Stat_t
		f, err := openIn(root, strings.TrimPrefix(path.Clean("/"+p), "/"), unix.O_PATH)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
			f.Close()
		}
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return nil
		}
		if err == nil {
			err = unix.EACCES
		}
		result = &CommandError{StatusNotExecutable, fmt.Sprintf("exec %s: %v", name, err)}
	}
	return result
}

// CommandError is a command that could not be run at all.
type CommandError struct {
	Status ExitStatus // 126 or 127, or of a run that was interrupted before there was a command
	text   string
}

func (e *CommandError) Error() string { return e.text }

func pathOf(env []string) string {
	value := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			value = v
		}
	}
	return value
}
