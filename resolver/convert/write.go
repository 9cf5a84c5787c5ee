// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/strict"
)

// writer writes a stanza as TOML. It does so by hand: go-toml has no comments that it is told while it runs.
type writer struct {
	stanza  strict.Stanza
	dir     string
	written bool
	result  *Result
	taken   map[string]bool // names of secrets
	out     bytes.Buffer
}

func (w *writer) file(from string) []byte {
	w.comment("Converted from %s by `berth config convert`.", from)
	if len(w.result.Lost) > 0 {
		w.comment("")
		w.comment("What is not carried over, or was read otherwise than it is written:")
		for _, p := range w.result.Lost {
			w.comment("- %s", p)
		}
	}
	registries, _ := w.stanza.Values["registries"].([]any)
	for i, v := range registries {
		w.out.WriteString("\n[[registries]]\n")
		w.registry(v.(map[string]any), fmt.Sprintf("registries[%d]", i))
	}
	rules, _ := w.stanza.Values["rules"].([]any)
	for _, v := range rules {
		w.out.WriteString("\n[[rules]]\n")
		w.keys(v.(map[string]any), "from", "to", "path")
	}
	return w.out.Bytes()
}

func (w *writer) registry(r map[string]any, path string) {
	w.keys(r, "domain", "name", "username")
	if key, password := passwordOf(r); key != "" {
		domain, _ := r["domain"].(string)
		s := Secret{Path: w.secretPath(domain), Value: password, Origin: w.origin(path, key)}
		if !w.written {
			w.comment("Write the password of %s to this file, and chmod 600 it.", s.Origin)
		}
		w.value("password_file", s.Path)
		w.result.Secrets = append(w.result.Secrets, s)
	}
	w.keys(r, "certificates", "client_certificate", "client_key", "insecure")
}

// origin is where the value of a key was written: file, line and key.
func (w *writer) origin(path, key string) string {
	var problems strict.Problems
	p := w.stanza.Read(&problems).About(path+"."+key, "")
	return strings.TrimSuffix(strings.TrimSpace(p.Error()), ":")
}

// secretPath returns a path for the password of a registry that no other has.
func (w *writer) secretPath(domain string) string {
	prefix, _ := resolver.ParseDomain(domain) // checked before
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == ':' || r == '[' || r == ']' {
			return '_'
		}
		return r
	}, string(prefix))
	for unique, n := name, 2; ; n++ {
		if !w.taken[unique] {
			w.taken[unique] = true
			return filepath.Join(w.dir, unique+".password")
		}
		unique = fmt.Sprintf("%s-%d", name, n)
	}
}

// keys writes those keys of a table that are there.
func (w *writer) keys(values map[string]any, keys ...string) {
	for _, key := range keys {
		if v, ok := values[key]; ok {
			w.value(key, v)
		}
	}
}

func (w *writer) value(key string, v any) { fmt.Fprintf(&w.out, "%s = %s\n", key, valueText(v)) }

func valueText(v any) string {
	switch v := v.(type) {
	case string:
		return quoted(v)
	case []any:
		texts := make([]string, len(v))
		for i, e := range v {
			texts[i] = valueText(e)
		}
		if slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, "\n") }) {
			return "[\n" + strings.Join(texts, ",\n") + ",\n]"
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	return fmt.Sprint(v) // true or false
}

// quoted returns s as TOML has it: certificates on lines of their own, anything else in one. strconv.Quote writes escapes
// that TOML does not know.
func quoted(s string) string {
	if strings.Contains(s, "\n") && !strings.Contains(s, "'") && !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && unicode.IsControl(r) }) {
		return "'''\n" + s + "'''"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsControl(r):
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// comment writes a line that begins with #. What it quotes of a file, or of its name, stays on that line.
func (w *writer) comment(format string, args ...any) {
	line := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(fmt.Sprintf(format, args...), "?"))
	w.out.WriteString(strings.TrimSpace("# "+line) + "\n")
}
