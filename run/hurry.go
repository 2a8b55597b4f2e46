package run

import (
	"os"
	"path/filepath"
	"runtime/debug"
)

// Hurry prepares this process for a start. It lets the kernel begin early with a wait that the start would
// meet in the middle: the first move of a process between cgroups waits for an RCU grace period (10 to 20 ms),
// and further ones do not for a while. A move of ourselves to where we are is enough for it, and changes
// nothing. The collector of garbage is off: the process ends before it would pay.
func Hurry() {
	debug.SetGCPercent(-1)
	go func() {
		_, own, err := hierarchies()
		if err == nil {
			os.WriteFile(filepath.Join(own[0], "cgroup.procs"), []byte("0"), 0) // if it fails, the start waits itself
		}
	}()
}
