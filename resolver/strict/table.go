// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package strict reads configuration so that every mistake in it is found.
//
// Libraries decode TOML strictly too, but stop at the first value of a wrong type, and do not say where it is. Here a
// [Table] is asked for its keys one by one; whatever is wrong is noted as a [Problem] with its file, line and key, and what
// was not asked for is unknown.
package strict

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Table reads the keys of one TOML table, or of one YAML mapping, and notes a problem for each that it does not understand.
type Table struct {
	doc    *document
	path   string
	values map[string]any
	known  []string
	bad    []string // keys whose type is wrong; what else is wrong with them follows from that
}

func (t *Table) key(key string) string {
	if t.path == "" {
		return key
	}
	return t.path + "." + key
}

// Problem notes that something is wrong with the value of a key.
func (t *Table) Problem(key, format string, args ...any) {
	if !slices.Contains(t.bad, key) {
		t.doc.problem(t.key(key), format, args...)
	}
}

// value returns what is written for key, or the zero value after noting a problem.
func value[T any](t *Table, key, want string) (v T, ok bool) {
	t.known = append(t.known, key)
	raw, set := t.values[key]
	if !set {
		return v, false
	}
	v, ok = raw.(T)
	if !ok {
		t.Problem(key, "is %s; want %s", typeName(raw), want)
		t.bad = append(t.bad, key)
	}
	return v, ok
}

// File returns the file that the table stands in, or the name of the stanza.
func (t *Table) File() string { return t.doc.file(t.path) }

// Has reports whether a key is written.
func (t *Table) Has(key string) bool { _, ok := t.values[key]; return ok }

// Text returns a text, "" if none is written.
func (t *Table) Text(key string) string {
	v, _ := value[string](t, key, "text in quotes")
	return v
}

// Truth returns true or false, false if neither is written.
func (t *Table) Truth(key string) bool {
	v, _ := value[bool](t, key, "true or false")
	return v
}

// TruthOr returns what is written, or fallback.
func (t *Table) TruthOr(key string, fallback bool) bool {
	if v, ok := value[bool](t, key, "true or false"); ok {
		return v
	}
	return fallback
}

// Texts returns a list of texts.
func (t *Table) Texts(key string) []string {
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
			t.Problem(fmt.Sprintf("%s[%d]", key, i), "is %s; want %s", typeName(e), want)
			continue
		}
		texts = append(texts, s)
	}
	if len(texts) < len(list) {
		t.bad = append(t.bad, key)
	}
	return texts
}

// Duration returns a duration between two bounds, 0 if none is written.
func (t *Table) Duration(key string, least, most time.Duration) time.Duration {
	want := fmt.Sprintf(`a duration with a unit, such as "5s", from %s to %s`, short(least), short(most))
	text, ok := value[string](t, key, want)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		t.Problem(key, "%q is not accepted; want %s", text, want)
		return 0
	}
	return d
}

// short is a duration without the zeros that its String ends with.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return strings.TrimSuffix(s, "0m")
}

// Number returns a whole number between two bounds, 0 if none is written.
func (t *Table) Number(key string, least, most int64) int64 {
	want := fmt.Sprintf("a whole number from %d to %d", least, most)
	n, ok := value[int64](t, key, want)
	if ok && (n < least || n > most) {
		t.Problem(key, "%d is not accepted; want %s", n, want)
		return 0
	}
	return n
}

// Pairs returns a table of texts.
func (t *Table) Pairs(key string) map[string]string {
	values, ok := value[map[string]any](t, key, "a table of texts")
	if !ok {
		return nil
	}
	pairs := make(map[string]string, len(values))
	for name, v := range values {
		text, ok := v.(string)
		if !ok {
			t.Problem(key+"."+name, "is %s; want text in quotes", typeName(v))
			continue
		}
		pairs[name] = text
	}
	return pairs
}

// Table returns the table of a key, an empty one if none is written.
func (t *Table) Table(key string) *Table {
	values, _ := value[map[string]any](t, key, "a table, which has keys of its own")
	return &Table{doc: t.doc, path: t.key(key), values: values}
}

// Known notes keys that are read elsewhere.
func (t *Table) Known(keys ...string) { t.known = append(t.known, keys...) }

// IsBad reports whether the value of a key has a wrong type, which was noted.
func (t *Table) IsBad(key string) bool { return slices.Contains(t.bad, key) }

// Line returns the line of a key, or of the closest table around it; 0 if it is not known.
func (t *Table) Line(key string) int { return t.doc.line(t.key(key)) }

// Path returns the path of a key, such as rules[2].from.
func (t *Table) Path(key string) string { return t.key(key) }

// About returns a remark on a key that is no mistake: a warning.
func (t *Table) About(key, format string, args ...any) Problem {
	key = t.key(key)
	return Problem{File: t.doc.file(key), Line: t.doc.line(key), Key: t.doc.shown(key), Text: fmt.Sprintf(format, args...)}
}

// Where returns the file and line of a key.
func (t *Table) Where(key string) string {
	where := t.doc.file(t.key(key))
	if line := t.doc.line(t.key(key)); line > 0 {
		where = fmt.Sprintf("%s:%d", where, line)
	}
	return where
}

// Tables returns the tables of an array of tables.
func (t *Table) Tables(key string) []*Table {
	want := "an array of tables, [[" + key + "]]"
	if t.doc.yaml {
		want = "a list, whose elements have keys of their own"
	}
	list, _ := value[[]any](t, key, want)
	tables := make([]*Table, 0, len(list))
	for i, e := range list {
		path := fmt.Sprintf("%s[%d]", t.key(key), i)
		values, ok := e.(map[string]any)
		if !ok {
			t.doc.problem(path, "is %s; want a table", typeName(e))
			continue
		}
		tables = append(tables, &Table{doc: t.doc, path: path, values: values})
	}
	return tables
}

// Unknown notes the keys that were not asked for.
func (t *Table) Unknown() { *t.doc.problems = append(*t.doc.problems, t.NotAskedFor()...) }

// NotAskedFor returns a problem for each key that was not asked for, and does not note it.
func (t *Table) NotAskedFor() Problems {
	var unknown Problems
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(t.known, key) {
			continue
		}
		if near := closest(key, t.known); near != "" {
			p := t.About(key, "unknown key; did you mean %q?", near)
			p.Meant = t.doc.shown(t.key(near))
			unknown = append(unknown, p)
		} else {
			unknown = append(unknown, t.About(key, "unknown key; known are %s", joined(t.known)))
		}
	}
	return unknown
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
	switch v := v.(type) {
	case null:
		return v.text()
	case tooMuch:
		return "too much"
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
