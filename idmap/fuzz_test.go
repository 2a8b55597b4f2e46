package idmap

import (
	"os"
	"path/filepath"
	"testing"

	"croft/state"
)

// Whatever /etc/subuid and /etc/passwd hold: what is picked is a whole block of the pool that nobody else has.
func FuzzForeign(f *testing.F) {
	f.Add("alice:524288:65536\nbob:100000:65536\n", "alice:x:1000:1000::/home/alice:/bin/sh\n")
	f.Add("a:4294967295:4294967295\nb:0:4294967295\n", "x:x:4294967295:\n")
	f.Add("a:524288:1\na:589825:1::\n:655360:-1\n\n:::", "1:2:600000\n")
	f.Fuzz(func(t *testing.T, delegated, passwd string) {
		dir := t.TempDir()
		for name, text := range map[string]string{"subuid": delegated, "passwd": passwd} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		taken := append(Delegated(filepath.Join(dir, "subuid")), accounts(filepath.Join(dir, "passwd"))...)
		got, err := Pick(Pool, Size, taken)
		if err != nil {
			if _, free := lowest(Pool, Size, taken); free {
				t.Fatalf("%v, with %v taken", err, taken)
			}
			return
		}
		if got.Size != Size || got.Base%Size != 0 || got.Base < Pool.Base || got.End() > Pool.End() {
			t.Fatalf("picked %v", got)
		}
		for _, r := range append(taken, state.Range{Base: 0, Size: 1 << 16}) {
			if got.Overlaps(r) {
				t.Fatalf("picked %v, which overlaps %v", got, r)
			}
		}
	})
}
