// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berth-edge/berth/resolver"
)

// table reads the keys of one TOML table, and notes a problem for each that it does not understand.
type table struct {
	doc    *document
	path   string
	values map[string]any
	known  []string
	bad    []string // keys whose type is wrong; what else is wrong with them follows from that
}

func (d *document) root() *table { return &table{doc: d, values: d.values} }

func (t *table) key(key string) string {
	if t.path == "" {
		return key
	}
	return t.path + "." + key
}

func (t *table) problem(key, format string, args ...any) {
	if !slices.Contains(t.bad, key) {
		t.doc.problem(t.key(key), format, args...)
	}
}

// problems notes the mistakes that err joins, each at its key.
func (t *table) problems(err error) {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			t.problems(e)
		}
		return
	}
	var field *resolver.FieldError
	if errors.As(err, &field) {
		t.problem(field.Key, "%s", field.Text())
	}
}

// value returns what is written for key, or the zero value after noting a problem.
func value[T any](t *table, key, want string) (v T, ok bool) {
	t.known = append(t.known, key)
	raw, set := t.values[key]
	if !set {
		return v, false
	}
	v, ok = raw.(T)
	if !ok {
		t.problem(key, "is %s; want %s", typeName(raw), want)
		t.bad = append(t.bad, key)
	}
	return v, ok
}

func (t *table) has(key string) bool { _, ok := t.values[key]; return ok }

func (t *table) text(key string) string {
	v, _ := value[string](t, key, "text in quotes")
	return v
}

func (t *table) truth(key string) bool {
	v, _ := value[bool](t, key, "true or false")
	return v
}

func (t *table) texts(key string) []string {
	const want = `a list of texts, such as ["a", "b"]`
	if v, ok := t.values[key].([]string); ok { // as a default is written in Go
		t.known = append(t.known, key)
		return v
	}
	list, _ := value[[]any](t, key, want)
	texts := make([]string, 0, len(list))
	for i, e := range list {
		s, ok := e.(string)
		if !ok {
			t.problem(fmt.Sprintf("%s[%d]", key, i), "is %s; want %s", typeName(e), want)
			continue
		}
		texts = append(texts, s)
	}
	if len(texts) < len(list) {
		t.bad = append(t.bad, key)
	}
	return texts
}

// Range of time limits.
const (
	minTimeout = 100 * time.Millisecond
	maxTimeout = 5 * time.Minute
)

func (t *table) timeout(key string) time.Duration {
	const want = `a duration with a unit, such as "5s", from 100ms to 5m`
	text, ok := value[string](t, key, want)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < minTimeout || d > maxTimeout {
		t.problem(key, "%q is not accepted; want %s", text, want)
		return 0
	}
	return d
}

// tables returns the tables of an array of tables.
func (t *table) tables(key string) []*table {
	list, _ := value[[]any](t, key, "an array of tables, [["+key+"]]")
	tables := make([]*table, 0, len(list))
	for i, e := range list {
		path := fmt.Sprintf("%s[%d]", t.key(key), i)
		values, ok := e.(map[string]any)
		if !ok {
			t.doc.problem(path, "is %s; want a table", typeName(e))
			continue
		}
		tables = append(tables, &table{doc: t.doc, path: path, values: values})
	}
	return tables
}

// unknown notes the keys that were not asked for.
func (t *table) unknown() {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(t.known, key) {
			continue
		}
		if near := closest(key, t.known); near != "" {
			t.problem(key, "unknown key; did you mean %q?", near)
		} else {
			t.problem(key, "unknown key; known are %s", joined(t.known))
		}
	}
}

func joined(keys []string) string {
	sorted := slices.Sorted(slices.Values(keys))
	s := ""
	for i, key := range slices.Compact(sorted) {
		if i > 0 {
			s += ", "
		}
		s += key
	}
	return s
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or a time"
}

// closest returns the key that is at most two edits away from key, if any.
func closest(key string, keys []string) string {
	best, distance := "", 3
	for _, k := range keys {
		if d := edits(key, k); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of two keys.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// Similar reports whether a name is likely a misspelling of another.
func Similar(name, other string) bool { return closest(name, []string{other}) != "" }
