package cli

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

func (a *app) explain() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		fs.Var(&format, "format", "print `table|json|yaml|TEMPLATE`")
		return func(_ context.Context, args []string) error {
			e, in, err := a.instance(args[0])
			if err != nil {
				return err
			}
			x, err := e.Explain(in)
			if err != nil {
				return fmt.Errorf("explain %s: %w", args[0], err)
			}
			for _, s := range pending(e, in) {
				x.Later = append(x.Later, s.name)
			}
			if format != "table" {
				return view[run.Explanation]{}.write(os.Stdout, string(format), []run.Explanation{x})
			}
			printFacts(13, explained(x, &in.Spec))
			return nil
		}
	}
}

// printFacts prints lines of a word, in a column of that width, and what is to be said of it; an empty word goes on with
// the one before.
func printFacts(width int, lines [][2]string) {
	for _, l := range lines {
		head := l[0]
		if head != "" {
			head += ":"
		}
		fmt.Println(strings.TrimRight(fmt.Sprintf("%-*s %s", width, head, harmless(l[1])), " "))
	}
}

// explained are the lines of an explanation; what waits for the next start is taken from wanted.
func explained(x run.Explanation, wanted *state.Spec) [][2]string {
	var out [][2]string
	say := func(head string, texts ...string) {
		for _, t := range texts {
			out = append(out, [2]string{head, t})
			head = ""
		}
	}
	say("Machine", x.Name+map[bool]string{true: ", as it was started", false: ", as it would start now"}[x.Running])
	if x.Privileged {
		say("Privileged", "its root is the host's root")
	}
	for _, key := range x.Later {
		s, _ := settingOf(key)
		value := strings.Join(s.get(wanted), " ")
		if value == "" {
			value = "not set"
		}
		say("Next start", key+": "+value)
	}
	if x.Unit == "" {
		say("Unit", "none: its keeper is a process of its own (croft help units)")
	} else {
		say("Unit", append([]string{x.Unit}, x.Properties...)...)
	}
	say("Init", strings.Join(x.Init, " "))
	say("Environment", x.Environment...)
	say("Image", x.Image)
	say("Root", rootText(x))
	say("Layers", x.Layers...)
	say("Written", x.Changes)
	say("Made anew", x.Files...)
	for i, m := range x.Mounts {
		say([]string{"Mounts", ""}[min(i, 1)], fmt.Sprintf("%s %s of %s (%s)", m.Target, m.Type, m.Source, strings.Join(m.Options, ",")))
	}
	say("Ids", fmt.Sprintf("0-%d are %d-%d on the host", x.IDs.Size-1, x.IDs.Base, x.IDs.End()-1))
	say("Namespaces", strings.Join(x.Namespaces, " "))
	say("Network", networkText(x)...)
	say("Ports", x.Ports...)
	say("Filter", x.Rules...)
	say("Cgroups", x.Cgroups...)
	say("Limits", limitLines(&x.Limits)...)
	say("Capabilities", lines(x.Capabilities)...)
	say("Refused", lines(x.Refused)...)
	say("Masked", lines(x.Masked)...)
	if x.NoNewPrivs {
		say("Privileges", "no program has more than the one that executes it: no sudo")
	}
	say("Sysctls", pairsOf(x.Sysctls)...)
	if x.LifeSeconds > 0 {
		say("Life", "stopped "+durationText(time.Duration(x.LifeSeconds)*time.Second)+" after its start")
	}
	switch x.Restart.Policy {
	case state.RestartAlways:
		say("Restart", fmt.Sprintf("when it ends by itself, %d times in a row at most", x.Restart.Most()))
	case state.RestartOnFailure:
		say("Restart", fmt.Sprintf("when it fails, %d times in a row at most", x.Restart.Most()))
	}
	say("Stop", stopText(x))
	return out
}

// networkText says how it is connected: a line for each link.
func networkText(x run.Explanation) (out []string) {
	switch kind, _ := (state.NIC{Network: x.Network}).Form(); kind {
	case state.NetworkNone:
		return []string{"loopback alone"}
	case state.NetworkHost:
		return []string{"the host's own"}
	case state.NetworkNS:
		return []string{"somebody else's, " + x.Network}
	}
	for _, l := range x.Links {
		text := linkText(l)
		if l.Host != "" {
			text += ", " + l.Host + " of the host"
		}
		if l.Parent != "" {
			text += ", on " + l.Parent
		}
		for _, a := range []netip.Addr{l.Gateway, l.Gateway6} {
			if a.IsValid() {
				text += ", out by " + a.String()
			}
		}
		out = append(out, text)
	}
	return out
}

// lines are words, some to a line.
func lines(words []string) (out []string) {
	for some := range slices.Chunk(words, 4) {
		out = append(out, strings.Join(some, " "))
	}
	return out
}

func rootText(x run.Explanation) string {
	text := x.Driver + " over the image's layers"
	if x.ReadOnly {
		text += ", read-only"
	}
	if x.Ephemeral {
		text += ", new at every start"
	}
	return text
}

// stopText says what stop does.
func stopText(x run.Explanation) string {
	asks := signalText(x.StopSignal)
	switch {
	case len(x.StopCommand) > 0:
		asks = strings.Join(x.StopCommand, " ") + ", executed in it,"
	case x.StopSignal == 0:
		asks = "a signal that it hears, else poweroff, executed in it,"
	}
	text := fmt.Sprintf("%s asks its init for a clean end; what is left after %s is killed", asks,
		durationText(time.Duration(x.StopSeconds)*time.Second))
	if x.Removed {
		return text + "; then machine and record are removed"
	}
	return text + "; its files stay"
}

// signalText is what kill -s takes. The real-time ones have no names of their own.
func signalText(n int) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("SIGRTMIN+%d", n-rtmin)
}
