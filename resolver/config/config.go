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
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
)

// DefaultPath is the config_path in force where none is given.
var DefaultPath = []string{"/etc/berth/*.toml", "/etc/berth/*.yaml"}

// Stanza is our table of containerd's merged configuration.
type Stanza struct {
	// Name is how problems name it.
	Name string
	// Values are its keys and values; nil is an absent stanza.
	Values map[string]any
	// Lines are the lines of its keys, if they are known.
	Lines map[string]int
}

// Loaded is a configuration, and where it came from.
type Loaded struct {
	resolver.Config
	// Files are the files that were read, in order.
	Files []string
	// Warnings are about what is understood and likely not meant.
	Warnings []string
}

// Load reads the stanza and the files of its config_path. An error is [Problems].
func Load(stanza Stanza) (Loaded, error) {
	l := newLoader()
	root := &document{name: stanza.Name, values: stanza.Values, lines: stanza.Lines, problems: &l.problems}
	t := root.root()
	paths := DefaultPath
	if t.has("config_path") {
		paths = t.texts("config_path")
	}
	t.known = append(t.known, "config_path")
	l.inStanza = true
	l.read(t)
	l.inStanza = false
	for _, path := range paths {
		for _, file := range l.expand(t, path) {
			l.readFile(file)
		}
	}
	return l.finish()
}

// LoadFile reads one file of our own. An error is [Problems].
func LoadFile(path string) (Loaded, error) {
	l := newLoader()
	l.readFile(path)
	return l.finish()
}

// loader collects registries and rules from every place.
type loader struct {
	loaded   Loaded
	problems Problems
	inStanza bool
	defined  map[string]string // where each domain, from and setting was first seen
}

func newLoader() *loader { return &loader{defined: map[string]string{}} }

func (l *loader) finish() (Loaded, error) {
	if err := l.problems.Err(); err != nil {
		return Loaded{Files: l.loaded.Files, Warnings: l.loaded.Warnings}, err
	}
	if len(l.loaded.Registries) > 1 && !slices.ContainsFunc(l.loaded.Rules, func(r resolver.Rule) bool { return r.From == "*" }) {
		l.warn("no rule for *: references that no rule matches go to the first registry, %s; write a rule for * to say so, or to say otherwise", l.loaded.Registries[0].Domain)
	}
	return l.loaded, nil
}

func (l *loader) warn(format string, args ...any) {
	l.loaded.Warnings = append(l.loaded.Warnings, fmt.Sprintf(format, args...))
}

// expand returns the files that one element of config_path names. Only a glob may match nothing.
func (l *loader) expand(t *table, path string) []string {
	if !filepath.IsAbs(path) {
		t.problem("config_path", "%q is not an absolute path", path)
		return nil
	}
	if !strings.ContainsAny(path, "*?[") {
		return []string{path}
	}
	files, err := filepath.Glob(path)
	if err != nil {
		t.problem("config_path", "%q is not a pattern: %v", path, err)
	}
	slices.Sort(files)
	return files
}

func (l *loader) readFile(path string) {
	l.loaded.Files = append(l.loaded.Files, path)
	l.read(readDocument(path, &l.problems).root())
}

func (l *loader) read(t *table) {
	for _, r := range t.tables("registries") {
		l.registry(r)
	}
	for _, r := range t.tables("rules") {
		l.rule(r)
	}
	l.timeout(t, "dial_timeout", &l.loaded.DialTimeout)
	l.timeout(t, "stall_timeout", &l.loaded.StallTimeout)
	t.unknown()
}

func (l *loader) timeout(t *table, key string, to *time.Duration) {
	if d := t.timeout(key); d > 0 && l.once(t, key, key, "") {
		*to = d
	}
}

// once notes a problem if what was seen before. shown is the value in the message.
func (l *loader) once(t *table, key, what, shown string) bool {
	if first, ok := l.defined[what]; ok {
		t.problem(key, "%salready defined at %s", shown, first)
		return false
	}
	where := t.doc.name
	if line := t.doc.line(t.key(key)); line > 0 {
		where = fmt.Sprintf("%s:%d", where, line)
	}
	l.defined[what] = where
	return true
}

func (l *loader) rule(t *table) {
	rule, err := resolver.ParseRule(resolver.Rule{
		From: t.text("from"),
		To:   t.texts("to"),
		Path: resolver.Path(t.text("path")),
		Deny: t.truth("deny"),
	})
	t.unknown()
	t.problems(err)
	if err == nil && l.once(t, "from", "from "+rule.From, fmt.Sprintf("%q is ", rule.From)) {
		l.loaded.Rules = append(l.loaded.Rules, rule)
	}
}

func (l *loader) registry(t *table) {
	text := t.text("domain")
	domain, err := resolver.ParseDomain(text)
	if err != nil {
		t.problems(&resolver.FieldError{Key: "domain", Value: text, Err: err})
	} else {
		l.once(t, "domain", "domain "+string(domain), fmt.Sprintf("%q is ", domain))
	}
	r := resolver.Registry{
		Domain:     domain,
		Credential: l.credential(t),
		Endpoint: endpoint.Options{
			Certificates:      t.texts("certificates"),
			ClientCertificate: t.text("client_certificate"),
			ClientKey:         t.text("client_key"),
			Insecure:          t.truth("insecure"),
			Proxy:             t.text("proxy"),
			TokenRealms:       l.realms(t),
		},
	}
	l.checkTLS(t, &r, text)
	t.unknown()
	l.loaded.Registries = append(l.loaded.Registries, r)
}

// credential reads the keys that authenticate. No problem quotes a secret.
func (l *loader) credential(t *table) credential.Source {
	source := credential.Source{Username: t.text("username"), PasswordFile: t.text("password_file")}
	password, encoded := t.text("password"), t.text("encoded_password")
	var given []string
	for _, key := range []string{"password", "encoded_password", "password_file"} {
		if t.has(key) {
			given = append(given, key)
		}
	}
	switch {
	case len(given) > 1:
		t.problem(given[1], "stands beside %s; keep one of them", given[0])
	case len(given) == 0 && source.Username != "":
		t.problem("username", "has no password; add password_file, password or encoded_password")
	case len(given) == 1 && source.Username == "":
		t.problem(given[0], `has no username; add it ("<token>" for an identity token)`)
	}
	if strings.ContainsAny(source.Username, ":\r\n") {
		t.problem("username", "has a colon or a newline, which a registry cannot be sent (RFC 7617)")
	}
	for _, key := range []string{"password", "encoded_password"} {
		if l.inStanza && t.has(key) {
			t.problem(key, "`containerd config dump` would print it; use password_file, or move the registry to a file of config_path")
		}
	}
	if t.has("encoded_password") {
		decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil {
			t.problem("encoded_password", "is not base64")
			return source
		}
		password = strings.TrimSuffix(string(decoded), "\n")
	}
	if t.has("password") || t.has("encoded_password") {
		if err := credential.CheckSecret(password); err != nil {
			t.problem(given[0], "%v", err)
		}
		source.Password = credential.Secret(password)
	}
	if source.PasswordFile != "" && !filepath.IsAbs(source.PasswordFile) {
		t.problem("password_file", "%q is not an absolute path", source.PasswordFile)
	}
	return source
}

func (l *loader) realms(t *table) []string {
	realms := t.texts("token_realms")
	for i, realm := range realms {
		p, err := resolver.ParseDomain(realm)
		if err != nil || p.Host() != string(p) {
			t.problem("token_realms", "%q is not a host; want host or host:port", realm)
		}
		realms[i] = p.Host()
	}
	return realms
}

// checkTLS reads the certificates once, so that a mistake is found now and not by a pull.
func (l *loader) checkTLS(t *table, r *resolver.Registry, domain string) {
	o := &r.Endpoint
	for i, text := range o.Certificates {
		certs, err := endpoint.ParseCertificates(text)
		if err != nil {
			t.problem(fmt.Sprintf("certificates[%d]", i), "%v", pathError(text, err))
		}
		for _, cert := range certs {
			if time.Now().After(cert.NotAfter) {
				l.warn("registry %s: certificate %s expired at %s", r.Domain, cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))
			}
		}
	}
	switch {
	case t.has("client_certificate") != t.has("client_key"):
		t.problem("client_certificate", "wants client_key, and the reverse")
	case o.ClientCertificate != "":
		if _, err := endpoint.ParseKeyPair(o.ClientCertificate, o.ClientKey); err != nil {
			t.problem("client_certificate", "%v", err)
		}
	}
	if o.Proxy != "" {
		u, err := endpoint.ParseProxy(o.Proxy)
		switch {
		case err != nil:
			t.problem("proxy", "%v", err)
		case l.inStanza && u.User != nil:
			t.problem("proxy", "has a password, which `containerd config dump` would print; move the registry to a file of config_path")
		}
	}
	if strings.HasPrefix(strings.ToLower(domain), "http://") {
		o.PlainHTTP = o.Insecure
		if !o.Insecure {
			l.warn("registry %s: http:// has no effect; set insecure = true to allow plain HTTP", r.Domain)
		}
	}
	if o.Insecure {
		l.warn("registry %s: insecure = true: its certificate is not checked, and plain HTTP is allowed", r.Domain)
	}
}

// pathError names the file that text is, unless the error does; PEM text itself is not quoted.
func pathError(text string, err error) error {
	var path *os.PathError
	if errors.As(err, &path) || strings.Contains(text, "-----BEGIN") {
		return err
	}
	if len(text) > 256 || strings.Contains(text, "\n") {
		return err
	}
	return fmt.Errorf("%s: %w", text, err)
}
