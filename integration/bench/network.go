package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// measureNetwork: what the links of a machine cost its start, and what goes through them, against the same links made by hand. All of it
// is in the network namespace of this run, with the uplink that the scripts have.
func measureNetwork(b *bench) error {
	if _, err := tool("integration/uplink"); err != nil {
		return err
	}
	if err := b.makeBare(); err != nil {
		return err
	}
	for _, measure := range []func(*bench) error{measureIdleNetwork, measureLinks, measureTraffic, measureCrowd} {
		if err := measure(b); err != nil {
			return err
		}
		b.croft.removeAll()
	}
	return nil
}

// bareHost is a second host on the LAN, in the namespace `neighbour`, with links made by hand as croft makes those of machines: a bridge with two guests,
// masquerading for them, two ports that are the second one's, and nothing else.
const bareHost = `
ip -n neighbour link add br0 type bridge
ip -n neighbour addr add 10.99.0.1/24 dev br0
ip -n neighbour link set br0 up
for n in 2 3; do
	ip netns add bare$n
	ip -n bare$n link set lo up
	ip -n bare$n link add eth0 type veth peer name guest$n netns neighbour
	ip -n neighbour link set guest$n master br0 up
	ip -n bare$n addr add 10.99.0.$n/24 dev eth0
	ip -n bare$n link set eth0 up
	ip -n bare$n route add default via 10.99.0.1
done
ip -n internet route add 10.99.0.0/24 via 192.0.2.3
nsenter --net=/run/netns/neighbour sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
nsenter --net=/run/netns/neighbour nft -f - <<-END
	table inet bare {
		map guests { type ifname : ipv4_addr; }
		chain out {
			type nat hook postrouting priority srcnat
			ip saddr 10.99.0.0/24 oifname eth0 masquerade
		}
		chain in {
			type nat hook prerouting priority dstnat
			iifname eth0 tcp dport { 5201, 5300 } dnat ip to 10.99.0.3
		}
	}
END
`

func (b *bench) makeBare() error {
	_, err := tool("sh", "-euc", bareHost)
	return err
}

// measureIdleNetwork: a network that no machine uses needs no process.
func measureIdleNetwork(b *bench) error {
	if _, err := b.output(b.croft.do("run", "--rm", "--no-boot", "busybox", "true")); err != nil {
		return err
	}
	links, err := tool("ip", "-brief", "link", "show", "type", "bridge")
	if err != nil {
		return err
	}
	if links == "" {
		return fmt.Errorf("the default network is not there")
	}
	resident := processesOf(b.croft.binary)
	b.limit("croft's processes with a network and no machine", strconv.Itoa(resident), "0", resident == 0)
	return nil
}

// processesOf counts those that run from the binary.
func processesOf(binary string) (n int) {
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if path, err := os.Readlink(exe); err == nil && path == binary {
			n++
		}
	}
	return n
}

// payload is a machine on the default network that runs one process.
func (b *bench) payload(name string, args ...string) command {
	return b.croft.do(append(append([]string{"create", "--name", name, "--no-boot"}, args...), "busybox", "sleep", "infinity")...)
}

// measureLinks: the part of a start that is the network's, against the whole start, and against the same done by ip and nft.
func measureLinks(b *bench) error {
	var ours, whole, theirs samples
	if _, err := b.output(b.payload("keeps")); err != nil { // the bridge is there for both
		return err
	}
	if _, err := b.output(b.croft.do("start", "keeps")); err != nil {
		return err
	}
	err := interleave(b.n,
		func(i int) error { return b.networkPart(fmt.Sprintf("links%d", i), &ours, &whole) },
		func(i int) error { return b.linksByHand(i, &theirs) })
	if err != nil {
		return err
	}
	b.compare("network of a start", ours, "the whole start", whole, 0.3)
	b.compare("network of a start", ours, "ip -batch, ip -batch in the guest, nft -f", theirs, 2)
	return nil
}

// networkPart starts a machine and adds what the start says of its steps.
func (b *bench) networkPart(name string, part, whole *samples) error {
	if _, err := b.output(b.payload(name)); err != nil {
		return err
	}
	settle()
	from, err := b.log.Seek(0, 2)
	if err != nil {
		return err
	}
	if _, err := b.run(b.croft.do("start", "--timings", name)); err != nil {
		return err
	}
	steps := newSteps()
	steps.read(b.said(from))
	for step, to := range map[string]*samples{"network": part, "total": whole} {
		if steps.took[step] == nil {
			return fmt.Errorf("start --timings says nothing of %s", step)
		}
		*to = append(*to, (*steps.took[step])[0])
	}
	_, err = b.output(b.croft.do("rm", "-f", name))
	return err
}

// linksByHand makes what a start makes, for a network namespace that is there.
func (b *bench) linksByHand(i int, took *samples) error {
	guest, host, address := fmt.Sprintf("hand%d", i), fmt.Sprintf("handv%d", i), fmt.Sprintf("10.99.1.%d", i+1)
	files := map[string]string{
		"host": fmt.Sprintf("link add %s type veth peer name eth0 netns %s\nlink set %[1]s master br0 up\n", host, guest),
		"guest": fmt.Sprintf("link set lo up\naddr add %s/16 dev eth0\naddr add fd99::%x/64 dev eth0 nodad\nlink set eth0 up\n"+
			"route add default via 10.99.0.1\nroute add default via fd99::1\n", address, i+16),
		"rules": fmt.Sprintf("add element inet bare guests { %s : %s }\n", host, address),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.work, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if _, err := tool("ip", "netns", "add", guest); err != nil {
		return err
	}
	settle()
	lap := lap{b: b}
	lap.run(command{args: []string{"ip", "-n", "neighbour", "-batch", filepath.Join(b.work, "host")}})
	lap.run(command{args: []string{"ip", "-n", guest, "-batch", filepath.Join(b.work, "guest")}})
	lap.run(command{args: []string{"nsenter", "--net=/run/netns/neighbour", "nft", "-f", filepath.Join(b.work, "rules")}})
	took.add(lap.total)
	if lap.err != nil {
		return lap.err
	}
	_, err := tool("ip", "netns", "del", guest)
	return err
}

// A route is a way of packets: from one network namespace to a server's address in another.
type route struct{ from, to, addr string }

// measureTraffic: bytes and connections between machines, out and in, against the same ways of the host whose links were made by hand.
func measureTraffic(b *bench) error {
	a, err := b.runningPayload("a")
	if err != nil {
		return err
	}
	other, err := b.runningPayload("b", "-p", fmt.Sprintf("%d:%[1]d", iperfPort), "-p", fmt.Sprintf("%d:%[1]d", connectPort))
	if err != nil {
		return err
	}
	prefix, err := b.output(b.croft.do("inspect", "--format", "{{(index .Facts.Links 0).IP}}", "b"))
	if err != nil {
		return err
	}
	address, _, _ := strings.Cut(prefix, "/")
	named := func(name string) string { return "/run/netns/" + name }
	type way struct {
		what       string
		ours, bare route
	}
	for _, w := range []way{
		{"machine to machine", route{a, other, address}, route{named("bare2"), named("bare3"), "10.99.0.3"}},
		{"machine to outside", route{a, named("internet"), "198.51.100.1"}, route{named("bare2"), named("internet"), "198.51.100.1"}},
		{"outside to published port", route{named("internet"), other, "192.0.2.2"}, route{named("internet"), named("bare3"), "192.0.2.3"}},
	} {
		took, err := b.interleaveRoutes(w.ours, w.bare)
		if err != nil {
			return fmt.Errorf("%s: %w", w.what, err)
		}
		b.compareRates("TCP, "+w.what, "Gbit/s", took[0].rates, "the same by hand", took[1].rates, 0.95)
		b.compareRates("connections, "+w.what, "/s", took[0].connects, "the same by hand", took[1].connects, 0.95)
	}
	took, err := b.interleaveRoutes(route{named("internet"), named("bare3"), "192.0.2.3"}, route{named("internet"), named("bare3"), "10.99.0.3"})
	if err != nil {
		return err
	}
	b.note("network: by hand a published port has %.2fx the bytes and %.2fx the connections of one that is not: that is what the kernel's translation costs",
		took[0].rates.median()/took[1].rates.median(), took[0].connects.median()/took[1].connects.median())
	return nil
}

// runningPayload starts a machine and gives the path of its network namespace.
func (b *bench) runningPayload(name string, args ...string) (string, error) {
	if _, err := b.output(b.payload(name, args...)); err != nil {
		return "", err
	}
	if _, err := b.output(b.croft.do("start", name)); err != nil {
		return "", err
	}
	pid, err := b.output(b.croft.do("inspect", "--format", "{{.PID}}", name))
	return "/proc/" + pid + "/ns/net", err
}

// The ports that the servers of a route listen on.
const (
	iperfPort   = 5201
	connectPort = 5300
)

// traffic is what went by a route: Gbit/s, and connections a second.
type traffic struct{ rates, connects samples }

func (b *bench) interleaveRoutes(routes ...route) ([]traffic, error) {
	took := make([]traffic, len(routes))
	listening := map[string]bool{}
	var carry, connect []func(int) error
	for i, r := range routes {
		if !listening[r.to] {
			listener, err := r.listen()
			if err != nil {
				return nil, err
			}
			defer listener.Close()
			listening[r.to] = true
		}
		lots := make(chan lot)
		defer close(lots)
		go r.client(lots)
		carry = append(carry, func(int) error { return b.served(r, func() error { return b.iperf(r, &took[i].rates) }) })
		connect = append(connect, func(int) error {
			l := lot{took: &took[i].connects, done: make(chan error)}
			lots <- l
			return <-l.done
		})
	}
	if err := interleave(max(3*b.n/2, 4), carry...); err != nil {
		return nil, err
	}
	return took, interleave(max(10*b.n, 40), connect...) // many short ones: the machine's own pace changes from second to second
}

// served runs do while iperf3 serves the route.
func (b *bench) served(r route, do func() error) error {
	cmd := exec.Command("nsenter", "--net="+r.to, "iperf3", "-s", "-p", strconv.Itoa(iperfPort))
	cmd.Stdout, cmd.Stderr = b.log, b.log
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait() // says that it was killed
	}()
	err := await("iperf3 that listens", 10*time.Second, func() bool {
		out, _ := exec.Command("nsenter", "--net="+r.to, "ss", "-Hltn", fmt.Sprintf("sport = %d", iperfPort)).Output()
		return len(out) > 0
	})
	if err != nil {
		return err
	}
	return do()
}

func (b *bench) iperf(r route, to *samples) error {
	out, err := exec.Command("nsenter", "--net="+r.from, "iperf3", "-c", r.addr, "-p", strconv.Itoa(iperfPort), "-n", "256M", "-J").Output()
	var said struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if json.Unmarshal(out, &said) != nil || err != nil {
		return fmt.Errorf("iperf3: %v: %s", err, said.Error)
	}
	*to = append(*to, said.End.Received.Rate/1e9)
	return nil
}

// listen accepts connections at the route's end, and closes them.
func (r route) listen() (listener net.Listener, err error) {
	err = inNetwork(r.to, func() (err error) {
		listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", connectPort))
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return listener, nil
}

// lot is what a client is asked for: to make connections, one after another, and add how many a second there were.
type lot struct {
	took *samples
	done chan error
}

// client makes lots of connections by the route, on one thread.
func (r route) client(lots <-chan lot) {
	refused := inNetwork(r.from, func() error {
		server := &unix.SockaddrInet4{Port: connectPort, Addr: netip.MustParseAddr(r.addr).As4()}
		for l := range lots {
			l.done <- l.make(server)
		}
		return nil
	})
	for l := range lots {
		l.done <- refused
	}
}

func (l lot) make(server unix.Sockaddr) error {
	const many = 100
	began := time.Now()
	for range many {
		if err := connect(server); err != nil {
			return err
		}
	}
	*l.took = append(*l.took, many/time.Since(began).Seconds())
	return nil
}

// connect makes a connection and resets it, so that no port waits for its end. It blocks the thread: Go's own way would cost more than
// the network does.
func connect(server unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return os.NewSyscallError("setsockopt(SO_LINGER)", err)
	}
	return os.NewSyscallError("connect", unix.Connect(fd, server))
}

// inNetwork runs f on a thread in a network namespace.
func inNetwork(path string, f func() error) error {
	space, err := os.Open(path)
	if err != nil {
		return err
	}
	defer space.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := os.NewSyscallError("setns", unix.Setns(int(space.Fd()), unix.CLONE_NEWNET))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// crowded is how many machines measureCrowd puts on one bridge.
const crowded = 250

// measureCrowd: the last of many machines on one bridge starts as the first did.
func measureCrowd(b *bench) error {
	var first, last samples
	var parts [2]samples
	const each = 10
	for i := range crowded {
		name := fmt.Sprintf("crowd%d", i)
		if _, err := b.output(b.payload(name)); err != nil {
			return err
		}
		from, err := b.log.Seek(0, 2)
		if err != nil {
			return err
		}
		settle()
		took, err := b.run(b.croft.do("start", "--timings", name))
		if err != nil {
			return err
		}
		steps := newSteps()
		steps.read(b.said(from))
		switch {
		case i < each:
			first.add(took)
			parts[0] = append(parts[0], *steps.took["network"]...)
		case i >= crowded-each:
			last.add(took)
			parts[1] = append(parts[1], *steps.took["network"]...)
		}
	}
	b.compare(fmt.Sprintf("start of the last %d of %d machines on one bridge", each, crowded), last, fmt.Sprintf("the first %d", each), first, 1.3)
	b.note("network: its part of these starts was %s, and %s at the end", parts[0].ms(), parts[1].ms())
	return nil
}
