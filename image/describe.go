package image

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"croft/state"
)

// lastSecond is that of the year 9999: JSON has no later time.
const lastSecond = 253402300799

// describe reads from a tree what machine it is for and what it calls itself. Nothing in the tree is trusted:
// every path is resolved inside it, only regular files are opened, and of each only the beginning is read.
func describe(tree string) (Image, error) {
	root, err := openTree(tree)
	if err != nil {
		return Image{}, err
	}
	defer root.Close()
	if err := checkRootfs(root); err != nil {
		return Image{}, err
	}
	release := osRelease(root)
	img := Image{
		Architecture: architecture(root),
		OS:           release["ID"],
		Release:      release["VERSION_ID"],
		Description:  release["PRETTY_NAME"],
	}
	if img.Release == "" { // Debian testing and unstable have no number
		img.Release = release["VERSION_CODENAME"]
	}
	info, err := os.Stat(tree)
	if err != nil {
		return Image{}, err
	}
	img.Created = time.Unix(min(max(info.ModTime().Unix(), 0), lastSecond), 0).UTC()
	return img, nil
}

func openTree(tree string) (*os.File, error) {
	return os.OpenFile(tree, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// checkRootfs tells a root filesystem by its having any of the directories that all of them have, and otherwise what
// the archive is instead.
func checkRootfs(root *os.File) error {
	has := func(name string) bool {
		var st unix.Stat_t
		return unix.Fstatat(int(root.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
	}
	if has("etc") || has("usr") || has("bin") {
		return nil
	}
	return &sentence{"holds no root filesystem", state.ErrInvalid}
}

// head reads the first n bytes at most of a regular file inside root; anything else is nothing.
func head(root *os.File, name string, n int64) []byte {
	// O_PATH first: the archive may have made the name a device, and to open a device is to use it.
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, n))
	return data
}

// osRelease reads os-release(5). Values are what people see in lists: control characters are taken out.
func osRelease(root *os.File) map[string]string {
	values := map[string]string{}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		for line := range strings.Lines(string(head(root, name, 64<<10))) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(key, "#") {
				values[key] = shown(unquote(value))
			}
		}
		if len(values) > 0 {
			break
		}
	}
	return values
}

// unquote undoes the shell quoting that os-release(5) allows.
func unquote(s string) string {
	if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '"' && s[0] != '\'' {
		return s
	}
	quote, s := s[0], s[1:len(s)-1]
	if quote == '\'' {
		return s
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, "\\`", "`").Replace(s)
}

func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), 200)], "")
}

// architecture tells the machine that the image's programs are for: the init's, or that of what every image has.
func architecture(root *os.File) string {
	for _, name := range []string{"sbin/init", "usr/lib/systemd/systemd", "bin/sh", "bin/busybox", "usr/bin/env"} {
		if arch := elfMachine(head(root, name, 64)); arch != "" {
			return arch
		}
	}
	return ""
}

// elfMachine reads the machine from an ELF header (elf(5)), in the words of `uname -m`.
func elfMachine(h []byte) string {
	if len(h) < 52 || string(h[:4]) != "\x7fELF" {
		return ""
	}
	const class64, little = 2, 1
	wide := h[4] == class64
	var order binary.ByteOrder = binary.BigEndian
	if h[5] == little {
		order = binary.LittleEndian
	}
	switch order.Uint16(h[18:]) {
	case 3:
		return "i686"
	case 8:
		return pick(wide, "mips64", "mips")
	case 21:
		return pick(h[5] == little, "ppc64le", "ppc64")
	case 22:
		return "s390x"
	case 40:
		const hardFloat = 0x400 // EF_ARM_ABI_FLOAT_HARD in e_flags
		return pick(order.Uint32(h[36:])&hardFloat != 0, "armv7l", "armv5tel")
	case 62:
		return "x86_64"
	case 183:
		return "aarch64"
	case 243:
		return pick(wide, "riscv64", "riscv32")
	case 258:
		return "loongarch64"
	}
	return ""
}

func pick(cond bool, yes, no string) string {
	if cond {
		return yes
	}
	return no
}
