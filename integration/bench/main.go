// Command bench measures croft against the peers it names, in one run and interleaved, and prints every figure beside its bar.
//
// It sets up all that it needs, works in namespaces, cgroups and directories of its own and clears them away. It never changes
// the host's settings, and a figure of it means something only as a ratio to the peer in the same line.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

// options are what the command line says.
type options struct {
	n      int
	only   string
	strict bool
	keep   bool
	many   int
}

func (o options) wants(test string) bool {
	return o.only == "" || strings.Contains(","+o.only+",", ","+test+",")
}

// boots says whether a wanted test boots a Debian.
func (o options) boots() bool {
	for _, test := range []string{"boot", "stop", "parallel", "delete", "many"} {
		if o.wants(test) {
			return true
		}
	}
	return false
}

// tests is the order in which they run.
var tests = []struct {
	name  string
	about string
	run   func(*bench) error
}{
	{"binary", "size of the binary, time of version", measureBinary},
	{"life", "create, start, first exec; exec in a running guest", measureLife},
	{"run", "run --rm of true", measureRun},
	{"boot", "boot of Debian to is-system-running", measureBoot},
	{"stop", "clean stop of Debian", measureStop},
	{"parallel", "eight starts side by side", measureParallel},
	{"memory", "memory of ten machines", measureMemory},
	{"image", "launches of a small and of a large image", measureImage},
	{"cache", "page cache of ten machines on one image that is a file", measureCache},
	{"list", "list of many stopped machines", measureList},
	{"offers", "list of what an image server has", measureOffers},
	{"arrival", "launch of an image that has just been downloaded", measureArrival},
	{"registry", "pull of an image of a registry, and of one that shares its layers", measureRegistry},
	{"delete", "delete of a stopped machine", measureDelete},
	{"many", "many Debians at once, on the host's sysctls as they are", measureMany},
	{"network", "links of machines, and what goes through them", measureNetwork},
	{"bombs", "a neighbour's requests beside a machine that runs wild", measureBombs},
	{"unit", "machines that systemd holds", measureHosted},
	{"walls", "what confinement costs a start and an exec", measureWalls},
}

func main() {
	o := options{}
	flag.IntVar(&o.n, "n", 20, "iterations of each test (boots: half of it)")
	flag.StringVar(&o.only, "only", "", "comma-separated `tests` instead of all: "+names())
	flag.BoolVar(&o.strict, "strict", false, "exit with 1 when a bar is missed")
	flag.BoolVar(&o.keep, "keep", false, "keep the work directory with the log of all commands")
	flag.IntVar(&o.many, "many", 200, "most machines at once in the test many")
	flag.Parse()
	missed, err := perform(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if missed && o.strict {
		os.Exit(1)
	}
}

func names() string {
	var all []string
	for _, t := range tests {
		all = append(all, t.name)
	}
	return strings.Join(all, ",")
}

// perform is one of three processes: see stage.go.
func perform(o options) (missed bool, err error) {
	if os.Getenv(envHosted) != "" {
		return false, performHosted(o)
	}
	switch os.Getenv(envStage) {
	case "":
		return stageOutside(o)
	case "1":
		return false, stageInit()
	}
	b, err := newBench(o)
	if err != nil {
		return false, err
	}
	defer b.close()
	for _, t := range tests {
		if !o.wants(t.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s: %s\n", t.name, t.about)
		if err := t.run(b); err != nil {
			return false, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	b.report(os.Stdout)
	if b.missed() {
		os.Exit(exitMissed)
	}
	return false, nil
}
