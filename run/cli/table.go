package cli

import (
	"context"
	"fmt"
	"os"
	"slices"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
)

// program is the table of commands; its order is that of the help.
func (a *app) program() *man.Program {
	p := &man.Program{
		Name:   "croft",
		Short:  "run whole Linux machines in containers, without a daemon",
		Date:   "2026-11-21",
		Global: a.globals,
		Screen: helpScreen,
		Long:   programText,
		Topics: topics(),
		Exit:   exits(),

		Environment: []man.Entry{
			{Term: "CROFT_ROOT, CROFT_RUN", Text: "the directories of --root and --run"},
			{Term: envConfig, Text: "a file in place of " + configFile},
			{Term: "NO_COLOR", Text: "when not empty: no bold in help"},
		},
		Files: []man.Entry{
			{Term: configFile, Text: "settings of the host: croft-config(1)"},
			{Term: "/etc/croft/profiles", Text: "settings that machines share: croft-profile(1)"},
			{Term: run.DefaultRoot, Text: "images, machines and what they changed"},
			{Term: run.DefaultRun, Text: "what a reboot may take"},
			{Term: "/run/croft-host", Text: "which machine of this host has which ids"},
		},
		Commands: slices.Concat(machines(a), files(a), networkVerbs(a), images(a), remoteVerbs(a), theHost(a), hidden(a)),
	}
	help := p.HelpCommand()
	help.Heading = "Help"
	p.Commands = append(p.Commands, help, p.CompletionCommand(), p.AnswerCommand(a.lookup), versionCommand())
	return p
}

func exits() []man.Entry {
	return []man.Entry{
		{Term: "0", Text: "done"}, {Term: "1", Text: "failed"}, {Term: "2", Text: "misuse"},
		{Term: "3", Text: "no such thing"}, {Term: "4", Text: "wrong state"},
	}
}

func versionCommand() *man.Command {
	return &man.Command{
		Name: "version", Short: "Print the version",
		Long:     "Prints the version of this build.",
		Examples: []man.Example{{Say: "Which one this is", Do: "croft version"}},
		New: func(*pflag.FlagSet) man.Run {
			return func(context.Context, []string) error {
				fmt.Fprintln(os.Stdout, "croft "+run.Version)
				return nil
			}
		},
	}
}
