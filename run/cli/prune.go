package cli

import (
	"context"
	"fmt"
	"os"

	"croft/man"

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
			all, err := e.Prune(*images, *dry)
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
	}
}
