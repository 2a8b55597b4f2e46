package rootfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"croft/idmap"
	"croft/state"

	"golang.org/x/sys/unix"
)

// suite is what every driver passes unchanged: a new one gets a line in TestDrivers and nothing here.
var suite = []struct {
	name string
	test func(*rig)
}{
	{"mount twice", mountTwice},
	{"read and write", readAndWrite},
	{"owners on disk", ownersOnDisk},
	{"attributes", attributes},
	{"delete and rename", deleteAndRename},
	{"no devices", noDevices},
	{"layers: one, three, many", manyLayers},
	{"another range", anotherRange},
	{"generated files", generatedFiles},
	{"no generated files", noGeneratedFiles},
	{"hostile generated files", hostileGeneratedFiles},
	{"remove", remove},
	{"remove with a mount inside", removeMounted},
}

func TestDrivers(t *testing.T) {
	for _, c := range []struct {
		name   string
		driver Driver
		form   form
		env    string
	}{
		{"overlay", Overlay{}, asDirectory, ""},
		{"overlay by path", Overlay{}, asDirectory, PathMode + "=path"},
		{"overlay of squashfs", Overlay{}, asSquashfs, ""},
		{"overlay of erofs by path", Overlay{}, asEROFS, PathMode + "=path"},
		{"dir", Directory{}, asDirectory, ""},
		{"dir of squashfs", Directory{}, asSquashfs, ""},
		{"shifted", Shifted{}, asDirectory, ""},
		{"shifted of squashfs", Shifted{}, asSquashfs, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !private(t, c.env) {
				return
			}
			for _, s := range suite {
				t.Run(s.name, func(t *testing.T) { s.test(newRigOn(t, c.driver, c.form)) })
			}
		})
	}
}

const envPrivate = "CROFT_TEST_PRIVATE"

// private says whether this process has a mount namespace of its own. Otherwise it runs the calling test in a
// process that has one, and takes over its outcome.
func private(t *testing.T, env ...string) bool {
	t.Helper()
	needRoot(t)
	if os.Getenv(envPrivate) == t.Name() {
		return true
	}
	if os.Getenv(envPrivate) != "" {
		return false // of a sibling
	}
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.Command(os.Args[0], "-test.run="+pattern, "-test.v")
	cmd.Env = append(append(os.Environ(), envPrivate+"="+t.Name()), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")):
		t.Errorf("it did not run:\n%s", out)
	}
	return false
}

// rig is one machine's root on a small image whose programs are busybox.
type rig struct {
	*testing.T
	driver Driver
	form   form
	root   Root
	at     string
	userns *os.File
	hash   string // of the image, before
}

var base = state.Range{Base: 524288 + 77*idmap.Size, Size: idmap.Size}

func newRig(t *testing.T, d Driver) *rig {
	t.Helper()
	return newRigOn(t, d, asDirectory)
}

// newRigOn has the image in a form of its own.
func newRigOn(t *testing.T, d Driver, form form) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{T: t, driver: d, form: form, at: filepath.Join(dir, "run", "root")}
	r.root = Root{Dir: filepath.Join(dir, "roots", "web"), Layers: []string{form(t, busybox(t, filepath.Join(dir, "image")))}}
	for _, p := range []string{r.at, filepath.Dir(r.root.Dir)} {
		if err := os.MkdirAll(p, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	r.userns = namespace(t, base)
	r.hash = hash(t, r.root.Layers)
	t.Cleanup(r.end)
	return r
}

func namespace(t *testing.T, ids state.Range) *os.File {
	t.Helper()
	ns, err := idmap.Namespace(ids)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// end holds for every test of the suite: what was shared is as it was.
func (r *rig) end() {
	r.driver.Unmount(r.at)
	if got := hash(r, r.root.Layers); got != r.hash {
		r.Error("the image was changed")
	}
	Clear(filepath.Dir(r.at))
}

// busybox makes an image layer in dir.
func busybox(t testing.TB, dir string) string {
	t.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("SKIPPED, PROVES NOTHING: no busybox: ", err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, map[string]string{
		"bin/busybox": string(data), "etc/hostname": "image\n", "etc/motd": "hello\n", "etc/conf.d/a": "a\n", "etc/conf.d/b": "b\n",
		"var/www/index": "web\n", "dev/": "", "tmp/": "", "home/": "",
	})
	try(t, os.Chmod(filepath.Join(dir, "bin/busybox"), 0o755))
	try(t, unix.Chmod(filepath.Join(dir, "tmp"), 0o1777))
	for _, p := range []string{"var/www", "var/www/index"} {
		try(t, os.Lchown(filepath.Join(dir, p), 33, 33))
	}
	for _, link := range []string{"sh", "cat"} {
		try(t, os.Symlink("busybox", filepath.Join(dir, "bin", link)))
	}
	return dir
}

func try(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes files below dir; a name that ends in "/" is a directory.
func put(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			try(t, os.MkdirAll(path, 0o755))
			continue
		}
		try(t, os.MkdirAll(filepath.Dir(path), 0o755))
		try(t, os.WriteFile(path, []byte(content), 0o644))
	}
}

// hash is one number for all that is in some trees: names, kinds, owners, modes, times, attributes, contents.
func hash(t testing.TB, dirs []string) string {
	t.Helper()
	h := sha256.New()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			var st unix.Stat_t
			if err == nil {
				err = unix.Lstat(path, &st)
			}
			names := make([]byte, 4096)
			n, _ := unix.Llistxattr(path, names)
			fmt.Fprintf(h, "%s %o %d %d %d %d %v %q\n", path, st.Mode, st.Uid, st.Gid, st.Rdev, st.Size, st.Mtim, names[:max(n, 0)])
			if st.Mode&unix.S_IFMT == unix.S_IFREG {
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				defer f.Close()
				io.Copy(h, f)
			}
			return err
		})
		try(t, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func (r *rig) create() {
	r.Helper()
	if err := r.driver.Create(r.root); err != nil {
		r.Fatal("create: ", err)
	}
}

func (r *rig) mount() {
	r.Helper()
	r.create()
	if err := r.driver.Mount(r.root, r.userns, r.at); err != nil {
		r.Fatal("mount: ", err)
	}
}

func (r *rig) unmount() {
	r.Helper()
	if err := r.driver.Unmount(r.at); err != nil {
		r.Fatal("unmount: ", err)
	}
}

// guest runs a script as the machine's root in the machine's root filesystem.
func (r *rig) guest(script string) (string, error) {
	r.Helper()
	cmd := exec.Command("nsenter", "--user=/proc/self/fd/3", "--root="+r.at, "--wd="+r.at, "/bin/busybox", "sh", "-ec", "PATH=/bin; "+script)
	cmd.ExtraFiles = []*os.File{r.userns}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// does is a script that must succeed and print that.
func (r *rig) does(script, want string) {
	r.Helper()
	if out, err := r.guest(script); err != nil || out != want {
		r.Errorf("%s\nprinted %q, %v\nwant    %q", script, out, err, want)
	}
}

// fails is a script that must fail and say why.
func (r *rig) fails(script, why string) {
	r.Helper()
	if out, err := r.guest(script); err == nil || !strings.Contains(out, why) {
		r.Errorf("%s\nprinted %q, %v\nwant a failure with %q", script, out, err, why)
	}
}

func (r *rig) mounted() int {
	r.Helper()
	points, err := mountsBelow(r.at)
	if err != nil {
		r.Fatal(err)
	}
	return len(points)
}

// disk finds where the driver keeps a file of the machine.
func (r *rig) disk(name string) string {
	r.Helper()
	for _, dir := range []string{"upper/fs", "fs", fmt.Sprint("fs-", base.Base)} {
		path := filepath.Join(r.root.Dir, dir, name)
		if _, err := os.Lstat(path); err == nil {
			return path
		}
	}
	r.Fatalf("%s is not on disk", name)
	return ""
}

func mountTwice(r *rig) {
	for range 2 {
		r.create()
	}
	for range 2 {
		r.mount()
		r.does("cat /etc/motd", "hello\n")
	}
	if n := r.mounted(); n != 1 {
		r.Errorf("%d mounts after mounting twice", n)
	}
	for range 2 {
		r.unmount()
		if n := r.mounted(); n != 0 {
			r.Errorf("%d mounts are left", n)
		}
	}
	r.mount()
	r.does("cat /etc/motd", "hello\n")
}

func readAndWrite(r *rig) {
	r.mount()
	r.does("echo more >>/etc/motd; cat /etc/motd; echo new >/new; cat /new", "hello\nmore\nnew\n")
	r.does("echo x >/var/www/index; mkdir -p /a/b/c; echo y >/a/b/c/d; rm -r /a; ls /", "bin\ndev\netc\nhome\nnew\ntmp\nvar\n")
	r.unmount()
	r.mount() // a stop and a start
	r.does("cat /etc/motd /new /var/www/index", "hello\nmore\nnew\nx\n")
	r.does("dd if=/dev/zero of=/big bs=64k count=16 2>/dev/null || dd if=/bin/busybox of=/big 2>/dev/null; test -s /big", "")
}

// What is on disk has the ids that the machine sees, whatever its range is; but where the disk knows the range.
func ownersOnDisk(r *rig) {
	first := uint32(0)
	if r.driver == (Shifted{}) {
		first = base.Base
	}
	r.mount()
	r.does("stat -c '%u %g' / /etc/motd /var/www/index", "0 0\n0 0\n33 33\n")
	r.does("echo >/mine; echo >/theirs; chown 33:44 /theirs; echo >/last; chown 65534:65534 /last; echo z >>/var/www/index", "")
	r.does("stat -c '%u %g' /mine /theirs /last /var/www/index", "0 0\n33 44\n65534 65534\n33 33\n")
	r.fails("chown 65536 /mine", "Invalid argument")
	for name, want := range map[string][2]uint32{"": {0, 0}, "mine": {0, 0}, "theirs": {33, 44}, "last": {65534, 65534}, "var/www/index": {33, 33}} {
		var st unix.Stat_t
		try(r, unix.Lstat(r.disk(name), &st))
		if st.Uid != first+want[0] || st.Gid != first+want[1] {
			r.Errorf("%q is %d:%d on disk, want %v from %d on", name, st.Uid, st.Gid, want, first)
		}
	}
}

func attributes(r *rig) {
	r.mount()
	r.does("chmod 4750 /bin/busybox; stat -c %a /bin/busybox; chmod 755 /bin/busybox; stat -c %a / /tmp", "4750\n755\n1777\n")
	r.does("chmod 4755 /bin/busybox; chown 33 /bin/busybox; stat -c %a /bin/busybox; chown 0 /bin/busybox", "755\n")
	r.does("touch -d @1000000000 /etc/motd; stat -c %Y /etc/motd", "1000000000\n")
	r.tool("setcap", "cap_net_raw=ep", "bin/busybox")
	if got := r.tool("getcap", "bin/busybox"); !strings.Contains(got, "cap_net_raw=ep") {
		r.Errorf("capabilities are %q", got)
	}
	r.tool(self, "-test.run=^TestSetUserAttribute$", "etc/motd")
	var value [16]byte
	if n, err := unix.Lgetxattr(r.disk("etc/motd"), "user.croft", value[:]); err != nil || string(value[:n]) != "yes" {
		r.Errorf("user.croft on disk is %q, %v", value[:max(n, 0)], err)
	}
}

// self is this program as descriptor 4: its path may be closed to the machine's root.
const self = "/proc/self/fd/4"

// tool runs a program of the host as the machine's root, in the machine's root directory.
func (r *rig) tool(argv ...string) string {
	r.Helper()
	exe, err := os.Open("/proc/self/exe")
	try(r, err)
	defer exe.Close()
	cmd := exec.Command("nsenter", append([]string{"--user=/proc/self/fd/3", "--wd=" + r.at}, argv...)...)
	cmd.ExtraFiles = []*os.File{r.userns, exe}
	cmd.Env = append(os.Environ(), "CROFT_TEST_ATTRIBUTE="+argv[len(argv)-1])
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		r.Skip("SKIPPED, PROVES NOTHING: ", err)
	}
	if err != nil {
		r.Errorf("%v: %v: %s", argv, err, out)
	}
	return string(out)
}

// TestSetUserAttribute is no test: the suite runs it as the machine's root.
func TestSetUserAttribute(t *testing.T) {
	path := os.Getenv("CROFT_TEST_ATTRIBUTE")
	if path == "" {
		return
	}
	try(t, unix.Setxattr(path, "user.croft", []byte("yes"), 0))
	if unix.Setxattr(path, "trusted.croft", []byte("yes"), 0) == nil {
		t.Error("the machine's root may set trusted attributes")
	}
}

func deleteAndRename(r *rig) {
	r.mount()
	r.does("rm /etc/motd; rm -r /var/www; mkdir /var/www; ls /var/www; ls /etc", "conf.d\nhostname\n")
	r.does("mv /etc/conf.d /etc/other; cat /etc/other/a; mv /etc/hostname /etc/name; ln /etc/name /etc/hard; ln -s name /etc/soft", "a\n")
	r.does("rm -r /home; echo file >/home", "")
	r.unmount()
	r.mount()
	r.does("ls /etc /var/www; cat /etc/hard /etc/soft /home", "/etc:\nhard\nname\nother\nsoft\n\n/var/www:\nimage\nimage\nfile\n")
	r.does("mv /etc/other /etc/conf.d; mkdir -p /x/y; mv /x /z; ls /etc/conf.d /z", "/etc/conf.d:\na\nb\n\n/z:\ny\n")
}

func noDevices(r *rig) {
	r.mount()
	r.fails("mknod /dev/sda b 8 0", "Operation not permitted")
	r.fails("mknod /etc/null c 1 3", "Operation not permitted")
	r.does("mknod /fifo p; test -p /fifo", "")
	if _, err := os.Lstat(filepath.Join(r.at, "dev/sda")); err == nil {
		r.Error("the device is there")
	}
}

func manyLayers(r *rig) {
	for _, count := range []int{1, 3, 60} {
		r.Run(fmt.Sprint(count), func(t *testing.T) {
			r := newRigOn(t, r.driver, r.form)
			for i := 1; i < count; i++ {
				dir := filepath.Join(filepath.Dir(r.root.Layers[0]), fmt.Sprintf("layer%02d", i))
				put(t, dir, map[string]string{"top": fmt.Sprint(i, "\n"), fmt.Sprintf("l/%02d", i): fmt.Sprint(i, "\n")})
				if i > 1 { // each deletes a file of the one before
					try(t, unix.Mknod(filepath.Join(dir, fmt.Sprintf("l/%02d", i-1)), unix.S_IFCHR, 0))
				}
				r.root.Layers = append(r.root.Layers, dir)
			}
			r.hash = hash(t, r.root.Layers)
			r.mount()
			r.does("cat /etc/motd", "hello\n")
			if count > 1 {
				last := fmt.Sprint(count - 1)
				r.does("cat /top; ls /l; cat /l/*", fmt.Sprintf("%s\n%02s\n%s\n", last, last, last))
			}
			r.does("echo x >/top; cat /top", "x\n")
		})
	}
}

// What is on disk outlives a change of the range.
func anotherRange(r *rig) {
	r.mount()
	r.does("echo x >/mine; chown 33 /mine; ln /mine /other; chmod 2755 /mine", "")
	r.tool("setcap", "cap_net_raw=ep", "bin/busybox")
	r.unmount()
	for i := range uint32(2) { // there and back
		r.userns = namespace(r.T, state.Range{Base: base.Base + (1-i)*5*idmap.Size, Size: idmap.Size})
		r.mount()
		r.does("stat -c '%u %a %h' /mine /etc/motd; echo y >>/other; chmod 2755 /mine", "33 2755 2\n0 644 1\n")
		if got := r.tool("getcap", "bin/busybox"); !strings.Contains(got, "cap_net_raw=ep") {
			r.Errorf("capabilities are %q", got)
		}
		r.unmount()
	}
	r.mount()
	r.does("cat /mine", "x\ny\ny\n")
}

// Generated files lie over the image's, can be treated like any file, and never come back over a change.
func generatedFiles(r *rig) {
	generate := func(host string) {
		r.Helper()
		r.create()
		try(r, WriteGuest(r.root, Files{"/etc/hostname": {Text: host}, "etc/hosts": {Text: "hosts\n"}, "/../up": {Text: "up\n"}, "/opt/new/file": {Text: "f\n"}, "/etc/link": {Link: "to-" + strings.TrimSpace(host)}, "/etc/key": {Text: "k\n", Secret: true}}))
		r.mount()
	}
	generate("one\n")
	r.does("cat /etc/hostname /etc/hosts /up /opt/new/file; stat -c '%u %a' /etc/hosts /etc/key; readlink /etc/link; stat -c %u /etc/link", "one\nhosts\nup\nf\n0 644\n0 600\nto-one\n0\n")
	r.unmount()
	generate("two\n")
	r.does("cat /etc/hostname; readlink /etc/link", "two\nto-two\n")
	r.does("echo mine >/etc/.new; mv /etc/.new /etc/hostname; rm /up; cat /etc/hostname; ls /etc", "mine\nconf.d\nhostname\nhosts\nkey\nlink\nmotd\n")
	r.does("ln -sf mine /etc/link", "")
	r.unmount()
	generate("three\n")
	r.does("cat /etc/hostname /etc/hosts; ls /up 2>/dev/null || echo gone; readlink /etc/link", "mine\nhosts\ngone\nmine\n")
	r.unmount()
	try(r, RemoveGuest(r.root))
	try(r, RemoveGuest(r.root))
}

func noGeneratedFiles(r *rig) {
	r.mount()
	r.does("cat /etc/hostname", "image\n")
}

// What a machine makes of its files must not stop, fool or fill the host at the next start.
func hostileGeneratedFiles(r *rig) {
	secret := filepath.Join(r.TempDir(), "secret")
	try(r, os.WriteFile(secret, []byte("secret\n"), 0o644))
	for _, script := range []string{
		"rm -f /etc/hostname; mknod /etc/hostname p",
		"rm -f /etc/hostname; mknod /etc/pipe p; ln -s pipe /etc/hostname",
		"rm -f /etc/hostname; ln -s " + secret + " /etc/hostname",
		"rm -f /etc/hostname; ln -s ../../../../../../.." + secret + " /etc/hostname",
		"rm -f /etc/hostname; ln -s hostname /etc/hostname",
		"rm -f /etc/hostname; mkdir /etc/hostname",
		"rm -rf /etc/hostname; truncate -s 1T /etc/hostname 2>/dev/null || truncate -s 100G /etc/hostname",
		"rm -rf /etc; ln -s " + filepath.Dir(secret) + " /etc",
		"rm -rf /etc; mkdir /etc; chmod 0 /etc",
	} {
		r.Run(script, func(t *testing.T) {
			r := newRigOn(t, r.driver, r.form)
			r.create()
			try(t, WriteGuest(r.root, Files{"/etc/hostname": {Text: "one\n"}, "/etc/hosts": {Text: "h\n"}}))
			r.mount()
			r.does(script, "")
			r.unmount()
			try(t, WriteGuest(r.root, Files{"/etc/hostname": {Text: "two\n"}, "/etc/hosts": {Text: "h2\n"}}))
			done := make(chan error, 1)
			go func() { done <- r.driver.Mount(r.root, r.userns, r.at) }()
			within(t, done)
			if got, _ := os.ReadFile(secret); string(got) != "secret\n" || len(dirNames(t, filepath.Dir(secret))) != 1 {
				t.Error("a file of the host was touched")
			}
		})
	}
}

func dirNames(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	try(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

func remove(r *rig) {
	r.mount()
	r.does("echo x >/new; mkdir /locked; echo y >/locked/y; chmod 0 /locked", "")
	r.unmount()
	Clear(filepath.Dir(r.at)) // the end of the namespace
	for range 2 {
		try(r, r.driver.Remove(r.root))
		if left := dirNames(r, filepath.Dir(r.root.Dir)); left != nil {
			r.Errorf("left: %v", left)
		}
	}
	put(r, filepath.Dir(r.root.Dir), map[string]string{".gone-web/half/x": "of a removal that was interrupted"})
	try(r, os.MkdirAll(r.at, 0o711))
	r.mount() // a new machine of that name
	r.does("ls /new 2>/dev/null || echo none", "none\n")
	r.unmount()
	Clear(filepath.Dir(r.at))
	try(r, r.driver.Remove(r.root))
	if left := dirNames(r, filepath.Dir(r.root.Dir)); left != nil {
		r.Errorf("left: %v", left)
	}
}

// A mount below is somebody's: nothing of it may be deleted, also where the root was named through a link.
func removeMounted(r *rig) {
	precious := r.TempDir()
	put(r, precious, map[string]string{"data": "precious"})
	link := filepath.Join(r.TempDir(), "link")
	try(r, os.Symlink(filepath.Dir(r.root.Dir), link))
	for _, dir := range []string{r.root.Dir, filepath.Join(link, "web")} {
		root := Root{Dir: dir, Layers: r.root.Layers}
		try(r, r.driver.Create(root))
		point := filepath.Join(dir, "a point")
		try(r, os.Mkdir(point, 0o755))
		try(r, unix.Mount(precious, point, "", unix.MS_BIND, ""))
		for i := range 4 {
			if i == 2 { // the machine was started once more
				try(r, r.driver.Create(root))
			}
			if err := r.driver.Remove(root); !errors.Is(err, state.ErrBusy) {
				r.Errorf("%s: %v, want ErrBusy", dir, err)
			}
			if _, err := os.Stat(filepath.Join(precious, "data")); err != nil {
				r.Fatal("what was mounted has been deleted")
			}
		}
		for _, at := range []string{point, filepath.Join(filepath.Dir(dir), ".gone-web", "a point")} {
			unix.Unmount(at, 0)
		}
		try(r, r.driver.Remove(root))
	}
}
