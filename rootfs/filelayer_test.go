package rootfs

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// form makes a layer of a tree.
type form func(t testing.TB, tree string) string

func asDirectory(_ testing.TB, tree string) string { return tree }

func asSquashfs(t testing.TB, tree string) string {
	t.Helper()
	return packed(t, tree+".layer", "mksquashfs", tree, tree+".layer", "-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX")
}

func asEROFS(t testing.TB, tree string) string {
	t.Helper()
	return packed(t, tree+".layer", "mkfs.erofs", tree+".layer", tree)
}

func packed(t testing.TB, file string, argv ...string) string {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Skip("SKIPPED, PROVES NOTHING: ", err)
	}
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return file
}

var fileForms = map[string]form{"squashfs": asSquashfs, "erofs": asEROFS}

// loopsOf counts the loop devices of the file at path.
func loopsOf(t testing.TB, path string) (n int) {
	t.Helper()
	backed, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	try(t, err)
	for _, b := range backed {
		if name, err := os.ReadFile(b); err == nil && strings.TrimSpace(string(name)) == path {
			n++
		}
	}
	return n
}

// noLoopsOf waits: the kernel frees a device after the last descriptor of it has been closed, and udev may look at it.
func noLoopsOf(t testing.TB, path string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); loopsOf(t, path) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d loop devices of %s are left", loopsOf(t, path), path)
		}
	}
}

// Ten machines on one image, mounted all at once, are on one superblock: what the first reads is in memory for the
// others, and it is there once, the file that it comes from not as well.
func TestOnePageCache(t *testing.T) {
	for name, form := range fileForms {
		t.Run(name, func(t *testing.T) {
			if private(t) {
				onePageCache(t, form)
			}
		})
	}
}

const machines = 10

func onePageCache(t *testing.T, form form) {
	dir := t.TempDir()
	content := make([]byte, 8<<20)
	rand.Read(content)
	put(t, dir, map[string]string{"tree/big": string(content)})
	layer := form(t, filepath.Join(dir, "tree"))
	pages := len(content) / os.Getpagesize()
	ats := mountMachines(t, dir, layer)
	if n := loopsOf(t, layer); n != 1 {
		t.Errorf("%d loop devices", n)
	}
	for i, at := range ats {
		before := resident(t, filepath.Join(at, "big"))
		switch {
		case i == 0 && before > 0:
			t.Errorf("%d of its pages are in memory before anybody has read it", before)
		case i > 0 && before < pages/2: // on a host that is short of memory it need not be all
			t.Errorf("machine %d finds %d pages of %d in memory", i, before, pages)
		}
		got, err := os.ReadFile(filepath.Join(at, "big"))
		try(t, err)
		if !bytes.Equal(got, content) {
			t.Errorf("machine %d reads something else", i)
		}
	}
	if cached := resident(t, layer); cached > pages/2 && directIO(t, layer) {
		t.Errorf("%d pages of the image's file are in memory as well", cached)
	}
	for _, at := range ats {
		try(t, Overlay{}.Unmount(at))
	}
	noLoopsOf(t, layer)
}

// mountMachines mounts roots of layer, each with ids of its own, and gives where they are.
func mountMachines(t *testing.T, dir, layer string) (ats []string) {
	t.Helper()
	drop, err := os.OpenFile(layer, os.O_RDWR, 0)
	try(t, err)
	try(t, drop.Sync())
	try(t, unix.Fadvise(int(drop.Fd()), 0, 0, unix.FADV_DONTNEED)) // what making it has left in memory
	drop.Close()
	var all sync.WaitGroup
	errs := make([]error, machines)
	for i := range machines {
		r := Root{Dir: filepath.Join(dir, "roots", fmt.Sprint(i)), Layers: []string{layer}}
		at := filepath.Join(dir, "run", fmt.Sprint(i), "root")
		try(t, os.MkdirAll(at, 0o711))
		try(t, Overlay{}.Create(r))
		ns := namespace(t, state.Range{Base: base.Base + uint32(i)*idmap.Size, Size: idmap.Size})
		ats = append(ats, at)
		all.Go(func() { errs[i] = Overlay{}.Mount(r, ns, at) })
	}
	all.Wait()
	for _, err := range errs {
		try(t, err)
	}
	return ats
}

// resident counts the pages of the file at path that are in memory (mincore(2)). On an overlay that is the page cache of
// the file below.
func resident(t testing.TB, path string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	try(t, err)
	defer f.Close()
	info, err := f.Stat()
	try(t, err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	try(t, err)
	defer unix.Munmap(mapped)
	pages := make([]byte, (len(mapped)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&pages[0]))); e != 0 {
		t.Fatal("mincore: ", e)
	}
	for _, p := range pages {
		n += int(p & 1)
	}
	return n
}

// directIO says whether the loop device of the file at path reads past the page cache.
func directIO(t testing.TB, path string) bool {
	t.Helper()
	file, err := os.Open(path)
	try(t, err)
	defer file.Close()
	device, err := existingLoop(file)
	try(t, err)
	defer device.Close()
	status, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	try(t, err)
	return status.Flags&unix.LO_FLAGS_DIRECT_IO != 0
}

// All mounts of one file are of one superblock, also one that was renamed meanwhile, as an import does.
func TestOneSuperblock(t *testing.T) {
	needRoot(t)
	for name, form := range fileForms {
		t.Run(name, func(t *testing.T) {
			tree := filepath.Join(t.TempDir(), "tree")
			put(t, tree, map[string]string{"etc/motd": "hello\n"})
			layer := form(t, tree)
			first, shifts, err := MountFile(layer)
			try(t, err)
			defer first.Close()
			if !shifts {
				t.Skip("SKIPPED, PROVES NOTHING: this kernel cannot shift it")
			}
			try(t, os.Rename(layer, layer+".renamed"))
			view, err := OpenView([]string{tree, layer + ".renamed"})
			try(t, err)
			defer view.Close()
			var st [2]unix.Stat_t
			try(t, unix.Stat(first.Name(), &st[0]))
			try(t, unix.Stat(view.Dirs[1], &st[1]))
			if st[0].Dev != st[1].Dev || loopsOf(t, layer+".renamed") != 1 {
				t.Errorf("devices %d and %d, %d loops", st[0].Dev, st[1].Dev, loopsOf(t, layer+".renamed"))
			}
			if got, err := os.ReadFile(filepath.Join(view.Dirs[1], "etc/motd")); err != nil || string(got) != "hello\n" {
				t.Errorf("%q, %v", got, err)
			}
			if target, _, err := Lookup(view.Dirs, "/etc/motd"); err != nil || target != "/etc/motd" {
				t.Errorf("%q, %v", target, err)
			}
			view.Close()
			first.Close()
			noLoopsOf(t, layer+".renamed")
		})
	}
}

// TestMountProcess is no test: TestMountKilled runs it to be killed. It mounts a file over and over.
func TestMountProcess(t *testing.T) {
	path := os.Getenv("CROFT_TEST_MOUNT")
	if path == "" {
		return
	}
	for {
		root, _, err := MountFile(path)
		try(t, err)
		fmt.Println("mounted")
		root.Close()
	}
}

// SIGKILL at any moment, of one of several that mount the same file, leaves no loop device and keeps nobody else from it.
func TestMountKilled(t *testing.T) {
	needRoot(t)
	tree := filepath.Join(t.TempDir(), "tree")
	put(t, tree, map[string]string{"etc/motd": "hello\n"})
	layer := asSquashfs(t, tree)
	for i := range 20 {
		var all []*exec.Cmd
		for range 2 {
			cmd := exec.Command(os.Args[0], "-test.run=^TestMountProcess$")
			cmd.Env = append(os.Environ(), "CROFT_TEST_MOUNT="+layer)
			out, err := cmd.StdoutPipe()
			try(t, err)
			try(t, cmd.Start())
			t.Cleanup(func() { cmd.Process.Kill() })
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "mounted\n" {
				t.Fatalf("%q, %v", line, err)
			}
			all = append(all, cmd)
		}
		time.Sleep(time.Duration(i) * time.Millisecond) // some moment or other
		for _, cmd := range all {
			cmd.Process.Kill()
			cmd.Wait()
		}
		noLoopsOf(t, layer)
	}
	root, _, err := MountFile(layer)
	try(t, err)
	root.Close()
	noLoopsOf(t, layer)
}

// What is no filesystem, and what is damaged, the kernel or we refuse in one sentence, and no loop device stays.
func TestMountDamaged(t *testing.T) {
	needRoot(t)
	for name, form := range fileForms {
		tree := filepath.Join(t.TempDir(), "tree")
		noise := make([]byte, 1<<16)
		rand.Read(noise)
		put(t, tree, map[string]string{"etc/noise": string(noise)})
		layer := form(t, tree)
		whole, err := os.ReadFile(layer)
		try(t, err)
		for what, data := range map[string][]byte{
			"cut off":               whole[:1200],
			"garbage after magic":   append(bytes.Clone(whole[:1028]), bytes.Repeat([]byte{0xa5}, 8192)...),
			"zeros after its start": append(bytes.Clone(whole[:40]), make([]byte, 8192)...),
			"nothing":               nil,
		} {
			try(t, os.WriteFile(layer, data, 0o600))
			root, _, err := MountFile(layer)
			if err == nil {
				root.Close()
				t.Errorf("%s, %s: it is mounted", name, what)
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, %s: %v", name, what, err)
			}
			noLoopsOf(t, layer)
		}
	}
}
