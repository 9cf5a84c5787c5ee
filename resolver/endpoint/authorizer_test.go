// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// SEC-01, SEC-05: what the authorizer has learnt is for the registry's host and port alone, whoever asks it.
func TestAuthorizeOwnAlone(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("own", 1<<10)
	authority := registrytest.NewAuthority(t)
	basic := registrytest.Serve(t, authority.Server(t), registrytest.Basic(user, password, registrytest.Registry{Image: image}))
	bearer := guard(t, login(), nil)
	for _, tt := range []struct {
		name, host string
		endpoint   *endpoint.Endpoint
		image      registrytest.Image
	}{
		{"basic", basic.Host, newEndpoint(t, basic.Host, login(), trusting(authority)), image},
		{"bearer", bearer.server.Host, bearer.endpoint, bearer.image},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := pull(t.Context(), tt.endpoint, "app", tt.image); err != nil {
				t.Fatal(err)
			}
			hosts, err := tt.endpoint.Hosts(nil)(tt.host)
			if err != nil {
				t.Fatal(err)
			}
			authorizer := hosts[0].Authorizer
			for _, to := range []struct {
				host string
				want bool
			}{
				{tt.host, true},
				{"127.0.0.1:1", false},
				{"127.0.0.1", false},
				{strings.Replace(tt.host, "127.0.0.1", "localhost", 1), false},
				{"evil.test", false},
			} {
				ctx := docker.WithScope(t.Context(), "repository:app:pull")
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+to.host+"/v2/app/manifests/1", nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := authorizer.Authorize(ctx, req); err != nil {
					t.Errorf("%s: %v", to.host, err)
				}
				if got := req.Header.Get("Authorization") != ""; got != to.want {
					t.Errorf("got %s authorized %t, want %t", to.host, got, to.want)
				}
				refusal := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {"Basic"}}, Request: req}
				if err := authorizer.AddResponses(ctx, []*http.Response{refusal}); !to.want && (err == nil || !strings.Contains(err.Error(), "not its own")) {
					t.Errorf("got %v of the challenge of %s, want it refused", err, to.host)
				}
			}
		})
	}
}

// A token is asked for by what the registry says of itself, and for the repository that is pulled alone.
func TestTokenRequest(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	g.pull(t, "one")
	g.pull(t, "two")
	requests := g.realm.Requests()
	if len(requests) != 2 {
		t.Fatalf("got %d requests for tokens, want 2", len(requests))
	}
	for i, name := range []string{"one", "two"} {
		query, err := url.ParseQuery(requests[i].Query)
		if want := []string{"repository:" + name + ":pull"}; err != nil || !slices.Equal(query["scope"], want) || query.Get("service") != "registry.test" {
			t.Errorf("got a token asked for by %q (%v), want scope %q of service registry.test", requests[i].Query, err, want)
		}
	}
}

// Where a registry wants a username and a password, and there are none, or an identity token, nothing is sent.
func TestNoPassword(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("none", 1<<10)
	authority := registrytest.NewAuthority(t)
	for _, tt := range []struct {
		name string
		cred credential.Credential
	}{
		{name: "none"},
		{"identity token", credential.Credential{Username: credential.IdentityToken, Password: "canary-refresh"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := registrytest.Serve(t, authority.Server(t), registrytest.Basic(user, password, registrytest.Registry{Image: image}))
			e := newEndpoint(t, server.Host, &keychain{cred: tt.cred}, trusting(authority))
			wantError(t, pull(t.Context(), e, "app", image), server.Host+" asks for a username and a password, and none is configured")
			for _, r := range server.Requests() {
				if got := r.Header.Get("Authorization"); got != "" {
					t.Errorf("got authorization %q sent, want none", got)
				}
			}
		})
	}
}

// A registry that wants to be authenticated to in a way that is not known is told from one that refuses a password.
func TestUnknownScheme(t *testing.T) {
	t.Parallel()
	authority := registrytest.NewAuthority(t)
	for _, tt := range []struct{ challenge, want string }{
		{"Negotiate", ` asks for authentication by "Negotiate", and Basic and Bearer are what is supported`},
		{`Digest realm="x", nonce="canary"`, ` asks for authentication by "Digest", and`},
		{"", "401 Unauthorized"},
	} {
		server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if tt.challenge != "" {
				w.Header().Set("WWW-Authenticate", tt.challenge)
			}
			w.WriteHeader(http.StatusUnauthorized)
		}))
		err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", registrytest.Image{})
		wantError(t, err, server.Host, tt.want)
		if tt.challenge != "" && !errors.Is(err, docker.ErrInvalidAuthorization) {
			t.Errorf("%s: got %v, want that it is unauthorized", tt.challenge, err)
		}
	}
}

// What a token server answers a refusal with differs: 401 (distribution) or 403 (some proxies). Either is the credential's
// fault. Errors do not quote the address that was asked.
func TestTokenRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		code int // 0: the server ends the connection
		body string
		want string
	}{
		{"unauthorized", http.StatusUnauthorized, "", "unauthorized (401 Unauthorized): authorization failed"},
		{"forbidden", http.StatusForbidden, "", "unauthorized (403 Forbidden): authorization failed"},
		{"with a reason", http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"client with IP 192.0.2.1\nis not allowed access"}]}`,
			"unauthorized (403 Forbidden): denied: client with IP 192.0.2.1 is not allowed access: authorization failed"},
		{"with another", http.StatusUnauthorized, `{"details":"incorrect password ` + password + `"}` + "\n", `unauthorized (401 Unauthorized): {"details":"incorrect password ***"}: authorization failed`},
		{"with a long one", http.StatusUnauthorized, strings.Repeat("é", 1000), "unauthorized (401 Unauthorized): " + strings.Repeat("é", 256) + "…: authorization failed"},
		{"with a page", http.StatusUnauthorized, " <!DOCTYPE html>", "unauthorized (401 Unauthorized): authorization failed"},
		{"gone", 0, "", "fetch token from "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := guard(t, login(), func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					if tt.code == 0 {
						panic(http.ErrAbortHandler)
					}
					w.WriteHeader(tt.code)
					_, _ = io.WriteString(w, tt.body)
				})
			})
			err := pull(t.Context(), g.endpoint, "app", g.image)
			wantError(t, err, "fetch token from "+g.realm.Host, tt.want)
			if strings.Contains(err.Error(), "/token") {
				t.Errorf("got error %q, want none with the address that was asked", err)
			}
		})
	}
}

// A token server that redirects to itself is left after ten times.
func TestTokenRedirectLoop(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) })
	})
	wantError(t, pull(t.Context(), g.endpoint, "app", g.image), "stopped after 10 redirects")
	if got := len(g.realm.Requests()); got != 10 {
		t.Errorf("got %d requests for a token, want 10", got)
	}
}

// moreWanted is a registry that wants a token for a base image, too.
type moreWanted struct{ http.ResponseWriter }

func (w moreWanted) WriteHeader(code int) {
	const asked = "WWW-Authenticate"
	w.Header().Set(asked, strings.Replace(w.Header().Get(asked), ":pull\"", ":pull repository:base:pull\"", 1))
	w.ResponseWriter.WriteHeader(code)
}

// What a registry wants for a repository is known as long as it is used for a guess at what it wants for others.
func TestScopeIsKept(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	inner := g.tokens.Protect(registrytest.Registry{Image: g.image})
	server := registrytest.Serve(t, g.authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(moreWanted{w}, r)
	}))
	e := newEndpoint(t, server.Host, login(), trusting(g.authority))
	for _, name := range []string{"one", "two", "one"} {
		if err := pull(t.Context(), e, name, g.image); err != nil {
			t.Fatal(err)
		}
	}
	var got [][]string
	for _, r := range g.realm.Requests() {
		query, err := url.ParseQuery(r.Query)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, query["scope"])
	}
	want := [][]string{{"repository:base:pull", "repository:one:pull"}, {"repository:two:pull"}}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got tokens asked for with the scopes %q, want %q", got, want)
	}
}

// A token that the registry refuses is replaced; those of other repositories are not.
func TestTokenRefusedIsReplacedAlone(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("alone", 1<<10)
	authority := registrytest.NewAuthority(t)
	tokens := registrytest.NewTokens(user, password)
	tokens.Realm = registrytest.Serve(t, authority.Server(t), tokens).URL + "/token"
	var refuse atomic.Bool
	inner := tokens.Protect(registrytest.Registry{Image: image})
	server := registrytest.Serve(t, authority.Server(t), only("/one/manifests/", func(w http.ResponseWriter, r *http.Request) {
		if refuse.CompareAndSwap(true, false) {
			r.Header.Del("Authorization")
		}
		inner.ServeHTTP(w, r)
	}, inner))
	e := newEndpoint(t, server.Host, login(), trusting(authority))
	for _, step := range []struct {
		name   string
		refuse bool
		want   int // tokens, after that
	}{{"one", false, 1}, {"two", false, 2}, {"one", true, 3}, {"two", false, 3}, {"one", false, 3}} {
		refuse.Store(step.refuse)
		if err := pull(t.Context(), e, step.name, image); err != nil {
			t.Fatal(err)
		}
		if got := len(tokens.Issued()); got != step.want {
			t.Errorf("after a pull of %s: got %d tokens, want %d", step.name, got, step.want)
		}
	}
}
