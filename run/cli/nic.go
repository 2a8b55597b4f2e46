package cli

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

// nicFlags are the flags that say how a machine is connected.
type nicFlags struct {
	networks     []string
	ip, ip6, mac string // of the first of them
	ports        []string
	servers      []string
	hostNames    []string
}

func (s *nicFlags) bind(fs *pflag.FlagSet) {
	fs.StringArrayVar(&s.networks, "network", nil, "connect it to `NET|none|host`, or more as croft help networking has it; default: "+state.DefaultNetwork)
	fs.StringVar(&s.ip, "ip", "", "its IPv4 `ADDRESS` in the first of its networks; default: one that is free, the same for all its life")
	fs.StringVar(&s.ip6, "ip6", "", "its IPv6 `ADDRESS` there")
	fs.StringVar(&s.mac, "mac", "", "its Ethernet `ADDRESS` there")
	fs.StringArrayVarP(&s.ports, "publish", "p", nil, "publish its port GUEST as HOST: `[IP:]HOST:GUEST[/udp]`; both may be ranges; GUEST alone takes a port of the host that is free")
	fs.StringArrayVar(&s.servers, "dns", nil, "have it ask the name server at `ADDRESS`; default: its network's, else the host's")
	fs.StringArrayVar(&s.hostNames, "add-host", nil, "have it know `NAME:ADDRESS`; host-gateway for the host's own")
	man.Under(fs, "Network", "network", "ip", "ip6", "mac", "publish", "dns", "add-host")
}

// attachments gives out its NICs.
func (s *nicFlags) attachments(out *state.Spec) error {
	for _, text := range s.networks {
		n, err := attachment(text)
		if err != nil {
			return err
		}
		if none := (state.NIC{Network: state.NetworkNone}); n != none || len(s.networks) > 1 { // beside others the spec's check refuses it
			out.NICs = append(out.NICs, n)
		}
	}
	for _, pin := range []struct{ flag, value string }{{"ip", s.ip}, {"ip6", s.ip6}, {"mac", s.mac}} {
		if pin.value == "" {
			continue
		}
		if len(out.NICs) == 0 {
			return man.Misused("--%s %s: there is no network to have it in", pin.flag, pin.value)
		}
		*pinOf(&out.NICs[0], pin.flag) = pin.value
	}
	return nil
}

// pinOf is where a NIC keeps what a flag of its name, or an option of --network, decides for it; nil when there is none.
func pinOf(n *state.NIC, name string) *string {
	switch name {
	case "name":
		return &n.Name
	case "ip":
		return &n.IP
	case "ip6":
		return &n.IP6
	case "gateway":
		return &n.Gateway
	case "mac":
		return &n.MAC
	}
	return nil
}

// pins are the options of --network, in the order in which they are written.
var pins = [...]string{"name", "ip", "ip6", "gateway", "mac"}

// attachment reads NET[,OPTION=VALUE...].
func attachment(text string) (state.NIC, error) {
	network, options, more := strings.Cut(text, ",")
	n := state.NIC{Network: network}
	if network == "" || strings.Contains(network, "=") {
		return n, man.Misused("network %q: the name of a network comes first, as in %s,ip=10.9.0.5", text, state.DefaultNetwork)
	}
	for more {
		var option string
		option, options, more = strings.Cut(options, ",")
		key, value, _ := strings.Cut(option, "=")
		at := pinOf(&n, key)
		switch {
		case at == nil:
			return n, &man.Misuse{Say: "network " + strconv.Quote(text) + ": " + strconv.Quote(key) + " is none of " + strings.Join(pins[:], ", "), Hint: man.Nearest(key, pins[:])}
		case value == "":
			return n, man.Misused("network %q: %s= lacks its value", text, key)
		case *at != "":
			return n, man.Misused("network %q: %s is given twice", text, key)
		}
		*at = value
	}
	return n, nil
}

// attachmentText writes a NIC as --network takes it. What has flags of its own, of the first one, is left to these.
func attachmentText(n state.NIC, first bool) string {
	text := n.Network
	for _, key := range pins {
		if own := key == "ip" || key == "ip6" || key == "mac"; first && own {
			continue
		}
		if value := *pinOf(&n, key); value != "" {
			text += "," + key + "=" + value
		}
	}
	return text
}

// published gives out its ports.
func (s *nicFlags) published(out *state.Spec) error {
	for _, text := range s.ports {
		p, err := published(text)
		if err != nil {
			return err
		}
		out.Ports = append(out.Ports, p)
	}
	return nil
}

// published reads [[IP:][HOST]:]GUEST[/PROTOCOL]; HOST and GUEST may be ranges of the same length.
func published(text string) (p state.Port, err error) {
	wrong := func(hint, format string, a ...any) (state.Port, error) {
		m := man.Misused("publish "+strconv.Quote(text)+": "+format, a...).(*man.Misuse)
		m.Hint = hint
		return state.Port{}, m
	}
	ports, proto, _ := strings.Cut(text, "/")
	suffix := text[len(ports):]
	switch suffix {
	case "", "/" + state.TCP:
		p.Proto = state.TCP
	case "/" + state.UDP:
		p.Proto = state.UDP
	default:
		return wrong(ports+"/"+state.UDP, "%q is neither tcp nor udp", proto)
	}
	front, guest, pair := cutLast(ports)
	ip, host, _ := cutLast(front)
	if front != "" && front[len(front)-1] == ']' { // as [::1]:80
		ip, host = front, ""
		return wrong(ip+":"+guest+":"+guest+suffix, "the port on the host is missing")
	}
	if _, err := netip.ParseAddr(front); err == nil && pair {
		if strings.Contains(front, ":") { // of IPv6, without its brackets
			return wrong("["+ip+"]:"+host+":"+guest+suffix, "an IPv6 address stands in brackets")
		}
		return wrong(front+":"+guest+":"+guest+suffix, "the port on the host is missing")
	}
	if ip != "" {
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"))
		switch bracketed := strings.HasPrefix(ip, "["); {
		case err != nil && ip == "localhost":
			return wrong("127.0.0.1:"+host+":"+guest+suffix, "an address is wanted and no name")
		case err != nil, bracketed != strings.HasSuffix(ip, "]"), bracketed && addr.Is4():
			return wrong("", "%q is no address", ip)
		case addr.Is6() && !bracketed:
			return wrong("["+ip+"]:"+host+":"+guest+suffix, "an IPv6 address stands in brackets")
		case !addr.IsUnspecified(): // 0.0.0.0 and :: are what nothing is: all of them
			p.IP = addr.String()
		}
	}
	first, count, err := span(guest)
	if err != nil {
		return wrong("", "%v", err)
	}
	p.Guest = first
	if count > 1 {
		p.Count = count
	}
	if host == "" {
		return p, nil
	}
	onHost, n, err := span(host)
	switch {
	case err != nil:
		return wrong("", "%v", err)
	case n != count:
		meant := state.Port{Proto: p.Proto, IP: p.IP, Host: onHost, Guest: p.Guest, Count: max(n, count)}
		return wrong(meant.String(), "%d of the host's are not %d of the machine's", n, count)
	}
	p.Host = onHost
	return p, nil
}

// cutLast cuts at the last colon; without one all of text is behind it.
func cutLast(text string) (before, after string, found bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", text, false
	}
	return text[:i], text[i+1:], true
}

// span reads a port, or the first and the last of some.
func span(text string) (first, count uint16, err error) {
	low, high, ranged := strings.Cut(text, "-")
	if !ranged {
		high = low
	}
	a, err1 := strconv.ParseUint(low, 10, 16)
	b, err2 := strconv.ParseUint(high, 10, 16)
	if err1 != nil || err2 != nil || a == 0 {
		return 0, 0, errors.New(strconv.Quote(text) + " is no port from 1 to 65535, nor a range of them")
	}
	if b < a {
		return 0, 0, errors.New(strconv.Quote(text) + " ends before it begins")
	}
	return uint16(a), uint16(b-a) + 1, nil
}

// publishedAs is what an entry of publish is called: by its place on the host, which no other has. One that takes any port
// there is called by the machine's, with a colon before it.
func publishedAs(value string) string {
	p, err := published(value)
	if err != nil {
		return value
	}
	text, _, _ := strings.Cut(p.String(), "/")
	switch place, _, pair := cutLast(text); {
	case p.Host != 0:
		text = place
	case !pair:
		text = ":" + text
	}
	if p.Proto == state.UDP {
		text += "/" + state.UDP
	}
	return text
}

// resolving gives out the servers it asks and the names it knows.
func (s *nicFlags) resolving(out *state.Spec) error {
	for _, servers := range s.servers {
		out.DNS = append(out.DNS, strings.Split(servers, ",")...)
	}
	for _, text := range s.hostNames {
		name, address, ok := strings.Cut(text, ":")
		if !ok || name == "" || address == "" {
			return man.Misused("add-host %q is not NAME:ADDRESS", text)
		}
		out.AddHosts = append(out.AddHosts, state.HostName{Name: name, Address: strings.Trim(address, "[]")})
	}
	return nil
}
