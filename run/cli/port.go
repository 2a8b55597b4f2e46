package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
)

// port is one row of port; its JSON names are a promise (docs/json.md).
type port struct {
	Protocol string `json:"protocol"`
	Guest    uint16 `json:"guest"`
	IP       string `json:"ip"` // of the host; "": all its addresses
	Host     uint16 `json:"host"`
}

// at is where on the host it is, as docker and podman write it: 0.0.0.0 stands for all addresses, those of IPv6 too.
func (p port) at() string {
	ip := p.IP
	if ip == "" {
		ip = "0.0.0.0"
	}
	return net.JoinHostPort(ip, strconv.Itoa(int(p.Host)))
}

func (p port) guest() string { return strconv.Itoa(int(p.Guest)) + "/" + p.Protocol }

// portsOf are the published ports of a machine, one by one: of one that runs those that it was started with or has got since.
func portsOf(in *state.Instance) []port {
	all := in.Facts.Ports
	if in.Applied != nil {
		all = in.Applied.Facts.Ports
	}
	rows := []port{}
	for _, p := range all {
		for i := range p.Len() {
			rows = append(rows, port{p.Proto, p.Guest + uint16(i), p.IP, p.Host + uint16(i)})
		}
	}
	return rows
}

func (a *app) port() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`")
		return func(_ context.Context, args []string) error {
			_, in, err := a.instance(args[0])
			if err != nil {
				return err
			}
			rows := portsOf(in)
			if len(args) == 2 {
				if rows, err = leadingTo(rows, args[1]); err != nil {
					return err
				}
				if len(rows) == 0 {
					return fmt.Errorf("port %s: %s is not published: %w", args[0], args[1], state.ErrNotExist)
				}
			}
			if format != "table" {
				return view[port]{}.write(os.Stdout, string(format), rows)
			}
			for _, p := range rows {
				if len(args) < 2 {
					fmt.Print(p.guest() + " -> ")
				}
				fmt.Println(p.at())
			}
			return nil
		}
	}
}

// leadingTo keeps what leads to a port of the machine, GUEST[/PROTOCOL].
func leadingTo(rows []port, text string) (kept []port, err error) {
	number, proto, given := strings.Cut(text, "/")
	guest, count, err := span(number)
	if err == nil && (count != 1 || given && proto != state.TCP && proto != state.UDP) {
		err = fmt.Errorf("%q is no port like 80 or 53/udp", text)
	}
	if err != nil {
		return nil, man.Misused("%v", err)
	}
	for _, p := range rows {
		if p.Guest == guest && (!given || p.Protocol == proto) {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// hintPorts tells how what the world sends to a machine's ports is let in, where a firewall of this host keeps it out.
func hintPorts(e *run.Engine, name string) {
	commands := e.PortHints(name)
	if len(commands) == 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "croft: a firewall of this host keeps the world from the ports of %s\n", name)
	for _, c := range commands {
		fmt.Fprintln(os.Stderr, "hint: "+c)
	}
}
