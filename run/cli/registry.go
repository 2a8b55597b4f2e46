package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"croft/man"
	"croft/run"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

func (a *app) imageLogin() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		user := fs.StringP("username", "u", "", "the account is `NAME`; default: it is asked for")
		fromStdin := fs.Bool("password-stdin", false, "read the password from stdin")
		var insecure bool
		bindTLSVerify(fs, &insecure)
		return func(ctx context.Context, args []string) error {
			password, err := credentials(user, *fromStdin)
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(ctx)
			defer cancel()
			return run.Login(ctx, args[0], *user, password, insecure)
		}
	}
}

// credentials gets the password, and the name where none was given.
func credentials(user *string, fromStdin bool) (password string, err error) {
	switch {
	case fromStdin && *user == "":
		return "", man.Misused("--password-stdin needs --username")
	case fromStdin:
		const most = 64 << 10 // tokens are passwords, too
		text, err := io.ReadAll(io.LimitReader(os.Stdin, most))
		return strings.TrimRight(string(text), "\r\n"), err
	case !isTerminal(os.Stdin):
		return "", man.Misused("stdin is no terminal: use --username and --password-stdin")
	}
	if *user == "" {
		fmt.Fprint(os.Stderr, "Username: ")
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		*user = strings.TrimSpace(line)
	}
	fmt.Fprint(os.Stderr, "Password: ")
	text, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	return string(text), err
}

func (a *app) imageLogout() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		all := fs.Bool("all", false, "of all registries")
		return func(_ context.Context, args []string) error {
			switch {
			case *all == (len(args) == 1):
				return man.Misused("either REGISTRY or --all")
			case *all:
				return run.Logout("")
			}
			return run.Logout(args[0])
		}
	}
}
