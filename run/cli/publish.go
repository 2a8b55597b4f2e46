package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
)

func (a *app) publish() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		var aliases []string
		fs.StringArrayVar(&aliases, "alias", nil, "call the image `ALIAS`")
		reuse := fs.Bool("reuse", false, "take the alias away from the image that has it")
		a.forced(fs)
		return func(ctx context.Context, args []string) error {
			properties, err := propertiesOf(args[1:])
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			if err := e.Room(a.force); err != nil {
				return fmt.Errorf("publish %s: %w", args[0], err)
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			img, err := e.Publish(ctx, args[0], run.Publishing{
				Aliases: aliases, Reuse: *reuse, Properties: properties,
				Frozen: func() {
					fmt.Fprintf(os.Stderr, "croft: %s runs: it is frozen for the copy, and what its programs have not written yet will be missing\n", args[0])
				},
			})
			if err != nil {
				return fmt.Errorf("publish %w", err)
			}
			fmt.Println(img.Fingerprint)
			return nil
		}
	}
}

// propertiesOf reads the properties of an image as they are typed.
func propertiesOf(words []string) (map[string]string, error) {
	properties := map[string]string{}
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			return nil, man.Misused("%q is not PROPERTY=VALUE", word)
		}
		properties[name] = value
	}
	return properties, nil
}
