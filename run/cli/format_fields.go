package cli

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// fields is a struct as a template sees it: each field by its Go name and by
// its JSON name, so that {{.ReadOnly}} and {{.read_only}} both work, also where
// JSON leaves the field out; methods are out of reach. The struct itself is
// kept under "" for the template function json.
type fields map[string]any

// MarshalJSON gives the struct's own JSON.
func (f fields) MarshalJSON() ([]byte, error) { return encodeJSON(f[""], "") }

// String is the JSON too: what {{.}} prints.
func (f fields) String() string {
	text, _ := encodeJSON(f, "")
	return strings.TrimSpace(string(text))
}

// viewed turns the structs in v into fields; what has a JSON form of its own
// (a time, an address) into that form; everything else stays.
func viewed(v reflect.Value) any {
	if !v.IsValid() {
		return nil
	}
	if own, ok := ownForm(v); ok {
		return own
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return viewed(v.Elem())
	case reflect.Struct:
		f := fields{"": v.Interface()}
		f.add(v)
		return f
	case reflect.Slice, reflect.Array:
		return viewedList(v)
	case reflect.Map:
		return viewedMap(v)
	}
	return v.Interface()
}

// add takes in the fields of a struct, those of embedded structs among them.
func (f fields) add(v reflect.Value) {
	for i := range v.NumField() {
		t := v.Type().Field(i)
		name, _, _ := strings.Cut(t.Tag.Get("json"), ",")
		if !t.IsExported() || name == "-" {
			continue
		}
		if t.Anonymous && name == "" && t.Type.Kind() == reflect.Struct {
			f.add(v.Field(i))
			continue
		}
		f[t.Name] = viewed(v.Field(i))
		if name != "" {
			f[name] = f[t.Name]
		}
	}
}

func viewedList(v reflect.Value) any {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return v.Interface()
	}
	list := make([]any, v.Len())
	for i := range list {
		list[i] = viewed(v.Index(i))
	}
	return list
}

// viewedMap leaves maps of plain values alone: {{index .Labels "x"}} of a
// missing key is then empty, and not "<no value>".
func viewedMap(v reflect.Value) any {
	switch v.Type().Elem().Kind() {
	case reflect.Struct, reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice:
	default:
		return v.Interface()
	}
	if v.Type().Key().Kind() != reflect.String {
		return v.Interface()
	}
	m := make(map[string]any, v.Len())
	for _, k := range v.MapKeys() {
		m[k.String()] = viewed(v.MapIndex(k))
	}
	return m
}

// ownForm is the JSON form of a type that makes its own.
func ownForm(v reflect.Value) (any, bool) {
	if v.Kind() == reflect.Pointer && v.IsNil() || v.Kind() == reflect.Interface {
		return nil, false
	}
	switch v.Interface().(type) {
	case json.Marshaler, encoding.TextMarshaler:
	default:
		return nil, false
	}
	text, err := encodeJSON(v.Interface(), "")
	if err != nil {
		return nil, false
	}
	var form any
	err = json.Unmarshal(text, &form)
	return form, err == nil
}
