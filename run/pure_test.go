package run

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

func TestControllers(t *testing.T) {
	for options, want := range map[string]string{
		"rw,memory":                          "memory",
		"rw,cpu,cpuacct":                     "cpu,cpuacct",
		"rw,xattr,name=systemd":              "name=systemd",
		"rw,xattr,release_agent=/x,name=sys": "name=sys",
		"ro,cpuset,noprefix,cpuset_v2_mode,clone_children": "cpuset",
		"rw": "", "": "",
	} {
		if got := controllers(options); got != want {
			t.Errorf("%q: %q, want %q", options, got, want)
		}
	}
}

// Every directory that is told as ours holds this process, and the unified one comes first.
func TestHierarchies(t *testing.T) {
	roots, own, err := hierarchies()
	if err != nil {
		t.Skip("SKIPPED, PROVES NOTHING: ", err)
	}
	if len(roots) != len(own) {
		t.Fatalf("%d roots, %d own", len(roots), len(own))
	}
	me := []byte(fmt.Sprintf("%d\n", os.Getpid()))
	for i, dir := range own {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		} else if !bytes.Contains(append([]byte("\n"), data...), append([]byte("\n"), me...)) {
			t.Errorf("%s does not hold this process", dir)
		}
		if !strings.HasPrefix(dir, roots[i]) {
			t.Errorf("%s is not below %s", dir, roots[i])
		}
	}
	mounted, err := cgroupMounts()
	if v2, ok := mounted[""]; err != nil || ok && roots[0] != v2.at {
		t.Errorf("the first is %s, not the unified %s; %v", roots[0], v2.at, err)
	}
}

func TestDirectoryOfCgroup(t *testing.T) {
	for _, c := range []struct{ top, path, want string }{
		{"/", "/", "/cg"},
		{"/", "/a/b", "/cg/a/b"},
		{"/pod/c1", "/pod/c1", "/cg"},
		{"/pod/c1", "/pod/c1/job", "/cg/job"},
		{"/pod/c1", "/pod/c10", "/cg"}, // out of sight
		{"/..", "/", "/cg"},
	} {
		if got := (hierarchy{"/cg", c.top}).directory(c.path); got != c.want {
			t.Errorf("%s below %s: %s, want %s", c.path, c.top, got, c.want)
		}
	}
}

func TestProcesses(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "cgroup.procs"), "1\n2\n0\nx\n")
	put(t, filepath.Join(dir, "a/b/cgroup.procs"), "3\n")
	if got := processes(dir); !reflect.DeepEqual(got, []int{1, 2, 3}) { // 0: of another pid namespace
		t.Error(got)
	}
	if got := processes(filepath.Join(dir, "gone")); got != nil {
		t.Error(got)
	}
	if err := killCgroups([]string{filepath.Join(dir, "gone")}); err != nil {
		t.Error(err)
	}
	if err := removeCgroups([]string{filepath.Join(dir, "gone")}); err != nil {
		t.Error(err)
	}
}

func TestOverlayEnv(t *testing.T) {
	for _, c := range []struct{ env, over, want string }{
		{"", "", ""},
		{"A=1 B=2", "", "A=1 B=2"},
		{"A=1 B=2", "A=3", "A=3 B=2"},
		{"A=1 A=2", "", "A=2"},
		{"A=1 AB=2", "AB= A=x=y", "A=x=y AB="},
		{"", "C=1 C=2", "C=2"},
	} {
		env := strings.Fields(c.env)
		if got := strings.Join(overlayEnv(env, strings.Fields(c.over)), " "); got != c.want {
			t.Errorf("%s over %s: %s, want %s", c.over, c.env, got, c.want)
		}
		if got := strings.Join(env, " "); got != c.env {
			t.Errorf("the caller's list is now %s", got)
		}
	}
}

func exited(code int) unix.WaitStatus  { return unix.WaitStatus(code << 8) }
func signalled(s int) unix.WaitStatus  { return unix.WaitStatus(s) }
func coreDumped(s int) unix.WaitStatus { return unix.WaitStatus(s | 0x80) }

// An end in time is a matter of the clock, whatever the guest made of it.
func TestExitOfExpired(t *testing.T) {
	in := &state.Instance{Facts: state.Facts{Init: state.Init{Mode: state.InitBoot}}}
	for _, status := range []unix.WaitStatus{exited(0), signalled(2), signalled(9)} {
		if got := exitOf(in, status, CauseExpired); got.Reason != state.ExitTimeout || got.Code != StatusTimeout {
			t.Errorf("%v: %+v", status, got)
		}
	}
}

func TestPauseBefore(t *testing.T) {
	for n, want := range map[int]time.Duration{
		1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 7: 6400 * time.Millisecond, 8: 10 * time.Second, 9: 10 * time.Second, 65536: 10 * time.Second,
	} {
		if got := pauseBefore(n); got != want {
			t.Errorf("before restart %d: %v, want %v", n, got, want)
		}
	}
}

func TestInARow(t *testing.T) {
	began := time.Unix(1e9, 0)
	in := &state.Instance{Restarts: 3, Applied: &state.Applied{Started: began}}
	if got := inARow(in, began.Add(steady-time.Second)); got != 4 {
		t.Errorf("a short run: %d", got)
	}
	if got := inARow(in, began.Add(steady)); got != 1 {
		t.Errorf("a steady run: %d", got)
	}
	if got := inARow(&state.Instance{Restarts: 3}, began); got != 4 {
		t.Errorf("a start that never was: %d", got)
	}
}

// All wait statuses that there are.
func TestExitOf(t *testing.T) {
	for _, mode := range []string{state.InitBoot, state.InitPayload} {
		in := &state.Instance{Facts: state.Facts{Init: state.Init{Mode: mode}}}
		for code := range 256 {
			if got, want := exitOf(in, exited(code), CauseSelf), (state.Exit{Reason: state.ExitExited, Code: code}); got != want {
				t.Errorf("%s: exit %d: %+v", mode, code, got)
			}
		}
		for sig := 1; sig < 65; sig++ {
			want := state.Exit{Reason: state.ExitKilled, Code: 128 + sig}
			if mode == state.InitBoot {
				want.Code = 1
			}
			if sig == int(unix.SIGINT) || sig == int(unix.SIGHUP) {
				want = state.Exit{Reason: state.ExitPoweroff}
			}
			if got := exitOf(in, signalled(sig), CauseAsked); got != want {
				t.Errorf("%s: signal %d: %+v, want %+v", mode, sig, got, want)
			}
			if got := exitOf(in, coreDumped(sig), CauseAsked); got != want {
				t.Errorf("%s: signal %d with a core: %+v, want %+v", mode, sig, got, want)
			}
		}
	}
}

func TestStatusOf(t *testing.T) {
	for w, want := range map[unix.WaitStatus]ExitStatus{exited(0): 0, exited(42): 42, exited(255): 255, signalled(9): 137, coreDumped(11): 139} {
		if got := statusOf(w); got != want {
			t.Errorf("%#x: %d, want %d", w, got, want)
		}
	}
}

func TestNotRun(t *testing.T) {
	for e, want := range map[unix.Errno]ExitStatus{
		unix.ENOENT: 127, unix.ENOTDIR: 127, unix.EACCES: 126, unix.ENOEXEC: 126, unix.ELOOP: 126, unix.E2BIG: 126,
	} {
		got, err := notRun("x", fmt.Errorf("%w: %w", errExec, e))
		if got != want || err == nil || !strings.HasPrefix(err.Error(), "exec x: ") {
			t.Errorf("%v: %d, %v", e, got, err)
		}
	}
}

// started is a Started that hears these reports.
func started(t *testing.T, lines string) *Started {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	io.WriteString(w, lines)
	w.Close()
	return heard(r)
}

func heard(r *os.File) *Started {
	return &Started{name: "web", pipe: r, lines: bufio.NewScanner(r), code: -1}
}

func TestReports(t *testing.T) {
	ctx := context.Background()
	s := started(t, "T record 12\nT rootfs 3400\nS\nR\nX 7\n")
	if err := s.until(ctx, "S"); err != nil {
		t.Fatal(err)
	}
	want := []Timing{{"record", 12 * time.Microsecond}, {"rootfs", 3400 * time.Microsecond}}
	if !reflect.DeepEqual(s.Timings, want) {
		t.Errorf("timings %v", s.Timings)
	}
	if err := s.Ready(ctx, testEngine(t), time.Minute); err != nil {
		t.Error(err)
	}
	if code, err := s.Wait(ctx); code != 7 || err != nil {
		t.Errorf("ended with %d, %v", code, err)
	}
}

// Whatever comes, and wherever it stops.
func TestReportsCutOrStrange(t *testing.T) {
	for _, lines := range []string{"", "S", "T\n", "T x\nT x y\n", "X\n", "X x\n", "\n\n", "T a 1\nS extra\n", "Z what\n", "\x00\xff\n", "E\n", "E x\n", `E "` + "\n"} {
		s := started(t, lines)
		err := s.until(context.Background(), "S")
		switch {
		case strings.HasPrefix(lines, "E"):
			if err == nil || errors.Is(err, errEnded) {
				t.Errorf("%q: %v, want an error", lines, err)
			}
		case strings.Contains(lines, "S"):
			if err != nil {
				t.Errorf("%q: %v", lines, err)
			}
		case !errors.Is(err, errEnded):
			t.Errorf("%q: %v, want that it ended", lines, err)
		}
	}
}

func TestReportOfAFailure(t *testing.T) {
	for _, want := range []error{
		errors.New("plain"), errors.New(`with "quotes", a \ and` + "\ntwo lines"), state.Hint(errors.New("e"), `croft "x"`), errors.New(""),
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		(&report{w}).failed(want)
		w.Close()
		got := heard(r).until(context.Background(), "S")
		if got == nil || got.Error() != want.Error() || hintOf(got) != hintOf(want) {
			t.Errorf("%q, hint %q; want %q, %q", got, hintOf(got), want, hintOf(want))
		}
		r.Close()
	}
	(&report{}).failed(errors.New("nobody listens"))
}

// A machine that is never ready is given up in time, and its listener with it.
func TestReadyGivesUp(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	s := heard(r)
	err = s.Ready(context.Background(), testEngine(t), 20*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "not ready within 20ms") || hintOf(err) != "croft logs web" {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
}

func TestReadyOfADeadMachine(t *testing.T) {
	e := testEngine(t)
	put(t, filepath.Join(e.Dir.Of("web"), "console.log"), "one\n\x1b[1mtwo\x1b[0m\r\n\n three \nfour\n")
	err := started(t, "S\nX 3\n").Ready(context.Background(), e, time.Minute)
	if want := "start web: boot: the init ended at once with status 3; its last lines: two | three | four"; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestCopyKeys(t *testing.T) {
	for _, c := range []struct {
		typed, want string
		left        bool
	}{
		{"", "", false},
		{"ls\n", "ls\n", false},
		{"\x01q", "", true},
		{"ls\n\x01q", "ls\n", true},
		{"\x01\x01", "\x01", false},
		{"\x01\x01q", "\x01q", false},
		{"\x01\x01\x01q", "\x01", true},
		{"\x01x", "\x01x", false},
		{"a\x01q more", "a", true},
		{"q\x01", "q", false},
	} {
		for name, from := range map[string]io.Reader{
			"at once": strings.NewReader(c.typed), "byte by byte": iotest.OneByteReader(strings.NewReader(c.typed)),
			"with the end": iotest.DataErrReader(strings.NewReader(c.typed)),
		} {
			var out bytes.Buffer
			if left := CopyKeys(&out, from); left != c.left || out.String() != c.want {
				t.Errorf("%q %s: %v, %q; want %v, %q", c.typed, name, left, out.String(), c.left, c.want)
			}
		}
	}
}

func TestPlain(t *testing.T) {
	for line, want := range map[string]string{
		"": "", "text": "text", "a\tb\r": "ab", "\x1b[1;31mred\x1b[0m": "red", "\x1b[": "", "\x1b[12": "", "\x1b": "", "x\x1b[Ky\x7f": "xy",
		"grün": "grün", "\x1b[2J\x1b[Hhome": "home",
	} {
		if got := plain([]byte(line)); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// times writes a console.times file.
func times(t *testing.T, pairs ...uint64) string {
	t.Helper()
	var data []byte
	for _, n := range pairs {
		data = binary.NativeEndian.AppendUint64(data, n)
	}
	path := filepath.Join(t.TempDir(), "console.times")
	put(t, path, string(data))
	return path
}

func TestOffsetAt(t *testing.T) {
	usual := []uint64{100, 0, 102, 50, 105, 80}
	for _, c := range []struct {
		pairs []uint64
		since int64
		want  int
	}{
		{usual, 0, 0}, {usual, 100, 0}, {usual, 101, 50}, {usual, 102, 50}, {usual, 103, 80}, {usual, 105, 80}, {usual, 106, 1000},
		{nil, 5, 1000},
		{[]uint64{100}, 5, 1000},                                                    // cut
		{[]uint64{100, 1 << 63, 200, 5}, 50, 1000}, {[]uint64{100, 5000}, 50, 1000}, // damaged
	} {
		if got := offsetAt(times(t, c.pairs...), time.Unix(c.since, 0), 1000); got != c.want {
			t.Errorf("%v since %d: %d, want %d", c.pairs, c.since, got, c.want)
		}
	}
	if got := offsetAt("/no/such/file", time.Unix(5, 0), 1000); got != 0 { // without it all is shown
		t.Error(got)
	}
}

func TestConsoleLog(t *testing.T) {
	e := testEngine(t)
	dir := e.Dir.Of("web")
	if data, end, err := e.ConsoleLog("web", time.Time{}); data != nil || end != 0 || err != nil {
		t.Errorf("none: %q %d %v", data, end, err)
	}
	put(t, filepath.Join(dir, "console.log.1"), "old\nolder\n")
	put(t, filepath.Join(dir, "console.log"), "new\nnewer\n")
	pairs := func(name string, n ...uint64) {
		data, _ := os.ReadFile(times(t, n...))
		put(t, filepath.Join(dir, name), string(data))
	}
	pairs("console.times.1", 100, 0, 101, 4)
	pairs("console.times", 102, 0, 103, 4)
	for since, want := range map[int64]string{0: "old\nolder\nnew\nnewer\n", 101: "older\nnew\nnewer\n", 102: "new\nnewer\n", 103: "newer\n", 104: ""} {
		data, end, err := e.ConsoleLog("web", time.Unix(since, 0))
		if err != nil || string(data) != want || end != 10 {
			t.Errorf("since %d: %q, %d, %v; want %q", since, data, end, err, want)
		}
	}
}

// What a command wrote is copied to the end, and a process that it left behind is not waited for.
func TestOutputRest(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() // as by a process in the background
	unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	text := strings.Repeat("0123456789abcdef", 60000)
	if _, err := io.WriteString(w, text[:1<<19]); err != nil {
		t.Fatal(err)
	}
	to, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	s := &session{outputs: []*output{{from: r, to: to, done: make(chan struct{})}}}
	go s.outputs[0].copy()
	done := make(chan struct{})
	go func() { s.drain(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for the process in the background")
	}
	got, _ := os.ReadFile(to.Name())
	if string(got) != text[:1<<19] {
		t.Errorf("%d bytes arrived of %d", len(got), 1<<19)
	}
}

// A reader that went away is told to the command.
func TestOutputNobodyReads(t *testing.T) {
	r, w, _ := os.Pipe()
	nobody, to, _ := os.Pipe()
	nobody.Close()
	defer to.Close()
	defer w.Close()
	o := &output{from: r, to: to, done: make(chan struct{})}
	go o.copy()
	io.WriteString(w, "x")
	<-o.done
	if _, err := w.WriteString("y"); !errors.Is(err, unix.EPIPE) {
		t.Errorf("the command's write gives %v, want EPIPE", err)
	}
}

// A path of any length does for a socket, and what is there is replaced.
func TestSocketsBelowLongPaths(t *testing.T) {
	dir := t.TempDir()
	for range 4 {
		dir = filepath.Join(dir, strings.Repeat("d", 60))
	}
	put(t, filepath.Join(dir, "s"), "in the way")
	l, err := listen(dir, "s", unix.SOCK_SEQPACKET, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, err := os.Stat(filepath.Join(dir, "s")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	c, err := dial(t.Context(), dir, "s", unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := dial(t.Context(), dir, "other", unix.SOCK_SEQPACKET); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

// The claim of a machine that does not run is for a change of it: that is waited for, and no run.
func TestRuns(t *testing.T) {
	dir := t.TempDir()
	d, err := state.Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	e, in := &Engine{Dir: d}, &state.Instance{Spec: state.Spec{Name: "web", Image: "x"}}
	if err := d.Create(in, func(*state.Instance) error { return nil }); err != nil {
		t.Fatal(err)
	}
	claim, err := d.Claim("web")
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if _, runs, err := e.Runs(over, "web"); runs || !errors.Is(err, context.Canceled) {
		t.Errorf("held, nothing applied: %v, %v; want a wait", runs, err)
	}
	apply := func(a *state.Applied) {
		t.Helper()
		_, err := d.Edit("web", func(in *state.Instance) error { in.Applied = a; return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	apply(&state.Applied{})
	if _, runs, err := e.Runs(over, "web"); !runs || err != nil {
		t.Errorf("held, applied: %v, %v", runs, err)
	}
	apply(nil)
	go claim.Release()
	if _, runs, err := e.Runs(context.Background(), "web"); runs || err != nil {
		t.Errorf("released: %v, %v", runs, err)
	}
}
