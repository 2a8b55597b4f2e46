package image

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestImportProcess is no test: the others run it as a process of its own, to be killed or to compete.
func TestImportProcess(t *testing.T) {
	dir := os.Getenv("CROFT_TEST_STORE")
	if dir == "" {
		return
	}
	s := &Store{Dir: dir, Unpack: unpackSmall, Pack: packSmall}
	if _, err := s.Import(context.Background(), ImportOptions{Source: "-", Stdin: os.Stdin}); err != nil {
		t.Fatal(err)
	}
}

func importProcess(t *testing.T, s *Store) (*exec.Cmd, io.WriteCloser) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestImportProcess$")
	cmd.Env = append(os.Environ(), "CROFT_TEST_STORE="+s.Dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, stdin
}

// works lists the places where imports unpack.
func works(t *testing.T, s *Store) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Dir, layersName, newPrefix+"*", "tree"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

// An import is left alone by others while it lives; killed, it is invisible and the next one cleans up.
func TestImportKilled(t *testing.T) {
	s := testStore(t)
	cmd, stdin := importProcess(t, s)
	if _, err := stdin.Write(rootfsTar(t, "")[:8192]); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the import to begin", func() bool { return len(works(t, s)) == 1 })
	mustImport(t, s, rootfsTar(t, "other"))
	if said, err := s.Sweep(); err != nil || len(said) > 0 || len(works(t, s)) != 1 {
		t.Fatalf("a living import was swept: %v, %v", said, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if list, err := s.List(); err != nil || len(list) != 1 || len(works(t, s)) != 1 {
		t.Fatalf("%+v, %v; %v", list, err, works(t, s))
	}
	said, err := s.Sweep()
	if err != nil || len(said) != 1 || !strings.HasPrefix(said[0], "leftover ") {
		t.Errorf("%v, %v", said, err)
	}
	clean(t, s, 1, 1)
}

func TestImportInProcesses(t *testing.T) {
	s := testStore(t)
	data := rootfsTar(t, "")
	var all []*exec.Cmd
	var pipes []io.WriteCloser
	for range 3 {
		cmd, stdin := importProcess(t, s)
		all, pipes = append(all, cmd), append(pipes, stdin)
	}
	for _, p := range pipes {
		go func() {
			io.Copy(p, bytes.NewReader(data))
			p.Close()
		}()
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	clean(t, s, 1, 1)
}

// What crashes between the steps of a removal leave behind is swept.
func TestSweep(t *testing.T) {
	s := testStore(t)
	if said, err := s.Sweep(); err != nil || said != nil || exists(s.Dir) {
		t.Errorf("a store that is not there: %v, %v", said, err)
	}
	img := mustImport(t, s, rootfsTar(t, ""), "a")
	mustImport(t, s, rootfsTar(t, "2"), "b")
	if _, err := setAside(s.Dir, img.Fingerprint); err != nil { // and dies
		t.Fatal(err)
	}
	if _, err := s.Get("a"); err == nil {
		t.Error("half removed and still there")
	}
	said, err := s.Sweep()
	if err != nil || len(said) != 3 {
		t.Errorf("%q, %v", said, err)
	}
	clean(t, s, 1, 1)
	if said, err := s.Sweep(); err != nil || len(said) != 0 {
		t.Errorf("twice: %q, %v", said, err)
	}
}
