package integration

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The house as docs/design.md has it: what each package may import of croft, lowest first, and of others. Stdlib is free, what a
// package's own dependencies import is theirs. A new line here is a decision: it has a page in docs/decisions.
var house = []struct {
	pkg    string
	croft  string
	others string // module paths
}{
	{"croft/state", "", "golang.org/x/sys gopkg.in/yaml.v3"},
	{"croft/idmap", "croft/state", "golang.org/x/sys"},
	{"croft/image/template", "", ""},
	{"croft/image/fetch", "croft/state", "golang.org/x/sys"},
	{"croft/image/simplestreams", "croft/state croft/image/fetch", "github.com/ProtonMail/go-crypto"},
	{"croft/image", "croft/state croft/image/template croft/image/fetch croft/image/simplestreams",
		"golang.org/x/sys github.com/klauspost/compress github.com/ulikunitz/xz github.com/containers/image/v5 gopkg.in/yaml.v3 " +
			// The types in which containers/image speaks; the signatures that its policy.json asks for.
			"github.com/opencontainers/go-digest github.com/opencontainers/image-spec github.com/ProtonMail/go-crypto"},
	{"croft/rootfs", "croft/state croft/idmap", "golang.org/x/sys github.com/cyphar/filepath-securejoin"},
	{"croft/netsetup", "croft/state croft/idmap", "golang.org/x/sys github.com/vishvananda/netlink github.com/google/nftables github.com/mdlayher/netlink"},
	{"croft/run", "croft/state croft/idmap croft/image/template croft/image/simplestreams croft/image croft/rootfs croft/netsetup",
		// moby/sys/user: passwd and group of a guest; libseccomp: the filter as BPF for exec; x/term: raw mode;
		// logrus: where libcontainer's log goes; yaml: CDI files.
		"golang.org/x/sys golang.org/x/term github.com/opencontainers/runc github.com/opencontainers/cgroups " +
			"github.com/opencontainers/runtime-spec github.com/coreos/go-systemd/v22 github.com/godbus/dbus/v5 " +
			"github.com/moby/sys/user github.com/seccomp/libseccomp-golang github.com/sirupsen/logrus gopkg.in/yaml.v3"},
	{"croft/man", "", "github.com/spf13/pflag"},
	{"croft/run/cli", "croft/state croft/run croft/man",
		"golang.org/x/sys golang.org/x/term github.com/spf13/pflag gopkg.in/yaml.v3 github.com/BurntSushi/toml github.com/DataDog/datadog-agent/pkg/template"},
	{"croft", "croft/run croft/run/cli", ""},
}

// Beside the house: packages that nothing of it may import.
var beside = []string{"croft/integration", "croft/integration/bench", "croft/integration/imageserver"}

// What may stand at the top.
var topLevel = strings.Fields(`main.go run image rootfs netsetup idmap state man integration go.mod
	go.sum README.md LICENSE CHANGELOG.md Makefile docs .ci .gitignore`)

// Packages that must never come into the binary, by what stands in their paths: each costs start-up time of every container.
var unwelcome = strings.Fields(`github.com/containers/image/v5/copy github.com/containers/image/v5/signature google.golang.org/grpc sqlite github.com/spf13/cobra
	k8s.io/`)

const (
	binaryBudget = 20 << 20 // bytes
	keeperBudget = 450      // lines of C that stay in memory beside every machine
)

// One init function may be: the dispatch of the re-executed binary, which must run before anything else.
var initAllowed = map[string]bool{"main.go": true, "run/enter.go": true}

// A listed package is what `go list -json` tells of one.
type listed struct {
	ImportPath, Dir, Doc string
	Standard             bool
	Imports, GoFiles     []string
	CgoFiles             []string
	Module               *struct{ Path string }
}

const tags = "seccomp netgo osusergo runc_nocriu nethttpomithttp2"

// list is what is in the binary, and with it the packages of the tree that are not.
var list = sync.OnceValues(func() ([]listed, error) { return goList("-deps", ".", "./...") })

// goList runs go list at the top of the tree.
func goList(args ...string) ([]listed, error) {
	fields := "-json=ImportPath,Dir,Doc,Standard,Imports,GoFiles,CgoFiles,Module"
	cmd := exec.Command("go", append([]string{"list", fields, "-tags", tags}, args...)...)
	cmd.Dir = ".."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.String())
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}

func everything(t *testing.T) []listed {
	t.Helper()
	all, err := list()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// ours are the packages of this tree.
func ours(t *testing.T) []listed {
	t.Helper()
	return slices.DeleteFunc(slices.Clone(everything(t)), func(p listed) bool {
		return p.ImportPath != "croft" && !strings.HasPrefix(p.ImportPath, "croft/")
	})
}

// TestImportOrder holds every package to its line of the house, owners of heavy dependencies included.
func TestImportOrder(t *testing.T) {
	module := map[string]string{} // import path -> module path, empty for stdlib
	for _, p := range everything(t) {
		if p.Module != nil && !p.Standard {
			module[p.ImportPath] = p.Module.Path
		}
	}
	for _, p := range ours(t) {
		if slices.Contains(beside, p.ImportPath) {
			continue
		}
		at := slices.IndexFunc(house, func(line struct{ pkg, croft, others string }) bool { return line.pkg == p.ImportPath })
		if at < 0 {
			t.Errorf("%s has no place in the house", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			allowed, name := house[at].others, module[imp]
			if imp == "croft" || strings.HasPrefix(imp, "croft/") {
				allowed, name = house[at].croft, imp
			}
			if name != "" && !slices.Contains(strings.Fields(allowed), name) {
				t.Errorf("%s imports %s", p.ImportPath, imp)
			}
		}
	}
}

// TestHouseIsOrdered holds the list itself to its own rule: towards memory, never back.
func TestHouseIsOrdered(t *testing.T) {
	for i, line := range house {
		for _, imp := range strings.Fields(line.croft) {
			if !slices.ContainsFunc(house[:i], func(below struct{ pkg, croft, others string }) bool { return below.pkg == imp }) {
				t.Errorf("%s may import %s, which does not stand below it", line.pkg, imp)
			}
		}
	}
}

func TestPackagesAreDescribed(t *testing.T) {
	for _, p := range ours(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		for _, word := range []string{"util", "utils", "common", "helpers", "manager", "factory", "misc"} {
			if filepath.Base(p.ImportPath) == word {
				t.Errorf("%s: %q says nothing of what it does", p.ImportPath, word)
			}
		}
	}
}

func TestUnwelcomePackages(t *testing.T) {
	binary, err := goList("-deps", ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range binary {
		for _, path := range unwelcome {
			if strings.Contains(p.ImportPath, path) {
				t.Errorf("%s is in the binary", p.ImportPath)
			}
		}
	}
}

func TestTopLevelIsClosed(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Skip("not a git work tree")
	}
	var seen []string
	for path := range strings.Lines(string(out)) {
		top, _, _ := strings.Cut(strings.TrimSpace(path), "/")
		if !slices.Contains(topLevel, top) && !slices.Contains(seen, top) {
			t.Errorf("%s: the top level is closed", top)
		}
		seen = append(seen, top)
	}
}

// TestNoWorkBeforeMain looks for what runs at the start of every container: init functions, and patterns compiled for a variable.
func TestNoWorkBeforeMain(t *testing.T) {
	for _, p := range ours(t) {
		if slices.Contains(beside, p.ImportPath) {
			continue
		}
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			path := strings.TrimPrefix(filepath.Join(p.ImportPath, name), "croft/")
			for _, what := range workBeforeMain(file) {
				if what != "init" || !initAllowed[path] {
					t.Errorf("%s: %s runs before main, at the start of every container", path, what)
				}
			}
		}
	}
}

func workBeforeMain(file *ast.File) []string {
	var found []string
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				found = append(found, "init")
			}
		case *ast.GenDecl:
			if d.Tok == token.VAR {
				found = append(found, compiledIn(d)...)
			}
		}
	}
	return found
}

// compiledIn are the calls of a variable declaration that compile or parse something, outside of function literals.
func compiledIn(decl *ast.GenDecl) []string {
	var found []string
	ast.Inspect(decl, func(n ast.Node) bool {
		if _, is := n.(*ast.FuncLit); is {
			return false
		}
		if sel, is := n.(*ast.SelectorExpr); is && strings.HasPrefix(sel.Sel.Name, "MustCompile") {
			found = append(found, sel.Sel.Name)
		}
		return true
	})
	return found
}

// TestKeeperIsSmall counts the C that waits beside each machine.
func TestKeeperIsSmall(t *testing.T) {
	files, _ := filepath.Glob("../run/keeper*.c")
	if len(files) != 1 {
		t.Fatalf("the keeper is %q, not one file", files)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n > keeperBudget {
		t.Errorf("%s has %d lines, more than %d", files[0], n, keeperBudget)
	}
}

// TestBinary holds the binary under test to its budget and to being one static file. Without CROFT_BIN there is none to look at.
func TestBinary(t *testing.T) {
	path := os.Getenv("CROFT_BIN")
	if path == "" {
		t.Skip("CROFT_BIN names no binary")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > binaryBudget {
		t.Errorf("%s has %d bytes, more than %d", path, info.Size(), binaryBudget)
	}
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, prog := range file.Progs {
		if prog.Type == elf.PT_INTERP {
			t.Errorf("%s is not static: it asks for a dynamic loader", path)
		}
	}
}

// TestScriptsAreRun fails for a script that stands where no test looks.
func TestScriptsAreRun(t *testing.T) {
	filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		run := []string{"testdata", "testdata/harness", "testdata/debian", "testdata/inits", "testdata/systemd", "testdata/vm",
			"testdata/vm-bookworm", "testdata/escape", "tasks"}
		if strings.HasSuffix(path, ".txtar") && !slices.Contains(run, filepath.Dir(path)) &&
			filepath.Dir(filepath.Dir(path)) != "testdata/reboots" {
			t.Errorf("nothing runs %s", path)
		}
		return err
	})
}
