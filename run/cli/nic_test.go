package cli

import (
	"strings"
	"testing"

	"croft/state"
)

func TestPublished(t *testing.T) {
	for text, want := range map[string]state.Port{
		"80":                        {Proto: "tcp", Guest: 80},
		"8080:80":                   {Proto: "tcp", Host: 8080, Guest: 80},
		"53:53/udp":                 {Proto: "udp", Host: 53, Guest: 53},
		"8080:80/tcp":               {Proto: "tcp", Host: 8080, Guest: 80},
		"127.0.0.1:8080:80":         {Proto: "tcp", IP: "127.0.0.1", Host: 8080, Guest: 80},
		"127.0.0.1::80":             {Proto: "tcp", IP: "127.0.0.1", Guest: 80},
		"[::1]:8080:80":             {Proto: "tcp", IP: "::1", Host: 8080, Guest: 80},
		"[::1]::80/udp":             {Proto: "udp", IP: "::1", Guest: 80},
		"[2001:DB8:0::1]:80:80":     {Proto: "tcp", IP: "2001:db8::1", Host: 80, Guest: 80},
		"0.0.0.0:80:80":             {Proto: "tcp", Host: 80, Guest: 80},
		"[::]:80:80":                {Proto: "tcp", Host: 80, Guest: 80},
		"80-90":                     {Proto: "tcp", Guest: 80, Count: 11},
		"8000-8010:80-90":           {Proto: "tcp", Host: 8000, Guest: 80, Count: 11},
		"192.0.2.1:80-80:81-81":     {Proto: "tcp", IP: "192.0.2.1", Host: 80, Guest: 81},
		"65534-65535:1-2/udp":       {Proto: "udp", Host: 65534, Guest: 1, Count: 2},
		"192.0.2.1:1-65535:1-65535": {Proto: "tcp", IP: "192.0.2.1", Host: 1, Guest: 1, Count: 65535},
	} {
		if p, err := published(text); err != nil || p != want {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
	}
}

// What is wrong is said in one sentence, with what was likely meant where that can be told.
func TestPublishedRefuses(t *testing.T) {
	for text, want := range map[string][2]string{
		"":                     {`"" is no port`, ""},
		"http":                 {`"http" is no port`, ""},
		"0":                    {`"0" is no port`, ""},
		"8080:":                {`"" is no port`, ""},
		"80:65536":             {`"65536" is no port`, ""},
		"x:80":                 {`"x" is no port`, ""},
		"80/sctp":              {`"sctp" is neither tcp nor udp`, "80/udp"},
		"8080:80/UDP":          {`"UDP" is neither`, "8080:80/udp"},
		"::1:8080:80":          {"stands in brackets", "[::1]:8080:80"},
		"2001:db8::1:80":       {"stands in brackets", ""},
		"[::1]:80":             {"on the host is missing", "[::1]:80:80"},
		"127.0.0.1:80":         {"on the host is missing", "127.0.0.1:80:80"},
		"localhost:8080:80":    {"no name", "127.0.0.1:8080:80"},
		"web:8080:80":          {`"web" is no address`, ""},
		"[127.0.0.1]:8080:80":  {`"[127.0.0.1]" is no address`, ""},
		"[::1:8080:80":         {"is no address", ""},
		"8000-8010:80":         {"11 of the host's are not 1 of the machine's", "8000-8010:80-90"},
		"127.0.0.1:8000:80-90": {"1 of the host's are not 11 of the machine's", "127.0.0.1:8000-8010:80-90"},
		"8010-8000:90-80":      {"ends before it begins", ""},
	} {
		_, err := published(text)
		if err == nil || !strings.Contains(err.Error(), want[0]) || strings.Contains(err.Error(), "\n") || want[1] != "" && hintOf(err) != want[1] {
			t.Errorf("%s: %v; hint %q", text, err, hintOf(err))
		}
	}
}

func TestAttachment(t *testing.T) {
	for text, want := range map[string]state.NIC{
		"lan":                               {Network: "lan"},
		"host":                              {Network: "host"},
		"ns:/run/netns/blue":                {Network: "ns:/run/netns/blue"},
		"bridge:br0,ip=192.0.2.7/24":        {Network: "bridge:br0", IP: "192.0.2.7/24"},
		"lan,mac=02:00:00:00:00:01,name=x0": {Network: "lan", Name: "x0", MAC: "02:00:00:00:00:01"},
	} {
		if n, err := attachment(text); err != nil || n != want {
			t.Errorf("%s: %+v, %v", text, n, err)
		}
	}
	for text, want := range map[string][2]string{
		"":                {"comes first", ""},
		"ip=10.9.0.5":     {"comes first", ""},
		"lan,":            {`"" is none of name, ip`, ""},
		"lan,ipp=1":       {`"ipp" is none of`, "ip"},
		"lan,ip":          {"lacks its value", ""},
		"lan,ip=1,ip=2":   {"ip is given twice", ""},
		"lan,hwaddr=0,ip": {`"hwaddr" is none of`, ""},
	} {
		_, err := attachment(text)
		if err == nil || !strings.Contains(err.Error(), want[0]) || hintOf(err) != want[1] {
			t.Errorf("%s: %v; hint %q", text, err, hintOf(err))
		}
	}
}
