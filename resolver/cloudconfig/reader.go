// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package cloudconfig

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/strict"
)

// reader collects registries and rules in our schema, with the lines and names of their keys.
type reader struct {
	stanza     strict.Stanza
	registries []any
	rules      []any
	warnings   strict.Problems
	all        string // path of the registry that is the target for *, "" for none
	allDomain  string
	allRule    bool // a rule for * is written
}

func (r *reader) warn(t *strict.Table, key, format string, args ...any) {
	r.warnings = append(r.warnings, t.About(key, format, args...))
}

// note keeps the line and the name of what became path.
func (r *reader) note(path string, t *strict.Table, key string) {
	r.stanza.Lines[path] = t.Line(key)
	r.stanza.Names[path] = strings.TrimSuffix(t.Path(key), ".")
}

// present reports whether a key is written, and not as nothing: one may leave a list or a table empty.
func present(t *strict.Table, key string) bool { return t.Has(key) && !t.IsNull(key) }

// isTop reports whether t is the whole file.
func isTop(t *strict.Table) bool { return t.Path("x") == "x" }

// single reads the one registry that every pull goes to.
func (r *reader) single(t *strict.Table) {
	if !present(t, single) {
		return
	}
	r.misplaced(t, single)
	one := t.Table(single)
	if isEmpty(t.Table(single)) {
		return
	}
	path := fmt.Sprintf("registries[%d]", len(r.registries))
	if domain, err := resolver.ParseDomain(r.registry(one)); err == nil && r.all == "" {
		r.all, r.allDomain = path, string(domain)
	}
}

// isEmpty reports whether t is a form that nobody filled in.
func isEmpty(t *strict.Table) bool {
	for _, key := range t.Keys() {
		if !t.IsTruth(key) && !(t.IsText(key) && t.Text(key) == "") {
			return false
		}
	}
	return true
}

// place reads the registries and rules at the top, or below the section. Published examples have them beside an empty
// section, and the rules a level too high.
func (r *reader) place(t *strict.Table) {
	if present(t, several) {
		r.misplaced(t, several)
		s := t.Table(several)
		if present(s, "registries") {
			for _, registry := range s.Tables("registries") {
				r.registry(registry)
			}
		}
		r.mappings(s)
		s.Known("registries", mapping)
		s.Unknown()
	}
	if present(t, mapping) {
		r.warn(t, mapping, "belongs below %s.%s; it is read here too", section, several)
		r.mappings(t)
	}
}

func (r *reader) misplaced(t *strict.Table, key string) {
	if isTop(t) {
		r.warn(t, key, "belongs below %s:, indented; it is read here too", section)
	}
}

// mappings reads a map of prefix to prefix.
func (r *reader) mappings(t *strict.Table) {
	if !present(t, mapping) {
		return
	}
	m := t.Table(mapping)
	for _, from := range m.Keys() {
		path := fmt.Sprintf("rules[%d]", len(r.rules))
		to := m.Text(from)
		if m.IsBad(from) {
			continue
		}
		r.note(path, m, from)
		r.stanza.Names[path+".from"] = r.stanza.Names[path]
		r.stanza.Names[path+".to"] = r.stanza.Names[path]
		r.rules = append(r.rules, map[string]any{"from": from, "to": []any{to}})
		r.allRule = r.allRule || from == "*"
	}
}

// targetOfAll adds the rule for * to the single registry, which would be implied for the first of a configuration only.
func (r *reader) targetOfAll() {
	if r.all == "" || r.allRule {
		return
	}
	path := fmt.Sprintf("rules[%d]", len(r.rules))
	r.stanza.Lines[path], r.stanza.Names[path] = r.stanza.Lines[r.all], r.stanza.Names[r.all]
	r.stanza.Names[path+".from"], r.stanza.Names[path+".to"] = r.stanza.Names[r.all], r.stanza.Names[r.all]
	r.rules = append(r.rules, map[string]any{"from": "*", "to": []any{r.allDomain}})
}

// registry reads one registry, and returns its domain as it is written.
func (r *reader) registry(t *strict.Table) (domain string) {
	e := entry{reader: r, t: t, path: fmt.Sprintf("registries[%d]", len(r.registries)), values: map[string]any{}}
	r.note(e.path, t, "")
	domain = e.text("domain", "domain")
	if domain != "" && strings.TrimRight(domain, "/") != domain {
		r.warn(t, "domain", "ends with a slash, which is dropped")
	}
	if strings.Contains(domain, "://") {
		r.warn(t, "domain", "has a scheme, which is dropped; want host[:port][/path]")
	}
	if !t.IsBad("domain") {
		e.set("domain", "domain", domain)
	}
	e.text("repositoryName", "name")
	e.credential()
	e.certificates()
	if present(t, "insecure") {
		e.set("insecure", "insecure", t.Truth("insecure"))
	}
	t.Known("insecure")
	t.Unknown()
	r.registries = append(r.registries, e.values)
	return domain
}

// entry is one registry that is being read.
type entry struct {
	*reader
	t      *strict.Table
	path   string
	values map[string]any
}

// set keeps a value of ours, which came of the key theirs.
func (e entry) set(theirs, ours string, value any) {
	e.values[ours] = value
	e.note(e.path+"."+ours, e.t, theirs)
}

// text copies a text; one that is empty is absent.
func (e entry) text(theirs, ours string) string {
	text := e.t.Text(theirs)
	if text != "" {
		e.set(theirs, ours, text)
	}
	return text
}

// credential reads the user and the password. encodedPassword is true where the reference has it, and says that password is
// base64; elsewhere it is the password in base64 itself.
func (e entry) credential() {
	t := e.t
	username, password := t.Text("username"), t.Text("password")
	theirs, encoded := "encodedPassword", ""
	isEncoded := false
	switch {
	case t.IsTruth(theirs):
		isEncoded = t.Truth(theirs)
	case t.Has("password") && t.IsText(theirs) && (t.Text(theirs) == "true" || t.Text(theirs) == "false"):
		isEncoded = t.Text(theirs) == "true"
		e.warn(t, theirs, "is text in quotes; want true or false without")
	default:
		encoded = t.Text(theirs)
	}
	if isEncoded {
		theirs, encoded, password = "password", password, ""
	}
	if decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded)); err == nil && strings.TrimSuffix(string(decoded), "\n") == password {
		encoded = "" // the same twice
	}
	if t.IsBad("username") || t.IsBad("password") || t.IsBad("encodedPassword") {
		return
	}
	switch given := password != "" || encoded != ""; {
	case given && username == "":
		t.Problem("username", "is empty, and there is a password; add the user")
		return
	case !given && username != "":
		t.Problem("username", "has no password; add password, in quotes, or remove the user for pulls without one")
		return
	case !given:
		return
	}
	e.set("username", "username", username)
	if password != "" {
		e.set("password", "password", password)
	}
	if encoded != "" {
		e.set(theirs, "encoded_password", encoded)
	}
}

// certificates reads a list of PEM texts. One text, with several certificates in it, is in published examples too.
func (e entry) certificates() {
	const key = "certificates"
	var list []any
	switch {
	case !present(e.t, key):
		e.t.Known(key)
	case e.t.IsText(key):
		if text := e.t.Text(key); text != "" {
			e.warn(e.t, key, "is text where a list of texts belongs; all certificates in it are read")
			list = append(list, text)
		}
	default:
		for i, text := range e.t.Texts(key) {
			if text != "" {
				e.note(fmt.Sprintf("%s.%s[%d]", e.path, key, len(list)), e.t, fmt.Sprintf("%s[%d]", key, i))
				list = append(list, text)
			}
		}
	}
	if len(list) > 0 && !e.t.IsBad(key) {
		e.set(key, key, list)
	}
}
