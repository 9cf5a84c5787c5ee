// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// rulesText writes rules, each "from -> to, to", as TOML.
func rulesText(rules ...string) string {
	var b strings.Builder
	for _, rule := range rules {
		from, to, _ := strings.Cut(rule, " -> ")
		if to == "deny" {
			fmt.Fprintf(&b, "[[rules]]\nfrom = %q\ndeny = true\n", from)
			continue
		}
		fmt.Fprintf(&b, "[[rules]]\nfrom = %q\nto = [\"%s\"]\n", from, strings.ReplaceAll(to, ", ", `", "`))
	}
	return b.String()
}

// One rule applies, the most specific, whatever their order: digest, tag, longest path, exact host, longest *.host, *.
func TestSpecificity(t *testing.T) {
	froms := []string{
		"us.gcr.io/a/b@" + aDigest, "us.gcr.io/a/b:1", "us.gcr.io/a/b", "us.gcr.io/a", "us.gcr.io", "*.gcr.io", "*.eu.gcr.io", "*",
		"us.gcr.io:5000", "us.gcr.io:5000/a",
	}
	var rules []string
	for _, from := range froms {
		rules = append(rules, from+" -> r.example.com/x")
	}
	for _, tt := range []struct{ ref, want string }{
		{"us.gcr.io/a/b@" + aDigest, "us.gcr.io/a/b@" + aDigest},
		{"us.gcr.io/a/b:1@" + aDigest, "us.gcr.io/a/b@" + aDigest}, // not the tag
		{"us.gcr.io/a/b:1@sha256:" + strings.Repeat("2", 64), "us.gcr.io/a/b"},
		{"us.gcr.io/a/b:1", "us.gcr.io/a/b:1"},
		{"us.gcr.io/a/b:11", "us.gcr.io/a/b"},
		{"us.gcr.io/a/b", "us.gcr.io/a/b"}, // latest
		{"us.gcr.io/a/b/c:1", "us.gcr.io/a/b"},
		{"us.gcr.io/a/bb:1", "us.gcr.io/a"},
		{"us.gcr.io/aa/b:1", "us.gcr.io"},
		{"US.GCR.IO/aa/b:1", "us.gcr.io"},
		{"us.gcr.io:5000/a/b:1", "us.gcr.io:5000/a"},
		{"us.gcr.io:5000/b:1", "us.gcr.io:5000"},
		{"us.gcr.io:5001/a/b:1", "*"},
		{"asia.gcr.io/a/b:1", "*.gcr.io"},
		{"eu.gcr.io/a/b:1", "*.gcr.io"},
		{"x.eu.gcr.io/a/b:1", "*.eu.gcr.io"},
		{"y.x.eu.gcr.io/a/b:1", "*.eu.gcr.io"},
		{"gcr.io/a/b:1", "*"},
		{"mygcr.io/a/b:1", "*"},
		{"nginx", "*"},
	} {
		for _, order := range []string{"as written", "reversed"} {
			routes := routesOf(t, rulesText(rules...))
			if got := routes.Route(t.Context(), tt.ref); got.Rule != tt.want {
				t.Errorf("%s, rules %s: got rule %q, want %q", tt.ref, order, got.Rule, tt.want)
			}
			slices.Reverse(rules)
		}
	}
}

// What lies under a registry's domain or a target is external already.
func TestRoutes(t *testing.T) {
	const registry = "[[registries]]\ndomain = \"r.io/p\"\n"
	for _, tt := range []struct {
		name, config, ref, rule string
		want                    []string
	}{
		{"under a domain, *", registry + rulesText("* -> r.io/all"), "r.io/p/a:1", "", []string{"r.io/p/a:1"}},
		{"the domain itself, *", registry, "r.io/p:1", "", []string{"r.io/p:1"}},
		{"beside a domain, *", registry, "r.io/pp:1", "*", []string{"r.io/p/r.io/pp:1"}},
		{"under a domain, shorter rule", registry + rulesText("r.io -> x.io"), "r.io/p/a:1", "", []string{"r.io/p/a:1"}},
		{"beside a domain, shorter rule", registry + rulesText("r.io -> x.io"), "r.io/a:1", "r.io", []string{"x.io/a:1"}},
		{"under a domain, *.host", registry + rulesText("*.r.io -> x.io", "q.r.io/a -> x.io/y"), "r.io/p/a:1", "", []string{"r.io/p/a:1"}},
		{"under a domain, rule at it", registry + rulesText("r.io/p -> x.io"), "r.io/p/a:1", "r.io/p", []string{"x.io/a:1"}},
		{"under a domain, rule below it", registry + rulesText("r.io/p/a -> x.io/y"), "r.io/p/a/b:1", "r.io/p/a", []string{"x.io/y/b:1"}},
		{"under a domain, tag below it", registry + rulesText("r.io/p/a:1 -> x.io/y"), "r.io/p/a:1", "r.io/p/a:1", []string{"x.io/y:1"}},
		{"under a domain, digest below it", registry + rulesText("r.io/p/a@"+aDigest+" -> x.io/y"), "r.io/p/a@" + aDigest, "r.io/p/a@" + aDigest, []string{"x.io/y@" + aDigest}},
		{"under a domain, denied", registry + rulesText("r.io/p/bad -> deny"), "r.io/p/bad:1", "r.io/p/bad", nil},
		{"under a target, *", rulesText("quay.io -> r.io/q", "* -> r.io/all"), "r.io/q/a:1", "", []string{"r.io/q/a:1"}},
		{"under the target of a *", rulesText("* -> r.io/all"), "r.io/all/quay.io/a:1", "", []string{"r.io/all/quay.io/a:1"}},
		{"under a target in second place", rulesText("quay.io -> a.io, b.io/q", "* -> r.io/all"), "b.io/q/a:1", "", []string{"b.io/q/a:1"}},
		{"a target's host is not the target", rulesText("quay.io -> r.io/q", "* -> r.io/all"), "r.io/x:1", "*", []string{"r.io/all/r.io/x:1"}},
		{"target below its own from", rulesText("quay.io -> quay.io/mirror"), "quay.io/a:1", "quay.io", []string{"quay.io/mirror/a:1"}},
		{"target below its own from, again", rulesText("quay.io -> quay.io/mirror"), "quay.io/mirror/a:1", "", []string{"quay.io/mirror/a:1"}},
		{"B23: to itself", rulesText("quay.io -> quay.io"), "quay.io/a:1", "quay.io", []string{"quay.io/a:1"}},
		{"B24: there and back", rulesText("a.io -> b.io", "b.io -> a.io"), "a.io/x:1", "a.io", []string{"b.io/x:1"}},
		{"B24: and back", rulesText("a.io -> b.io", "b.io -> a.io"), "b.io/x:1", "b.io", []string{"a.io/x:1"}},
		{"a chain is one step", rulesText("a.io -> b.io/p", "b.io/p -> c.io"), "a.io/x:1", "a.io", []string{"b.io/p/x:1"}},
		{"in order, source last", rulesText("quay.io -> a.io/p, b.io, source"), "quay.io/a:1", "quay.io", []string{"a.io/p/a:1", "b.io/a:1", "quay.io/a:1"}},
		{"source first", rulesText("quay.io -> source, b.io"), "quay.io/a:1", "quay.io", []string{"quay.io/a:1", "b.io/a:1"}},
		{"source for a longer prefix", registry + rulesText("quay.io -> a.io", "quay.io/mine -> source"), "quay.io/mine/a:1", "quay.io/mine", []string{"quay.io/mine/a:1"}},
		{"source for *", registry + rulesText("* -> source"), "quay.io/a:1", "*", []string{"quay.io/a:1"}},
		{"implied *", registry, "quay.io/a:1", "*", []string{"r.io/p/quay.io/a:1"}},
		{"implied * goes to the first", registry + "[[registries]]\ndomain = \"s.io\"\n", "quay.io/a:1", "*", []string{"r.io/p/quay.io/a:1"}},
		{"no registry, no *", rulesText("quay.io -> a.io"), "nginx", "", []string{"docker.io/library/nginx:latest"}},
		{"nothing at all", "", "nginx", "", []string{"docker.io/library/nginx:latest"}},
		{"Docker Hub by another name", rulesText("registry-1.docker.io/library -> r.io/hub"), "nginx", "docker.io/library", []string{"r.io/hub/nginx:latest"}},
		{"C2: part of a component", rulesText("docker.io/lib -> r.io"), "docker.io/library/nginx", "", []string{"docker.io/library/nginx:latest"}},
		{"IPv6", rulesText("[::1]:5000 -> [::2]:5000/p"), "[::1]:5000/a:1", "[::1]:5000", []string{"[::2]:5000/p/a:1"}},
		{"IPv6 in another spelling", rulesText("[0::1]:5000 -> [::2]:5000/p"), "[0:0:0:0:0:0:0:1]:5000/a:1", "[::1]:5000", []string{"[::2]:5000/p/a:1"}},
		{"IPv6, another port", rulesText("[::1]:5000 -> [::2]:5000/p"), "[::1]:500/a:1", "", []string{"[::1]:500/a:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := routesOf(t, tt.config).Route(t.Context(), tt.ref)
			if (got.Err != nil) != (tt.want == nil) {
				t.Fatalf("got error %v, want targets %q", got.Err, tt.want)
			}
			if got.Rule != tt.rule || !slices.Equal(pulls(got), tt.want) {
				t.Errorf("got rule %q and targets %q, want %q and %q", got.Rule, pulls(got), tt.rule, tt.want)
			}
		})
	}
}

// A route that is gone along leads to names that are left alone.
func TestRewritingIsIdempotent(t *testing.T) {
	for _, config := range []string{
		"[[registries]]\ndomain = \"r.io/p\"\n",
		"[[registries]]\ndomain = \"r.io\"\n" + rulesText("quay.io -> r.io/q", "*.gcr.io -> r.io/g", "quay.io/a/b:1 -> r.io/one"),
		rulesText("* -> r.io/all", "quay.io -> quay.io/mirror", "docker.io/library -> r.io/hub"),
	} {
		routes := routesOf(t, config)
		for _, ref := range []string{"nginx", "quay.io/a/b:1", "quay.io/a/b:2", "us.gcr.io/a@" + aDigest, "r.io/x:1", "quay.io/mirror/x"} {
			once := pulls(routes.Route(t.Context(), ref))
			if len(once) != 1 {
				t.Fatalf("%s: got %q, want one target", ref, once)
			}
			if twice := pulls(routes.Route(t.Context(), once[0])); !slices.Equal(twice, once) {
				t.Errorf("%s: got %q for %q, want it left alone", ref, twice, once)
			}
		}
	}
}

func TestDeny(t *testing.T) {
	routes := routesOf(t, rulesText("quay.io -> r.io/q", "quay.io/bad -> deny", "quay.io/bad/good -> r.io/good", "*.evil.io -> deny"))
	for ref, rule := range map[string]string{"quay.io/bad/x:1": "quay.io/bad", "quay.io/bad:1": "quay.io/bad", "a.evil.io/x": "*.evil.io"} {
		got := routes.Route(t.Context(), ref)
		if got.Err == nil || !errdefs.IsPermissionDenied(got.Err) || got.Rule != rule || len(got.Targets) > 0 {
			t.Errorf("%s: got rule %q, targets %q, error %v, want permission denied by %q", ref, got.Rule, pulls(got), got.Err, rule)
		}
		if want := fmt.Sprintf("denied by rule %q", rule); got.Err != nil && !strings.Contains(got.Err.Error(), want) {
			t.Errorf("%s: got %v, want %q", ref, got.Err, want)
		}
	}
	for _, ref := range []string{"quay.io/badly/x:1", "quay.io/bad/good/x:1", "evil.io/x"} {
		if got := routes.Route(t.Context(), ref); got.Err != nil {
			t.Errorf("%s: got %v, want a route", ref, got.Err)
		}
	}
}

// The credential and TLS of a target are those of the registry with the longest domain that it lies under.
func TestTargetRegistry(t *testing.T) {
	routes := routesOf(t, `
[[registries]]
domain = "r.io"
username = "u"
password = "hunter2"
[[registries]]
domain = "r.io/p"
insecure = true
[[registries]]
domain = "http://plain.io"
insecure = true
[[rules]]
from = "*"
to = ["r.io/p/q", "r.io/pp", "plain.io", "other.io", "source"]
`)
	want := []string{
		"registry r.io/p none insecure", "registry r.io password system", "registry plain.io none http", "registry  none system", "source  client system",
	}
	route := routes.Route(t.Context(), "nginx")
	var got []string
	for _, target := range route.Targets {
		got = append(got, fmt.Sprintf("%s %s %s %s", target.Kind, target.Domain(), target.Credential(), target.TLS()))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q (%v), want %q", got, route.Err, want)
	}
	noop := routesOf(t, rulesText("quay.io -> quay.io")).Route(t.Context(), "quay.io/a:1").Targets[0]
	if got, want := string(noop.Kind)+" "+noop.Credential(), "source client"; got != want {
		t.Errorf("a rule that changes nothing: got %s, want %s", got, want)
	}
	if text := fmt.Sprintf("%+v %#v", route, route.Targets[1]); strings.Contains(text, "hunter2") {
		t.Errorf("got the password in %s", text)
	}
}
