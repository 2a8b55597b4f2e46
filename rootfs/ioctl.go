package rootfs

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctl(f *os.File, request uintptr, arg *uint32) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(arg))); e != 0 {
		return e
	}
	return nil
}
