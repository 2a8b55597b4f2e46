package man

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Call is a command line understood: what to run, and with what.
type Call struct {
	Path    string         // "croft image list"
	Command *Command       // nil when the call only shows the program's help
	Args    []string       // operands
	Flags   *pflag.FlagSet // the verb's and the global flags, to ask Changed of
	run     Run
}

// Run carries the call out. A Misuse that the command returns without a path is
// completed with this call's.
func (c *Call) Run(ctx context.Context) error {
	err := c.run(ctx, c.Args)
	var m *Misuse
	if errors.As(err, &m) && m.Path == "" {
		m.Path = c.Path
	}
	return err
}

// Parse understands a command line without the program's name. Every error is a
// *Misuse. A request for help is a call that prints it.
func (p *Program) Parse(args []string) (*Call, error) {
	global := p.globals()
	rest, err := parseFlags(global, args, false)
	if errors.Is(err, pflag.ErrHelp) {
		return p.help(nil), nil
	}
	if err != nil {
		return nil, misflag(p.Name, global, err)
	}
	if f := global.Lookup("version"); f != nil && f.Changed {
		rest = []string{"version"}
	}
	if len(rest) == 0 {
		return p.help(nil), nil
	}
	return p.parse(global, p.Name, p.Commands, rest)
}

// parse takes the verb from args and everything after it; it descends into groups.
func (p *Program) parse(global *pflag.FlagSet, path string, list []*Command, args []string) (*Call, error) {
	c := find(list, args[0])
	if c == nil {
		return nil, unknown(path, list, args[0])
	}
	path += " " + c.Name
	if c.Sub != nil {
		return p.group(global, path, c, args[1:])
	}
	fs, run := c.flags()
	fs.AddFlagSet(global)
	ops := operands(c.Args)
	rest, err := parseFlags(fs, args[1:], !passes(ops))
	if errors.Is(err, pflag.ErrHelp) {
		return p.help(strings.Fields(path)[1:]), nil
	}
	if err != nil {
		return nil, misflag(path, fs, err)
	}
	if i := slices.IndexFunc(c.Instead, fs.Changed); i >= 0 && len(ops) > 0 {
		if len(ops) == 1 && len(rest) > 0 {
			return nil, &Misuse{Path: path, Say: "--" + c.Instead[i] + " stands instead of " + ops[0].Word + ": " + rest[0]}
		}
		ops = ops[1:]
	}
	rest = dropDashes(ops, rest)
	if err := fit(path, ops, rest); err != nil {
		return nil, err
	}
	return &Call{Path: path, Command: c, Args: rest, Flags: fs, run: run}, nil
}

// group goes on with the verb of a group; global flags may stand before it.
func (p *Program) group(global *pflag.FlagSet, path string, c *Command, args []string) (*Call, error) {
	rest, err := parseFlags(global, args, false)
	if errors.Is(err, pflag.ErrHelp) {
		return p.help(strings.Fields(path)[1:]), nil
	}
	if err != nil {
		return nil, misflag(path, global, err)
	}
	if len(rest) == 0 {
		var names []string
		for _, s := range visible(c.Sub) {
			names = append(names, s.Name)
		}
		return nil, &Misuse{Path: path, Say: "a verb is missing: " + strings.Join(names, ", ")}
	}
	return p.parse(global, path, c.Sub, rest)
}

func parseFlags(fs *pflag.FlagSet, args []string, interspersed bool) ([]string, error) {
	fs.SetInterspersed(interspersed)
	err := fs.Parse(args)
	return fs.Args(), err
}

// dropDashes removes the "--" that people used to other programs put between
// NAME and CMD; the one before the first operand pflag has taken.
func dropDashes(ops []operand, args []string) []string {
	i := commandAt(ops)
	if i > 0 && i < len(args) && args[i] == "--" {
		return slices.Delete(slices.Clone(args), i, i+1)
	}
	return args
}

func fit(path string, ops []operand, args []string) error {
	missing, over := count(ops, len(args))
	switch {
	case missing != "":
		return &Misuse{Path: path, Say: missing + " is missing"}
	case over && len(ops) == 0:
		return &Misuse{Path: path, Say: "takes no operands: " + args[0]}
	case over:
		return &Misuse{Path: path, Say: "one operand too many: " + args[len(ops)]}
	}
	return nil
}
