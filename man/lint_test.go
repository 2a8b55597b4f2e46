package man

import (
	"slices"
	"testing"

	"github.com/spf13/pflag"
)

func TestLintClean(t *testing.T) {
	for _, complaint := range sample(&did{}).Lint() {
		t.Error(complaint)
	}
}

func TestLint(t *testing.T) {
	with := func(change func(*Command)) *Program {
		p := sample(&did{})
		change(p.Commands[1]) // stop
		return p
	}
	flags := func(bind func(*pflag.FlagSet)) func(*Command) {
		return func(c *Command) {
			c.Instead = nil
			c.New = func(fs *pflag.FlagSet) Run { bind(fs); return nil }
		}
	}
	for want, change := range map[string]func(*Command){
		"croft stop: Short is missing":                                                   func(c *Command) { c.Short = "" },
		"croft stop: Short ends in a full stop":                                          func(c *Command) { c.Short = "Stop." },
		"croft stop: Short begins without a capital":                                     func(c *Command) { c.Short = "stop" },
		"croft stop: Short begins with \"Stops\", not with a plain verb":                 func(c *Command) { c.Short = "Stops it" },
		"croft stop: Long is missing":                                                    func(c *Command) { c.Long = "" },
		"croft stop: Examples are missing":                                               func(c *Command) { c.Examples = nil },
		"croft stop: needs either New or Sub":                                            func(c *Command) { c.New = nil; c.Instead = nil },
		"croft stop: brackets in \"[NAME\" do not match":                                 func(c *Command) { c.Args = "[NAME" },
		"croft stop: --all in Args is a flag":                                            func(c *Command) { c.Args = "NAME... --all" },
		"croft stop: Instead names --all, which it does not have":                        func(c *Command) { c.Instead = []string{"all"} },
		"croft stop: See names nothing, which is no verb, topic or page":                 func(c *Command) { c.See = []string{"nothing"} },
		"croft: two verbs are called ls":                                                 func(c *Command) { c.Aliases = []string{"ls"} },
		"croft: no verb may be called init":                                              func(c *Command) { c.Name = "init" },
		"croft stop: example \"podman stop\" does not run croft":                         func(c *Command) { c.Examples[0].Do = "podman stop" },
		"croft stop: example \"croft stop\": stop: NAME is missing; see croft help stop": func(c *Command) { c.Examples[0].Do = "croft stop" },
		"croft stop: example \"croft stop web db\": Say is a phrase without a stop":      func(c *Command) { c.Examples[0].Say = "Stop." },
		"croft stop: --all has no usage text":                                            flags(func(fs *pflag.FlagSet) { fs.Bool("all", false, "") }),
		"croft stop: the usage text of --all ends in a full stop":                        flags(func(fs *pflag.FlagSet) { fs.Bool("all", false, "all.") }),
		"croft stop: the usage text of --one does not name its value in back-quotes":     flags(func(fs *pflag.FlagSet) { fs.String("one", "", "one") }),
		"croft stop: --root is a global flag":                                            flags(func(fs *pflag.FlagSet) { fs.Bool("root", false, "all") }),
		"croft stop: -h is --help and --hard":                                            flags(func(fs *pflag.FlagSet) { fs.BoolP("hard", "h", false, "hard") }),
	} {
		if got := with(change).Lint(); !slices.Contains(got, want) {
			t.Errorf("want %q\ngot  %q", want, got)
		}
	}
}
