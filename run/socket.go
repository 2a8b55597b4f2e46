package run

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// listen binds a unix socket in dir. The address goes through a descriptor: the kernel takes no more than 108
// bytes of path, and --run may be anywhere.
func listen(dir, name string, kind int, mode os.FileMode) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	path := filepath.Join(dir, name)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := bindListen(fd, short(d, name), kind); err != nil {
		f.Close()
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	return f, os.Chmod(path, mode)
}

func bindListen(fd int, addr string, kind int) error {
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: addr}); err != nil {
		return err
	}
	if kind == unix.SOCK_DGRAM {
		return nil
	}
	return unix.Listen(fd, 16)
}

// dial connects to a socket in dir. Where whoever listens there is slow to accept, it waits for a place in the queue.
func dial(ctx context.Context, dir, name string, kind int) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	err = unix.EAGAIN
	for err == unix.EAGAIN { // the queue is full
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: short(d, name)}); err == unix.EAGAIN && Sleep(ctx, 2*time.Millisecond) != nil {
			break
		}
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: filepath.Join(dir, name), Err: err}
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

func short(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

// socketpair makes two sockets that are connected to each other.
func socketpair(kind int) (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// listening is a pidfd of the process that listens at the other end of a connection which it has not accepted yet.
func listening(conn *os.File) (*os.File, error) {
	peer, err := unix.GetsockoptUcred(int(conn.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("getsockopt(SO_PEERCRED): %w", err)
	}
	fd, err := unix.PidfdOpen(int(peer.Pid), 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	var packet [1]byte
	if _, _, err := unix.Recvfrom(int(conn.Fd()), packet[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err != unix.EAGAIN {
		pidfd.Close() // it has ended, and the number may be another's by now, or it has answered
		return nil, errNoKeeper
	}
	return pidfd, nil
}

// receiveUntil is receive up to the end of ctx: then it shuts the socket down, and reads nothing.
func receiveUntil(ctx context.Context, f *os.File, buf []byte) (int, *os.File, error) {
	stop := context.AfterFunc(ctx, func() { unix.Shutdown(int(f.Fd()), unix.SHUT_RDWR) })
	defer stop()
	return receive(f, buf)
}

// receive reads one packet and the descriptor that came with it, nil if none did.
func receive(f *os.File, buf []byte) (int, *os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(int(f.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(int(f.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("recvmsg: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) == 0 {
		return n, nil, nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return n, nil, nil
	}
	return n, os.NewFile(uintptr(fds[0]), "received"), nil
}
