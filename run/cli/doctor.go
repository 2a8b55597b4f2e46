package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
)

func (a *app) doctor() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		try := fs.Bool("try", false, "make a machine of croft alone, start it, enter it and remove it")
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(ctx context.Context, _ []string) error {
			if _, err := a.configure(); err != nil {
				return err
			}
			facts, err := run.Examine(a.root, a.run, a.host.pool())
			if err != nil {
				return err
			}
			if format == "table" {
				printHealth(facts)
			} else if err := (view[run.Fact]{}).write(os.Stdout, string(format), facts); err != nil {
				return err
			}
			if !run.Startable(facts) {
				return said{errors.New("no machine can start"), exitFailed}
			}
			if *try {
				return a.tryMachine(ctx)
			}
			return nil
		}
	}
}

// printHealth shows what is well in a few lines, and each other thing in lines of its own.
func printHealth(facts []run.Fact) {
	var group string
	var well []string
	flush := func() {
		if len(well) > 0 {
			fmt.Print(folded(group, strings.Join(well, "; ")))
		}
		well = nil
	}
	for _, f := range facts {
		if f.Group != group {
			flush()
			group = f.Group
		}
		if f.Status == run.FactOK {
			well = append(well, f.Found)
		}
	}
	flush()
	counts := map[string]int{}
	for _, f := range facts {
		counts[f.Status]++
		if f.Status == run.FactNote || f.Status == run.FactProblem {
			printFact(f)
		}
	}
	fmt.Println()
	if n := counts[run.FactUnknown]; n > 0 {
		fmt.Printf("%d things could not be found out%s\n", n, unknownRemedy())
	}
	if n := counts[run.FactProblem]; n > 0 {
		fmt.Printf("No machine can start here: %s, %s.\n", counted(n, "problem"), counted(counts[run.FactNote], "note"))
	} else {
		fmt.Printf("Machines can start here: %s.\n", counted(counts[run.FactNote], "note"))
	}
}

func unknownRemedy() string {
	if run.Privileged() {
		return "."
	}
	return " without root: sudo croft doctor"
}

func counted(n int, what string) string {
	switch n {
	case 0:
		return "no " + what + "s"
	case 1:
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func printFact(f run.Fact) {
	fmt.Printf("\n%-9s %s: %s\n", f.Status, f.ID, harmless(f.Found))
	if f.Loss != "" {
		fmt.Printf("%-9s without it: %s\n", "", f.Loss)
	}
	if f.Remedy != "" {
		fmt.Printf("%-9s remedy: %s\n", "", f.Remedy)
	}
}

// folded is text in lines of a terminal, behind a heading.
func folded(heading, text string) string {
	const width, indent = 100, 10
	var out, line strings.Builder
	fmt.Fprintf(&line, "%-*s", indent-1, heading)
	for _, word := range strings.Fields(harmless(text)) {
		if cellWidth(line.String())+1+cellWidth(word) > width {
			out.WriteString(line.String() + "\n")
			line.Reset()
			line.WriteString(strings.Repeat(" ", indent-1))
		}
		line.WriteString(" " + word)
	}
	return out.String() + line.String() + "\n"
}

// tryMachine prints how long each step in the life of a trial machine took.
func (a *app) tryMachine(ctx context.Context) error {
	ctx, cancel := interruptible(ctx)
	defer cancel()
	e, err := a.engine()
	if err != nil {
		return err
	}
	steps, err := e.Try(ctx)
	fmt.Fprintln(os.Stderr)
	for _, s := range steps {
		fmt.Fprintf(os.Stderr, "%-18s %8.1f ms\n", s.Step, ms(s.Took))
	}
	if err != nil {
		return fmt.Errorf("try: %w", err)
	}
	fmt.Fprintln(os.Stderr, "A machine was made, started, entered, stopped and removed; nothing of it is left.")
	return nil
}
