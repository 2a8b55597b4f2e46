package state

import (
	"encoding/json"
	"path"
	"reflect"
	"strings"
	"testing"
)

// A record of any bytes is refused, or read; and what was read is written so that it is read as the same, with all that
// this build does not know.
func FuzzRecord(f *testing.F) {
	d := open(f)
	make1(f, d, "web")
	f.Add(read(f, d, "web"))
	f.Add([]byte(`{"schema": 1, "uuid": "1", "later": [{"a": null}], "spec": {"name": "a", "pets": {"cat": 1}}}`))
	f.Add([]byte(`{"schema": 2, "uuid": "1"}`))
	f.Add([]byte(`{"schema": 1, "uuid": "1", "applied": {"spec": {"mounts": [{"source": "/", "x": 1}]}}, "exit": null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := parse(data)
		if err != nil {
			return
		}
		if in.Schema < 1 || in.Schema > Schema || in.UUID == "" {
			t.Fatalf("took schema %d, uuid %q", in.Schema, in.UUID)
		}
		written, err := in.marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(written)
		if err != nil {
			t.Fatalf("wrote what it cannot read: %v\n%s", err, written)
		}
		rewritten, err := again.marshal()
		var one, other any
		if err != nil || json.Unmarshal(written, &one) != nil || json.Unmarshal(rewritten, &other) != nil || !reflect.DeepEqual(one, other) {
			t.Fatalf("the second time it wrote\n%s\nnot\n%s", rewritten, written)
		}
		in.raw, again.raw = nil, nil
		if one, other := asJSON(t, in), asJSON(t, again); one != other {
			t.Fatalf("read\n%s\nas\n%s", one, other)
		}
		holdsUnknown(t, data, written)
	})
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// holdsUnknown wants the fields of old that no build has yet in now too.
func holdsUnknown(t *testing.T, old, now []byte) {
	t.Helper()
	var was, is map[string]any
	if json.Unmarshal(old, &was) != nil || json.Unmarshal(now, &is) != nil {
		t.Fatalf("no object: %s", now)
	}
	known := fieldsOf(reflect.TypeFor[Instance]())
	for name, value := range was {
		if _, ours := known[name]; !ours && !reflect.DeepEqual(is[name], value) && !anyFold(known, name) {
			t.Fatalf("%q was %v and is %v", name, value, is[name])
		}
	}
}

// anyFold says whether encoding/json takes name for one of ours in another case.
func anyFold(known map[string]reflect.Type, name string) bool {
	for ours := range known {
		if strings.EqualFold(ours, name) {
			return true
		}
	}
	return false
}

// A spec that passes has a name that is one entry of a directory, and mounts that stay where they are put.
func FuzzSpecCheck(f *testing.F) {
	s := right()
	whole, err := json.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"name": "-", "image": "x", "mounts": [{"source": "a", "target": "/run/../proc"}]}`))
	f.Add([]byte(`{"name": "a.b", "hostname": "a..b", "env": ["=", "a\u0000=b"], "labels": {"a b": ""}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Spec
		if json.Unmarshal(data, &s) != nil || s.Check() != nil {
			return
		}
		if s.Name == "" || s.Name[0] == '.' || path.Base(s.Name) != s.Name || len(s.Name) > 63 {
			t.Errorf("name %q", s.Name)
		}
		for _, m := range s.Mounts {
			if to := path.Clean(m.Target); to == "/" || to == "/proc" || !path.IsAbs(m.Source) || !path.IsAbs(m.Target) {
				t.Errorf("mount %q at %q", m.Source, m.Target)
			}
		}
		for _, kv := range s.Env {
			if strings.ContainsRune(kv, 0) || strings.IndexByte(kv, '=') < 1 {
				t.Errorf("env %q", kv)
			}
		}
	})
}
