// Command croft runs whole Linux machines in containers, without a daemon.
package main

import (
	"os"

	"croft/run"
	"croft/run/cli"
)

func main() {
	// libcontainer starts the init of a container by executing this binary with that word: no verb of ours
	// can have it, and nothing else may happen before.
	if run.IsInit(os.Args) {
		run.Init()
	}
	os.Exit(cli.Main(os.Args[1:]))
}
