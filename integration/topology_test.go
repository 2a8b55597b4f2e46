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
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// uplinkScript connects the script's host to a LAN:
//
//	host       eth0 192.0.2.2/24, 2001:db8::2/64; default routes over internet
//	internet   the router of the LAN, 192.0.2.1 and 2001:db8::1; beyond it are its addresses 198.51.100.1 and 2001:db8:1::1
//	neighbour  another host of the LAN, 192.0.2.3 and 2001:db8::3
//
// $1 is the MTU of the LAN, the rest the IP versions that it has. Nobody but the LAN's own hosts is known to the router: who is not
// masqueraded gets no answer.
const uplinkScript = `
mtu=$1
shift
ip netns add internet
ip netns add neighbour
ip -n internet link set lo up
ip -n neighbour link set lo up
ip -n internet link add lan type bridge
ip -n internet link set lan up
attach() { # HOST
	ip link add eth0 $1 type veth peer name "$2" netns internet
	ip -n internet link set "$2" master lan mtu "$mtu" up
}
attach "" to-host
attach "netns neighbour" to-neighbour
ip link set eth0 mtu "$mtu" up
ip -n neighbour link set eth0 mtu "$mtu" up
for version; do
	case $version in
	4) lan=192.0.2. bits=24 beyond=198.51.100.1/32 nodad= ;;
	6) lan=2001:db8:: bits=64 beyond=2001:db8:1::1/128 nodad=nodad ;;
	esac
	ip -n internet addr add "${lan}1/$bits" dev lan $nodad
	ip -n internet addr add $beyond dev lo $nodad
	ip addr add "${lan}2/$bits" dev eth0 $nodad
	ip -n neighbour addr add "${lan}3/$bits" dev eth0 $nodad
	ip -$version route add default via "${lan}1"
	ip -n neighbour -$version route add default via "${lan}1"
done
`

func cmdUplink(ts *testscript.TestScript, neg bool, args []string) {
	mtu := "1500"
	if len(args) > 1 && args[0] == "-mtu" {
		mtu, args = args[1], args[2:]
	}
	usage(ts, !neg && !slices.ContainsFunc(args, func(v string) bool { return v != "4" && v != "6" }), "uplink [-mtu N] [4] [6]")
	if len(args) == 0 {
		args = []string{"4", "6"}
	}
	ts.Defer(func() { // in a host that it shares with other scripts; a link goes with its other end
		try("sh", "-c", "ip link del eth0; ip netns del internet; ip netns del neighbour")
	})
	ts.Check(try("sh", append([]string{"-euc", uplinkScript, "uplink", mtu}, args...)...))
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
