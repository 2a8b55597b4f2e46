package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
)

func (a *app) prune() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		images := fs.Bool("images", false, "remove images that have names as well, when no machine is made of them")
		dry := fs.Bool("dry-run", false, "print the same and remove nothing")
		return func(context.Context, []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return pruned(e.Prune(*images, *dry))
		}
	}
}

func (a *app) imagePrune() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var unused time.Duration
		fs.Var((*durationValue)(&unused), "unused-for", "images with names as well, when no machine has been made of them for `TIME`")
		dry := fs.Bool("dry-run", false, "print the same and remove nothing")
		return func(context.Context, []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return pruned(e.PruneImages(unused, *dry))
		}
	}
}

// pruned prints what was removed.
func pruned(all []run.Unused, err error) error {
	lines, sum := [][]string{}, int64(0)
	for _, u := range all {
		lines = append(lines, []string{sizeText(u.Bytes), u.What})
		sum += u.Bytes
	}
	lines = append(lines, []string{sizeText(sum), "in all"})
	if werr := writeTable(os.Stdout, lines); werr != nil {
		return werr
	}
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	return nil
}
