package run

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"croft/state"

	"github.com/coreos/go-systemd/v22/dbus"
)

// LogFields are what the journal keeps beside every line of in's console: for LogExtraFields= of the unit that holds it
// (systemd.exec(5)). The UUID is what finds all lines of a machine and none of another that had its name.
func LogFields(root string, in *state.Instance) []string {
	fields := []string{"CROFT_INSTANCE=" + in.Spec.Name, logUUID(in)}
	if root != DefaultRoot {
		fields = append(fields, "CROFT_ROOT="+root)
	}
	return fields
}

func logUUID(in *state.Instance) string { return "CROFT_UUID=" + in.UUID }

// logProperties are those of the transient unit that say how its output is logged. The guest writes these lines, so
// they come under croft's name and not under one that the guest might have chosen, such as sshd; and "<0>" at the
// beginning of one is text and no priority, at which journald would write it to every terminal of the host.
func logProperties(unit, root string, in *state.Instance) []dbus.Property {
	var fields [][]byte
	for _, f := range LogFields(root, in) {
		fields = append(fields, []byte(f))
	}
	return []dbus.Property{
		property("SyslogIdentifier", strings.TrimSuffix(unit, ".service")),
		property("SyslogLevelPrefix", false),
		property("LogExtraFields", fields),
	}
}

// olderLog writes what the journal has of in's console from before data, the oldest bytes of the console's files, which
// came at from or up to a second later. rest is what follows of data.
func olderLog(ctx context.Context, in *state.Instance, since, from time.Time, data []byte, w io.Writer) (rest []byte, err error) {
	write := func(line []byte) bool {
		_, err = w.Write(line)
		return err == nil
	}
	journal(ctx, in, since, from.Add(-time.Microsecond), write)
	if err != nil {
		return nil, err
	}
	// The journal's times are those at which journald got around to a line, so where the files go on is told by the text.
	first, rest := firstLines(data)
	var held [][]byte
	met := false
	journal(ctx, in, from, from.Add(journalLag), func(line []byte) bool {
		held = append(held, line)
		met = endsIn(held, first)
		return !met
	})
	if !met {
		return data, nil
	}
	for _, line := range held[:len(held)-len(first)] {
		if !write(line) {
			return nil, err
		}
	}
	return rest, nil
}

// journalLag is by how much the journal may be late.
const journalLag = time.Minute

// firstLines are a few lines at the beginning of data, by which it is recognised, and data from the first of them on. The
// files are cut anywhere, so what stands before the first line end is half a line.
func firstLines(data []byte) (first []string, rest []byte) {
	const few = 3
	_, rest, _ = bytes.Cut(data, []byte("\n"))
	for line := range bytes.Lines(rest) {
		if text := strings.TrimSpace(plain(line)); text != "" && len(first) < few { // the journal has no empty ones
			first = append(first, text)
		}
	}
	return first, rest
}

func endsIn(lines [][]byte, last []string) bool {
	if len(last) == 0 || len(lines) < len(last) {
		return false
	}
	for i, text := range last {
		if strings.TrimSpace(plain(lines[len(lines)-len(last)+i])) != text {
			return false
		}
	}
	return true
}

// journal gives the lines that the journal has of in's console between two times, oldest first, until take has enough.
// Where there is no journal, or none that we may read, there are none. The library that reads it cannot be linked
// statically; journalctl is on every host that has a journal.
func journal(ctx context.Context, in *state.Instance, since, until time.Time, take func(line []byte) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "journalctl", journalArgs(in, since, until)...)
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return
	}
	for r := bufio.NewReader(out); ; {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 && !take(line) || err != nil {
			break
		}
	}
	cancel()
	cmd.Wait()
}

// journalArgs asks for the bytes of the messages as they came: of this machine, and of them what came by stdout, since
// systemd's own words about the unit have its fields, too.
func journalArgs(in *state.Instance, since, until time.Time) []string {
	args := []string{"--quiet", "--no-pager", "--output=cat", "--all"}
	if !since.IsZero() {
		args = append(args, "--since="+journalTime(since))
	}
	return append(args, "--until="+journalTime(until), logUUID(in), "_TRANSPORT=stdout")
}

// journalTime writes a time as systemd.time(7) has it. Both ends belong to what is asked for.
func journalTime(t time.Time) string {
	return fmt.Sprintf("@%d.%06d", t.Unix(), t.Nanosecond()/1000)
}

// logBegin is when the first byte came that the files of name's console have; whole says that they have all there was.
func (e *Engine) logBegin(name string) (from time.Time, whole bool) {
	parts := e.logParts(name)
	for i, part := range parts {
		if _, err := os.Stat(part); err != nil {
			continue
		}
		first := firstTime(timesOf(part))
		return first, i > 0 || first.IsZero() // of unknown age: the journal would repeat them
	}
	return time.Now(), false // never started, or somebody has removed them
}
