package run

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"croft/state"
)

// Many programs have a log that is a link to /dev/stdout, and open that anew. Of a pipe they can, when it belongs to their user; a
// file of the caller's belongs to nobody whom the machine knows, and a socket cannot be opened at all. Such a one is written to
// by way of a pipe, and not given another owner: it is the caller's.

const relayName = "relay" // in the machine's directory in --run: locked until all that was written has arrived

// relayed gives what the payload gets in the place of files that it could not open anew: pipes, and those who carry on what comes
// there (relay.c). One file twice is one pipe, so that what is written to both stays in its order. close lets go of the pipes.
func (l *launch) relayed(files ...*os.File) (given []*os.File, close func(), err error) {
	var pipes []*os.File
	close = func() {
		for _, p := range pipes {
			p.Close()
		}
	}
	var lock *os.File
	for i, f := range files {
		switch {
		case !closedToOthers(f):
			given = append(given, f)
			continue
		case i > 0 && same(f, files[i-1]):
			given = append(given, given[i-1])
			continue
		}
		if lock == nil {
			if lock, err = state.Lock(filepath.Join(l.RunDir, relayName)); err != nil {
				break
			}
			pipes = append(pipes, lock)
		}
		var pipe *os.File
		if pipe, err = l.relay(f, lock); err != nil {
			break
		}
		pipes, given = append(pipes, pipe), append(given, pipe)
	}
	if err != nil {
		close()
		return nil, nil, fmt.Errorf("relay: %w", err)
	}
	return given, close, nil
}

// relay starts who writes to f what comes from the pipe that is given.
func (l *launch) relay(to, lock *os.File) (*os.File, error) {
	from, pipe, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer from.Close()
	cmd := l.engine.another("relay")
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = from, to, os.Stderr, []*os.File{lock}
	if err := onHost(cmd.Run); err != nil {
		pipe.Close()
		return nil, err
	}
	return pipe, nil
}

// closedToOthers says whether only its owner can open a file that is open here, or nobody can.
func closedToOthers(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && (info.Mode().IsRegular() || info.Mode()&fs.ModeSocket != 0)
}

func same(a, b *os.File) bool {
	one, err := a.Stat()
	other, wrong := b.Stat()
	return err == nil && wrong == nil && os.SameFile(one, other)
}

// arrived waits until what a payload has written is where it belongs. Nobody of the machine lives any more, so that only a file that
// takes nothing could make this last.
func arrived(a *state.Applied) error {
	for end := time.Now().Add(relayLimit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if held, err := state.Locked(filepath.Join(a.Run, relayName)); err != nil || !held {
			return err
		}
	}
	return nil
}

const relayLimit = 10 * time.Second
