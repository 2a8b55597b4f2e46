package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// commands are what scripts can say besides testscript's own.
//
//	need FACT...                      skip the script, loudly, unless the facts hold (facts_test.go); NAME of guest:NAME gets $NAME, its tar
//	guest NAME                        import the guest: busybox into the script's own root, the others once into a shared one,
//	                                  which then is the script's CROFT_ROOT; its alias is in $IMAGE
//	[!] croft ARG...                  exec croft ARG...
//	status N CMD ARG...               exec, and the exit status must be N (128+S for a death by signal S)
//	[!] retry [-t D] CMD ARG...       run again until it succeeds (fails), at most D (10s)
//	capture VAR                       $VAR is the last stdout, trimmed
//	[!] json FILE PATH [VALUE]        PATH (a.0.b; len is a length) is there and has the value; FILE may be stdout
//	fields FILE                       the dotted paths of FILE's JSON, sorted, are stdout; [] is any element of a list
//	bg [-in FILE|-open] NAME CMD...   run beside the script; NAME.out and NAME.err get its output; stdin is empty, FILE or a pipe
//	feed NAME FILE / shut NAME        write FILE into the pipe / close it
//	signal SIG NAME|PID...            send a signal
//	reap [-t D] NAME N[|N]|any        wait for its end (10s) with status N; its output is stdout and stderr then
//	pty [-status N] [-size WxH] FILE CMD ARG...   under a terminal, talked to by FILE (pty_test.go); what it showed is stdout
//	build VAR VERSION [COMMIT]        $VAR is a croft that says it is VERSION, made of COMMIT or else of this tree
//	registry VAR [-tls|-clients] [-auth]  start a registry that ends with the script; $VAR is its HOST:PORT (registry_test.go)
//	owns N [VAR]                      N processes run from this script's croft binary (within 5s); their pids are in $VAR
//	tree DIR FILE                     DIR is an image server's directory with the images that FILE describes (imageserver.Image, JSON)
//	sign DIR KEY [around|expired|old] sign its lists beside them, or around copies, or a week ago; the key is made when it is
//	                                  first named: KEY.asc
//	serve NAME DIR|URL                serve DIR, or what http://... answers, over https; $NAME is its URL, $NAME_HOST its HOST:PORT,
//	                                  $NAME_CA its authority's certificate
//	fault NAME KIND [PATH [TIMES [VALUE]]]  do something to requests with PATH in them (imageserver.Fault); mend ends all of it
//	uplink [-mtu N] [4] [6]           connect the script's host to hosts of its own, internet and neighbour (topology_test.go)
//	[!] on HOST CMD ARG...            exec it in the network of host, internet, neighbour or machine:NAME; a program, too: bg X on HOST CMD
//	listen HOST tcp|udp [ADDR]:PORT   tell each who asks there its address, until the script ends or unlisten HOST
//	[!] ask [-t D] HOST tcp|udp ADDR:PORT   ask from the host; the answer, the address and port that were seen there, is stdout
//	asked NAME                        what was asked of the server since the last time is stdout: PATH [RANGE] STATUS
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"need":    cmdNeed,
	"guest":   cmdGuest,
	"croft":   cmdCroft,
	"status":  cmdStatus,
	"retry":   cmdRetry,
	"capture": cmdCapture,
	"json":    cmdJSON,
	"fields":  cmdFields,
	"bg":      cmdBg,
	"feed":    cmdFeed,
	"shut":    cmdShut,
	"signal":  cmdSignal,
	"reap":    cmdReap,
	"pty":     cmdPty,
	"build":   cmdBuild,
	"owns":    cmdOwns,
	"tree":    cmdTree,
	"sign":    cmdSign,
	"serve":   cmdServe,
	"fault":   cmdFault,
	"asked":   cmdAsked,

	"registry": cmdRegistry,

	"uplink":   cmdUplink,
	"on":       cmdOn,
	"listen":   cmdListen,
	"unlisten": cmdUnlisten,
	"ask":      cmdAsk,

	"attempts": cmdAttempts, // these four: escape_test.go
	"attempt":  cmdAttempt,
	"control":  cmdControl,
	"closed":   cmdClosed,
}

// usage ends the script unless ok.
func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func cmdNeed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "need FACT...")
	for _, fact := range args {
		why, ok := check(fact)
		if !ok {
			ts.Fatalf("no such fact: %s", fact)
		}
		if why != nil && demanded(fact) {
			ts.Fatalf("CROFT_TEST_NEED demands %s: %v", fact, why)
		}
		if why != nil {
			ts.Value(testKey{}).(testscript.T).Skip(fmt.Sprintf("%s: %v", fact, why))
		}
		if name, is := strings.CutPrefix(fact, "guest:"); is {
			tar, err := guestTar(name)
			ts.Check(err)
			ts.Setenv(name, tar)
		}
	}
}

func cmdGuest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1 && guests[args[0]] != "", "guest NAME")
	name := args[0]
	cmdNeed(ts, false, []string{"root", "guest:" + name})
	ts.Setenv("IMAGE", guests[name])
	if name != "busybox" && ts.Getenv("CROFT_ROOT") == rootOf(ts.Getenv("WORK")) {
		ts.Setenv("CROFT_ROOT", rootOf(ts.Getenv("SHARED")))
		ts.Setenv("CROFT_RUN", runOf(ts.Getenv("SHARED")))
	}
	if ts.Exec("croft", "image", "info", guests[name]) == nil {
		return
	}
	ts.Check(ts.Exec("croft", "image", "import", "-q", "--alias", guests[name], ts.Getenv(name)))
}

func cmdCroft(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("croft", args...)
	switch {
	case err != nil && !neg:
		ts.Fatalf("croft: %v", err)
	case err == nil && neg:
		ts.Fatalf("croft: unexpected success")
	}
}

func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1, "status N CMD ARG...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := statusOf(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit status %d, not %d", got, want)
	}
}

// statusOf is the exit status a shell would show for a command that ended with err.
func statusOf(ts *testscript.TestScript, err error) int {
	var exit *exec.ExitError
	if err == nil {
		return 0
	}
	if !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if wait := exit.Sys().(syscall.WaitStatus); wait.Signaled() {
		return 128 + int(wait.Signal())
	}
	return exit.ExitCode()
}

func cmdRetry(ts *testscript.TestScript, neg bool, args []string) {
	limit, args := durationFlag(ts, "-t", 10*time.Second, args)
	usage(ts, len(args) > 0, "[!] retry [-t D] CMD ARG...")
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		var stdout, stderr bytes.Buffer
		cmd := command(ts, args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err, late := cmd.Run(), time.Now().After(deadline)
		if (err == nil) == neg && !late {
			continue
		}
		io.Copy(ts.Stdout(), &stdout) // of the last time alone
		io.Copy(ts.Stderr(), &stderr)
		if (err == nil) == neg {
			ts.Fatalf("still so after %v", limit)
		}
		return
	}
}

// durationFlag takes a leading flag with its value off args.
func durationFlag(ts *testscript.TestScript, flag string, d time.Duration, args []string) (time.Duration, []string) {
	if len(args) < 2 || args[0] != flag {
		return d, args
	}
	d, err := time.ParseDuration(args[1])
	ts.Check(err)
	return d, args[2:]
}

func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "capture VAR")
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2 || len(args) == 3, "[!] json FILE PATH [VALUE]")
	var doc any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &doc); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
	got, ok := lookup(doc, args[1])
	if ok && len(args) == 3 {
		ok = got == args[2]
	}
	if ok == neg {
		ts.Fatalf("%s is %q", args[1], got)
	}
}

// lookup finds the value at a dotted path: keys, list positions, and len for the length of a list or object.
func lookup(doc any, path string) (string, bool) {
	for _, key := range strings.Split(path, ".") {
		switch at := doc.(type) {
		case map[string]any:
			next, ok := at[key]
			if key == "len" {
				next, ok = float64(len(at)), true
			}
			if !ok {
				return "", false
			}
			doc = next
		case []any:
			i, err := strconv.Atoi(key)
			if key == "len" {
				doc = float64(len(at))
				continue
			}
			if err != nil || i < 0 || i >= len(at) {
				return "", false
			}
			doc = at[i]
		default:
			return "", false
		}
	}
	if text, is := doc.(string); is {
		return text, true
	}
	text, err := json.Marshal(doc)
	return string(text), err == nil && !reflect.ValueOf(&doc).Elem().IsNil()
}

func cmdFields(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "fields FILE")
	var doc any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &doc); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
	seen := map[string]bool{}
	fieldsOf(doc, "", seen)
	for _, path := range slices.Sorted(maps.Keys(seen)) {
		fmt.Fprintln(ts.Stdout(), path)
	}
}

// fieldsOf notes the paths that lead to plain values, null and empty lists and objects.
func fieldsOf(doc any, path string, seen map[string]bool) {
	switch at := doc.(type) {
	case map[string]any:
		for key, next := range at {
			fieldsOf(next, strings.TrimPrefix(path+"."+key, "."), seen)
		}
		if len(at) > 0 {
			return
		}
	case []any:
		for _, next := range at {
			fieldsOf(next, path+"[]", seen)
		}
		if len(at) > 0 {
			return
		}
	}
	seen[path] = true
}

// A job is a command that runs beside its script.
type job struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser // nil unless it was started with -open
	end   chan error     // gets cmd.Wait's result once
}

// jobs are a script's, by name.
type jobs map[string]*job

type (
	jobsKey struct{} // jobs in the script's values
	testKey struct{} // its testscript.T
)

func (all jobs) killAll() {
	for _, j := range all {
		j.cmd.Process.Kill()
		<-j.end
	}
}

func jobOf(ts *testscript.TestScript, name string) *job {
	j := ts.Value(jobsKey{}).(jobs)[name]
	if j == nil {
		ts.Fatalf("no job is called %s", name)
	}
	return j
}

func cmdBg(ts *testscript.TestScript, neg bool, args []string) {
	var in string
	open := len(args) > 0 && args[0] == "-open"
	if open {
		args = args[1:]
	} else if len(args) > 1 && args[0] == "-in" {
		in, args = args[1], args[2:]
	}
	usage(ts, !neg && len(args) > 1, "bg [-in FILE|-open] NAME CMD ARG...")
	name := args[0]
	j := &job{cmd: command(ts, args[1], args[2:]...), end: make(chan error, 1)}
	stdout, stderr := outputs(ts, name)
	defer stdout.Close()
	defer stderr.Close()
	j.cmd.Stdout, j.cmd.Stderr = stdout, stderr
	var err error
	if open {
		j.stdin, err = j.cmd.StdinPipe()
	} else if in != "" {
		j.cmd.Stdin, err = os.Open(ts.MkAbs(in))
	}
	ts.Check(err)
	ts.Check(j.cmd.Start())
	go func() { j.end <- j.cmd.Wait() }()
	ts.Value(jobsKey{}).(jobs)[name] = j
}

// command is an exec.Cmd with the script's directory, environment and search path.
func command(ts *testscript.TestScript, name string, args ...string) *exec.Cmd {
	file := filepath.Join(ts.Getenv("WORK"), ".environment")
	ts.Check(ts.Exec("sh", "-c", `env -0 >"$1"`, "sh", file)) // testscript keeps it to itself
	cmd := exec.Command("/usr/bin/env", append([]string{name}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = strings.Split(strings.TrimSuffix(ts.ReadFile(file), "\x00"), "\x00")
	return cmd
}

// outputs makes the files that take a job's output.
func outputs(ts *testscript.TestScript, name string) (stdout, stderr *os.File) {
	stdout, err := os.Create(filepath.Join(ts.Getenv("WORK"), name+".out"))
	ts.Check(err)
	stderr, err = os.Create(filepath.Join(ts.Getenv("WORK"), name+".err"))
	ts.Check(err)
	return stdout, stderr
}

func cmdFeed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "feed NAME FILE")
	_, err := io.WriteString(jobOf(ts, args[0]).stdin, ts.ReadFile(args[1]))
	ts.Check(err)
}

func cmdShut(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "shut NAME")
	ts.Check(jobOf(ts, args[0]).stdin.Close())
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1, "signal SIG NAME|PID...")
	sig := unix.SignalNum("SIG" + args[0])
	for _, who := range args[1:] {
		pid, err := strconv.Atoi(who)
		if err != nil {
			pid = jobOf(ts, who).cmd.Process.Pid
		}
		ts.Check(os.NewSyscallError("kill", syscall.Kill(pid, sig)))
	}
}

func cmdReap(ts *testscript.TestScript, neg bool, args []string) {
	limit, args := durationFlag(ts, "-t", 10*time.Second, args)
	usage(ts, !neg && len(args) == 2, "reap [-t D] NAME N[|N]|any")
	name, want := args[0], args[1]
	j := jobOf(ts, name)
	var err error
	select {
	case err = <-j.end:
		delete(ts.Value(jobsKey{}).(jobs), name)
	case <-time.After(limit):
		defer ts.Fatalf("%s still runs after %v", name, limit)
	}
	io.WriteString(ts.Stdout(), ts.ReadFile(filepath.Join(ts.Getenv("WORK"), name+".out")))
	io.WriteString(ts.Stderr(), ts.ReadFile(filepath.Join(ts.Getenv("WORK"), name+".err")))
	if got := fmt.Sprint(statusOf(ts, err)); want != "any" && !slices.Contains(strings.Split(want, "|"), got) {
		ts.Fatalf("%s ended with status %s, not %s", name, got, want)
	}
}

func cmdBuild(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 2 || len(args) == 3), "build VAR VERSION [COMMIT]")
	tree := ".."
	if len(args) == 3 {
		tree = filepath.Join(ts.Getenv("WORK"), ".tree-"+args[0])
		ts.Check(os.Mkdir(tree, 0o755))
		if err := try("sh", "-c", `git -C .. archive "$1" | tar -xC "$2" && test -e "$2/Makefile"`, "sh", args[2], tree); err != nil {
			ts.Logf("no commit %s here, this tree stands in for it: %v", args[2], err)
			tree = ".."
		}
	}
	binary := filepath.Join(ts.Getenv("WORK"), ".bin", "croft-"+args[1])
	ts.Check(outside(func() error { return try("make", "-s", "-C", tree, "build", "CROFT="+binary, "VERSION="+args[1]) }))
	ts.Setenv(args[0], binary)
}

func cmdOwns(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 1 || len(args) == 2), "owns N [VAR]")
	var found []process
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		found = found[:0]
		for _, p := range processes() {
			if filepath.Clean(p.exe) == ts.Getenv("CROFT_BIN") {
				found = append(found, p)
			}
		}
		if fmt.Sprint(len(found)) == args[0] {
			break
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%d processes of croft: %v", len(found), found)
		}
	}
	if len(args) == 2 {
		ts.Setenv(args[1], strings.Join(pids(found), " "))
	}
}

func pids(all []process) []string {
	var text []string
	for _, p := range all {
		text = append(text, strconv.Itoa(p.pid))
	}
	return text
}

// A lockedBuffer is a buffer that one goroutine writes while another looks.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// after is all that was written past the offset.
func (l *lockedBuffer) after(offset int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b.Bytes()[offset:])
}
