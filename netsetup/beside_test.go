package netsetup

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"croft/state"
)

// ownHost runs a test once more in network and mount namespaces of its own, where /run is empty, and says in which of the two runs
// this is: the test itself returns in the outer one, which tells what the inner one found.
func ownHost(t *testing.T) (inside bool) {
	t.Helper()
	const variable = "CROFT_TEST_INSIDE"
	if os.Getenv(variable) == t.Name() {
		must(t, "mount --make-rprivate /; mount -t tmpfs tmpfs /run; mkdir /run/netns; ip link set lo up")
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, PROVES NOTHING: making network namespaces takes root")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
	return false
}

// must runs shell commands in this namespace.
func must(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euc", script)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v: %s", script, err, out)
	}
	return string(out)
}

// A guest on a bridge of croft's, the host that the test is, and what lies outside. The host masquerades, as croft's own table
// does, and sends what comes for its port 8080 to port 80 of the guest.
const (
	bridge = "croft0"

	topology = `
	for ns in out guest; do ip netns add $ns; ip -n $ns link set lo up; done
	ip link add eth0 type veth peer name eth0 netns out
	ip addr add 198.51.100.1/24 dev eth0; ip addr add 2001:db8::1/64 dev eth0 nodad; ip link set eth0 up
	ip -n out addr add 198.51.100.2/24 dev eth0; ip -n out addr add 2001:db8::2/64 dev eth0 nodad; ip -n out link set eth0 up
	ip link add croft0 type bridge; ip addr add 10.87.0.1/24 dev croft0; ip addr add fd87::1/64 dev croft0 nodad; ip link set croft0 up
	ip link add croftv1 type veth peer name eth0 netns guest; ip link set croftv1 master croft0 up
	ip -n guest addr add 10.87.0.2/24 dev eth0; ip -n guest addr add fd87::2/64 dev eth0 nodad; ip -n guest link set eth0 up
	ip -n guest route add default via 10.87.0.1; ip -n guest route add default via fd87::1
	nft add table inet croft
	nft add chain inet croft post '{ type nat hook postrouting priority srcnat; }'
	nft add rule inet croft post iifname croft0 oifname != croft0 masquerade
	nft add chain inet croft pre '{ type nat hook prerouting priority dstnat; }'
	nft add rule inet croft pre iifname eth0 tcp dport 8080 dnat ip to 10.87.0.2:80
	nft add rule inet croft pre iifname eth0 tcp dport 8080 dnat ip6 to '[fd87::2]:80'`

	outside4, outside6     = "198.51.100.2:80", "[2001:db8::2]:80"
	published4, published6 = "198.51.100.1:8080", "[2001:db8::1]:8080"
	direct4                = "10.87.0.2:80" // the guest's own address: as asked by a neighbour who knows the way
)

// in does something in a network namespace of the topology.
func in(t *testing.T, ns string, do func() error) error {
	t.Helper()
	f, err := os.Open(filepath.Join("/run/netns", ns))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Within(f, do)
}

// serve answers connections there, on port 80 of both versions of IP.
func serve(t *testing.T, ns string) {
	t.Helper()
	err := in(t, ns, func() error {
		l, err := net.Listen("tcp", "[::]:80")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte("here\n"))
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// reach waits for an answer that comes to that namespace. One that is dropped is waited for: the patience is that of who expects
// none.
func reach(t *testing.T, from, address string, patience time.Duration) error {
	t.Helper()
	return in(t, from, func() error {
		c, err := net.DialTimeout("tcp", address, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = io.ReadAll(c)
		return err
	})
}

func passes(t *testing.T, from string, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		if err := reach(t, from, a, 10*time.Second); err != nil {
			t.Errorf("from %s: %v", from, err)
		}
	}
}

func stays(t *testing.T, from string, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		if reach(t, from, a, 300*time.Millisecond) == nil {
			t.Errorf("%s can be reached from %s", a, from)
		}
	}
}

// docker is what dockerd writes when it starts with a network, and forwarding was off.
func docker(t *testing.T, kind string) {
	for _, command := range []string{"iptables", "ip6tables"} {
		must(t, command+"-"+kind+`-restore <<-'END'
			*filter
			:INPUT ACCEPT [0:0]
			:FORWARD DROP [0:0]
			:OUTPUT ACCEPT [0:0]
			:DOCKER - [0:0]
			:DOCKER-ISOLATION-STAGE-1 - [0:0]
			:DOCKER-ISOLATION-STAGE-2 - [0:0]
			:DOCKER-USER - [0:0]
			-A FORWARD -j DOCKER-USER
			-A FORWARD -j DOCKER-ISOLATION-STAGE-1
			-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
			-A FORWARD -o docker0 -j DOCKER
			-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
			-A FORWARD -i docker0 -o docker0 -j ACCEPT
			-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
			-A DOCKER-ISOLATION-STAGE-1 -j RETURN
			-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
			-A DOCKER-ISOLATION-STAGE-2 -j RETURN
			-A DOCKER-USER -j RETURN
			COMMIT
			END`)
	}
}

func TestBesideDockerNFT(t *testing.T)    { besideDocker(t, "nft") }
func TestBesideDockerLegacy(t *testing.T) { besideDocker(t, "legacy") }

func besideDocker(t *testing.T, kind string) {
	if !ownHost(t) {
		return
	}
	must(t, topology)
	serve(t, "out")
	serve(t, "guest")
	open := func() {
		t.Helper()
		if err := errors.Join(Forward(bridge, true, true), OpenBeside(bridge)); err != nil {
			t.Fatal(err)
		}
	}
	open()
	passes(t, "guest", outside4, outside6)

	docker(t, kind)
	stays(t, "guest", outside4, outside6)
	stays(t, "out", published4, published6)

	open()
	passes(t, "guest", outside4, outside6)
	passes(t, "out", published4, published6)
	must(t, "ip -n out route add 10.87.0.0/24 via 198.51.100.1")
	stays(t, "out", direct4)

	rules := "iptables-" + kind + " -S; ip6tables-" + kind + " -S"
	once := must(t, rules)
	open()
	if twice := must(t, rules); twice != once {
		t.Errorf("asked twice it changed\n%s\nto\n%s", once, twice)
	}

	must(t, "iptables-"+kind+" -I DOCKER-USER -d 198.51.100.2 -j DROP")
	stays(t, "guest", outside4) // what the administrator forbids comes first
	must(t, "iptables-"+kind+" -D DOCKER-USER 1")
	passes(t, "guest", outside4)

	hints, err := Hints(state.Link{Parent: bridge}, []state.Port{{Proto: "tcp", Host: 8080, Guest: 80}})
	if err != nil || len(hints) != 0 {
		t.Errorf("hints %q, %v for ports that are open", hints, err)
	}
	findings, err := Beside([]string{bridge, "other0"})
	if want := []Finding{{"Docker", []string{bridge}, []string{"other0"}, "iptables -A FORWARD -i other0 -m comment --comment croft -j ACCEPT"}}; err != nil || !reflect.DeepEqual(findings, want) {
		t.Errorf("findings %+v, %v", findings, err)
	}

	for range 2 {
		if err := errors.Join(CloseBeside(bridge), Forward(bridge, false, false)); err != nil {
			t.Fatal(err)
		}
	}
	if left := must(t, rules); strings.Contains(left, bridge) {
		t.Errorf("left behind:\n%s", left)
	}
	stays(t, "guest", outside4, outside6)
}
