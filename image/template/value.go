package template

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// truth is what a condition takes a value for: nothing, zero and what is empty are false.
func truth(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case int:
		return v != 0
	case Function:
		return true
	}
	n, _ := length(v)
	return n > 0
}

// text is how a value is printed.
func text(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case int:
		return strconv.Itoa(v), nil
	case bool:
		if v {
			return "True", nil
		}
		return "False", nil
	}
	return "", errors.New("neither a text nor a number, and cannot be printed")
}

// item is what a value has under a key; nil when it has not.
func item(of, key any) (any, error) {
	if list, ok := of.([]any); ok {
		n, isInt := key.(int)
		if s, ok := key.(string); ok {
			var err error
			n, err = strconv.Atoi(s)
			isInt = err == nil
		}
		if !isInt || n < 0 || n >= len(list) {
			return nil, nil
		}
		return list[n], nil
	}
	name, err := text(key)
	if err != nil {
		return nil, err
	}
	switch of := of.(type) {
	case map[string]string:
		if v, ok := of[name]; ok {
			return v, nil
		}
	case map[string]map[string]string:
		if v, ok := of[name]; ok {
			return v, nil
		}
	case map[string]any:
		return of[name], nil
	}
	return nil, nil
}

// each lists what a loop goes through: keys and values of a map, sorted, or elements of a list.
func each(v any) (pairs [][2]any, err error) {
	switch v := v.(type) {
	case nil:
	case []any:
		for _, e := range v {
			pairs = append(pairs, [2]any{e, nil})
		}
	case map[string]string:
		pairs = sorted(v)
	case map[string]map[string]string:
		pairs = sorted(v)
	case map[string]any:
		pairs = sorted(v)
	case string:
		for _, r := range v {
			pairs = append(pairs, [2]any{string(r), nil})
		}
	default:
		return nil, errors.New("for: there is nothing to go through in that")
	}
	return pairs, nil
}

func sorted[V any](m map[string]V) (pairs [][2]any) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, [2]any{k, m[k]})
	}
	return pairs
}

func length(v any) (n int, ok bool) {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v), true
	case []any:
		return len(v), true
	case map[string]string:
		return len(v), true
	case map[string]map[string]string:
		return len(v), true
	case map[string]any:
		return len(v), true
	}
	return 0, false
}

// equal compares what can be compared; values of two kinds are never equal.
func equal(a, b any) bool {
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		s, ok := b.(string)
		return ok && s == a
	case int:
		n, ok := b.(int)
		return ok && n == a
	case bool:
		is, ok := b.(bool)
		return ok && is == a
	}
	return false
}

func operate(op string, a, b any) (any, error) {
	switch op {
	case "or", "and":
		return truth(b), nil // the first did not decide
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in":
		return within(a, b)
	}
	x, xs := a.(string)
	y, ys := b.(string)
	if op == "+" && xs && ys {
		if len(x)+len(y) > maxOutput {
			return nil, errors.New("a text becomes too long")
		}
		return x + y, nil
	}
	m, mi := a.(int)
	n, ni := b.(int)
	if !mi || !ni {
		return nil, fmt.Errorf("%s of what are not two numbers", op)
	}
	switch op {
	case "+":
		return m + n, nil
	case "-":
		return m - n, nil
	case "*":
		return m * n, nil
	case "<":
		return m < n, nil
	case "<=":
		return m <= n, nil
	case ">":
		return m > n, nil
	case ">=":
		return m >= n, nil
	}
	if n == 0 {
		return nil, errors.New("a division by zero")
	}
	if op == "/" {
		return m / n, nil
	}
	return m % n, nil
}

func within(a, b any) (bool, error) {
	if list, ok := b.([]any); ok {
		return slices.ContainsFunc(list, func(e any) bool { return equal(a, e) }), nil
	}
	what, ok := a.(string)
	if !ok {
		return false, nil
	}
	if s, ok := b.(string); ok {
		return strings.Contains(s, what), nil
	}
	pairs, err := each(b)
	return slices.ContainsFunc(pairs, func(p [2]any) bool { return equal(what, p[0]) }), err
}

var filters = [...]string{"capfirst", "cut", "default", "default_if_none", "first", "join", "last", "length", "lower", "safe", "split", "upper"}

func filter(name string, v, arg any) (any, error) {
	switch name {
	case "safe": // nothing is escaped here anyway
		return v, nil
	case "default":
		if truth(v) {
			return v, nil
		}
		return arg, nil
	case "default_if_none":
		if v != nil {
			return v, nil
		}
		return arg, nil
	case "length":
		n, _ := length(v)
		return n, nil
	case "first", "last", "join":
		return ofList(name, v, arg)
	}
	s, err := text(v)
	if err != nil {
		return nil, err
	}
	by, err := text(arg)
	if err != nil {
		return nil, err
	}
	switch name {
	case "lower":
		return strings.ToLower(s), nil
	case "upper":
		return strings.ToUpper(s), nil
	case "capfirst":
		r, n := utf8.DecodeRuneInString(s)
		if n == 0 {
			return s, nil
		}
		return string(unicode.ToUpper(r)) + s[n:], nil
	case "cut":
		return strings.ReplaceAll(s, by, ""), nil
	}
	var parts []any // split
	for part := range strings.SplitSeq(s, by) {
		parts = append(parts, part)
	}
	return parts, nil
}

// ofList are the filters that look at the elements of a list, or the letters of a text.
func ofList(name string, v, arg any) (any, error) {
	pairs, err := each(v)
	if err != nil {
		return nil, errors.New("neither a list nor a text")
	}
	switch {
	case name != "join" && len(pairs) == 0:
		return "", nil
	case name == "first":
		return pairs[0][0], nil
	case name == "last":
		return pairs[len(pairs)-1][0], nil
	}
	by, err := text(arg)
	if err != nil {
		return nil, err
	}
	var parts []string
	size := 0
	for _, p := range pairs {
		s, err := text(p[0])
		if err != nil {
			return nil, err
		}
		if size += len(s) + len(by); size > maxOutput {
			return nil, errors.New("a text becomes too long")
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, by), nil
}
