// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-edge/berth/resolver"
)

func TestParseRule(t *testing.T) {
	to := []string{"r.example.com/p"}
	for _, tt := range []struct{ name, from, want string }{
		{"host", "Quay.IO", "quay.io"},
		{"host and port", "quay.io:5000", "quay.io:5000"},
		{"path", "quay.io/a/b/", "quay.io/a/b"},
		{"alias", "registry-1.docker.io/longhornio", "docker.io/longhornio"},
		{"sub-domains", "*.GCR.io", "*.gcr.io"},
		{"sub-domains, slash", "*.gcr.io/", "*.gcr.io"},
		{"sub-domains and port", "*.gcr.io:5000", "*.gcr.io:5000"},
		{"sub-domains and the port of HTTPS", "*.gcr.io:443", "*.gcr.io"},
		{"sub-domains of an alias are not those of Docker Hub", "*.index.docker.io", "*.index.docker.io"},
		{"tag", "quay.io/a/b:V1", "quay.io/a/b:V1"},
		{"tag of Docker Hub", "docker.io/nginx:1", "docker.io/library/nginx:1"},
		{"tag, host and port", "quay.io:5000/a:1", "quay.io:5000/a:1"},
		{"digest", "quay.io/a@" + aDigest, "quay.io/a@" + aDigest},
		{"IPv6", "[::1]:5000", "[::1]:5000"},
		{"IPv6 path", "[::1]/a", "[::1]/a"},
		{"any", "*", "*"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := resolver.ParseRule(resolver.Rule{From: tt.from, To: to})
			if err != nil {
				t.Fatal(err)
			}
			want := resolver.Rule{From: tt.want, To: to, Path: resolver.PathRest}
			if tt.want == "*" {
				want.Path = resolver.PathFull
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			again, err := resolver.ParseRule(got)
			if err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("parsed again: got %+v, %v, want %+v", again, err, got)
			}
		})
	}
}

// C3, C5 and the mistakes of a rule.
func TestParseRuleRefuses(t *testing.T) {
	to := []string{"r.example.com/p"}
	for _, tt := range []struct {
		name string
		rule resolver.Rule
		want []string // one for each mistake
	}{
		{"empty from", resolver.Rule{To: to}, []string{"from is empty"}},
		{"empty to", resolver.Rule{From: "quay.io"}, []string{"to is empty"}},
		{"empty target", resolver.Rule{From: "quay.io", To: []string{""}}, []string{"to is empty; want host[:port][/path]"}},
		{"everything", resolver.Rule{From: "nginx", To: []string{"x", "R.io/X"}, Path: "half", Deny: true}, []string{
			`from "nginx" begins with "nginx", which is no host`, `path "half" is not known`, "deny excludes to",
			`to "x" begins with "x", which is no host`, `to "R.io/X" has upper-case letters in its path`}},
		{"deny and to", resolver.Rule{From: "quay.io", To: to, Deny: true}, []string{"deny excludes to"}},
		{"sub-domains and path", resolver.Rule{From: "*.gcr.io/a", To: to}, []string{`from "*.gcr.io/a" has a path after *.host`}},
		{"top-level domain", resolver.Rule{From: "*.com", To: to}, []string{`from "*.com" matches too much`}},
		{"two stars", resolver.Rule{From: "**", To: to}, []string{`from "**" has * in a place`}},
		{"two labels of stars", resolver.Rule{From: "*.*.io", To: to}, []string{`from "*.*.io" matches too much`}},
		{"star in the middle", resolver.Rule{From: "us.*.io", To: to}, []string{`from "us.*.io" has * in a place`}},
		{"star in the path", resolver.Rule{From: "gcr.io/*", To: to}, []string{`from "gcr.io/*" has * in a place`}},
		{"star with port", resolver.Rule{From: "*:5000", To: to}, []string{`from "*:5000" has * in a place`}},
		{"sub-domains, port", resolver.Rule{From: "*.gcr.io:0", To: to}, []string{`port "0" is not a number`}},
		{"scheme in from", resolver.Rule{From: "https://quay.io", To: to}, []string{`from "https://quay.io" has a scheme`}},
		{"scheme in to", resolver.Rule{From: "quay.io", To: []string{"https://r.io"}}, []string{`to "https://r.io" has a scheme`}},
		{"tag in to", resolver.Rule{From: "quay.io", To: []string{"r.io/p:1"}}, []string{`to "r.io/p:1" has a tag or a digest`}},
		{"digest in to", resolver.Rule{From: "quay.io", To: []string{"r.io/p@" + aDigest}}, []string{"has a tag or a digest"}},
		{"tag and digest", resolver.Rule{From: "quay.io/a:1@" + aDigest, To: to}, []string{"has a tag and a digest"}},
		{"short digest", resolver.Rule{From: "quay.io/a@sha256:0", To: to}, []string{"is not host/path:tag or host/path@digest: invalid reference format"}},
		{"bad tag", resolver.Rule{From: "quay.io/a:-", To: to}, []string{`from "quay.io/a:-" is not host/path:tag`}},
		{"tag rule to a host", resolver.Rule{From: "quay.io/a:1", To: []string{"r.io"}}, []string{`to "r.io" is a host alone`}},
		{"double slash", resolver.Rule{From: "quay.io//a", To: to}, []string{`from "quay.io//a" is not a repository prefix`}},
		{"dot-dot", resolver.Rule{From: "quay.io/a/..", To: to}, []string{`from "quay.io/a/.." is not a repository prefix`}},
		{"no host", resolver.Rule{From: "/a", To: to}, []string{`from "/a" begins with "", which is no host`}},
		{"space", resolver.Rule{From: " quay.io", To: to}, []string{`from " quay.io" begins with " quay.io", which is not a host`}},
		{"tag without host", resolver.Rule{From: "nginx/x:1", To: to}, []string{`begins with "nginx", which is no host`}},
		{"underscore in a host", resolver.Rule{From: "r_x.io", To: to}, []string{`begins with "r_x.io", which is not a host`}},
		{"port", resolver.Rule{From: "quay.io:70000", To: to}, []string{`port "70000" is not a number`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := resolver.ParseRule(tt.rule)
			if err == nil {
				t.Fatalf("got no error, want %q", tt.want)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("got %d mistakes, want %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("got %q, want %q", lines[i], want)
				}
			}
		})
	}
}

// What stands before an @ in a host may be a password, and no error says it.
func TestParseRuleDoesNotQuotePasswords(t *testing.T) {
	for _, host := range []string{"user:hunter2@r.io", "https://user:hunter2@r.io/p", "user:hunter2@r.io/p:1", "hunter2@r.io",
		"user:a/hunter2@r.io", "https://user:1/hunter2@r.io:5000/p"} {
		_, err := resolver.ParseRule(resolver.Rule{From: host, To: []string{host}})
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Count(err.Error(), "@ in its host") != 2 {
			t.Errorf("%s: got %v, want two errors about the @ that do not quote it", host, err)
		}
	}
}

func TestRewrite(t *testing.T) {
	path253 := strings.Repeat("p", 253)
	for _, tt := range []struct{ name, from, path, to, ref, want string }{
		{"host, rest", "quay.io", "rest", "r.io/p", "quay.io/a/b:1", "r.io/p/a/b:1"},
		{"host, full", "quay.io", "full", "r.io/p", "quay.io/a/b:1", "r.io/p/quay.io/a/b:1"},
		{"host, base", "quay.io", "base", "r.io/p", "quay.io/a/b:1", "r.io/p/b:1"},
		{"path, rest", "quay.io/a", "rest", "r.io/p", "quay.io/a/b/c:1", "r.io/p/b/c:1"},
		{"path, full", "quay.io/a", "full", "r.io/p", "quay.io/a/b/c:1", "r.io/p/quay.io/a/b/c:1"},
		{"path, base", "quay.io/a", "base", "r.io/p", "quay.io/a/b/c:1", "r.io/p/c:1"},
		{"repository, rest", "quay.io/a/b", "rest", "r.io/p", "quay.io/a/b:1", "r.io/p:1"},
		{"sub-domains, rest", "*.gcr.io", "rest", "r.io/p", "us.gcr.io/a/b:1", "r.io/p/a/b:1"},
		{"sub-domains, full", "*.gcr.io", "full", "r.io/p", "us.gcr.io/a/b:1", "r.io/p/us.gcr.io/a/b:1"},
		{"sub-domains, base", "*.gcr.io", "base", "r.io/p", "us.gcr.io/a/b:1", "r.io/p/b:1"},
		{"any, default is full", "*", "", "r.io/p", "quay.io/a/b:1", "r.io/p/quay.io/a/b:1"},
		{"any, rest replaces the host", "*", "rest", "r.io/p", "quay.io/a/b:1", "r.io/p/a/b:1"},
		{"any, base", "*", "base", "r.io/p", "quay.io/a/b:1", "r.io/p/b:1"},
		{"any, to a host", "*", "", "r.io", "nginx", "r.io/docker.io/library/nginx:latest"},
		{"tag, rest", "quay.io/a/b:1", "rest", "r.io/p/x", "quay.io/a/b:1", "r.io/p/x:1"},
		{"tag, full", "quay.io/a/b:1", "full", "r.io/p", "quay.io/a/b:1", "r.io/p/quay.io/a/b:1"},
		{"tag, base", "quay.io/a/b:1", "base", "r.io/p", "quay.io/a/b:1", "r.io/p/b:1"},
		{"tag, base, to a host", "quay.io/a/b:1", "base", "r.io", "quay.io/a/b:1", "r.io/b:1"},
		{"digest, rest", "quay.io/a/b@" + aDigest, "rest", "r.io/x", "quay.io/a/b@" + aDigest, "r.io/x@" + aDigest},
		{"digest, full", "quay.io/a/b@" + aDigest, "full", "r.io/x", "quay.io/a/b@" + aDigest, "r.io/x/quay.io/a/b@" + aDigest},
		{"digest, base", "quay.io/a/b@" + aDigest, "base", "r.io/x", "quay.io/a/b@" + aDigest, "r.io/x/b@" + aDigest},
		{"tag and digest are kept", "quay.io", "rest", "r.io", "quay.io/a:1@" + aDigest, "r.io/a:1@" + aDigest},
		{"host with port", "quay.io:5000", "rest", "r.io:5443", "quay.io:5000/a:1", "r.io:5443/a:1"},
		{"IPv6", "[::1]:5000", "rest", "[::2]:5000/p", "[::1]:5000/a:1", "[::2]:5000/p/a:1"},
		{"base of one component", "quay.io", "base", "r.io", "quay.io/a:1", "r.io/a:1"},
		{"path of 255", "quay.io", "rest", "registry.example.com:5000/p", "quay.io/" + path253 + ":1", "registry.example.com:5000/p/" + path253 + ":1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := rewrite(t, tt.from, tt.path, tt.to, tt.ref)
			if err != nil || got != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// B19, B20, SEC-37: what is no repository is an error that names the rule, and no other repository.
func TestRewriteRefuses(t *testing.T) {
	for _, tt := range []struct{ name, from, path, to, ref, want string }{
		{"path of 256", "quay.io", "rest", "r.io/pp", "quay.io/" + strings.Repeat("p", 253) + ":1", "rewritten repository is 256 bytes, limit 255"},
		{"nothing left", "quay.io/a/b", "rest", "r.io", "quay.io/a/b:1", `nothing of the name is left to follow "r.io"; give the target a path`},
		{"port in a path", "*", "full", "r.io/p", "quay.io:5000/a:1", `"r.io/p/quay.io:5000/a" is not a repository, since a path cannot hold the host "quay.io:5000"`},
		{"IPv6 in a path", "*", "full", "r.io/p", "[::1]:5000/a:1", `a path cannot hold the host "[::1]:5000"`},
		{"upper-case host in a path", "*", "full", "r.io/p", "MYHOST/a:1", `a path cannot hold the host "MYHOST"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := rewrite(t, tt.from, tt.path, tt.to, tt.ref)
			if err == nil {
				t.Fatalf("got %s, want an error with %q", got, tt.want)
			}
			for _, want := range []string{tt.want, `by rule "` + tt.from + `"`} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want invalid argument", err)
			}
		})
	}
}

func rewrite(t *testing.T, from, path, to, ref string) (string, error) {
	t.Helper()
	rule, err := resolver.ParseRule(resolver.Rule{From: from, To: []string{to}, Path: resolver.Path(path)})
	if err != nil {
		t.Fatal(err)
	}
	named, err := resolver.ParseNamed(ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := rule.Rewrite(named, rule.To[0])
	if err != nil {
		return "", err
	}
	return got.String(), nil
}
