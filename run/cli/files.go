package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// files are the commands about the files of machines.
func files(a *app) []*man.Command {
	return []*man.Command{
		{
			Heading: "Files", Name: "cp", Args: "[NAME:]SRC... [NAME:]DST", Peers: []string{"copy-files", "push", "pull"}, Short: "Copy files into and out of machines", New: a.cp(), Long: cpText,
			Examples: []man.Example{
				{Say: "A file into a machine, and one out of it", Do: "croft cp motd web:/etc/motd\ncroft cp web:/var/log/dpkg.log ."},
				{Say: "All that a build has made: the pattern is the machine's to expand", Do: "croft cp 'web:/src/*.deb' out/"},
				{Say: "What is in a directory, into another", Do: "croft cp site/. web:/srv/www"},
				{Say: "As a tar", Do: "croft cp web:/etc - | tar -t\ntar -c . | croft cp - web:/srv"},
				{Say: "From one machine into another, with owners and all", Do: "croft cp -a web:/home/. new:/home"},
			},
			See: []string{"diff", "exec", "run"},
		},
		{
			Name: "diff", Args: "NAME", Peers: []string{"changes"}, Short: "List what a machine changed against its image", New: a.diff(), Long: diffText,
			Examples: []man.Example{
				{Say: "What an installation has made", Do: "croft exec web apt-get install -y make\ncroft diff web"},
				{Say: "The new files alone", Do: "croft diff web | sed -n 's/^A //p'"},
			},
			See: []string{"cp", "image"},
		},
	}
}

const diffText = `Prints a line for each file and directory that is not as the image has it, running or not: ` + "`A`" + ` was added, ` + "`C`" + ` changed, ` + "`D`" + ` deleted. Of what was deleted with all that was in it there is one line.

A file counts as changed when its type, mode, owner, size, time, target or extended attributes are others; a directory also when anything in it is. What croft itself puts there does not count: the host name's and other generated files, unless the machine has changed them, and what is mounted.`

func (a *app) diff() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(_ context.Context, args []string) error {
			e, in, err := a.instance(args[0])
			if err != nil {
				return err
			}
			changes, err := e.Diff(in)
			if err != nil {
				return fmt.Errorf("diff %s: %w", in.Spec.Name, err)
			}
			if format != "table" {
				return view[run.Change]{}.write(os.Stdout, string(format), changes)
			}
			out := bufio.NewWriter(os.Stdout)
			for _, c := range changes {
				fmt.Fprintln(out, c.Kind, harmless(c.Path)) // no heading: as docker diff and podman diff have it
			}
			return out.Flush()
		}
	}
}

const cpText = `Copies files and whole directories into machines, out of them and from one into another, whether they run or not. In the machine nothing is run for it, so it need not have tar, nor be able to answer.

DST that is a directory takes the copies under their own names; otherwise it is the name of the copy, and the directory that it is in must be there. SRC/. stands for what is in SRC. What has the same name is replaced, a directory by nothing but a directory, which keeps what is in it.

A path of a machine is NAME:PATH, from the machine's root; a local file with a colon is ./a:b. ` + "`*`, `?` and `[...]`" + ` in a machine's SRC are expanded in the machine, if the shell here is kept from it by quotes; what they match is copied, or left out, as below a directory. "-" is a tar: as DST on stdout, as SRC on stdin.

## What is kept
Content with its holes, modes, times, links, hard links within one copy, users' extended attributes. A SRC that is a symbolic link is followed within the machine; links below it stay links. Below DST no link is followed.

What comes into a machine belongs to its root, what comes out to the caller, without set-user-id and set-group-id bits. With --archive owners are kept, by their numbers, and those bits, file capabilities and devices. A tar on stdout has it all; what unpacks it decides.

## What is not copied
Sockets, and what the kernel shows as files: ` + "`/proc`, `/sys`" + ` and the like; in the midst of a directory they are left out, which is said on stderr. Of a machine that is stopped, what its volumes hold.

A file that grows is copied as long as it was. Each file appears when it is complete: a copy that is killed leaves no half of one under its name. A copy ends when the machine stops.`

func (a *app) cp() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		archive := fs.BoolP("archive", "a", false, "keep owners, set-id bits, file capabilities and devices")
		quiet := fs.BoolP("quiet", "q", false, "no progress")
		return func(ctx context.Context, args []string) error {
			from, to, err := copyOperands(args)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			bar := stderrProgress(*quiet)
			how := run.Copying{
				Archive:  *archive,
				Note:     func(text string) { fmt.Fprintln(bar, "note: "+text) },
				Progress: func(done int64) { bar.report("cp", done, 0) },
			}
			switch {
			case to == (run.Place{Path: "-"}):
				err = e.CopyOut(ctx, from, os.Stdout, how)
			case from[0] == run.Place{Path: "-"}:
				err = e.CopyIn(ctx, os.Stdin, to, how)
			default:
				err = e.Copy(ctx, from, to, how)
			}
			bar.end(false)
			return localInstead(err, args)
		}
	}
}

// copyOperands reads the places; all that can be said without looking at a file is said here.
func copyOperands(args []string) (from []run.Place, to run.Place, err error) {
	places := make([]run.Place, len(args))
	inMachine, archives := 0, 0
	for i, arg := range args {
		if places[i] = placeOf(arg); places[i].Path == "" {
			return nil, to, man.Misused("%q names no path; the root of a machine is NAME:/", arg)
		}
		if places[i].Machine != "" {
			inMachine++
		}
		if arg == "-" {
			archives++
		}
	}
	from, to = places[:len(places)-1], places[len(places)-1]
	stdin := from[0] == run.Place{Path: "-"}
	switch {
	case inMachine == 0:
		return nil, to, man.Misused("neither SRC nor DST is in a machine; a path in one is NAME:PATH")
	case archives > 1, archives == 1 && len(from) > 1 && to.Path != "-":
		return nil, to, man.Misused("- stands for one archive, alone on its side")
	case stdin && isTerminal(os.Stdin):
		return nil, to, man.Misused("an archive is expected on stdin, and that is a terminal")
	case to == (run.Place{Path: "-"}) && inMachine < len(from):
		return nil, to, man.Misused("only files of machines go to an archive")
	case to == (run.Place{Path: "-"}) && isTerminal(os.Stdout):
		return nil, to, man.Misused("an archive would go to stdout, and that is a terminal")
	}
	return from, to, nil
}

// placeOf reads [NAME:]PATH: the colon of a machine stands before any slash.
func placeOf(arg string) run.Place {
	name, path, ok := strings.Cut(arg, ":")
	if !ok || name == "" || strings.Contains(name, "/") {
		return run.Place{Path: arg}
	}
	return run.Place{Machine: name, Path: path}
}

// localInstead helps when what was taken for a machine is a file here.
func localInstead(err error, args []string) error {
	for _, arg := range args {
		if err == nil || hintOf(err) != "" || placeOf(arg).Machine == "" {
			continue
		}
		if _, missing := os.Lstat(arg); missing == nil {
			return state.Hint(err, "write ./"+arg+" for the file that is here")
		}
	}
	return err
}
