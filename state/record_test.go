package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func open(t testing.TB) *Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// make1 makes the record of an instance that has every field in use.
func make1(t testing.TB, d *Dir, name string) *Instance {
	t.Helper()
	in := &Instance{Spec: right()}
	in.Spec.Name = name
	err := d.Create(in, func(in *Instance) error {
		in.Facts = Facts{
			Fingerprint: "f00", Layers: []string{"sha256:a", "sha256:b"}, Driver: "overlay", Range: Range{1 << 20, 1 << 16},
			ProjectID: 7, Links: []Link{{Name: "eth0", Network: "croft0"}}, Init: Init{Mode: InitBoot, Args: []string{"/sbin/init"}},
			StopSignal: 38, Notify: true,
		}
		in.Applied = &Applied{
			BootID: "b", Build: "v1", Started: time.Unix(5, 0).UTC(), Spec: in.Spec, Facts: in.Facts, Run: "/run/x", Cgroups: []string{"/c"},
		}
		in.Exit = &Exit{Time: time.Unix(6, 0).UTC(), Reason: ExitKilled, Code: 137, Error: "e"}
		in.Snapshots = []Snapshot{{"s", time.Unix(7, 0).UTC()}}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// put overwrites the record with what some other build may have written.
func put(t testing.TB, d *Dir, name, data string) {
	t.Helper()
	if err := os.MkdirAll(d.Of(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.record(name), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, d *Dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(d.record(name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRecordRoundTrip(t *testing.T) {
	d := open(t)
	made := make1(t, d, "web")
	got, err := d.Get("web")
	if err != nil {
		t.Fatal(err)
	}
	if got.raw = nil; !reflect.DeepEqual(got, made) {
		t.Errorf("read  %+v\nwrote %+v", got, made)
	}
	if made.Schema != Schema || len(made.UUID) != 32 || made.UUID[12] != '4' || made.Created.IsZero() {
		t.Errorf("schema %d, UUID %q, created %v", made.Schema, made.UUID, made.Created)
	}
	before := read(t, d, "web")
	if _, err := d.Edit("web", func(*Instance) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var was, is any
	json.Unmarshal(before, &was)
	json.Unmarshal(read(t, d, "web"), &is)
	if !reflect.DeepEqual(was, is) {
		t.Errorf("an edit that changes nothing made\n%s of\n%s", read(t, d, "web"), before)
	}
}

// plant adds an unknown field to every object in v and counts them.
func plant(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Collect(maps.Keys(v)) {
			if k != "labels" && k != "sysctls" { // whose keys are the user's
				n += plant(v[k])
			}
		}
		v["future"] = map[string]any{"x": 1.0}
		n++
	case []any:
		for _, element := range v {
			n += plant(element)
		}
	}
	return n
}

func TestUnknownFieldsSurviveEdit(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	var record map[string]any
	json.Unmarshal(read(t, d, "web"), &record)
	want := plant(record)
	if want < 10 {
		t.Fatalf("only %d objects in the record: the test looks at too little", want)
	}
	data, _ := json.Marshal(record)
	put(t, d, "web", string(data))
	for range 2 { // once more: what was kept must be kept again
		if _, err := d.Edit("web", func(in *Instance) error { in.Spec.Hostname = "other"; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	record["spec"].(map[string]any)["hostname"] = "other"
	var got map[string]any
	json.Unmarshal(read(t, d, "web"), &got)
	if !reflect.DeepEqual(got, record) {
		t.Errorf("after the edit:\n%v\nwant:\n%v", got, record)
	}
}

// A part that this build takes away on purpose takes its unknown fields along.
func TestUnknownFieldsGoWithTheirObject(t *testing.T) {
	d := open(t)
	make1(t, d, "web")
	data := strings.Replace(string(read(t, d, "web")), `"applied": {`, `"applied": {"future": 1,`, 1)
	put(t, d, "web", data)
	if _, err := d.Edit("web", func(in *Instance) error { in.Applied = nil; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := read(t, d, "web"); bytes.Contains(got, []byte("future")) || bytes.Contains(got, []byte(`"applied"`)) {
		t.Errorf("applied is still there:\n%s", got)
	}
}

func TestNewerSchemaIsLeftAlone(t *testing.T) {
	d := open(t)
	in := make1(t, d, "web")
	newer := `{"schema": 2, "uuid": "` + in.UUID + `", "spec": {"name": "web", "env": 5}}`
	put(t, d, "web", newer)
	_, err := d.Get("web")
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "schema 2") {
		t.Errorf("get: %v", err)
	}
	_, err = d.Edit("web", func(*Instance) error { t.Error("change was called"); return nil })
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("edit: %v", err)
	}
	if got := string(read(t, d, "web")); got != newer {
		t.Errorf("the file is now\n%s", got)
	}
}

// Damaged records come apart from the good ones, and nothing touches them.
func TestListKeepsDamagedApart(t *testing.T) {
	d := open(t)
	good := make1(t, d, "good")
	uuid := `"uuid": "` + good.UUID + `"`
	bad := map[string]string{
		"empty": "", "cut": `{"schema": 1, "uu`, "nothing": "{}", "null": "null", "list": "[]", "zero": `{"schema": 0, ` + uuid + `}`,
		"nouuid": `{"schema": 1}`, "types": `{"schema": 1, ` + uuid + `, "spec": 5}`, "huge": `{"schema": 99999999999999999999, ` + uuid + `}`,
		"foreign": `{"schema": 1, ` + uuid + `, "spec": {"name": "good"}}`, "twice": string(read(t, d, "good")) + "{}",
		"newer": `{"schema": 2, ` + uuid + `}`,
	}
	put(t, d, "bad_name", string(read(t, d, "good"))) // no name of ours: not listed at all
	for name, data := range bad {
		put(t, d, name, data)
	}
	if err := os.Mkdir(d.Of("missing"), 0o700); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(d.Of(".new-x"), 0o700)
	os.WriteFile(d.Of("afile"), nil, 0o600)
	all, damaged, err := d.List()
	if err != nil || len(all) != 1 || all[0].Spec.Name != "good" {
		t.Fatalf("list: %v, %d good ones", err, len(all))
	}
	var names []string
	for _, b := range damaged {
		names = append(names, b.Name)
		if b.Error() == "" || b.Err == nil {
			t.Errorf("%s: no reason", b.Name)
		}
	}
	want := append(slices.Collect(maps.Keys(bad)), "missing")
	slices.Sort(want)
	if !reflect.DeepEqual(names, want) {
		t.Errorf("damaged: %v\nwant:    %v", names, want)
	}
	for name, data := range bad {
		if got := string(read(t, d, name)); got != data {
			t.Errorf("%s was touched", name)
		}
	}
}

func TestGetRefusesNamesThatAreNone(t *testing.T) {
	d := open(t)
	for _, name := range []string{"", ".", "..", "../root/instances/web", "a/b"} {
		if _, err := d.Get(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := d.Get("absent"); !errors.Is(err, ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}
