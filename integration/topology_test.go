package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func cmdUplink(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg, "uplink [-mtu N] [4|6]...")
	ts.Defer(func() { // in a host that it shares with other scripts; a link goes with its other end
		try("sh", "-c", "ip link del eth0; ip netns del internet; ip netns del neighbour")
	})
	ts.Check(try("./uplink", args...))
}

func cmdOn(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) > 1, "[!] on HOST CMD ARG...")
	switch err := ts.Exec("on", args...); {
	case err != nil && !neg:
		ts.Fatalf("on %s: %v", args[0], err)
	case err == nil && neg:
		ts.Fatalf("on %s: unexpected success", args[0])
	}
}

// onProgram is what scripts find as `on` in their PATH, for bg, retry and shells.
const onProgram = `#!/bin/sh
case $1 in
host) net=/proc/$$/ns/net ;;
machine:*) net=/proc/$(croft inspect --format '{{.PID}}' "${1#*:}")/ns/net || exit ;;
*) net=/run/netns/$1 ;;
esac
shift
exec nsenter --net="$net" "$@"
`

// sockets are what the script listens on, by host.
type (
	sockets    map[string][]io.Closer
	socketsKey struct{} // sockets in the script's values
)

func (all sockets) closeAll() {
	for host := range all {
		all.close(host)
	}
}

func (all sockets) close(host string) {
	for _, s := range all[host] {
		s.Close()
	}
	delete(all, host)
}

func cmdListen(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3 && (args[1] == "tcp" || args[1] == "udp"), "listen HOST tcp|udp [ADDR]:PORT")
	host, proto, addr := args[0], args[1], args[2]
	all := ts.Value(socketsKey{}).(sockets)
	ts.Check(inNetworkOf(ts, host, func() error {
		if proto == "udp" {
			conn, err := net.ListenPacket(proto, addr)
			if err == nil {
				all[host] = append(all[host], conn)
				err = answerDatagrams(conn.(*net.UDPConn))
			}
			return err
		}
		listener, err := net.Listen(proto, addr)
		if err == nil {
			all[host] = append(all[host], listener)
			go answerConnections(listener)
		}
		return err
	}))
}

func cmdUnlisten(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "unlisten HOST")
	ts.Value(socketsKey{}).(sockets).close(args[0])
}

// answerConnections tells each who connects its address, until the listener is closed.
func answerConnections(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			fmt.Fprintln(conn, conn.RemoteAddr())
			conn.Close()
		}()
	}
}

// answerDatagrams starts to tell each who sends one its address, from the address that was asked, until the socket is closed.
func answerDatagrams(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var v4, v6 error
	err = raw.Control(func(fd uintptr) {
		v4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		v6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	if err != nil || v4 != nil && v6 != nil {
		return errors.Join(err, v4, v6)
	}
	go func() {
		question, control := make([]byte, 1<<16), make([]byte, 1024)
		for {
			_, n, _, from, err := conn.ReadMsgUDPAddrPort(question, control)
			if err != nil {
				return
			}
			seen := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			conn.WriteMsgUDPAddrPort([]byte(seen.String()+"\n"), control[:n], from) // lost like any datagram when it fails
		}
	}()
	return nil
}

func cmdAsk(ts *testscript.TestScript, neg bool, args []string) {
	limit := 10 * time.Second
	if neg { // it is all spent when nobody refuses
		limit = time.Second
	}
	limit, args = durationFlag(ts, "-t", limit, args)
	usage(ts, len(args) == 3, "[!] ask [-t D] HOST tcp|udp ADDR:PORT")
	if _, err := netip.ParseAddrPort(args[2]); err != nil {
		ts.Fatalf("%v", err) // a name would be looked up by another thread
	}
	var answer string
	err := inNetworkOf(ts, args[0], func() (err error) {
		answer, err = ask(args[1], args[2], time.Now().Add(limit))
		return err
	})
	io.WriteString(ts.Stdout(), answer)
	if err != nil {
		fmt.Fprintln(ts.Stderr(), err)
	}
	switch {
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case err == nil && neg:
		ts.Fatalf("answered: %s", answer)
	}
}

// ask gives the answer of a listener to a connection, or to one of several datagrams: how it sees this side.
func ask(proto, addr string, deadline time.Time) (string, error) {
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.Dial(proto, addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer := make([]byte, 100)
	for {
		until := deadline
		if proto == "udp" {
			if _, err := conn.Write([]byte("who am I?")); err != nil {
				return "", err
			}
			if again := time.Now().Add(200 * time.Millisecond); again.Before(deadline) {
				until = again
			}
		}
		conn.SetReadDeadline(until)
		n, err := conn.Read(answer)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || until.Equal(deadline) {
			return string(answer[:n]), err
		}
	}
}

// inNetworkOf runs f on a thread in the network namespace of the host.
func inNetworkOf(ts *testscript.TestScript, host string, f func() error) error {
	file := networkOf(ts, host)
	defer file.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := os.NewSyscallError("setns", unix.Setns(int(file.Fd()), unix.CLONE_NEWNET))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// networkOf opens the network namespace of a host of the script's topology.
func networkOf(ts *testscript.TestScript, host string) *os.File {
	path := "/run/netns/" + host
	if host == "host" {
		path = "/proc/thread-self/ns/net"
	}
	if name, is := strings.CutPrefix(host, "machine:"); is {
		ts.Check(ts.Exec("croft", "inspect", "--format", "{{.PID}}", name))
		path = filepath.Join("/proc", strings.TrimSpace(ts.ReadFile("stdout")), "ns/net")
	}
	file, err := os.Open(path)
	ts.Check(err)
	return file
}
