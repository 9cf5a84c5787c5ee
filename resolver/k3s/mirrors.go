// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package k3s

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/strict"
)

// endpoint is where a mirror is asked.
type endpoint struct {
	host   string // as it is written
	domain string // host[:port][/path]
	http   bool
}

// mirror reads the endpoints and rewrites of one host, or of "*".
func (r *reader) mirror(mirrors *strict.Table, host string) {
	t := r.table(mirrors, host)
	from := host
	if host != "*" {
		var err error
		if from, err = hostOf(host); err != nil {
			r.lost(mirrors, host, "%v", err)
			return
		}
	}
	if t == nil || !t.Has("endpoint") || t.IsNull("endpoint") {
		r.lost(mirrors, host, "it has no endpoint, which asks k3s for its embedded registry mirror")
		return
	}
	endpoints := r.endpoints(t, from)
	whole := r.rewrites(r.table(t, "rewrite"), from, endpoints)
	r.ignored(t)
	if to := targets(from, endpoints, whole); len(to) > 1 || host == "*" {
		r.rule(from, to, mirrors, host)
	}
	if host == "*" {
		r.warnings = append(r.warnings, mirrors.About(host, "k3s tells such a mirror by the parameter ns which host was asked for; Berth does not. If it needs to know, remove path = \"rest\" from the rule, and the host comes before the repository"))
	}
}

// rewrites makes a rule of each rewrite that is one of a prefix, and returns what another puts before every repository.
func (r *reader) rewrites(t *strict.Table, from string, endpoints []endpoint) (whole string) {
	if t == nil {
		return ""
	}
	all := false
	for _, pattern := range t.Keys() {
		below, to, ok := plainPrefix(pattern, text(t, pattern))
		_, err := resolver.ParsePrefix(strings.TrimRight("r.io/"+below, "/") + "/" + to)
		switch {
		case !ok:
			r.lost(t, pattern, "only a rewrite of one prefix by another can be a rule, such as \"^rancher/(.*)\": \"mirror/rancher/$1\"")
		case err != nil:
			r.lost(t, pattern, "what it replaces, or puts in its place, is no part of a repository")
		case below == "" && all:
			r.lost(t, pattern, "another rewrite matches everything already")
		case below == "":
			whole, all = to, true
		case from == "*":
			r.lost(t, pattern, "a rule for * cannot match a path; write a rule for each host with this path")
		default:
			r.rule(from+"/"+below, targets(from, endpoints, to), t, pattern)
		}
	}
	return whole
}

// endpoints reads the URLs of a mirror, and makes a registry for each.
func (r *reader) endpoints(t *strict.Table, from string) []endpoint {
	var endpoints []endpoint
	for i, text := range t.Texts("endpoint") {
		key := fmt.Sprintf("endpoint[%d]", i)
		e, err := parseEndpoint(text)
		if err != nil {
			r.lost(t, key, "%v", err)
			continue
		}
		if slices.Contains(endpoints, e) {
			continue
		}
		endpoints = append(endpoints, e)
		domain := resolver.Prefix(e.domain).Host()
		if domain == from && !e.http {
			continue // the host itself
		}
		values, path := r.registry(domain, t, key)
		r.configured(values, path, e.host)
		if e.http {
			r.plainHTTP(values, path, t, key)
		}
	}
	return endpoints
}

// parseEndpoint reads the URL of an endpoint as k3s does. The error does not quote it: it may hold a password.
func parseEndpoint(text string) (endpoint, error) {
	if !strings.Contains(text, "://") {
		text = "//" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return endpoint{}, errors.New("it is no URL; want https://host[:port][/v2/path]")
	case u.User != nil:
		return endpoint{}, errors.New("it has a user and a password, which belong in configs")
	case u.RawQuery != "" || u.Fragment != "":
		return endpoint{}, errors.New("it has a query or a fragment")
	}
	e := endpoint{host: u.Host}
	switch u.Scheme {
	case "http":
		e.http = true
	case "":
		e.http = isLocal(u.Hostname()) && u.Port() != "" && u.Port() != "443"
	case "https":
	default:
		return endpoint{}, fmt.Errorf("it has the scheme %q; want https or http", u.Scheme)
	}
	host := u.Host
	if e.http && u.Port() == "" {
		host += ":80"
	}
	below, ok := strings.CutPrefix(strings.TrimRight(u.Path, "/")+"/", "/v2/")
	if !ok && strings.Trim(u.Path, "/") != "" {
		return endpoint{}, errors.New("its path does not begin with /v2/, which comes before a path of ours")
	}
	p, err := resolver.ParsePrefix(host + "/" + below)
	e.domain = string(p)
	return e, err
}

// isLocal reports whether containerd takes host for this machine, and plain HTTP for granted.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// targets are where a rule leads: the endpoints with a path below each, and then the host itself.
func targets(from string, endpoints []endpoint, path string) []any {
	var to []any
	add := func(target string) {
		if !slices.Contains(to, any(target)) {
			to = append(to, target)
		}
	}
	for _, e := range endpoints {
		// Nothing is rewritten for the host itself; k3s takes it for another where its port is written.
		if isDefault := !e.http && !strings.HasSuffix(e.host, ":443"); e.domain == from && (path == "" || isDefault) {
			add(resolver.Source)
		} else {
			add(strings.TrimSuffix(e.domain+"/"+path, "/"))
		}
	}
	add(resolver.Source)
	return to
}

// prefixPattern is a regular expression that matches a prefix, and perhaps what follows it as $1.
var prefixPattern = regexp.MustCompile(`^(\^?)((?:[\w/-]|\\[./-])*)(\(\.[*+]\)\$?)?$`)

// plainPrefix returns the two prefixes of a rewrite that replaces one by the other: "^rancher/(.*)" by "mirror/rancher/$1",
// or "^rancher/" by "mirror/rancher/". Both are whole components; "" is all, or nothing.
func plainPrefix(pattern, replacement string) (from, to string, ok bool) {
	m := prefixPattern.FindStringSubmatch(pattern)
	if m == nil {
		return "", "", false
	}
	from, to = strings.ReplaceAll(m[2], `\`, ""), replacement
	anchored, hasRest := m[1] != "", m[3] != ""
	if hasRest {
		var named bool
		if to, named = strings.CutSuffix(replacement, "$1"); !named {
			to, named = strings.CutSuffix(replacement, "${1}")
		}
		if !named || !anchored && from != "" {
			return "", "", false
		}
	} else if !anchored {
		return "", "", false
	}
	if strings.Contains(to, "$") || !isWhole(from) || !isWhole(to) {
		return "", "", false
	}
	return strings.TrimSuffix(from, "/"), strings.TrimSuffix(to, "/"), true
}

// isWhole reports whether a prefix ends where a component does.
func isWhole(s string) bool {
	return s == "" || strings.HasSuffix(s, "/") && !strings.HasPrefix(s, "/") && !strings.Contains(s, "//")
}
