package run

import (
	"os"
	"path/filepath"
	"testing"

	"croft/state"
)

// The files as kernels write them: unified, hybrid, and with nothing that counts.
func TestUsage(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"v2": {
			"cgroup.procs":   "1\n",
			"cpu.stat":       "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 0\n",
			"memory.current": "104857600\n",
			"memory.max":     "536870912\n",
			"memory.events":  "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n",
			"pids.current":   "25\n",
			"io.stat":        "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n252:1 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n",
		},
		"v2-idle": {"cpu.stat": "usage_usec 0\n", "memory.current": "0\n", "memory.max": "max\n", "pids.current": "1\n", "io.stat": ""},
		"hybrid": {
			"unified/cgroup.events":                           "populated 1\nfrozen 0\n",
			"unified/cpu.stat":                                "usage_usec 2000\nuser_usec 1000\nsystem_usec 1000\n",
			"cpu/cpu.stat":                                    "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
			"cpuacct/cpuacct.usage":                           "2000000\n",
			"memory/memory.usage_in_bytes":                    "1048576\n",
			"memory/memory.limit_in_bytes":                    "9223372036854771712\n",
			"memory/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
			"pids/pids.current":                               "3\n",
			"blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 512\n8:0 Write 1024\n8:0 Sync 1536\n8:0 Async 0\n8:0 Discard 0\n8:0 Total 1536\nTotal 1536\n",
		},
		"none": {"unified/cgroup.procs": ""},
	} {
		dir := t.TempDir()
		a := &state.Applied{Cgroups: []string{dir, filepath.Join(dir, "gone")}}
		for file, text := range files {
			path := filepath.Join(dir, file)
			if sub := filepath.Dir(path); sub != dir {
				if err := os.MkdirAll(sub, 0o755); err != nil {
					t.Fatal(err)
				}
				a.Cgroups = append(a.Cgroups, sub)
			}
			put(t, path, text)
		}
		golden(t, name+".usage", UsageOf(a))
	}
}
