package run

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"croft/state"

	"golang.org/x/sys/unix"
)

// Keeper is a connection to the keeper of a running machine (protocol: keeper.h).
type Keeper struct {
	conn *os.File
	Init *os.File // pidfd of the machine's init; nil between two runs of it
	PID  int      // of the same, as this host sees it
}

// The keeper's protocol, as in keeper.h.
const (
	keeperMagic   = 0x74667263
	keeperVersion = 1
	askAttach     = 'A'
	askInput      = 'I'
	askSize       = 'W'
	askStop       = 'S'
	askKill       = 'K'
	askBind       = 'B'
	askUnbind     = 'U'
	askWatch      = 'X'
	askDone       = 'D'
	askReady      = 'Y'
)

// Connect connects to the keeper of in. While the machine is starting it waits for one. ErrNotRunning when
// nobody holds the instance, or when whoever does waits to start it again; an orphan has no keeper either.
func (e *Engine) Connect(ctx context.Context, in *state.Instance) (*Keeper, error) {
	k, err := e.reach(ctx, in, connectLimit)
	if err == nil && k.Init == nil {
		k.Close()
		name := in.Spec.Name
		return nil, state.Hint(fmt.Errorf("%s: waits for its restart: %w", name, state.ErrNotRunning), "croft wait --for ready "+name)
	}
	return k, err
}

// reach connects to whoever can end the machine: its keeper, or who waits to start it again (restart.go). Whoever listens
// has patience to answer; errMute when that has not sufficed.
func (e *Engine) reach(ctx context.Context, in *state.Instance, patience time.Duration) (*Keeper, error) {
	name := in.Spec.Name
	limited, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	for {
		k, err := e.call(limited, name, patience)
		if !errors.Is(err, errNoKeeper) {
			return k, err
		}
		held, err := e.Dir.Claimed(name)
		if err != nil {
			return nil, err
		}
		if !held {
			return nil, e.notRunning(in)
		}
		if Sleep(limited, 2*time.Millisecond) != nil {
			return nil, cmp.Or(ctx.Err(), mute(name))
		}
	}
}

// call connects to whoever listens at this moment and takes its greeting. errNoKeeper when nobody does.
func (e *Engine) call(ctx context.Context, name string, patience time.Duration) (*Keeper, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := dial(limited, e.Dir.RunOf(name), socketName, unix.SOCK_SEQPACKET)
	if err == nil {
		var k *Keeper
		if k, err = hello(limited, conn); err == nil {
			return k, nil
		}
		conn.Close()
	} else {
		err = errNoKeeper
	}
	if limited.Err() != nil && ctx.Err() == nil {
		return nil, mute(name)
	}
	return nil, err
}

// errMute: whoever listens does not answer, like one that is stopped or frozen.
var errMute = errors.New("its keeper does not answer")

func mute(name string) error {
	return state.Hint(fmt.Errorf("%s: %w: %w", name, errMute, state.ErrBusy), "croft kill "+name)
}

// Runs gives the record of an instance and says whether it runs. One that does not may be held for all that, by somebody
// who changes it, or is about to start it, or has just undone it: then it waits for what comes of that.
func (e *Engine) Runs(ctx context.Context, name string) (in *state.Instance, runs bool, err error) {
	for began := time.Now(); ; {
		if in, err = e.Dir.Get(name); err != nil {
			return nil, false, err
		}
		st, err := e.Dir.Status(in)
		if err != nil || !st.Held || st.State != state.Stopped {
			return in, st.Held, err
		}
		if time.Since(began) > connectLimit {
			return nil, false, fmt.Errorf("%s: somebody else is changing it: %w", name, state.ErrBusy)
		}
		if err := Sleep(ctx, 2*time.Millisecond); err != nil {
			return nil, false, err
		}
	}
}

// connectLimit is how long a machine that somebody holds may be without a keeper that answers: it starts, ends,
// reboots, or has as many clients as it takes.
const connectLimit = 30 * time.Second

// Sleep returns after d, or with ctx's error when that ends before.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (e *Engine) notRunning(in *state.Instance) error {
	name := in.Spec.Name
	if in.Applied != nil && in.Applied.Populated() {
		return state.Hint(fmt.Errorf("%s: is orphaned: its keeper was killed: %w", name, state.ErrNotRunning), "croft stop "+name)
	}
	return state.Hint(fmt.Errorf("%s: %w", name, state.ErrNotRunning), "croft start "+name)
}

// errNoKeeper: whoever listens went away before it answered, at the end of a machine or at a reboot.
var errNoKeeper = errors.New("keeper is gone")

func hello(ctx context.Context, conn *os.File) (*Keeper, error) {
	var buf [16]byte
	n, pidfd, err := receiveUntil(ctx, conn, buf[:])
	if errors.Is(err, unix.ECONNRESET) || err == nil && n == 0 {
		return nil, errNoKeeper
	}
	if err != nil {
		return nil, err
	}
	pid := int(int32(binary.NativeEndian.Uint32(buf[8:])))
	if n < 16 || (pidfd == nil) != (pid == 0) || binary.NativeEndian.Uint32(buf[:]) != keeperMagic {
		return nil, fmt.Errorf("keeper: unknown greeting: %w", state.ErrInvalid)
	}
	if v := binary.NativeEndian.Uint32(buf[4:]); v > keeperVersion {
		return nil, fmt.Errorf("keeper: speaks version %d, this croft %d: %w", v, keeperVersion, state.ErrUnsupported)
	}
	return &Keeper{conn, pidfd, pid}, nil
}

// Close ends the connection; what was bound to it ends too.
func (k *Keeper) Close() error {
	k.Init.Close() // nil is fine
	return k.conn.Close()
}

// process is the pid of the process at the other end, which stays the same over reboots and restarts.
func (k *Keeper) process() int32 {
	peer, err := unix.GetsockoptUcred(int(k.conn.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return peer.Pid
}

func (k *Keeper) ask(what byte, args ...uint16) error {
	packet := []byte{what}
	for _, a := range args {
		packet = binary.NativeEndian.AppendUint16(packet, a)
	}
	return k.send(packet)
}

func (k *Keeper) send(packet []byte) error {
	_, err := unix.SendmsgN(int(k.conn.Fd()), packet, nil, nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	return nil
}

// Stop asks for a clean end within limit, and for a kill after it.
func (k *Keeper) Stop(limit time.Duration) error {
	return k.ask(askStop, uint16(min(limit/time.Second, 65535)), 0)
}

// Kill ends the machine at once.
func (k *Keeper) Kill() error { return k.ask(askKill) }

// Bind makes the machine stop when this connection ends, however that comes; Unbind lets it go on.
func (k *Keeper) Bind() error { return k.ask(askBind) }

// Unbind is the opposite of Bind.
func (k *Keeper) Unbind() error { return k.ask(askUnbind) }

// Watch makes the keeper write to the given cgroup.kill file when this connection ends before Done.
func (k *Keeper) Watch(kill *os.File) error {
	err := unix.Sendmsg(int(k.conn.Fd()), []byte{askWatch}, unix.UnixRights(int(kill.Fd())), nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	return nil
}

// Done ends Watch.
func (k *Keeper) Done() error { return k.ask(askDone) }

// Ready tells that the machine is up, of an init that does not tell it by itself.
func (k *Keeper) Ready() error { return k.ask(askReady) }

// Wait returns when the machine has ended and all is undone, or has rebooted.
func (k *Keeper) Wait(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() {
		var buf [4096]byte
		for {
			n, _, err := receive(k.conn, buf[:])
			if err != nil || n == 0 {
				ended <- nil
				return
			}
		}
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		unix.Shutdown(int(k.conn.Fd()), unix.SHUT_RDWR)
		return ctx.Err()
	}
}

// Attach asks for the console: what it prints from then on waits for Show. Who types asks before the first key, or the
// answer may have been printed for nobody.
func (k *Keeper) Attach() error {
	if err := k.ask(askAttach); err != nil && !errors.Is(err, unix.EPIPE) { // what it sent before its end is still there
		return err
	}
	return nil
}

// Show copies the console to w until the machine or w ends. What w is slow to take waits in memory: the keeper drops whoever
// does not read.
func (k *Keeper) Show(w io.Writer) error {
	const most = 16 << 10 // reads of a console that prints without end, of up to 4 KiB
	printed := make(chan []byte, most)
	go func() {
		defer close(printed)
		var buf [4096]byte
		for {
			n, _, err := receive(k.conn, buf[:])
			if err != nil || n == 0 {
				return // the keeper's end is the machine's
			}
			printed <- bytes.Clone(buf[:n])
		}
	}()
	for text := range printed {
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// Write types p at the console.
func (k *Keeper) Write(p []byte) (int, error) {
	for off := 0; off < len(p); off += 1024 {
		chunk := p[off:min(off+1024, len(p))]
		if err := k.send(append([]byte{askInput}, chunk...)); err != nil {
			return off, err
		}
	}
	return len(p), nil
}

// Resize tells the console how large its terminal is.
func (k *Keeper) Resize(rows, cols uint16) error { return k.ask(askSize, rows, cols) }
