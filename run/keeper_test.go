package run

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The keeper as it is, with the address and the undefined-behaviour sanitizer, between a starter, an init and a
// successor that do what the test says (testdata/keeper_test.c).
func TestKeeper(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, PROVES NOTHING: the keeper changes its mount namespace, which takes root")
	}
	exe := compileKeeper(t)
	for _, c := range []struct {
		name string
		test func(*ward)
	}{
		{"exit status", keeperStatus},
		{"reboot", keeperReboot},
		{"hello", keeperHello},
		{"console log", keeperLog},
		{"log rotation", keeperRotation},
		{"last words", keeperLastWords},
		{"guest closes its console", keeperClosedConsole},
		{"input and size", keeperInput},
		{"echo", keeperEcho},
		{"echo without escape sequences", keeperEchoPlain},
		{"as many clients as it takes, and one", keeperCrowd},
		{"slow client", keeperSlowClient},
		{"client that reads", keeperReadingClient},
		{"stop", keeperStop},
		{"stop twice", keeperStopTwice},
		{"stop in time or be killed", keeperStopTimeout},
		{"stop before the init listens", keeperStopEarly},
		{"kill", keeperKill},
		{"end of its life", keeperLife},
		{"a stop that is no signal", keeperAsks},
		{"readiness that others find out", keeperAwaits},
		{"signals", keeperSignals},
		{"bind", keeperBind},
		{"watch", keeperWatch},
		{"end of the connection", keeperEndOfConnection},
		{"grace", keeperGrace},
		{"ready", keeperReady},
		{"not ready", keeperNotReady},
		{"ready once", keeperReadyOnce},
		{"what the host hears", keeperTells},
		{"stop is told to the host", keeperTellsStop},
		{"descriptors of the guest", keeperGuestFDs},
		{"descriptors of clients", keeperClientFDs},
		{"flood", keeperFlood},
		{"fuzz", keeperFuzz},
		{"fuzz to the end", keeperFuzzToTheEnd},
		{"fuzz of the guest", keeperFuzzGuest},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(&ward{T: t, exe: exe}) })
	}
}

func compileKeeper(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "keeper")
	out, err := exec.Command("gcc", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-fsanitize=address,undefined",
		"-fno-sanitize-recover=all", "-o", exe, "keeper.c", "testdata/keeper_test.c").CombinedOutput()
	missing := bytes.Contains(out, []byte("cannot find -lasan")) || bytes.Contains(out, []byte("cannot find -lubsan")) ||
		bytes.Contains(out, []byte("libasan_preinit.o"))
	if errors.Is(err, exec.ErrNotFound) || missing {
		t.Skipf("SKIPPED, PROVES NOTHING: gcc with libasan and libubsan is needed: %v\n%s", err, out)
	}
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return exe
}

// waitLimit is for what comes at once but on a machine with much else to do.
const waitLimit = 20 * time.Second

// ward is a keeper that runs, and its machine.
type ward struct {
	*testing.T
	exe string
	// how it is started
	secs, life, grace, echo int
	asks                    bool // no signal: croft ask
	deaf                    bool // no notify socket

	cmd     *exec.Cmd
	control *os.File // to the init
	report  *os.File
	host    *os.File // what a systemd would hear of it
	tty     string
	dir     string
	stderr  bytes.Buffer
	stdout  bytes.Buffer
	over    chan error
}

func (k *ward) start() {
	k.Helper()
	if !k.deaf && k.grace == 0 {
		k.grace = -1 // it tells when it is up
	}
	k.dir = k.TempDir()
	for _, d := range []string{"log", "run"} {
		try(k.T, os.Mkdir(filepath.Join(k.dir, d), 0o700))
	}
	listener, err := listen(filepath.Join(k.dir, "run"), socketName, unix.SOCK_SEQPACKET, 0o600)
	try(k.T, err)
	notify, err := listen(filepath.Join(k.dir, "run"), "notify", unix.SOCK_DGRAM, 0o666)
	try(k.T, err)
	try(k.T, unix.SetsockoptInt(int(notify.Fd()), unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	logs, err := os.Open(filepath.Join(k.dir, "log"))
	try(k.T, err)
	run, err := os.Open(filepath.Join(k.dir, "run"))
	try(k.T, err)
	claim, err := os.Create(filepath.Join(k.dir, "claim"))
	try(k.T, err)
	report, theirs, err := os.Pipe()
	try(k.T, err)
	hears, tells, err := socketpair(unix.SOCK_SEQPACKET) // a message is a message
	try(k.T, err)
	k.host = hears
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	try(k.T, err)
	k.report, k.control = report, os.NewFile(uintptr(fds[0]), "control")
	number := func(n int) string { return strconv.Itoa(n) }
	signal := unix.SIGUSR1
	if k.asks {
		signal = 0
	}
	k.cmd = exec.Command(k.exe, "start", "web", number(int(signal)), number(k.secs), number(k.life), number(k.grace), number(k.echo), number(1-flag(k.deaf)))
	k.cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fds[1]), "control"), listener, notify, logs, run, theirs, claim, tells}
	k.cmd.Env = append(os.Environ(), "KEEPER_TEST_OUT="+k.path("out"), "KEEPER_TEST_HOLD="+k.path("hold"), "CROFT_REPORT=8",
		"NOTIFY_SOCKET="+k.path("run/notify"), "ASAN_OPTIONS=detect_leaks=0:exitcode=99")
	k.cmd.Stderr, k.cmd.Stdout = &k.stderr, &k.stdout
	try(k.T, k.cmd.Start())
	for _, f := range k.cmd.ExtraFiles {
		f.Close()
	}
	k.over = make(chan error, 1)
	go func() { k.over <- k.cmd.Wait(); close(k.over) }()
	k.Cleanup(k.clear)
	k.tty = string(k.answer())
}

// clear ends what a failed test has left.
func (k *ward) clear() {
	os.Remove(k.path("hold"))
	k.control.Close() // the init ends with it
	select {
	case <-k.over:
	case <-time.After(10 * time.Second):
		k.cmd.Process.Kill()
		k.Error("the keeper does not end with its init")
	}
	k.report.Close()
	if k.stderr.Len() > 0 {
		k.Errorf("the keeper says: %s", k.stderr.String())
	}
}

func (k *ward) path(name string) string { return filepath.Join(k.dir, name) }

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (k *ward) answer() []byte {
	k.Helper()
	var buf [256]byte
	n := k.receive(k.control, buf[:])
	if n == 0 {
		k.Fatal("the init is dead")
	}
	return buf[:n]
}

// receive waits for a packet for as long as a loaded machine may take; 0 is the end.
func (k *ward) receive(f *os.File, buf []byte) int {
	k.Helper()
	p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, int(waitLimit/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if n == 0 {
			k.Fatal("nothing comes")
		}
		n, _, _, _, err = unix.Recvmsg(int(f.Fd()), buf, nil, 0)
		if errors.Is(err, unix.ECONNRESET) {
			return 0
		}
		try(k.T, err)
		return n
	}
}

// tell makes the init do something and gives the result; one that ends it has none.
func (k *ward) tell(cmd string) int {
	k.Helper()
	k.order(cmd)
	return int(int32(binary.NativeEndian.Uint32(k.answer())))
}

func (k *ward) order(cmd string) {
	k.Helper()
	if !strings.Contains(cmd, " ") {
		cmd += " "
	}
	_, err := unix.SendmsgN(int(k.control.Fd()), []byte(cmd), nil, nil, unix.MSG_NOSIGNAL)
	try(k.T, err)
}

func (k *ward) connect() *Keeper {
	k.Helper()
	conn, err := dial(k.Context(), k.path("run"), socketName, unix.SOCK_SEQPACKET)
	try(k.T, err)
	client, err := hello(k.Context(), conn)
	if err != nil {
		k.Fatal("hello: ", err)
	}
	return client
}

// settled makes sure that the keeper has served what was sent before: requests of a connection come in order, and
// one packet of each is taken a turn.
func (k *ward) settled() {
	k.Helper()
	for range 2 {
		k.connect().Close()
	}
}

// ended waits for the successor of the keeper and gives what it was told: its arguments, then other lines.
func (k *ward) ended() []string {
	k.Helper()
	select {
	case err := <-k.over:
		if err != nil {
			k.Fatalf("the keeper ended with %v: %s", err, k.stderr.String())
		}
	case <-time.After(waitLimit):
		k.Fatal("the keeper does not end")
	}
	out, err := os.ReadFile(k.path("out"))
	try(k.T, err)
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func (k *ward) endsWith(want string) {
	k.Helper()
	if got := k.ended()[0]; got != want {
		k.Errorf("then it executed %q, want %q", got, want)
	}
}

func (k *ward) log() string {
	k.Helper()
	data, err := os.ReadFile(k.path("log/console.log"))
	if err != nil && !os.IsNotExist(err) {
		k.Fatal(err)
	}
	return string(data)
}

// until waits for something that must come.
func (k *ward) until(what string, ok func() bool) {
	k.Helper()
	for end := time.Now().Add(waitLimit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			k.Fatal("waited in vain for ", what)
		}
	}
}

func (k *ward) isReady() bool {
	_, err := os.Lstat(k.path("run/ready"))
	return err == nil
}

func (k *ward) fds() []string {
	k.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", k.cmd.Process.Pid))
	try(k.T, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func keeperStatus(k *ward) {
	for end, want := range map[string]int{
		"exit 0": 0, "exit 7": 7 << 8, "exit 255": 255 << 8, "die 9": 9, "die 15": 15, "die 2": 2, "die 34": 34, "die 38": 38,
	} {
		k.Run(end, func(t *testing.T) {
			k := &ward{T: t, exe: k.exe}
			k.start()
			k.order(end)
			lines := k.ended()
			if got, want := lines[0], fmt.Sprintf("undo web %d self", want); got != want {
				t.Errorf("then it executed %q, want %q", got, want)
			}
			checkHeritage(t, lines, "8")
		})
	}
}

// inheritedFDs are the descriptors that this process itself was started with, and so all below it.
func inheritedFDs() map[string]bool {
	all := map[string]bool{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			all[e.Name()] = true
		}
	}
	return all
}

// checkHeritage holds what the successor gets to what it may have: claim and report, and no signal blocked.
func checkHeritage(t *testing.T, lines []string, report string) {
	t.Helper()
	foreign := inheritedFDs()
	for _, l := range lines[1:] {
		f := strings.Fields(l)
		switch {
		case f[0] == "fd" && foreign[f[1]]:
		case f[0] == "report" && f[1] != report, f[0] == "SigBlk:" && f[1] != "0000000000000000":
			t.Error(l)
		case f[0] == "fd" && !strings.HasSuffix(l, "/claim") && !strings.Contains(l, "pipe:"):
			t.Errorf("a descriptor is left open: %s", l)
		case f[0] == "fd" && report == "none" && strings.Contains(l, "pipe:"):
			t.Errorf("the report is still open: %s", l)
		}
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, "/claim") }) {
		t.Error("the claim was lost")
	}
}

// A guest's reboot starts it anew; the next start must be as the first: no signal ignored, nobody connected.
func keeperReboot(k *ward) {
	k.start()
	c := k.connect()
	k.tell("notify READY=1")
	k.until("readiness", k.isReady)
	k.order("die 1")
	lines := k.ended()
	if lines[0] != "supervise web" {
		k.Errorf("then it executed %q", lines[0])
	}
	checkHeritage(k.T, lines, "none")
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, "SigIgn:"); ok {
			// Those of glibc's own come from whoever was started with posix_spawn above us, make for one.
			const internal = 1<<31 | 1<<32
			if mask, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64); err != nil || mask&^internal != 0 {
				k.Errorf("the next machine ignores signals: %s", l)
			}
		}
	}
	if k.isReady() {
		k.Error("it counts as ready while it reboots")
	}
	var buf [64]byte
	if n := k.receive(c.conn, buf[:]); n != 0 {
		k.Errorf("a client got %d bytes instead of the end", n)
	}
	rest, _ := io.ReadAll(k.report)
	if string(rest) != "R\n" {
		k.Errorf("reported %q", rest)
	}
}

func keeperHello(k *ward) {
	k.start()
	c := k.connect()
	defer c.Close()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", c.Init.Fd()))
	try(k.T, err)
	if !bytes.Contains(info, []byte(fmt.Sprintf("Pid:\t%d\n", c.PID))) {
		k.Errorf("the pidfd is not that of %d:\n%s", c.PID, info)
	}
	if parent := childOf(c.PID); parent != k.cmd.Process.Pid {
		k.Errorf("the init's parent is %d, the keeper %d", parent, k.cmd.Process.Pid)
	}
	try(k.T, unix.PidfdSendSignal(int(c.Init.Fd()), unix.SIGKILL, nil, 0))
	k.endsWith("undo web 9 self")
}

func childOf(pid int) (parent int) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := bytes.Cut(data, []byte(") "))
	fmt.Sscanf(string(after), "%c %d", new(rune), &parent)
	return parent
}

func keeperLog(k *ward) {
	k.start()
	text := "hello\n\x00\xff\x1b[1mbytes\r\n"
	k.tell("say " + text)
	k.until("the log", func() bool { return k.log() == text })
	data, err := os.ReadFile(k.path("log/console.times"))
	if err != nil || len(data) != 16 {
		k.Fatalf("console.times has %d bytes, %v", len(data), err)
	}
	when, at := binary.NativeEndian.Uint64(data), binary.NativeEndian.Uint64(data[8:])
	if age := time.Now().Unix() - int64(when); age < 0 || age > 60 || at != 0 {
		k.Errorf("offset %d at %d", at, when)
	}
	for _, f := range []string{"console.log", "console.times"} {
		if st, err := os.Stat(k.path("log/" + f)); err != nil || st.Mode() != 0o600 {
			k.Errorf("%s: %v, %v", f, st.Mode(), err)
		}
	}
}

// The log is two files of at most 1 MiB that together hold the newest bytes, each with its own times.
func keeperRotation(k *ward) {
	k.start()
	const size = 1<<20 + 300<<10
	k.tell(fmt.Sprintf("print %d", size))
	part := func(name string) []byte {
		data, _ := os.ReadFile(k.path("log/" + name))
		return data
	}
	k.until("the log", func() bool { return len(part("console.log.1"))+len(part("console.log")) == size })
	var want bytes.Buffer
	for i := 0; want.Len() < size; i++ {
		fmt.Fprintf(&want, "%062d\n", i)
	}
	old, now := part("console.log.1"), part("console.log")
	if !bytes.Equal(append(slices.Clone(old), now...), want.Bytes()[:size]) {
		k.Error("the two files are not what was printed")
	}
	if len(old) > 1<<20 || len(old) < 1<<20-4096 {
		k.Errorf("the first has %d bytes", len(old))
	}
	for name, log := range map[string][]byte{"console.times.1": old, "console.times": now} {
		checkTimes(k.T, name, part(name), len(log))
	}
	k.tell(fmt.Sprintf("print %d", size)) // the third drives out the first
	k.until("the log", func() bool {
		return len(part("console.log.1")) > 1<<20-4096 && bytes.Contains(part("console.log"), []byte(fmt.Sprintf("%062d\n", 21000)[:40]))
	})
	entries, _ := os.ReadDir(k.path("log"))
	if len(entries) != 4 {
		k.Errorf("%d files", len(entries))
	}
}

func checkTimes(t *testing.T, name string, data []byte, size int) {
	t.Helper()
	if len(data) < 16 || len(data)%16 != 0 || binary.NativeEndian.Uint64(data[8:]) != 0 {
		t.Errorf("%s does not begin with offset 0: % x", name, data[:min(len(data), 32)])
		return
	}
	var sec, at uint64
	for i := 0; i < len(data); i += 16 {
		s, o := binary.NativeEndian.Uint64(data[i:]), binary.NativeEndian.Uint64(data[i+8:])
		if s <= sec || i > 0 && o <= at || int(o) >= size {
			t.Errorf("%s: second %d at %d after second %d at %d of %d", name, s, o, sec, at, size)
		}
		sec, at = s, o
	}
}

// What the guest printed just before its death is in the log before the successor runs.
func keeperLastWords(k *ward) {
	k.start()
	k.tell("print 3000")
	k.order("exit 0")
	k.endsWith("undo web 0 self")
	if n := len(k.log()); n != 3000 {
		k.Errorf("%d bytes of 3000 are in the log", n)
	}
}

func keeperClosedConsole(k *ward) {
	k.start()
	k.tell("say before\n")
	k.tell("closetty")
	k.settled()
	if got := k.tell("opentty " + k.tty); got != 0 {
		k.Fatalf("the console hung up: %d", got)
	}
	k.tell("say after\n")
	k.until("the log", func() bool { return k.log() == "before\nafter\n" })
}

func keeperInput(k *ward) {
	k.start()
	c := k.connect()
	defer c.Close()
	if n, err := c.Write([]byte("x")); n != 1 || err != nil {
		k.Fatal(n, err)
	}
	if got := k.tell("read"); got != 'x' {
		k.Errorf("the guest read %d", got)
	}
	try(k.T, c.Resize(25, 132))
	k.until("the size", func() bool { return k.tell("rows") == 25132 })
	// A guest that does not read loses what is typed, and holds nobody up.
	for range 200 {
		if _, err := c.Write(bytes.Repeat([]byte("y"), 1024)); err != nil {
			k.Fatal(err)
		}
	}
	k.settled()
}

func keeperEcho(k *ward) {
	k.echo = 1
	k.start()
	k.tell("say loud\n")
	k.order("exit 0")
	k.endsWith("undo web 0 self")
	if got := k.stdout.String(); got != "loud\n" {
		k.Errorf("stdout has %q", got)
	}
}

// What is no terminal gets no escape sequences, wherever a read of the console ends.
func keeperEchoPlain(k *ward) {
	k.echo = 1
	k.start()
	k.tell("say [\x1b[0;1;32m  OK  \x1b[0m] \x1b(Bup\x1b]0;title\x07 \x1b]8;;x\x1b\\link\x1b7\n")
	for _, c := range "\x1b[1mx\x1b[m \x1b]no end\nnext\n" {
		k.tell("say " + string(c))
	}
	k.order("exit 0")
	k.endsWith("undo web 0 self")
	if got, want := k.stdout.String(), "[  OK  ] up link\nx \nnext\n"; got != want {
		k.Errorf("stdout has %q, want %q", got, want)
	}
}

// attached is a client that gets the console; what it gets is collected.
func (k *ward) attach() *Keeper {
	k.Helper()
	c := k.connect()
	try(k.T, c.Attach())
	return c
}

func (k *ward) hears(c *Keeper, want string) {
	k.Helper()
	var got []byte
	for buf := make([]byte, 4096); len(got) < len(want); {
		n := k.receive(c.conn, buf)
		if n == 0 {
			k.Fatalf("the connection ended after %q", got)
		}
		got = append(got, buf[:n]...)
	}
	if string(got) != want {
		k.Errorf("a client got %q, want %q", got, want)
	}
}

func keeperCrowd(k *ward) {
	k.start()
	var all []*Keeper
	for range 128 {
		all = append(all, k.attach())
	}
	for range 3 {
		conn, err := dial(k.Context(), k.path("run"), socketName, unix.SOCK_SEQPACKET)
		try(k.T, err)
		if _, err := hello(k.Context(), conn); !errors.Is(err, errNoKeeper) {
			k.Errorf("one too many gets %v", err)
		}
		conn.Close()
	}
	k.tell("say all\n")
	for _, c := range all {
		k.hears(c, "all\n")
	}
	for i := range 8 {
		all[i].Close()
	}
	k.until("a place", func() bool {
		conn, err := dial(k.Context(), k.path("run"), socketName, unix.SOCK_SEQPACKET)
		try(k.T, err)
		c, err := hello(k.Context(), conn)
		if err != nil {
			conn.Close()
			return false
		}
		all[0] = c
		return true
	})
	try(k.T, all[0].Attach())
	// Served in the order of their places: when the last one has its answer, the first was attached.
	k.until("the input", func() bool { all[15].Write([]byte("z")); return k.tell("read") == 'z' })
	k.tell("say more\n")
	for _, c := range append(all[8:], all[0]) {
		k.hears(c, "more\n")
	}
}

// A client that does not read is dropped; guest, log and the other clients go on.
func keeperSlowClient(k *ward) {
	k.start()
	slow := k.attach()
	defer slow.Close()
	k.tell("print 3000000") // comes back when the guest could print it all
	buf, total := make([]byte, 4096), 0
	for n := -1; n != 0; total += n {
		n = k.receive(slow.conn, buf)
	}
	if total >= 3000000 {
		k.Error("it got everything: the test is not slow enough")
	}
	next := k.attach()
	defer next.Close()
	k.until("the attachment", func() bool { next.Write([]byte("z")); return k.tell("read") == 'z' })
	k.tell("say on\n")
	k.until("the log", func() bool { return strings.HasSuffix(k.log(), "on\n") })
	k.tell("say x")
	k.until("the client", func() bool { n := k.receive(next.conn, buf); return bytes.HasSuffix(buf[:n], []byte("x")) })
}

// A client that reads gets all of it, however fast the guest prints.
func keeperReadingClient(k *ward) {
	k.start()
	c := k.attach()
	defer c.Close()
	k.until("the attachment", func() bool { c.Write([]byte("z")); return k.tell("read") == 'z' })
	const all = 3000000
	k.order(fmt.Sprint("print ", all))
	buf := make([]byte, 4096)
	for total := 0; total < all; {
		n := k.receive(c.conn, buf)
		if n == 0 {
			k.Fatalf("it was dropped after %d bytes of %d", total, all)
		}
		total += n
	}
}

func keeperStop(k *ward) {
	k.secs = 100
	k.start()
	k.tell("trap 5")
	c := k.connect()
	try(k.T, c.Stop(100*time.Second))
	k.endsWith("undo web 1280 asked")
}

func keeperStopTwice(k *ward) {
	k.start()
	k.tell("trap -1")
	k.tell("notify READY=1") // else it would be asked until it is known to have heard
	k.until("readiness", k.isReady)
	c := k.connect()
	try(k.T, c.Stop(100*time.Second))
	k.until("the signal", func() bool { return k.tell("stops") == 1 })
	late := k.connectRaw()
	if late.stopping != 1 {
		k.Error("the greeting does not tell that it is stopping")
	}
	try(k.T, c.Stop(100*time.Second))
	k.settled()
	if n := k.tell("stops"); n != 1 {
		k.Errorf("the init got %d signals", n)
	}
	try(k.T, c.Stop(0)) // that one is in a hurry
	k.endsWith("undo web 9 asked")
}

type greeting struct{ magic, version, init, stopping uint32 }

func (k *ward) connectRaw() (g greeting) {
	k.Helper()
	conn, err := dial(k.Context(), k.path("run"), socketName, unix.SOCK_SEQPACKET)
	try(k.T, err)
	defer conn.Close()
	var buf [64]byte
	if n := k.receive(conn, buf[:]); n != 16 {
		k.Fatalf("a greeting of %d bytes", n)
	}
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(buf[4*i:]) }
	return greeting{word(0), word(1), word(2), word(3)}
}

func keeperStopTimeout(k *ward) {
	k.start()
	k.tell("trap -1")
	c := k.connect()
	began := time.Now()
	try(k.T, c.Stop(time.Second))
	k.endsWith("undo web 9 asked")
	if took := time.Since(began); took < 900*time.Millisecond {
		k.Errorf("it was killed after %v", took)
	}
}

// An init that has no handler yet would lose the signal if it were process 1: it is asked once it listens.
func keeperStopEarly(k *ward) {
	k.start()
	c := k.connect()
	try(k.T, c.Stop(100*time.Second))
	k.settled()
	k.order("trap 6") // which it may not live to answer
	k.endsWith("undo web 1536 asked")
}

func keeperKill(k *ward) {
	k.start()
	k.tell("trap -1")
	c := k.connect()
	try(k.T, c.Kill())
	k.endsWith("undo web 9 asked")
}

// At the end of its life it is stopped like by anybody, and killed when it does not obey.
func keeperLife(k *ward) {
	for obeys, want := range map[string]string{"trap 5": "undo web 1280 expired", "trap -1": "undo web 9 expired"} {
		k.Run(obeys, func(t *testing.T) {
			k := &ward{T: t, exe: k.exe, secs: 1, life: 1}
			k.start()
			k.tell(obeys)
			k.endsWith(want)
			k.helped("wake") // a paused one would not hear it
		})
	}
}

// An init that no signal stops is asked by croft, once for each stop, in a process that has nothing of the keeper's.
func keeperAsks(k *ward) {
	k.asks, k.secs = true, 1
	k.start()
	k.tell("trap -1")
	c := k.connect()
	try(k.T, c.Stop(time.Second))
	k.helped("ask")
	if n := k.tell("stops"); n != 0 {
		k.Errorf("the init got %d signals", n)
	}
	k.endsWith("undo web 9 asked")
}

// helped waits for a helper of the keeper and looks at what it was given.
func (k *ward) helped(verb string) {
	k.Helper()
	var said []byte
	k.until("croft "+verb, func() (ok bool) {
		said, _ = os.ReadFile(k.path("out-" + verb))
		return len(said) > 0
	})
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	if want := verb + " web"; lines[0] != want {
		k.Errorf("it executed %q, want %q", lines[0], want)
	}
	for _, l := range lines[1:] {
		if strings.HasPrefix(l, "fd ") || strings.HasPrefix(l, "SigBlk") && !strings.HasSuffix(l, "\t0000000000000000") {
			k.Errorf("it has %q", l)
		}
	}
	if lines[1] != "report none" {
		k.Errorf("it has a %s", lines[1])
	}
}

func keeperAwaits(k *ward) {
	k.grace = -2
	k.start()
	k.helped("await")
	if k.isReady() {
		k.Error("it is ready before anybody said so")
	}
	c := k.connect()
	try(k.T, c.Ready())
	k.until("readiness", k.isReady)
	k.reports("R\n")
	k.order("exit 0")
	k.endsWith("undo web 0 self")
}

// The signals of a terminal and of systemd stop the machine by its own rules; its hangup and a broken pipe do
// nothing. None of them kills the keeper, which would orphan the machine.
func keeperSignals(k *ward) {
	for sig, stops := range map[unix.Signal]bool{
		unix.SIGTERM: true, unix.SIGINT: true, unix.SIGQUIT: true, unix.SIGHUP: false, unix.SIGPIPE: false,
	} {
		k.Run(sig.String(), func(t *testing.T) {
			k := &ward{T: t, exe: k.exe, secs: 100}
			k.start()
			k.tell("trap 5")
			k.connect().Close() // so that it is the keeper already
			try(t, k.cmd.Process.Signal(sig))
			cause := "asked"
			if !stops {
				cause = "self"
				k.settled()
				k.order("exit 5")
			}
			k.endsWith("undo web 1280 " + cause)
			if stops {
				k.helped("wake")
			}
		})
	}
}

func keeperBind(k *ward) {
	k.secs = 100
	k.start()
	k.tell("trap 5")
	a, b := k.connect(), k.connect()
	try(k.T, a.Bind())
	try(k.T, a.Unbind())
	k.settled()
	a.Close()
	k.settled()
	if n := k.tell("stops"); n != 0 {
		k.Fatal("it was stopped by one that had let go of it")
	}
	try(k.T, b.Bind())
	k.settled()
	b.Close()
	k.endsWith("undo web 1280 asked")
}

// What a client watches is killed with it, and not after it said that it is done.
func keeperWatch(k *ward) {
	k.start()
	for _, done := range []bool{false, true} {
		r, w, err := os.Pipe() // for cgroup.kill
		try(k.T, err)
		c := k.connect()
		try(k.T, c.Watch(w))
		w.Close()
		if done {
			try(k.T, c.Done())
		} else {
			try(k.T, c.ask('?', 1, 2, 3)) // what is unknown is ignored
		}
		c.Close()
		r.SetReadDeadline(time.Now().Add(waitLimit))
		got, err := io.ReadAll(r)
		if want := map[bool]string{false: "1", true: ""}[done]; err != nil || string(got) != want {
			k.Errorf("done %v: %q was written, %v; want %q", done, got, err, want)
		}
		r.Close()
	}
}

// A client sees the end of its connection when all is undone and not before.
func keeperEndOfConnection(k *ward) {
	k.start()
	c := k.connect()
	k.settled()
	put(k.T, k.path("hold"), "")
	k.order("exit 0")
	k.until("the successor", func() bool {
		data, _ := os.ReadFile(k.path("out"))
		return bytes.Contains(data, []byte("undo web 0 self\n"))
	})
	p := []unix.PollFd{{Fd: int32(c.conn.Fd()), Events: unix.POLLIN}}
	if n, _ := unix.Poll(p, 50); n != 0 {
		k.Error("the connection ended before the undo")
	}
	os.Remove(k.path("hold"))
	var buf [64]byte
	if n := k.receive(c.conn, buf[:]); n != 0 {
		k.Errorf("%d bytes instead of the end", n)
	}
	k.endsWith("undo web 0 self")
}

// Without a notify socket it is ready after a while, or at once.
func keeperGrace(k *ward) {
	for _, grace := range []int{0, 50} {
		k.Run(fmt.Sprint(grace), func(t *testing.T) {
			k := &ward{T: t, exe: k.exe, grace: grace, deaf: true}
			k.start()
			k.until("readiness", k.isReady)
			k.reports("R\n")
			k.order("exit 0")
			k.endsWith("undo web 0 self")
			if k.isReady() {
				t.Error("it is still ready")
			}
		})
	}
}

func (k *ward) reports(want string) {
	k.Helper()
	buf := make([]byte, len(want))
	k.report.SetReadDeadline(time.Now().Add(waitLimit))
	if _, err := io.ReadFull(k.report, buf); err != nil || string(buf) != want {
		k.Errorf("reported %q, %v; want %q", buf, err, want)
	}
}

func keeperReady(k *ward) {
	for _, text := range []string{"READY=1", "READY=1\n", "STATUS=up\nREADY=1\nX=1", "X_READY=1\nREADY=1", "STATUS=not READY=1 yet\nREADY=1\n", "READY=10\nREADY=1"} {
		k.Run(text, func(t *testing.T) {
			k := &ward{T: t, exe: k.exe}
			k.start()
			if k.tell("notify "+text) != 0 {
				t.Fatal("not sent")
			}
			k.until("readiness", k.isReady)
			k.reports("R\n")
		})
	}
}

func keeperNotReady(k *ward) {
	k.start()
	for _, text := range []string{"READY=0", "READY=", "READY=12", "XREADY=1", "STATUS=READY=1", "\x00\nREADY=1", "", "\n", "ready=1", strings.Repeat("x", 64<<10), strings.Repeat("\nREADY=1"[:7], 9000), strings.Repeat("=", 4096)} {
		if got := k.tell("notify " + text); got != 0 {
			k.Fatalf("not sent: %d", got)
		}
	}
	for _, text := range []string{"READY=1", "STATUS=x\nREADY=1\n"} {
		k.tell("other " + text)
	}
	k.tell("notify STATUS=last")
	k.drained()
	if k.isReady() {
		k.Error("it counts as ready")
	}
	k.tell("notify READY=1")
	k.until("readiness", k.isReady)
}

// drained waits until the keeper has taken every datagram of the guest: it takes one a turn.
func (k *ward) drained() {
	k.Helper()
	for range 20 {
		k.settled()
	}
}

// hostHears gives the next message to the host's systemd.
func (k *ward) hostHears() string {
	k.Helper()
	buf := make([]byte, 8192)
	n := k.receive(k.host, buf)
	return string(buf[:n])
}

func keeperTells(k *ward) {
	k.start()
	k.tell("other STATUS=not of PID 1\nWATCHDOG=1")
	k.tell("notify STATUS=Booting\nMAINPID=1\nWATCHDOG=1\nWATCHDOG=trigger\nX=1\nREADY=1\nSTATUS=Up")
	for _, want := range []string{"STATUS=Booting", "WATCHDOG=1", "READY=1", "STATUS=Up"} {
		if got := k.hostHears(); got != want {
			k.Errorf("the host hears %q, want %q", got, want)
		}
	}
}

func keeperTellsStop(k *ward) {
	k.start()
	try(k.T, k.connect().Stop(20*time.Second))
	if got, want := k.hostHears(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000"; got != want {
		k.Errorf("the host hears %q, want %q", got, want)
	}
	k.order("exit 0")
	k.endsWith("undo web 0 asked")
}

// However often the guest says so, it is reported once: nobody may be reading the reports.
func keeperReadyOnce(k *ward) {
	k.start()
	unix.FcntlInt(k.report.Fd(), unix.F_SETPIPE_SZ, 4096)
	for range 3000 { // two bytes each would fill the pipe
		k.order("notify READY=1")
		k.answer()
	}
	k.until("readiness", k.isReady)
	c := k.connect()
	try(k.T, c.Kill())
	k.endsWith("undo web 9 asked")
	rest, _ := io.ReadAll(k.report)
	if string(rest) != "R\n" {
		k.Errorf("reported %.20q, %d bytes", rest, len(rest))
	}
}

func keeperGuestFDs(k *ward) {
	k.start()
	k.settled()
	before := len(k.fds())
	for _, n := range []int{1, 2, 16, 17, 100, 253, 1, 253} {
		if got := k.tell(fmt.Sprintf("fds %d", n)); got != 0 {
			k.Fatalf("%d descriptors are not sent: %d", n, got)
		}
	}
	k.until("the end of all descriptors", func() bool { return len(k.fds()) <= before })
	k.settled()
	k.until("the end of the clients", func() bool { return len(k.fds()) <= before })
}

func keeperClientFDs(k *ward) {
	k.start()
	k.settled()
	c := k.connect()
	k.settled()
	before := len(k.fds())
	for _, n := range []int{1, 2, 3, 10, 253} {
		rights := unix.UnixRights(slices.Repeat([]int{0}, n)...)
		for _, what := range []byte{askDone, askInput, '?', 0} {
			try(k.T, unix.Sendmsg(int(c.conn.Fd()), []byte{what}, rights, nil, unix.MSG_NOSIGNAL))
		}
	}
	k.until("the input", func() bool { c.Write([]byte("z")); return k.tell("read") == 'z' })
	k.until("the end of all descriptors", func() bool { return len(k.fds()) <= before })
}

// A guest that floods its notify socket keeps nobody else from being served.
func keeperFlood(k *ward) {
	k.start()
	k.tell("trap 5")
	for range 3 {
		k.tell("flood READY=1\nSTATUS=" + strings.Repeat("x", 2000))
	}
	c := k.attach()
	c.Write([]byte("z"))
	if got := k.tell("read"); got != 'z' {
		k.Errorf("read %d", got)
	}
	k.tell("say on\n")
	k.hears(c, "on\n")
	if k.isReady() {
		k.Error("ready by the word of another process")
	}
	try(k.T, c.Stop(100*time.Second))
	k.endsWith("undo web 1280 asked")
}

// packet is one that no client of ours would send, or nearly one.
func packet(rng *rand.Rand) ([]byte, []byte) {
	size := []int{1, 2, 3, 4, 5, 6, 100, 4095, 4096, 4097, 60000}[rng.IntN(11)]
	if rng.IntN(500) == 0 { // the end, as far as the keeper can see
		size = 0
	}
	data := make([]byte, size)
	for i := range min(size, 64) {
		data[i] = byte(rng.Uint32())
	}
	if size > 0 && rng.IntN(2) == 0 {
		data[0] = "AIWSKBUXDY"[rng.IntN(10)]
	}
	if rng.IntN(4) > 0 {
		return data, nil
	}
	return data, unix.UnixRights(slices.Repeat([]int{0}, 1+rng.IntN(4))...)
}

// fuzz sends packets over changing connections until n are sent or the machine is gone, and tells how many.
func (k *ward) fuzz(seed uint64, n int, allowed func(first byte) bool) (sent int) {
	k.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	var conn *os.File
	for sent < n {
		if conn == nil || rng.IntN(100) == 0 {
			if conn != nil {
				conn.Close()
			}
			var err error
			if conn, err = dial(k.Context(), k.path("run"), socketName, unix.SOCK_SEQPACKET); err != nil {
				return sent
			}
			unix.SetsockoptTimeval(int(conn.Fd()), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(waitLimit / time.Second)})
		}
		data, oob := packet(rng)
		if len(data) > 0 && !allowed(data[0]) {
			continue
		}
		if err := unix.Sendmsg(int(conn.Fd()), data, oob, nil, unix.MSG_NOSIGNAL); err == unix.EAGAIN {
			k.Fatal("the keeper does not read")
		} else if err != nil { // an empty packet looks like the end to it
			conn.Close()
			conn = nil
			continue
		}
		sent++
	}
	conn.Close()
	return sent
}

func keeperFuzz(k *ward) {
	k.start()
	k.settled()
	before := len(k.fds())
	if n := k.fuzz(1, 10000, func(first byte) bool { return first != askStop && first != askKill && first != askBind }); n != 10000 {
		k.Fatalf("only %d packets were taken", n)
	}
	k.until("a place and the end of all descriptors", func() bool { return len(k.fds()) <= before })
	k.tell("say alive\n")
	k.until("the log", func() bool { return strings.HasSuffix(k.log(), "alive\n") })
	k.connect().Close()
}

// seeds are those that the fuzzing of the keeper runs with; CROFT_TEST_SEED=N begins at another.
func seeds(n uint64) []uint64 {
	first, _ := strconv.ParseUint(os.Getenv("CROFT_TEST_SEED"), 10, 64)
	var all []uint64
	for i := range n {
		all = append(all, first+i)
	}
	return all
}

func keeperFuzzToTheEnd(k *ward) {
	for _, seed := range seeds(5) {
		k.Run(fmt.Sprint(seed), func(t *testing.T) {
			k := &ward{T: t, exe: k.exe}
			k.start()
			k.tell("trap -1")
			k.fuzz(seed+10, 10000, func(byte) bool { return true })
			k.endsWith("undo web 9 asked")
		})
	}
}

// keeperFuzzGuest is a guest that prints and notifies anything, in words that are nearly right, while clients send
// anything too: what it printed is in the log, and it is ready when its init has said so and never by another's word.
func keeperFuzzGuest(k *ward) {
	for _, seed := range seeds(4) {
		k.Run(fmt.Sprint(seed), func(t *testing.T) {
			k := &ward{T: t, exe: k.exe, echo: 1}
			k.start()
			k.settled()
			before := len(k.fds())
			rng := rand.New(rand.NewPCG(seed, 2))
			printed, told := "", false
			for round := range 150 {
				switch text := babble(rng); rng.IntN(5) {
				case 0, 1:
					k.tell("say " + text)
					printed += text
				case 2:
					k.tell("notify " + text)
					told = told || saysReady(text)
				case 3:
					k.tell("other " + text)
				case 4:
					k.tell(fmt.Sprintf("fds %d", 1+rng.IntN(253)))
				}
				if round%10 == 0 {
					k.fuzz(seed<<32+uint64(round), 100, func(first byte) bool { return !strings.ContainsRune("SKBY", rune(first)) })
				}
			}
			k.until("the log", func() bool { return k.log() == printed })
			k.settled()
			if k.isReady() != told {
				t.Errorf("ready is %v, and its init said %v", k.isReady(), told)
			}
			k.until("the end of all descriptors", func() bool { return len(k.fds()) <= before })
			k.order("exit 0")
			k.endsWith("undo web 0 self")
		})
	}
}

// babble is what a guest might print or notify: up to 6000 bytes of words that the keeper knows and of anything.
func babble(rng *rand.Rand) string {
	words := []string{"READY=1", "READY=1\n", "\nREADY=1", "READY=", "READY=0", "\n", "\r\n", "\r", "\x00", "STATUS=", "\x1b[6n", "1", strings.Repeat("x", 4090)}
	var text strings.Builder
	for range 1 + rng.IntN(8) {
		if rng.IntN(3) > 0 {
			text.WriteString(words[rng.IntN(len(words))])
			continue
		}
		for range rng.IntN(30) {
			text.WriteByte(byte(rng.Uint32()))
		}
	}
	return text.String()[:min(6000, text.Len())]
}

// saysReady says whether the datagram has READY=1 on a line of its own, in what the keeper reads of it: 4096 bytes, up
// to the first NUL.
func saysReady(text string) bool {
	text, _, _ = strings.Cut(text[:min(4096, len(text))], "\x00")
	return slices.Contains(strings.Split(text, "\n"), "READY=1")
}
