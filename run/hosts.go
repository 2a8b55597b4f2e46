package run

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/rootfs"
	"croft/state"

	"golang.org/x/sys/unix"
)

// Every machine's /etc/hosts is a link into a directory of its own that the host keeps, and that is mounted in the
// machine for it to write to as well. See decision 032.
const (
	guestNet   = "/run/host/net"
	guestHosts = guestNet + "/hosts"
)

// netMount is where that directory is mounted for a start, in the starter's mount namespace alone.
func netMount() string { return RootMount() + ".net" }

// What stands between these lines is croft's, and all else the machine's own.
const (
	hostsBegin = "# croft: begin. These lines are written anew; your own stay outside of them."
	hostsEnd   = "# croft: end"
)

// loopbackNames are nobody else's.
var loopbackNames = [...]string{"localhost", "ip6-localhost", "ip6-loopback"}

const loopbackLines = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"

// hostsBlock appends croft's part of a machine's hosts file to b: loopback, the machine itself, what was asked for, and the
// lines of others.
func hostsBlock(b []byte, m named, others ...[]byte) []byte {
	b = append(b, hostsBegin+"\n"+loopbackLines...)
	own := m.addrs()
	if len(own) == 0 { // it has none, or only itself knows
		own = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 1, 1})}
	}
	b = hostsLines(b, own, m.names(nil))
	for _, h := range m.Hosts {
		b = append(b, h.Address+" "+h.Name+"\n"...)
	}
	for _, lines := range others {
		b = append(b, lines...)
	}
	return append(withRoom(b), hostsEnd+"\n"...)
}

// withRoom ends a long text with a comment that makes its length a round number, an eighth of it or less: another machine in it
// or one less mostly leaves the length as it is, and then the file is written over instead of made anew.
func withRoom(b []byte) []byte {
	const least = 128
	step := least
	for step*16 <= len(b) {
		step *= 2
	}
	if len(b) < least*8 {
		return b
	}
	for b = append(b, '#'); (len(b)+1)%step != 0; {
		b = append(b, ' ')
	}
	return append(b, '\n')
}

func hostsLines(b []byte, addrs []netip.Addr, names []string) []byte {
	for _, a := range addrs {
		b = append(a.AppendTo(b), " "+strings.Join(names, " ")+"\n"...)
	}
	return b
}

// names are what the machine can be called by: its host name, the first part of that, its name, and its name with the
// suffix. A host name can be any, so that taken says which must not be led astray by it.
func (m named) names(taken map[string]bool) []string {
	short, _, _ := strings.Cut(m.Host, ".")
	var all []string
	for _, n := range []string{m.Host, short, m.Name, m.Name + namesSuffix} {
		mine := strings.EqualFold(n, m.Name) || n == m.Name+namesSuffix
		if reserved(n) || !mine && taken[strings.ToLower(n)] || slices.Contains(all, n) {
			continue
		}
		all = append(all, n)
	}
	return all
}

// namesSuffix is what makes a name of a machine one that is nobody's on the Internet.
const namesSuffix = ".croft"

func reserved(name string) bool {
	return slices.Contains(loopbackNames[:], strings.ToLower(name)) || strings.HasSuffix(strings.ToLower(name), ".localhost")
}

// mergeHosts appends text, a machine's hosts file, to b, with croft's part of it replaced by block. Where there was none it
// comes first. Of one without its end the lines are the machine's from now on: which are whose is not known any more.
func mergeHosts(b, text, block []byte) []byte {
	before, after := ownHosts(text)
	if b = append(b, before...); len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	b = append(b, block...)
	return append(b, after...)
}

// ownHosts are the machine's own lines of a hosts file: those before and after croft's part.
func ownHosts(text []byte) (before, after []byte) {
	begin, end := lineOf(text, "# croft: begin"), -1
	if begin >= 0 {
		end = lineOf(text[begin:], "# croft: end")
	}
	if end < 0 {
		return nil, text
	}
	_, after, _ = bytes.Cut(text[begin+end:], []byte("\n"))
	return text[:begin], after
}

// lineOf is where the first line of text begins that begins with start; -1 where there is none.
func lineOf(text []byte, start string) int {
	if bytes.HasPrefix(text, []byte(start)) {
		return 0
	}
	if i := bytes.Index(text, []byte("\n"+start)); i >= 0 {
		return i + 1
	}
	return -1
}

// layHosts makes the machine's hosts file, with what it knows by itself. The machine does not run.
func (l *launch) layHosts() error {
	in, h := l.Instance, hostsIn(l.Root.Dir)
	if l.LacksDNS {
		l.report.warn(in.Spec.Name + " resolves no names of the world: all servers that this host asks are on its own loopback; croft set --dns ADDRESS " + in.Spec.Name)
	}
	for _, link := range l.LacksDHCP {
		l.report.warn(fmt.Sprintf("%s gets no address on %s: its NetworkManager manages no macvlan of an interface of the host's; --network macvlan:IF,ip=ADDRESS/LENGTH gives it one, and on bridge:NAME it asks for one", in.Spec.Name, link))
	}
	if err := os.RemoveAll(h.aside); err != nil {
		return err
	}
	err := rootfs.Reclaim(l.Root, in.Facts.Driver, in.Facts.Range, "/etc/hosts", hostsLimit, func(text []byte) error {
		return h.adopt(withoutUsual(text, in))
	})
	if err != nil {
		return err
	}
	me, err := l.engine.itself(&in.Spec, in.Facts.Links)
	if err != nil {
		return err
	}
	return (&hostsWriter{}).put(l.Root.Dir, hostsBlock(nil, me))
}

// adopt makes the hosts file of one that the machine had put in the place of the link to it.
func (h hosts) adopt(text []byte) error {
	if err := os.RemoveAll(h.file); err != nil {
		return err
	}
	f, err := h.open()
	if err != nil {
		return err
	}
	made, err := h.make(text, f.Stat_t, true)
	if err != nil {
		return err
	}
	unix.Close(made)
	return h.rename(unix.RENAME_NOREPLACE)
}

// withoutUsual is a hosts file with nothing in croft's part, and without the lines of loopback and of the machine's own name that
// systems are installed with: no name should be at two addresses.
func withoutUsual(text []byte, in *state.Instance) (rest []byte) {
	usual := map[string][]string{} // names by address
	for line := range bytes.Lines(hostsBlock(nil, named{Name: in.Spec.Name, Host: in.Spec.Host()})) {
		fields := strings.Fields(string(line))
		usual[fields[0]] = fields[1:]
	}
	for line := range bytes.Lines(mergeHosts(nil, text, []byte(hostsBegin+"\n"+hostsEnd+"\n"))) {
		fields := strings.Fields(string(line))
		other := func(name string) bool { return !slices.Contains(usual[fields[0]], name) }
		if len(fields) < 2 || fields[0] == "#" || slices.ContainsFunc(fields[1:], other) {
			rest = append(rest, line...)
		}
	}
	return rest
}

// hostsLimit is how large a hosts file may be that croft goes on writing to. One that tells of a thousand machines has a
// tenth of it, and no machine can make the start of another wait for more.
const hostsLimit = 1 << 20

// errOwnHosts: what is in the place of the hosts file is the machine's own business.
var errOwnHosts = errors.New("the machine has put something else there")

// hostsWriter writes hosts files, one after the other. It has room for their bytes, which is used again.
type hostsWriter struct{ was, text, now []byte }

// put writes block into the hosts file of the machine whose root is kept in dir.
//
// The directory net in there is the machine's, which may do to the file whatever it likes while this goes on. So nothing is
// followed or waited for, and the new file is written in dir, where the machine does not reach, and then changes places with
// the one that is there: who reads sees the whole of one or the other, and what the machine writes meanwhile is not lost,
// since the old one is looked at again. One that nobody has open is written over where its length allows it, since that is a
// tenth of the work. What is no regular file, or a large one, stays: the machine wants it so.
func (w *hostsWriter) put(dir string, block []byte) error {
	h := hostsIn(dir)
	const tries = 8
	for range tries {
		done, err := w.try(h, block)
		if errors.Is(err, errOwnHosts) {
			return nil
		}
		if err != nil || done {
			return err
		}
	}
	return fmt.Errorf("%s: it is changed all the time: %w", h.file, state.ErrBusy)
}

// hosts are where a machine's hosts file is, and where the next one is made.
type hosts struct{ net, file, aside string }

func hostsIn(dir string) hosts {
	net := rootfs.Root{Dir: dir}.Net()
	return hosts{net: net, file: filepath.Join(net, "hosts"), aside: filepath.Join(dir, ".new-hosts")}
}

// try is false when the machine has changed the file meanwhile.
func (w *hostsWriter) try(h hosts, block []byte) (done bool, err error) {
	f, err := h.open()
	if err != nil {
		return false, err
	}
	defer f.close()
	if w.was, err = f.read(w.was); err != nil {
		return false, err
	}
	w.text = mergeHosts(w.text[:0], w.was, block)
	if f.fd >= 0 && bytes.Equal(w.text, w.was) {
		return true, nil
	}
	if f.writable && len(w.text) == len(w.was) && w.over(h, f) {
		return true, nil
	}
	before, after := ownHosts(w.was)
	ours, err := h.make(w.text, f.Stat_t, len(before)+len(after) > 0)
	if err != nil {
		return false, errors.Join(err, h.clear())
	}
	defer unix.Close(ours)
	if f.fd < 0 {
		err := h.rename(unix.RENAME_NOREPLACE)
		return err == nil, errors.Join(unless(err, unix.EEXIST), h.clear())
	}
	err = h.rename(unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) { // not on this filesystem: what the machine writes at this very moment is lost
		return true, h.rename(0)
	}
	if err != nil {
		return false, errors.Join(unless(err, unix.ENOENT), h.clear())
	}
	if !w.cameOut(h, f) {
		return false, h.giveBack(ours)
	}
	return true, h.clear()
}

// over writes the new text over the old one, of the same length, and says whether it did. Meanwhile a lease holds back whoever
// opens the file, and there is none where somebody has it open; the machine may still have put another in its place.
func (w *hostsWriter) over(h hosts, f hostsFile) bool {
	if _, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return false
	}
	defer unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_UNLCK)
	if !w.unchanged(f) {
		return false
	}
	from, to := 0, len(w.text)
	for w.text[from] == w.was[from] {
		from++
	}
	for w.text[to-1] == w.was[to-1] {
		to--
	}
	n, err := unix.Pwrite(f.fd, w.text[from:to], int64(from))
	return err == nil && n == to-from && f.isAt(h.file)
}

// unless is err, but nil when it is one that goes away by another try.
func unless(err, again error) error {
	if errors.Is(err, again) {
		return nil
	}
	return err
}

// hostsFile is a hosts file that is open. Where there is none its fd is -1, and the rest is of the directory.
type hostsFile struct {
	fd       int
	writable bool
	unix.Stat_t
}

func (f hostsFile) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
}

func (h hosts) open() (f hostsFile, err error) {
	// Not blocking: it may be a pipe, or somebody may have a lease on it.
	const how = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	f.fd, err = unix.Open(h.file, unix.O_RDWR|how, 0)
	if f.writable = err == nil; err != nil && !errors.Is(err, unix.ENOENT) { // immutable, say
		f.fd, err = unix.Open(h.file, unix.O_RDONLY|how, 0)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		f.fd = -1
		if err := unix.Lstat(h.net, &f.Stat_t); err != nil {
			return f, &os.PathError{Op: "lstat", Path: h.net, Err: err}
		}
		return f, nil
	case err != nil:
		return f, errOwnHosts // a link, a socket
	}
	err = unix.Fstat(f.fd, &f.Stat_t)
	if err == nil && f.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errOwnHosts
	}
	if err != nil {
		f.close()
	}
	return f, err
}

// read reads all of the file into buf; errOwnHosts when it is too large.
func (f hostsFile) read(buf []byte) ([]byte, error) {
	buf = buf[:0]
	for f.fd >= 0 {
		buf = slices.Grow(buf, int(min(f.Size, hostsLimit))+1)
		room := buf[len(buf):cap(buf)]
		n, err := unix.Pread(f.fd, room, int64(len(buf)))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return buf, os.NewSyscallError("pread", err)
		}
		if buf = buf[:len(buf)+n]; len(buf) > hostsLimit {
			return buf, errOwnHosts
		}
		if n < len(room) {
			break
		}
	}
	return buf, nil
}

// make makes the new file aside, with the owner and the mode of the one that is, and gives a descriptor of it. Precious says
// that there are lines in it which nobody could write again.
func (h hosts) make(text []byte, like unix.Stat_t, precious bool) (fd int, err error) {
	const how = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC
	fd, err = unix.Open(h.aside, how, 0o644)
	if errors.Is(err, unix.EEXIST) { // of somebody who was killed
		if err := h.clear(); err != nil {
			return -1, err
		}
		fd, err = unix.Open(h.aside, how, 0o644)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: h.aside, Err: err}
	}
	if like.Uid != 0 || like.Gid != 0 {
		err = unix.Fchown(fd, int(like.Uid), int(like.Gid))
	}
	if mode := like.Mode & 0o777; err == nil && like.Mode&unix.S_IFMT == unix.S_IFREG && mode != 0o644 {
		err = unix.Fchmod(fd, mode)
	}
	for err == nil && len(text) > 0 {
		var n int
		n, err = unix.Write(fd, text)
		text = text[max(n, 0):]
	}
	if err == nil && precious {
		// Where two names change places the filesystem does not see to it that the new file's bytes are on disk before its
		// name is, as it does where one takes the other's place.
		err = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "write", Path: h.aside, Err: err}
	}
	return fd, nil
}

func (h hosts) rename(how uint) error {
	err := unix.Renameat2(unix.AT_FDCWD, h.aside, unix.AT_FDCWD, h.file, how)
	if err != nil {
		return &os.LinkError{Op: "renameat2", Old: h.aside, New: h.file, Err: err}
	}
	return nil
}

// cameOut says whether what has come out of the machine's directory is the file that was read, with nothing written to it
// since.
func (w *hostsWriter) cameOut(h hosts, f hostsFile) bool {
	return f.isAt(h.aside) && w.unchanged(f)
}

// unchanged says whether there is still in the file what was read.
func (w *hostsWriter) unchanged(f hostsFile) bool {
	now, err := f.read(w.now)
	w.now = now
	return err == nil && bytes.Equal(now, w.was)
}

// giveBack lets the machine have again what came out of its directory, whatever it is, when the file put was put there. It may
// have put something newer there since: then that comes out next, and is given back. What is open is no other's number.
func (h hosts) giveBack(put int) error {
	var err error
	const tries = 100
	for range tries {
		var back int
		if back, err = unix.Open(h.aside, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
			break
		}
		defer unix.Close(back)
		if err = h.rename(unix.RENAME_EXCHANGE); errors.Is(err, unix.ENOENT) {
			return h.rename(unix.RENAME_NOREPLACE)
		}
		if err != nil || (hostsFile{fd: put}).isAt(h.aside) {
			break
		}
		put = back
	}
	return errors.Join(err, h.clear())
}

// isAt says whether what is at path is the open file.
func (f hostsFile) isAt(path string) bool {
	var a, b unix.Stat_t
	return unix.Lstat(path, &a) == nil && unix.Fstat(f.fd, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// clear removes what is aside, if anything.
func (h hosts) clear() error { return unlink(h.aside) }
