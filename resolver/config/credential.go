// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/strict"
)

// kinds are the keys that a credential comes by. Each excludes the others.
var kinds = []string{"username", "docker_config", "credential_helper", "credential_provider"}

// credential reads the keys that authenticate. No problem quotes a secret.
func (l *loader) credential(t *strict.Table) credential.Source {
	source := credential.Source{
		DockerConfig:  t.Text("docker_config"),
		Helper:        t.Text("credential_helper"),
		HelperDirs:    l.helperDirs(t),
		HelperTimeout: t.Duration("helper_timeout", minTimeout, time.Minute),
	}
	l.password(t, &source)
	t.Known("credential_provider")
	if t.Has("credential_provider") {
		source.Provider = l.provider(t.Table("credential_provider"))
	}
	var given []string
	for _, key := range kinds {
		if t.Has(key) {
			given = append(given, key)
		}
	}
	if len(given) > 1 {
		t.Problem(given[1], "stands beside %s; keep one of them", given[0])
	}
	if t.Has("docker_config") && !filepath.IsAbs(source.DockerConfig) { // not quoted: it may be the content itself
		t.Problem("docker_config", "is not an absolute path; want that of a config.json")
	}
	for _, key := range []string{"helper_dirs", "helper_timeout"} {
		if t.Has(key) && !slices.ContainsFunc(kinds[1:], t.Has) {
			t.Problem(key, "has no effect without docker_config, credential_helper or credential_provider")
		}
	}
	if name, ok := strings.CutPrefix(source.Helper, "docker-credential-"); ok {
		t.Problem("credential_helper", "is written without docker-credential-; want %q", name)
	}
	if source.Helper == "" && t.Has("credential_helper") && !t.IsBad("credential_helper") {
		t.Problem("credential_helper", "is empty; want the name of a helper without docker-credential-")
	}
	if _, err := source.Check(); err != nil {
		key, text, _ := strings.Cut(err.Error(), ": ")
		t.Problem(key, "%s", text)
	}
	return source
}

func (l *loader) helperDirs(t *strict.Table) string {
	dirs := t.Texts("helper_dirs")
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) || strings.Contains(dir, ":") {
			t.Problem("helper_dirs", "%q is not an absolute path without a colon", dir)
		}
	}
	return strings.Join(dirs, ":")
}

// Most that an answer without a lifetime may be used for.
const maxCacheDuration = 30 * 24 * time.Hour

// provider reads kubelet's CredentialProvider, as a table.
func (l *loader) provider(t *strict.Table) credential.Provider {
	name, path := t.Text("name"), t.Text("path")
	p := credential.Provider{
		Program:     name,
		Args:        credential.List(t.Texts("args")...),
		Env:         l.environment(t),
		MatchImages: credential.List(t.Texts("match_images")...),
		APIVersion:  t.Text("api_version"),
	}
	switch {
	case t.Has("name") == t.Has("path"):
		t.Problem("name", "wants either name or path")
	case t.Has("path"):
		if p.Program = path; !filepath.IsAbs(path) {
			t.Problem("path", "%q is not an absolute path; a name is looked for in helper_dirs", path)
		}
	case !t.IsBad("name"):
		if err := credential.CheckProgram(name); err != nil {
			t.Problem("name", "%q %v", name, err)
		}
	}
	p.DefaultCacheDuration = t.Duration("default_cache_duration", 0, maxCacheDuration)
	if t.Has("default_cache_duration") && p.DefaultCacheDuration == 0 {
		p.DefaultCacheDuration = -1 // zero is the default
	}
	t.Unknown()
	return p
}

// environment reads the variables of a provider, in the order of their names. A value may be a secret.
func (l *loader) environment(t *strict.Table) credential.Secret {
	var env []string
	for name, value := range t.Pairs("env") {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			t.Problem("env", "has a name with =, or a NUL; want NAME = \"value\"")
		}
		env = append(env, name+"="+value)
	}
	if l.inStanza && t.Has("env") {
		t.Problem("env", "`containerd config dump` would print it; move the registry to a file of config_path")
	} else if len(env) > 0 {
		l.inline(t, "env")
	}
	slices.Sort(env)
	return credential.Secret(credential.List(env...))
}

// credentialWarnings are what there is to say of the files and helpers that credentials come of.
func (l Loaded) credentialWarnings() (all []string) {
	for _, r := range l.Registries {
		warnings, _ := r.Credential.Check()
		for _, w := range warnings {
			all = append(all, fmt.Sprintf("registry %s: %s", r.Domain, w))
		}
	}
	return all
}

// password reads a user, and the password or where it is.
func (l *loader) password(t *strict.Table, source *credential.Source) {
	source.Username, source.PasswordFile = t.Text("username"), t.Text("password_file")
	password, encoded := t.Text("password"), t.Text("encoded_password")
	var given []string
	for _, key := range []string{"password", "encoded_password", "password_file"} {
		if t.Has(key) {
			given = append(given, key)
		}
	}
	switch {
	case len(given) > 1:
		t.Problem(given[1], "stands beside %s; keep one of them", given[0])
	case len(given) == 0 && source.Username != "":
		t.Problem("username", "has no password; add password_file, password or encoded_password")
	case len(given) == 1 && source.Username == "" && !t.IsBad("username"):
		t.Problem(given[0], `has no username; add it ("<token>" for an identity token)`)
	}
	if strings.ContainsAny(source.Username, ":\r\n") {
		t.Problem("username", "has a colon or a newline, which a registry cannot be sent (RFC 7617)")
	}
	for _, key := range []string{"password", "encoded_password"} {
		if l.inStanza && t.Has(key) {
			t.Problem(key, "`containerd config dump` would print it; use password_file, or move the registry to a file of config_path")
		}
	}
	if t.Has("encoded_password") {
		decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil {
			t.Problem("encoded_password", "is not base64")
			return
		}
		password = strings.TrimSuffix(string(decoded), "\n")
	}
	if t.Has("password") || t.Has("encoded_password") {
		if err := credential.CheckPassword(source.Username, password); err != nil {
			t.Problem(given[0], "%v", err)
		}
		source.Password = credential.Secret(password)
		l.inline(t, given[0])
	}
	if t.Has("password_file") && !filepath.IsAbs(source.PasswordFile) { // not quoted: it may be the password itself
		t.Problem("password_file", "is not an absolute path; want that of a file that holds the password")
	}
}
