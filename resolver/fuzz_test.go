// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"

	"github.com/berth-edge/berth/resolver"
)

// parseRules reads a line for each rule, "from -> to, to", with a path mode at the end of from after a space, and a
// domain alone for a registry. What is not accepted is left out.
func parseRules(text string) resolver.Config {
	var c resolver.Config
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		from, to, isRule := strings.Cut(strings.TrimSuffix(line, "\n"), " -> ")
		from, path, _ := strings.Cut(from, " ")
		if !isRule {
			if domain, err := resolver.ParseDomain(from); err == nil && !seen["domain "+string(domain)] {
				seen["domain "+string(domain)] = true
				c.Registries = append(c.Registries, resolver.Registry{Domain: domain})
			}
			continue
		}
		rule := resolver.Rule{From: from, Path: resolver.Path(path), Deny: to == "deny"}
		if !rule.Deny {
			rule.To = strings.Split(to, ", ")
		}
		if rule, err := resolver.ParseRule(rule); err == nil && !seen[rule.From] {
			seen[rule.From] = true
			c.Rules = append(c.Rules, rule)
		}
	}
	return c
}

// SEC-37: whatever the reference and the rules, a target is the source itself or lies under a prefix that an operator
// wrote, it is a reference, and it has the tag and the digest of the reference.
func FuzzRewrite(f *testing.F) {
	for _, ref := range []string{
		"nginx", "index.docker.io/nginx:1", "Quay.IO/a/b:1@" + aDigest, "quay.io/a@" + aDigest, "MYHOST/a", "[::1]:5000/a:1", "[0::FFFF:7f00:1]:443/a:1", "r_x.io/a:1",
		"reg.test:070/a", "a/../b:1", "quay.io/a%2fb", "user:pass@quay.io/a", "us.gcr.io/a__b--c.d:V1", "localhost:5000/a", "",
	} {
		for _, rules := range []string{
			"r.io/p", "r.io:5000\n* rest -> r.io:5000", "quay.io -> r.io/q, source\nquay.io/a -> deny", "* base -> r.io", "*.gcr.io full -> [::2]:50/g",
			"docker.io/library/nginx:1 -> r.io/n\nquay.io/a@" + aDigest + " -> r.io/d", "quay.io -> quay.io/mirror\n* -> source", "quay.io/a/b -> r.io",
		} {
			f.Add(ref, rules)
		}
	}
	f.Fuzz(func(t *testing.T, ref, rules string) {
		config := parseRules(rules)
		routes, err := resolver.NewRoutes(config)
		if err != nil {
			t.Skip() // no files are named
		}
		route := routes.Route(context.Background(), ref)
		if (route.Err == nil) != (len(route.Targets) > 0) {
			t.Fatalf("got error %v and targets %q, want one of them", route.Err, pulls(route))
		}
		if _, err := route.MarshalJSON(); err != nil {
			t.Fatal(err)
		}
		prefixes := prefixesOf(config)
		for _, target := range route.Targets {
			checkTarget(t, route, target, prefixes)
		}
	})
}

// prefixesOf are the places that an operator wrote.
func prefixesOf(c resolver.Config) []resolver.Prefix {
	var prefixes []resolver.Prefix
	for _, r := range c.Registries {
		prefixes = append(prefixes, r.Domain)
	}
	for _, rule := range c.Rules {
		for _, to := range rule.To {
			if to != resolver.Source {
				prefixes = append(prefixes, resolver.Prefix(to))
			}
		}
	}
	return prefixes
}

func checkTarget(t *testing.T, route resolver.Route, target resolver.Target, prefixes []resolver.Prefix) {
	t.Helper()
	pull := target.Pull
	again, err := resolver.ParseNamed(pull.String())
	if err != nil || again.String() != pull.String() || reference.Domain(again) != reference.Domain(pull) {
		t.Errorf("target %s parsed again: got %v, %v", pull, again, err)
	}
	if got, want := version(pull), version(route.Named); got != want {
		t.Errorf("target %s of %s: got version %q, want %q", pull, route.Named, got, want)
	}
	if target.Kind == resolver.KindSource {
		if pull.String() != route.Named.String() {
			t.Errorf("source: got %s, want %s", pull, route.Named)
		}
		return
	}
	if !slices.ContainsFunc(prefixes, func(p resolver.Prefix) bool {
		return p.Contains(pull.Name()) && p.Host() == reference.Domain(pull)
	}) {
		t.Errorf("target %s of %s lies under none of %q", pull, route.Named, prefixes)
	}
}

// version is the tag and the digest of a reference.
func version(named reference.Named) string {
	var v string
	if tagged, ok := named.(reference.Tagged); ok {
		v = ":" + tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		v += "@" + digested.Digest().String()
	}
	return v
}

// A reference means what it means to package reference, but for the form of its host.
func FuzzParseNamed(f *testing.F) {
	for _, ref := range []string{
		"quay.io/a/b:1", "quay.io/a__b/c---d.e_f:V-1", "quay.io:5000/a:1@" + aDigest, "docker.io/a:1", "index.docker.io/a/b:1", "a.b-:1", "-a.b/c:1",
		"a..b/c:1", "a.b:/c:1", "a.b:1:1/c:1", "a.b/c_:1", "a.b/_c:1", "a.b/c___d:1", "a.b/c._d:1", "a.b/c_.d:1", "a.b/c..d:1", "a.b/c-_d:1", "a.b/c:", "a.b/c:1:2", "a.b/:1", "1.2.3.4:5/6:7",
		"a.b/" + strings.Repeat("c", 256) + ":1", "localhost/a:1", "LOCALHOST/a", "MYHOST/a", "r_x.io/a:1",
		"a.b/c:.x", "a.b/c:-x", "a.b/c:_x", "a.b/c:X.-_9", "a.b/c:é", "a.b/c:" + strings.Repeat("t", 128), "a.b/c:" + strings.Repeat("t", 129),
	} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		got, err := resolver.ParseNamed(ref)
		want, wantErr := reference.ParseNormalizedNamed(ref)
		if err != nil {
			if wantErr == nil && !strings.Contains(err.Error(), "is not a number from 1 to 65535") {
				t.Fatalf("got %v, want %s", err, want)
			}
			return
		}
		if wantErr != nil {
			t.Fatalf("got %s, want %v", got, wantErr)
		}
		want = reference.TagNameOnly(want)
		host := strings.ToLower(reference.Domain(want))
		if host == "index.docker.io" || host == "registry-1.docker.io" || host != reference.Domain(want) {
			return
		}
		if got.String() != want.String() || reference.Domain(got) != reference.Domain(want) || reference.Path(got) != reference.Path(want) {
			t.Errorf("got %s of host %s, want %s of host %s", got, reference.Domain(got), want, reference.Domain(want))
		}
	})
}
