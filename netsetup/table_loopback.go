package netsetup

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Ports on ::1. A packet from ::1 can be sent to a machine, but the answer to it is lost: the kernel takes nothing for ::1 that
// has come by an interface other than lo, and knows no route_localnet for IPv6. So who connects to ::1 and such a port is
// connected to the machine instead, by three small programs at the cgroup of all processes. They hold the map of ports and are
// held by the cgroup: nothing of croft's has to run, and who comes next finds both again
// (docs/decisions/033-ports-on-the-host.md).

// hook is a place where the kernel asks before it uses an address.
type hook struct {
	at      uint32
	program func(h *hooks) []instruction
}

// Connections of TCP and of UDP, what UDP sends without one, and whom an answer to that is from.
func loopbackHooks() []hook {
	return []hook{
		{unix.BPF_CGROUP_INET6_CONNECT, (*hooks).connect},
		{unix.BPF_CGROUP_UDP6_SENDMSG, (*hooks).send},
		{unix.BPF_CGROUP_UDP6_RECVMSG, (*hooks).receive},
	}
}

// hooks is what the programs share.
type hooks struct {
	netns uint64   // the cookie of the network namespace that they act in: others have a ::1 of their own
	ports *os.File // map of loopbackKey to loopbackValue
	asked *os.File // map of a socket's cookie, and an address and port that it was led to, to the port that it asked for
}

func (h *hooks) close() {
	h.ports.Close()
	h.asked.Close()
}

// Offsets in struct bpf_sock_addr of linux/bpf.h.
const (
	sockAddrIP6      = 8
	sockAddrPort     = 24 // in network order, in the lower half of four bytes
	sockAddrProtocol = 36
)

// loopbackKey is the key of a port in the map, loopbackValue whom it leads to: as the programs lay them out.
func loopbackKey(proto byte, port []byte) []byte {
	return binary.NativeEndian.AppendUint32(nil, uint32(proto)<<16|uint32(binary.NativeEndian.Uint16(port)))
}

func loopbackValue(address, port []byte) []byte {
	return binary.NativeEndian.AppendUint32(slices.Clone(address), uint32(binary.NativeEndian.Uint16(port)))
}

// Sizes of keys and values, and where they are on the stack.
const (
	keySize    = 4
	valueSize  = 20
	askedSize  = 8 + valueSize + 4 // with what fills it up to eights
	stackKey   = -keySize
	stackAsked = -8 - askedSize
	stackPort  = stackAsked - 4 // what was asked for
)

// connect leads who asks for ::1 and a published port to the machine.
func (h *hooks) connect() []instruction { return slices.Concat(h.lookUp(), leadTo()) }

// send does so, too, and notes for receive what was asked for.
func (h *hooks) send() []instruction {
	return slices.Concat(h.lookUp(),
		[]instruction{load32(r1, r6, sockAddrPort), store32(r10, stackPort, r1)},
		leadTo(), h.askedKey(), setMap(r1, h.asked),
		[]instruction{
			move(r2, r10), add(r2, stackAsked),
			move(r3, r10), add(r3, stackPort),
			set(r4, 0), call(mapUpdate),
		})
}

// receive says that an answer is from where the question was sent to.
func (h *hooks) receive() []instruction {
	all := slices.Concat([]instruction{move(r6, r1)}, h.askedKey(), setMap(r1, h.asked),
		[]instruction{
			move(r2, r10), add(r2, stackAsked), call(mapLookUp), endIfZero(r0),
			load32(r1, r0, 0), store32(r6, sockAddrPort, r1),
		})
	for i, word := range loopbackWords() {
		all = append(all, set(r1, word), store32(r6, int16(sockAddrIP6+4*i), r1))
	}
	return all
}

// lookUp goes on if the address is ::1 in this network namespace and the port is published, with the context in r6 and the
// value of the map in r0.
func (h *hooks) lookUp() []instruction {
	all := []instruction{move(r6, r1)}
	for i, word := range loopbackWords() {
		all = append(all, load32(r1, r6, int16(sockAddrIP6+4*i)), endUnless(r1, word))
	}
	return slices.Concat(all,
		[]instruction{move(r1, r6), call(netnsCookie)}, set64(r1, h.netns), []instruction{endUnlessSame(r0, r1)},
		[]instruction{
			load32(r1, r6, sockAddrProtocol), shiftLeft(r1, 16), load32(r2, r6, sockAddrPort), or(r1, r2),
			store32(r10, stackKey, r1),
		},
		setMap(r1, h.ports),
		[]instruction{move(r2, r10), add(r2, stackKey), call(mapLookUp), endIfZero(r0)})
}

// leadTo puts the address and port that r0 points to into the context.
func leadTo() (all []instruction) {
	for i := range int16(4) {
		all = append(all, load32(r1, r0, 4*i), store32(r6, sockAddrIP6+4*i, r1))
	}
	return append(all, load32(r1, r0, 16), store32(r6, sockAddrPort, r1))
}

// askedKey puts a key of asked on the stack: of the socket, and of the address and port in the context.
func (h *hooks) askedKey() []instruction {
	all := []instruction{move(r1, r6), call(socketCookie), store64(r10, stackAsked, r0)}
	for i := range int16(4) {
		all = append(all, load32(r1, r6, sockAddrIP6+4*i), store32(r10, stackAsked+8+4*i, r1))
	}
	return append(all,
		load32(r1, r6, sockAddrPort), store32(r10, stackAsked+24, r1),
		set(r1, 0), store32(r10, stackAsked+28, r1))
}

// loopbackWords is ::1 as it is loaded here, four bytes at a time.
func loopbackWords() [4]int32 {
	return [...]int32{3: int32(binary.NativeEndian.Uint32([]byte{0, 0, 0, 1}))}
}

// loopbackElements are those of all that are ports on ::1, as the map has them.
func loopbackElements(all []element) (ports []element) {
	for _, e := range all {
		if e.set == "ports6" || e.set == "ports6_at" && slices.Equal(e.key[:16], []byte{15: 1}) {
			service := e.key[len(e.key)-8:]
			ports = append(ports, element{key: loopbackKey(service[0], service[4:6]), value: loopbackValue(e.value[:16], e.value[16:18])})
		}
	}
	return ports
}

// addLoopback makes ports on ::1 be there; with only, all others not be there.
func (t Table) addLoopback(all []element, only bool) error {
	if t.Cgroup == "" {
		return nil
	}
	all = loopbackElements(all)
	ports, err := t.hooked()
	if err == nil && ports == nil && len(all) > 0 {
		ports, err = t.hook()
	}
	if err != nil || ports == nil {
		return err
	}
	defer ports.Close()
	if only {
		keys, err := mapKeys(ports, keySize)
		if err != nil {
			return err
		}
		for _, key := range keys {
			if slices.ContainsFunc(all, func(e element) bool { return string(e.key) == string(key) }) {
				continue
			}
			if err := mapEntry(unix.BPF_MAP_DELETE_ELEM, ports, key, nil); err != nil {
				return err
			}
		}
	}
	for _, e := range all {
		if err := mapEntry(unix.BPF_MAP_UPDATE_ELEM, ports, e.key, e.value); err != nil {
			return err
		}
	}
	return nil
}

// removeLoopback makes ports on ::1 not be there, but for those that lead to somebody else by now.
func (t Table) removeLoopback(all []element) error {
	if all = loopbackElements(all); len(all) == 0 {
		return nil
	}
	ports, err := t.hooked()
	if err != nil || ports == nil {
		return err
	}
	defer ports.Close()
	for _, e := range all {
		value := make([]byte, valueSize)
		err := mapEntry(unix.BPF_MAP_LOOKUP_ELEM, ports, e.key, value)
		if err == nil && string(value) == string(e.value) {
			err = mapEntry(unix.BPF_MAP_DELETE_ELEM, ports, e.key, nil)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// hook attaches the programs, with a map that is empty.
func (t Table) hook() (ports *os.File, err error) {
	h, err := newHooks(t.Name)
	if err != nil {
		return nil, err
	}
	defer h.asked.Close()
	cgroup, err := os.Open(t.Cgroup)
	if err == nil {
		defer cgroup.Close()
		err = h.each(t.Name, func(program *os.File, at uint32) error {
			return attachProgram(cgroup, program, at)
		})
	}
	if err != nil {
		h.ports.Close()
		return nil, errors.Join(err, t.unhook())
	}
	return h.ports, nil
}

func newHooks(name string) (h *hooks, err error) {
	h = &hooks{}
	if h.netns, err = ownNetnsCookie(); err != nil {
		return nil, err
	}
	// There is room for all ports, and few are used.
	h.ports, err = newMap(name, unix.BPF_MAP_TYPE_HASH, keySize, valueSize, 2<<16, unix.BPF_F_NO_PREALLOC)
	if err != nil {
		return nil, err
	}
	if h.asked, err = newMap(name, unix.BPF_MAP_TYPE_LRU_HASH, askedSize, 4, 4096, 0); err != nil {
		h.ports.Close()
		return nil, err
	}
	return h, nil
}

// each loads each program and does something with it.
func (h *hooks) each(name string, do func(program *os.File, at uint32) error) error {
	for _, at := range loopbackHooks() {
		program, err := loadProgram(name, at.at, assemble(at.program(h)))
		if err != nil {
			return err
		}
		err = do(program, at.at)
		program.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// hooked finds the map of ports again; nil when there is none.
func (t Table) hooked() (ports *os.File, err error) {
	err = t.attached(unix.BPF_CGROUP_INET6_CONNECT, func(_, program *os.File) error {
		_, maps, err := programInfo(program)
		if err != nil || len(maps) == 0 || ports != nil {
			return err
		}
		ports, err = openID(unix.BPF_MAP_GET_FD_BY_ID, maps[0]) // the only one of this program
		return err
	})
	return ports, err
}

// unhook takes the programs away. Gone is fine.
func (t Table) unhook() (err error) {
	for _, at := range loopbackHooks() {
		err = errors.Join(err, t.attached(at.at, func(cgroup, program *os.File) error {
			return detachProgram(cgroup, program, at.at)
		}))
	}
	return err
}

// attached does something for each of our programs at a hook.
func (t Table) attached(at uint32, do func(cgroup, program *os.File) error) error {
	if t.Cgroup == "" {
		return nil
	}
	cgroup, err := os.Open(t.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer cgroup.Close()
	programs, err := attachedPrograms(t.Name, cgroup, at)
	for _, p := range programs {
		err = errors.Join(err, do(cgroup, p), p.Close())
	}
	return err
}

// ProbeLoopback says what keeps ports from being published on ::1. It attaches nothing.
func ProbeLoopback() error {
	h, err := newHooks("croft-probe")
	if err != nil {
		return err
	}
	defer h.close()
	return h.each("croft-probe", func(*os.File, uint32) error { return nil })
}

// ownNetnsCookie is the number by which programs know this thread's network namespace.
func ownNetnsCookie() (uint64, error) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	const soNetnsCookie = 71 // SO_NETNS_COOKIE of asm-generic/socket.h
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, soNetnsCookie)
	return cookie, os.NewSyscallError("getsockopt(SO_NETNS_COOKIE)", err)
}
