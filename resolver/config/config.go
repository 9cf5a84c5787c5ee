// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package config reads what an operator configured: a stanza of containerd's config.toml, and files of our own.
//
// The schema is one in both places. The effective configuration is the concatenation: the stanza, then config_path in
// its order, globs sorted. Reading is strict: an unknown key, a wrong type, two rules for one prefix, a file that is not
// PEM are mistakes, and all of them are reported at once, each with its file, line and key. With any mistake there is no
// configuration, and pulls are refused: see [Load].
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/permission"
	"github.com/berth-edge/berth/resolver/strict"
)

// DefaultPath is the config_path in force where none is given.
var DefaultPath = []string{"/etc/berth/*.toml", "/etc/berth/*.yaml"}

// Loaded is a configuration, and where it came from.
type Loaded struct {
	resolver.Config
	// Files are the files of config_path that were read, in order.
	Files []string
	// Inputs are all files that were read.
	Inputs Inputs
	// Warnings are about what is understood and likely not meant, those about files and helpers of credentials last.
	Warnings []string
	lasting  int // how many are not of credentials
}

// WarningsNow returns the warnings as they are now: files and helpers that credentials come from may change without the
// configuration.
func (l Loaded) WarningsNow() []string {
	return append(slices.Clone(l.Warnings[:l.lasting]), l.credentialWarnings()...)
}

// Load reads the stanza and the files of its config_path. What others can write is refused, see package permission. An error
// is [strict.Problems]; what is loaded then has neither registries nor rules.
func Load(stanza strict.Stanza) (Loaded, error) { return Reload(stanza, Loaded{}) }

// Reload is Load after a change of what before was loaded from. The system's certificates are those of before if they have
// not changed.
func Reload(stanza strict.Stanza, before Loaded) (Loaded, error) {
	l := newLoader()
	l.inForce, l.before = true, before.Inputs
	l.roots(before)
	t := stanza.Read(&l.problems)
	paths := DefaultPath
	if t.Has("config_path") {
		paths = t.Texts("config_path")
	}
	t.Known("config_path")
	l.inStanza = true
	l.table(t)
	l.inStanza = false
	for _, path := range paths {
		for _, file := range l.expand(t, path) {
			l.file(file)
		}
	}
	for _, path := range paths {
		l.warnUnread(path)
	}
	return l.finish()
}

// LoadFile reads one file of our own. That others can write it is a warning: it need not be where a node reads it. An error is
// [strict.Problems].
func LoadFile(path string) (Loaded, error) {
	l := newLoader()
	l.file(path)
	if err := permission.Writable(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.warn("%v; a node refuses to go by it", err)
	}
	return l.finish()
}

// roots makes the system's certificates.
func (l *loader) roots(before Loaded) {
	in := &l.loaded.Inputs
	paths := endpoint.SystemRootPaths(os.Getenv)
	changed := before.Roots == nil || before.Roots.Look()
	for _, path := range append(paths.Files, paths.Dirs...) {
		in.see(path)
		changed = changed || in.files[path] != before.Inputs.files[path]
	}
	if l.loaded.Roots = before.Roots; changed {
		l.loaded.Roots = endpoint.NewRoots(paths)
	}
	in.roots = l.loaded.Roots
}

// loader collects registries and rules from every place.
type loader struct {
	loaded   Loaded
	problems strict.Problems
	targets  []target
	inStanza bool
	inForce  bool   // it is to be gone by, so that others may not write it
	before   Inputs // of what is followed
	defined  map[[2]string]place
	secrets  []secretFile
	strict   bool // strict_permissions
}

func newLoader() *loader { return &loader{defined: map[[2]string]place{}} }

func (l *loader) finish() (Loaded, error) {
	l.checkSecrets()
	if err := l.problems.Err(); err != nil {
		l.loaded.lasting = len(l.loaded.Warnings)
		l.loaded.Config = resolver.Config{Roots: l.loaded.Roots}
		return l.loaded, err
	}
	for i := range l.loaded.Registries {
		l.loaded.Registries[i].Credential.StrictPermissions = l.strict
	}
	if len(l.loaded.Registries) > 1 && !slices.ContainsFunc(l.loaded.Rules, func(r resolver.Rule) bool { return r.From == "*" }) {
		l.warn("no rule for *: references that no rule matches go to the first registry, %s; write a rule for * to say so, or to say otherwise", l.loaded.Registries[0].Domain)
	}
	l.warnCircles()
	l.warnTargets()
	l.loaded.lasting = len(l.loaded.Warnings)
	l.loaded.Warnings = l.loaded.WarningsNow()
	return l.loaded, nil
}

// warnCircles warns of two rules that lead to each other. That is no mistake: a reference is rewritten once.
func (l *loader) warnCircles() {
	rules := map[string]resolver.Rule{}
	for _, r := range l.loaded.Rules {
		rules[r.From] = r
	}
	for _, r := range l.loaded.Rules {
		for _, to := range r.To {
			back, ok := rules[to]
			if ok && r.From < to && slices.Contains(back.To, r.From) {
				l.warn("the rules for %s and %s lead to each other; a reference is rewritten once and not back again", r.From, to)
			}
		}
	}
}

func (l *loader) warn(format string, args ...any) {
	l.loaded.Warnings = append(l.loaded.Warnings, fmt.Sprintf(format, args...))
}

// expand returns the files that one element of config_path names. Only a glob may match nothing.
func (l *loader) expand(t *strict.Table, path string) []string {
	if !filepath.IsAbs(path) {
		t.Problem("config_path", "%q is not an absolute path", path)
		return nil
	}
	if !strings.ContainsAny(path, "*?[") {
		return []string{path}
	}
	files, err := glob(path)
	l.loaded.Inputs.seeMatches(path, files)
	if err == nil && len(files) == 0 {
		err = readable(path) // Glob takes a directory that cannot be read for an empty one
	}
	if err != nil {
		t.Problem("config_path", "%q: %v", path, err)
	}
	return files
}

// warnUnread warns of files that a pattern for .yaml does not match, and of which everybody would think that it does.
func (l *loader) warnUnread(pattern string) {
	base, ok := strings.CutSuffix(pattern, ".yaml")
	if !ok {
		return
	}
	files, _ := filepath.Glob(base + ".yml")
	for _, file := range files {
		if !slices.Contains(l.loaded.Files, file) {
			l.warn("%s is not read, since config_path has %s; let its name end in .yaml", file, pattern)
		}
	}
}

// readable reports why the directory that a pattern begins with cannot be read. One that is absent is empty.
func readable(pattern string) error {
	dir := filepath.Dir(pattern[:strings.IndexAny(pattern, "*?[")] + "x")
	d, err := os.Open(dir)
	if err == nil {
		_, err = d.Readdirnames(1)
		d.Close()
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// file reads a file of config_path, once however often it is named.
func (l *loader) file(path string) {
	if slices.Contains(l.loaded.Files, path) {
		return
	}
	l.loaded.Files = append(l.loaded.Files, path)
	text, err := l.read(path)
	if err == nil {
		err = l.checkWritable(path)
	}
	if err == nil && l.inForce {
		err = l.loaded.Inputs.checkFinished(path, l.before)
	}
	if err == nil && len(text) == 0 && l.inForce {
		err = l.empty(path)
	}
	if err != nil {
		l.problems = append(l.problems, strict.Problem{File: path, Text: err.Error()})
		return
	}
	l.table(l.parse(path, text))
}

// empty returns an error for a file that is empty and was not: its disk is full, or somebody is about to write it anew. One that
// never was anything else says nothing, and is warned of.
func (l *loader) empty(path string) error {
	if l.before.files[path].Size > 0 {
		return errors.New("is empty, and was not; write registries and rules into it, or remove it")
	}
	l.warn("%s is empty: nothing is configured by it", path)
	return nil
}

func (l *loader) read(path string) ([]byte, error) {
	text, err := l.content(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errors.New("no such file; pulls are refused until it appears")
	case errors.Is(err, syscall.EISDIR):
		return nil, fmt.Errorf("%w, or a pattern such as %s", err, filepath.Join(path, "*.toml"))
	}
	return text, err
}

// content reads a file of the configuration, or one that it names.
func (l *loader) content(path string) ([]byte, error) {
	l.loaded.Inputs.see(path)
	return strict.ReadFile(path)
}

// noteFields notes the mistakes that err joins, each at its key.
func noteFields(t *strict.Table, err error) {
	var field *resolver.FieldError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			noteFields(t, e)
		}
	} else if errors.As(err, &field) {
		t.Problem(field.Key, "%s", field.Text())
	} else if err != nil {
		t.Problem("", "%v", err)
	}
}

func (l *loader) table(t *strict.Table) {
	for _, r := range t.Tables("registries") {
		l.registry(r)
	}
	for _, r := range t.Tables("rules") {
		l.rule(r)
	}
	l.timeout(t, "dial_timeout", &l.loaded.DialTimeout)
	l.timeout(t, "stall_timeout", &l.loaded.StallTimeout)
	l.strict = t.Truth("strict_permissions") || l.strict
	t.Unknown()
}

// Range of time limits.
const (
	minTimeout = 100 * time.Millisecond
	maxTimeout = 5 * time.Minute
)

func (l *loader) timeout(t *strict.Table, key string, to *time.Duration) {
	if d := t.Duration(key, minTimeout, maxTimeout); d > 0 && l.once(t, key, key, "") {
		*to = d
	}
}

// once notes a problem if what, which is a kind and a value, was seen before.
func (l *loader) once(t *strict.Table, key, kind, value string) bool {
	first, ok := l.defined[[2]string{kind, value}]
	if !ok {
		l.defined[[2]string{kind, value}] = place{t, key}
		return true
	}
	shown := ""
	if value != "" {
		shown = strconv.Quote(value) + " is "
	}
	t.Problem(key, "%salready defined at %s", shown, first.table.Where(first.key))
	return false
}

// place is where something was first seen.
type place struct {
	table *strict.Table
	key   string
}

func (l *loader) rule(t *strict.Table) {
	rule, err := resolver.ParseRule(resolver.Rule{
		From:        t.Text("from"),
		To:          t.Texts("to"),
		Path:        resolver.Path(t.Text("path")),
		Deny:        t.Truth("deny"),
		PastBundles: t.Has("bundle") && !t.Truth("bundle"),
	})
	t.Known("bundle")
	t.Unknown()
	noteFields(t, err)
	if first := rule.From == "" || l.once(t, "from", "from", rule.From); first && err == nil {
		l.loaded.Rules = append(l.loaded.Rules, rule)
		l.warnFrom(t, rule.From)
		for _, to := range rule.To {
			if to != resolver.Source {
				l.targets = append(l.targets, target{to, t})
			}
		}
	}
}
