package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/rogpeppe/go-internal/testscript"

	"croft/integration/imageserver"
)

// serversKey finds the image servers of a script in its values, by name.
type serversKey struct{}

type servers map[string]*imageserver.Server

func (all servers) closeAll() {
	for _, s := range all {
		s.Close()
	}
}

func serverOf(ts *testscript.TestScript, name string) *imageserver.Server {
	s := ts.Value(serversKey{}).(servers)[name]
	if s == nil {
		ts.Fatalf("no server is called %s", name)
	}
	return s
}

func cmdTree(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "tree DIR FILE")
	var images []imageserver.Image
	if err := json.Unmarshal([]byte(ts.ReadFile(args[1])), &images); err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	for i := range images {
		for n, file := range images[i].Files {
			images[i].Files[n] = ts.MkAbs(file)
		}
	}
	ts.Check(imageserver.Write(ts.MkAbs(args[0]), images))
}

// keysKey finds the keys of a script in its values, by name.
type keysKey struct{}

func cmdSign(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 2 || len(args) == 3), "sign DIR KEY [around|expired|old]")
	keys := ts.Value(keysKey{}).(map[string]*openpgp.Entity)
	name, how := args[1], ""
	if len(args) == 3 {
		how = args[2]
	}
	if keys[name] == nil {
		key, err := imageserver.NewKey(name, how == "expired")
		ts.Check(err)
		file, err := os.Create(ts.MkAbs(name + ".asc"))
		ts.Check(err)
		ts.Check(imageserver.WriteKey(file, key))
		ts.Check(file.Close())
		keys[name] = key
	}
	ts.Check(imageserver.Sign(ts.MkAbs(args[0]), keys[name], how == "around", how == "expired" || how == "old"))
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "serve NAME DIR|URL")
	what := args[1]
	if !strings.HasPrefix(what, "http://") {
		what = ts.MkAbs(what)
	}
	s, err := imageserver.Start(what)
	ts.Check(err)
	ts.Value(serversKey{}).(servers)[args[0]] = s
	ca := filepath.Join(ts.Getenv("WORK"), args[0]+".pem")
	ts.Check(os.WriteFile(ca, s.CA, 0o644))
	ts.Setenv(args[0], s.URL)
	ts.Setenv(args[0]+"_HOST", s.Host())
	ts.Setenv(args[0]+"_CA", ca)
}

func cmdFault(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2 && len(args) <= 5, "fault NAME KIND|mend [PATH [TIMES [VALUE]]]")
	s := serverOf(ts, args[0])
	if args[1] == "mend" {
		s.Mend()
		return
	}
	f := imageserver.Fault{Kind: args[1]}
	if len(args) > 2 {
		f.Path = args[2]
	}
	if len(args) > 3 {
		times, err := strconv.Atoi(args[3])
		ts.Check(err)
		f.Times = times
	}
	if len(args) > 4 {
		f.Value = args[4]
	}
	s.Break(f)
}

func cmdAsked(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "asked NAME")
	stdout := ts.Stdout() // now: it is empty when nothing was asked
	for _, line := range serverOf(ts, args[0]).Asked() {
		fmt.Fprintln(stdout, line)
	}
}
