package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// bindCloudInit binds what is for cloud-init.
func bindCloudInit(fs *pflag.FlagSet, c *state.CloudInit) {
	fs.Var((*textFile)(&c.UserData), "user-data", "have the image's cloud-init do what `FILE` says, - for stdin")
	fs.Var((*textFile)(&c.VendorData), "vendor-data", "the same in `FILE`, where the user data does not say otherwise")
	fs.Var((*textFile)(&c.NetworkConfig), "network-config", "have cloud-init configure the network as `FILE` says, in the place of croft")
}

// cloudInitSetting says whether name is one of its settings.
func cloudInitSetting(name string) bool {
	return name == "user-data" || name == "vendor-data" || name == "network-config"
}

// noteUnread tells when nobody in the machine will read what was given for cloud-init.
func (s *specFlags) noteUnread(e *run.Engine, in *state.Instance) error {
	if in.Spec.CloudInit == (state.CloudInit{}) {
		return nil
	}
	reads, err := e.CloudInitIn(in)
	if err == nil && !reads {
		s.note("croft: %s boots no cloud-init: nothing in it will read the data\n", in.Spec.Name)
	}
	return err
}

// cloudInitDone says whether the machine's cloud-init is through, and prints what it warns of.
func cloudInitDone(ctx context.Context, e *run.Engine, in *state.Instance, ready bool) (bool, error) {
	name := in.Spec.Name
	done, warnings, err := e.CloudInitDone(ctx, in, ready)
	for _, w := range warnings {
		fmt.Fprintf(os.Stderr, "croft: %s: cloud-init warns: %s\n", name, harmless(w))
	}
	if err == nil {
		return done, nil
	}
	remedy := "croft exec " + name + " cat /var/log/cloud-init.log"
	switch {
	case errors.Is(err, run.ErrNoCloudInit):
		remedy = "croft wait --for ready " + name
	case errors.Is(err, run.ErrCloudInitOff):
		remedy = "croft set --user-data FILE " + name
	}
	return false, state.Hint(fmt.Errorf("wait %s: %s", name, harmless(err.Error())), remedy) // the guest's words
}

// textFile is a text, as a flag that names the file where it stands.
type textFile string

func (v *textFile) Type() string { return "file" }

func (v *textFile) String() string { return string(*v) }

func (v *textFile) Set(name string) error {
	from := os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return errors.Unwrap(err) // what it is about is said
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, state.MaxCloudInit+1))
	switch {
	case err != nil:
		return errors.Unwrap(err)
	case len(text) == 0:
		return errors.New("is empty")
	case len(text) > state.MaxCloudInit:
		return fmt.Errorf("is larger than %s", exactSize(state.MaxCloudInit))
	}
	*v = textFile(text)
	return nil
}

// printText prints lines for people.
func printText(text string) {
	for line := range strings.Lines(text) {
		fmt.Println(harmless(strings.TrimSuffix(line, "\n")))
	}
	if text == "" {
		fmt.Println()
	}
}

// secrets reads NAME=VALUE and NAME:FILE. A relative FILE is the caller's.
func (s *specFlags) secrets(out *state.Spec) error {
	for _, text := range s.credentials {
		at := strings.IndexAny(text, "=:")
		if at <= 0 {
			return man.Misused("credential %q is neither NAME=VALUE nor NAME:FILE", text)
		}
		c := state.Credential{Name: text[:at]}
		if text[at] == '=' {
			c.Value = text[at+1:]
		} else {
			file, err := filepath.Abs(text[at+1:])
			if err != nil {
				return err
			}
			c.File = file
		}
		out.Credentials = append(out.Credentials, c)
	}
	return nil
}

func credentialName(text string) string {
	if at := strings.IndexAny(text, "=:"); at >= 0 {
		return text[:at]
	}
	return text
}

// credentialText writes a credential as --credential takes it.
func credentialText(c state.Credential) string {
	if c.File != "" {
		return c.Name + ":" + c.File
	}
	return c.Name + "=" + c.Value
}
