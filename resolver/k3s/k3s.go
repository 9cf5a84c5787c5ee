// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package k3s translates registries.yaml, the file in which k3s and RKE2 have mirrors and credentials of registries.
//
// What k3s does with it, by its source (pkg/agent/containerd) and https://docs.k3s.io/installation/private-registry:
//
//   - mirrors are hosts, or "*" for those that have no entry of their own. The endpoints of one are tried in order, and then
//     the host itself. An endpoint is a URL; its path, /v2 if it has none, comes before the repository. The host that was
//     asked for is no part of what is asked, but for the parameter ns.
//   - rewrite replaces what a regular expression matches in a repository, for every endpoint and not for the host itself.
//   - configs are hosts with their port, and what authenticates to them and how TLS is checked there.
//   - What no mirror is for is left alone.
//
// Not everything can be said in rules. [Read] returns a warning for each line that it leaves out.
package k3s

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/strict"
)

// Is reports whether a YAML file whose top keys these are is a registries.yaml.
func Is(topKeys []string) bool {
	return slices.Contains(topKeys, "mirrors") || slices.Contains(topKeys, "configs")
}

// Read returns the registries and rules of a registries.yaml whose content is text, in the schema of a file of ours, and what
// of it has no equivalent. The names of keys are those of registries.yaml. What is wrong with the file itself is added to
// problems; its values are for package config to check.
func Read(file string, text []byte, problems *strict.Problems) (s strict.Stanza, warnings strict.Problems) {
	top := strict.ParseYAML(file, text, nil, problems)
	r := reader{
		stanza:  strict.Stanza{Name: file, Lines: map[string]int{}, Names: map[string]string{}},
		domains: map[string]int{},
		configs: map[string]int{},
	}
	if configs := r.table(top, "configs"); configs != nil {
		for _, host := range configs.Keys() {
			r.config(configs, host)
		}
	}
	if mirrors := r.table(top, "mirrors"); mirrors != nil {
		for _, host := range mirrors.Keys() {
			r.mirror(mirrors, host)
		}
	}
	r.ignored(top)
	if len(r.registries) > 0 && !r.all {
		// Else the rule that is implied would take every pull to the first registry.
		r.rules = append(r.rules, map[string]any{"from": "*", "to": []any{resolver.Source}})
	}
	r.stanza.Values = map[string]any{"registries": r.registries, "rules": r.rules}
	return r.stanza, r.warnings
}

// reader collects registries and rules in our schema, with the lines and names of their keys.
type reader struct {
	stanza     strict.Stanza
	registries []any
	rules      []any
	warnings   strict.Problems
	domains    map[string]int // the registry of each domain
	configs    map[string]int // the registry that configs has for a host, as it is written
	all        bool           // there is a rule for *
}

// lost says that something cannot be said in our schema.
func (r *reader) lost(t *strict.Table, key, format string, args ...any) {
	r.warnings = append(r.warnings, t.About(key, "is not carried over: "+format, args...))
}

// table returns the table of a key; nil if it is absent, or written and left empty.
func (r *reader) table(t *strict.Table, key string) *strict.Table {
	t.Known(key)
	if !t.Has(key) || t.IsNull(key) {
		return nil
	}
	return t.Table(key)
}

// text returns the text of a key; published examples leave keys empty, with a comment after them.
func text(t *strict.Table, key string) string {
	if t.IsNull(key) {
		t.Known(key)
		return ""
	}
	return t.Text(key)
}

// ignored reports keys that k3s does not know either, and passes over without a word.
func (r *reader) ignored(t *strict.Table) {
	for _, p := range t.NotAskedFor() {
		p.Text += "; k3s ignores it"
		r.warnings = append(r.warnings, p)
	}
}

// note keeps the line and the name of what became path.
func (r *reader) note(path string, t *strict.Table, key string) {
	r.stanza.Lines[path], r.stanza.Names[path] = t.Line(key), t.Path(key)
}

// registry returns the registry at a domain, which is there afterwards. t and key are where it is written.
func (r *reader) registry(domain string, t *strict.Table, key string) (values map[string]any, path string) {
	i, ok := r.domains[domain]
	if !ok {
		i = len(r.registries)
		r.domains[domain] = i
		r.registries = append(r.registries, map[string]any{"domain": domain})
		r.note(fmt.Sprintf("registries[%d]", i), t, key)
	}
	return r.registries[i].(map[string]any), fmt.Sprintf("registries[%d]", i)
}

// rule adds a rule. t and key are where it is written.
func (r *reader) rule(from string, to []any, t *strict.Table, key string) {
	if slices.ContainsFunc(r.rules, func(rule any) bool { return rule.(map[string]any)["from"] == from }) {
		r.lost(t, key, "there is a rule for %s already", from)
		return
	}
	values := map[string]any{"from": from, "to": to}
	if from == "*" {
		values["path"] = string(resolver.PathRest)
		r.all = true
	}
	path := fmt.Sprintf("rules[%d]", len(r.rules))
	for _, at := range []string{path, path + ".from", path + ".to"} {
		r.note(at, t, key)
	}
	r.rules = append(r.rules, values)
}

// hostOf returns a host in its one form, or what is wrong with it.
func hostOf(s string) (string, error) {
	p, err := resolver.ParsePrefix(s)
	if err == nil && strings.Contains(string(p), "/") {
		err = errors.New("it is no host, since it has a path")
	}
	return string(p), err
}
