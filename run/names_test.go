package run

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"croft/state"

	"golang.org/x/sys/unix"
)

// host is a root with machines that run, as far as names can tell.
type hostOfNames struct {
	testing.TB
	*Engine
	claims map[string]*state.Claim
}

func newHostOfNames(t testing.TB) *hostOfNames {
	t.Helper()
	dir := t.TempDir()
	d, err := state.Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return &hostOfNames{t, &Engine{Dir: d}, map[string]*state.Claim{}}
}

// start begins to run a machine with these links, NETWORK=ADDRESS,...
func (h *hostOfNames) start(name string, links ...string) *state.Instance {
	h.Helper()
	in := &state.Instance{Spec: state.Spec{Name: name, Image: "x"}}
	if bare, host, ok := strings.Cut(name, "/"); ok {
		in.Spec.Name, in.Spec.Hostname = bare, host
	}
	for _, l := range links {
		in.Facts.Links = append(in.Facts.Links, linkOf(l))
	}
	if err := h.Dir.Create(in, func(*state.Instance) error { return nil }); err != nil {
		h.Fatal(err)
	}
	claim, err := h.Dir.Claim(in.Spec.Name)
	if err != nil {
		h.Fatal(err)
	}
	h.claims[in.Spec.Name] = claim
	h.Cleanup(func() { claim.Release() })
	if err := os.MkdirAll(filepath.Dir(h.hosts(in.Spec.Name)), 0o755); err != nil {
		h.Fatal(err)
	}
	if err := h.announce(in, in.Facts.Links); err != nil {
		h.Fatal(err)
	}
	return in
}

func linkOf(text string) state.Link {
	network, rest, _ := strings.Cut(text, "=")
	network, isolated := strings.CutSuffix(network, "!")
	l := state.Link{Network: network, Isolated: isolated}
	for addr := range strings.SplitSeq(rest, ",") {
		switch a, err := netip.ParseAddr(addr); {
		case err != nil:
		case a.Is4():
			l.IP = netip.PrefixFrom(a, 24)
		default:
			l.IP6 = netip.PrefixFrom(a, 64)
		}
	}
	return l
}

func (h *hostOfNames) stop(in *state.Instance) {
	h.Helper()
	if err := h.withdraw(&state.Applied{Spec: in.Spec, Facts: in.Facts}); err != nil {
		h.Fatal(err)
	}
	h.claims[in.Spec.Name].Release()
}

func (h *hostOfNames) hosts(name string) string {
	return filepath.Join(h.Dir.RootOf(name), "net", "hosts")
}

// tells wants the file of a machine to hold these lines beside those of loopback, and no others.
func (h *hostOfNames) tells(name string, want ...string) {
	h.Helper()
	text, err := os.ReadFile(h.hosts(name))
	if err != nil {
		h.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(strings.TrimPrefix(string(text), hostsBegin+"\n"+loopbackLines)) {
		if line != hostsEnd+"\n" && strings.TrimSpace(line) != "#" {
			got = append(got, strings.TrimSuffix(line, "\n"))
		}
	}
	if !slices.Equal(got, want) {
		h.Errorf("%s knows\n\t%s\nand not\n\t%s", name, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestNames(t *testing.T) {
	h := newHostOfNames(t)
	web := h.start("web", "lan=10.9.0.2,fd09::2")
	h.tells("web", "10.9.0.2 web web.croft", "fd09::2 web web.croft")
	db := h.start("db/sql.example.org", "lan=10.9.0.3", "back=10.8.0.3")
	h.tells("web", "10.9.0.2 web web.croft", "fd09::2 web web.croft", "10.9.0.3 sql.example.org sql db db.croft")
	h.tells("db", "10.9.0.3 sql.example.org sql db db.croft", "10.8.0.3 sql.example.org sql db db.croft", "10.9.0.2 web web.croft", "fd09::2 web web.croft")
	store := h.start("store", "back=10.8.0.4")
	h.tells("store", "10.8.0.4 store store.croft", "10.8.0.3 sql.example.org sql db db.croft")
	h.tells("web", "10.9.0.2 web web.croft", "fd09::2 web web.croft", "10.9.0.3 sql.example.org sql db db.croft")

	// A link that is taken away goes on both sides.
	if err := h.announce(db, []state.Link{linkOf("lan=10.9.0.3")}); err != nil {
		t.Fatal(err)
	}
	h.tells("store", "10.8.0.4 store store.croft")
	h.tells("db", "10.9.0.3 sql.example.org sql db db.croft", "10.9.0.2 web web.croft", "fd09::2 web web.croft")
	h.stop(web)
	h.stop(web)
	h.tells("db", "10.9.0.3 sql.example.org sql db db.croft")
	h.stop(db)
	h.stop(store)
	if exists(h.namesFile()) {
		t.Error("the list is left")
	}
}

// Machines that are kept apart do not hear of each other, and an address that only the machine knows is told nobody.
func TestNamesKeptApart(t *testing.T) {
	h := newHostOfNames(t)
	h.start("a", "alone!=10.9.0.2", "bridge:br0=")
	h.start("b", "alone!=10.9.0.3", "bridge:br0=192.0.2.7")
	h.tells("a", "10.9.0.2 a a.croft", "192.0.2.7 b b.croft")
	h.tells("b", "10.9.0.3 b b.croft", "192.0.2.7 b b.croft")
	h.start("c", "bridge:br0=")
	h.tells("c", "127.0.1.1 c c.croft", "192.0.2.7 b b.croft")
}

// A host name is anything, and must not take a machine's name, or that of loopback, for others.
func TestNamesOfOthers(t *testing.T) {
	h := newHostOfNames(t)
	h.start("web", "lan=10.9.0.2")
	h.start("liar/web", "lan=10.9.0.3")
	h.start("worse/WEB.croft", "lan=10.9.0.4")
	h.start("worst/localhost", "lan=10.9.0.5")
	h.start("localhost", "lan=10.9.0.6")
	h.start("far/web", "other=10.8.0.2")
	h.tells("web", "10.9.0.2 web web.croft", "10.9.0.3 liar liar.croft", "10.9.0.6 localhost.croft", "10.9.0.4 worse worse.croft", "10.9.0.5 worst worst.croft")
	h.tells("liar", "10.9.0.3 web liar liar.croft", "10.9.0.6 localhost.croft", "10.9.0.2 web web.croft", "10.9.0.4 worse worse.croft", "10.9.0.5 worst worst.croft")
	h.tells("far", "10.8.0.2 web far far.croft")
}

// Whose keeper was killed is forgotten by whoever writes next, in all of its networks, unless it still has processes.
func TestNamesOfTheDead(t *testing.T) {
	h := newHostOfNames(t)
	dead := h.start("dead", "lan=10.9.0.2", "back=10.8.0.2")
	h.start("back", "back=10.8.0.3")
	h.start("web", "lan=10.9.0.3")
	h.claims["dead"].Release()
	late := h.start("late", "lan=10.9.0.4")
	h.tells("web", "10.9.0.3 web web.croft", "10.9.0.4 late late.croft")
	h.tells("back", "10.8.0.3 back back.croft")
	h.stop(dead) // by repair

	// Whoever was killed between the list and the files has left that to the next, also when nothing is to be changed.
	if err := h.editNames(func(n *names) { delete(n.Machines, "late"); n.Changed["lan"]++ }); err != nil {
		t.Fatal(err)
	}
	h.tells("web", "10.9.0.3 web web.croft", "10.9.0.4 late late.croft")
	h.stop(late)
	h.tells("web", "10.9.0.3 web web.croft")
}

// Many who start at the same time are all told, and the files are written less often than they come.
func TestNamesAtOnce(t *testing.T) {
	h := newHostOfNames(t)
	const many = 50
	var all []*state.Instance
	for i := range many {
		all = append(all, h.start(fmt.Sprintf("m%02d", i)))
	}
	var wg sync.WaitGroup
	for i, in := range all {
		wg.Go(func() {
			if err := h.announce(in, []state.Link{linkOf(fmt.Sprintf("lan=10.9.0.%d", i+2))}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var lines []string
	for i, in := range all {
		lines = append(lines, fmt.Sprintf("10.9.0.%d %s %s.croft", i+2, in.Spec.Name, in.Spec.Name))
	}
	for i, in := range all {
		h.tells(in.Spec.Name, slices.Concat(lines[i:i+1], lines[:i], lines[i+1:])...)
	}
}

// What a machine makes of its file costs the others nothing, and the host neither.
func TestHostsOfTheHostile(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	put(t, secret, "root:secret\n")
	many := strings.Repeat("10.1.1.1 x\n", hostsLimit/11+1)
	for what, do := range map[string]func(path string) error{
		"pipe":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"link":      func(path string) error { return os.Symlink(secret, path) },
		"directory": func(path string) error { return os.MkdirAll(path+"/full", 0o755) },
		"large":     func(path string) error { return os.WriteFile(path, []byte(many), 0o644) },
		"huge":      func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<40)) },
		"no file":   func(path string) error { return nil },
		"no name":   func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(what, func(t *testing.T) {
			h := newHostOfNames(t)
			h.start("bad", "lan=10.9.0.2")
			if err := errors.Join(os.Remove(h.hosts("bad")), do(h.hosts("bad"))); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(h.hosts("bad"))
			good := h.start("good", "lan=10.9.0.3")
			h.tells("good", "10.9.0.3 good good.croft", "10.9.0.2 bad bad.croft")
			h.stop(good)
			if text, _ := os.ReadFile(secret); string(text) != "root:secret\n" {
				t.Error("a file of the host was written to")
			}
			after, _ := os.Lstat(h.hosts("bad"))
			if what != "no file" && before != nil && !os.SameFile(before, after) {
				t.Error("it was replaced")
			}
			if left, _ := filepath.Glob(filepath.Join(h.Dir.RootOf("bad"), ".*")); left != nil {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A machine's own lines stay, wherever they are, and so do owner and mode.
func TestOwnHosts(t *testing.T) {
	const block = hostsBegin + "\n10.9.0.2 new\n" + hostsEnd + "\n"
	old := strings.Replace(block, "new", "old\n10.9.0.3 gone", 1)
	for text, want := range map[string]string{
		"":                               block,
		"10.1.1.1 own\n":                 block + "10.1.1.1 own\n",
		old:                              block,
		old + "10.1.1.1 own\n":           block + "10.1.1.1 own\n",
		"10.1.1.1 own\n" + old:           "10.1.1.1 own\n" + block,
		"a\n" + old + "b":                "a\n" + block + "b",
		hostsBegin + "\n10.9.0.3 gone\n": block + hostsBegin + "\n10.9.0.3 gone\n",
		"x" + old:                        block + "x" + old,
		hostsEnd + "\n" + old:            hostsEnd + "\n" + block,
		"\x00\n":                         block + "\x00\n",
	} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "net", "hosts"), text)
		try(t, os.Chmod(filepath.Join(dir, "net", "hosts"), 0o640))
		var w hostsWriter
		for range 2 {
			try(t, w.put(dir, []byte(block)))
			got, err := os.ReadFile(filepath.Join(dir, "net", "hosts"))
			if err != nil || string(got) != want {
				t.Errorf("%q became\n%q and not\n%q", text, got, want)
			}
		}
		if info, _ := os.Stat(filepath.Join(dir, "net", "hosts")); info.Mode() != 0o640 {
			t.Errorf("mode %v", info.Mode())
		}
	}
}

// Of a file that the machine has put in the place of the link only its own lines are taken over, where they stood.
func TestAdoptedHosts(t *testing.T) {
	in := &state.Instance{Spec: state.Spec{Name: "web", Hostname: "www.example.org"}}
	const empty = hostsBegin + "\n" + hostsEnd + "\n"
	for text, want := range map[string]string{
		"": empty,
		"127.0.0.1 localhost\n127.0.1.1\twww.example.org www\n\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\n": empty + "\nff02::1 ip6-allnodes\n",
		"127.0.1.1 www.lan www\n127.0.0.1 localhost mine\n":                                                                        empty + "127.0.1.1 www.lan www\n127.0.0.1 localhost mine\n",
		"10.1.1.1 a\n" + hostsBegin + "\n10.9.0.3 gone\n" + hostsEnd + "\n# by hand\n10.1.1.2 b":                                   "10.1.1.1 a\n" + empty + "# by hand\n10.1.1.2 b",
	} {
		if got := string(withoutUsual([]byte(text), in)); got != want {
			t.Errorf("%q became\n%q and not\n%q", text, got, want)
		}
	}
}

// While the machine puts files of its own in the place of the one that is written, it always reads a whole one, and the last
// of its own stays.
func TestHostsAtTheSameTime(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "net", "hosts")
	put(t, path, "")
	done := make(chan bool)
	var guest sync.WaitGroup
	guest.Go(func() {
		defer close(done)
		for i := range 500 {
			own := fmt.Sprintf("10.1.1.1 own-%d\n", i)
			if err := errors.Join(os.WriteFile(path+"~", []byte(own), 0o644), os.Rename(path+"~", path)); err != nil {
				t.Error(err)
			}
		}
	})
	guest.Go(func() {
		for {
			text, err := os.ReadFile(path)
			if err != nil || len(text) > 0 && (text[len(text)-1] != '\n' || strings.Count(string(text), hostsBegin) != strings.Count(string(text), hostsEnd)) {
				t.Errorf("half a file: %q, %v", text, err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	var w hostsWriter
	for i := 0; ; i++ {
		err := w.put(dir, fmt.Appendf(nil, "%s\n%s%s\n", hostsBegin, strings.Repeat("10.9.0.2 x\n", 1+i%700), hostsEnd))
		if err != nil && !errors.Is(err, state.ErrBusy) {
			t.Error(err)
		}
		select {
		case <-done:
		default:
			continue
		}
		break
	}
	guest.Wait()
	try(t, w.put(dir, []byte(hostsBegin+"\n"+hostsEnd+"\n")))
	if text, err := os.ReadFile(path); err != nil || string(text) != hostsBegin+"\n"+hostsEnd+"\n10.1.1.1 own-499\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// A file that nobody has open is written over where the new text is as long, and others get a new one.
func TestHostsWrittenOver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "net", "hosts")
	put(t, path, "10.1.1.1 own\n")
	block := func(machines int) []byte {
		var lines []byte
		for i := range machines {
			lines = fmt.Appendf(lines, "10.9.0.%d m%[1]d\n", i)
		}
		return hostsBlock(nil, named{Name: "me"}, lines)
	}
	var w hostsWriter
	try(t, w.put(dir, block(100)))
	first, err := os.Open(path)
	try(t, err)
	defer first.Close()
	was, err := first.Stat()
	try(t, err)
	same := func() bool {
		st, err := os.Stat(path)
		try(t, err)
		text, err := os.ReadFile(path)
		try(t, err)
		if !strings.HasSuffix(string(text), "\n"+hostsEnd+"\n10.1.1.1 own\n") {
			t.Fatalf("%q", text)
		}
		return os.SameFile(was, st)
	}
	try(t, w.put(dir, block(101)))
	if same() {
		t.Error("written over under a reader's eyes")
	}
	if text, err := io.ReadAll(first); err != nil || !bytes.HasPrefix(text, block(100)) {
		t.Errorf("it reads %q, %v", text, err)
	}
	was, err = os.Stat(path)
	try(t, err)
	try(t, w.put(dir, block(100)))
	if !same() {
		t.Error("made anew though its length is the same")
	}
	try(t, w.put(dir, block(200)))
	if same() {
		t.Error("written over with something longer")
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(text, block(200)) {
		t.Errorf("%q, %v", text, err)
	}
}

// What a name costs that comes or goes among 250.
func BenchmarkNames(b *testing.B) {
	h := newHostOfNames(b)
	var one *state.Instance
	for i := range 250 {
		one = h.start(fmt.Sprintf("machine-%d", i), fmt.Sprintf("croft0=10.87.%d.%d,fd12:3456:789a:1::%x", i/250, i%250+2, i+2))
	}
	for b.Loop() {
		if err := errors.Join(h.withdraw(&state.Applied{Spec: one.Spec, Facts: one.Facts}), h.announce(one, one.Facts.Links)); err != nil {
			b.Fatal(err)
		}
	}
}
