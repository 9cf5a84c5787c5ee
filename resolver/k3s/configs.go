// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package k3s

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/strict"
)

// config reads what authenticates to a host, and how TLS is checked there.
func (r *reader) config(configs *strict.Table, host string) {
	t := r.table(configs, host)
	if t == nil {
		return
	}
	auth, tls := r.table(t, "auth"), r.table(t, "tls")
	r.ignored(t)
	if host == "*" {
		r.lost(configs, host, "there is no registry that stands for every host; write [[registries]] for each that wants this")
		return
	}
	domain, err := hostOf(host)
	if err != nil {
		r.lost(configs, host, "%v", err)
		return
	}
	if auth == nil && tls == nil {
		return
	}
	if _, ok := r.domains[domain]; ok {
		r.lost(configs, host, "there is an entry for the same registry already")
		return
	}
	values, path := r.registry(domain, configs, host)
	if auth != nil {
		r.auth(auth, values, path)
	}
	if tls != nil {
		r.tls(tls, values, path)
	}
	r.configs[host] = r.domains[domain]
}

// auth reads a credential. Of several, k3s takes the user, then the identity token, then auth.
func (r *reader) auth(t *strict.Table, values map[string]any, path string) {
	username, password := text(t, "username"), text(t, "password")
	token, encoded := text(t, "identity_token"), text(t, "auth")
	from, with := "username", "password"
	if username == "" {
		switch {
		case token != "":
			from, with, username, password = "identity_token", "identity_token", credential.IdentityToken, token
		case encoded != "":
			var ok bool
			from, with = "auth", "auth"
			if username, password, ok = decodeAuth(encoded); !ok {
				t.Problem("auth", "is not the base64 of user:password")
				return
			}
		}
	}
	if token != "" && from != "identity_token" {
		r.lost(t, "identity_token", "k3s takes %s before it", from)
	}
	if encoded != "" && from != "auth" {
		r.lost(t, "auth", "k3s takes %s before it", from)
	}
	if text(t, "token") != "" {
		r.lost(t, "token", "a bearer token is not supported; k3s does not read this key either")
	}
	r.ignored(t)
	if username != "" {
		values["username"] = username
		r.note(path+".username", t, from)
	}
	if password != "" {
		values["password"] = password
		r.note(path+".password", t, with)
	}
}

// decodeAuth returns the user and the password in the form that docker's config.json has them.
func decodeAuth(encoded string) (username, password string, ok bool) {
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", false
	}
	username, password, ok = strings.Cut(string(decoded), ":")
	return username, strings.TrimRight(password, "\x00\r\n"), ok && username != ""
}

func (r *reader) tls(t *strict.Table, values map[string]any, path string) {
	for _, key := range [][2]string{{"ca_file", "certificates"}, {"cert_file", "client_certificate"}, {"key_file", "client_key"}} {
		theirs, ours := key[0], key[1]
		file := text(t, theirs)
		if file == "" {
			continue
		}
		values[ours] = file
		if ours == "certificates" {
			values[ours] = []any{file}
		}
		r.note(path+"."+ours, t, theirs)
	}
	if !t.IsNull("insecure_skip_verify") && t.Truth("insecure_skip_verify") {
		values["insecure"] = true
		r.note(path+".insecure", t, "insecure_skip_verify")
	}
	t.Known("insecure_skip_verify")
	r.ignored(t)
}

// plainHTTP makes a registry one that is asked by plain HTTP.
func (r *reader) plainHTTP(values map[string]any, path string, t *strict.Table, key string) {
	if domain, ok := values["domain"].(string); ok && !strings.HasPrefix(domain, "http://") {
		values["domain"] = "http://" + domain
	}
	if values["insecure"] != true {
		values["insecure"] = true
		r.note(path+".insecure", t, key)
	}
}

// configured gives a registry what configs says of host, where that is the registry of another domain: one with the port of
// plain HTTP.
func (r *reader) configured(values map[string]any, path, host string) {
	i, ok := r.configs[host]
	from := fmt.Sprintf("registries[%d]", i)
	if !ok || from == path {
		return
	}
	for key, value := range r.registries[i].(map[string]any) {
		if key != "domain" {
			values[key] = value
			r.stanza.Lines[path+"."+key], r.stanza.Names[path+"."+key] = r.stanza.Lines[from+"."+key], r.stanza.Names[from+"."+key]
		}
	}
}
