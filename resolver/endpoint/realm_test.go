// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// SEC-02, R20: a token realm that the credential may not go to is refused, and nothing is sent.
func TestRealmRefused(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("realm", 1<<10)
	authority := registrytest.NewAuthority(t)
	plain := registrytest.Serve(t, nil, registrytest.NewTokens(user, password))
	secure := registrytest.Serve(t, authority.Server(t), registrytest.NewTokens(user, password))
	_, port, _ := net.SplitHostPort(secure.Host)
	_, plainPort, _ := net.SplitHostPort(plain.Host)
	for _, tt := range []struct{ name, realm, want string }{
		{"plain HTTP", plain.URL + "/token", "plain http"},
		{"plain HTTP, own host", "http://127.0.0.1:" + plainPort + "/token", "plain http"},
		{"link-local address", "https://169.254.169.254/token", "an address that is not the registry's"},
		{"link-local address, plain", "http://169.254.169.254/token", "plain http"},
		{"another loopback address", "https://127.0.0.2:" + port + "/token", "an address that is not the registry's"},
		{"IPv6 loopback", "https://[::1]:" + port + "/token", "an address that is not the registry's"},
		{"IPv4 in IPv6", "https://[::ffff:127.0.0.1]:" + port + "/token", "an address that is not the registry's"},
		{"IPv6 with a zone", "https://[fe80::1%25lo]:" + port + "/token", "an address that is not the registry's"},
		{"public address", "https://192.0.2.1/token", "an address that is not the registry's"},
		{"name of loopback, listed at another port", "https://localhost:" + port + "/token", "resolves to the local address"},
		{"file", "file:///etc/passwd", "not a URL"},
		{"other scheme", "ftp://127.0.0.1/token", "neither http nor https"},
		{"username", "https://user:word@127.0.0.1:" + port + "/token", "it has a username"},
		{"empty", "", "not a URL"},
		{"not a URL", "https://%zz/", "not a URL"},
		{"path alone", "/token", "not a URL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tokens := registrytest.NewTokens(user, password)
			tokens.Realm = tt.realm
			server := registrytest.Serve(t, authority.Server(t), tokens.Protect(registrytest.Registry{Image: image}))
			opts := trusting(authority)
			opts.TokenRealms = []string{"localhost:1"}
			e := newEndpoint(t, server.Host, login(), opts)
			err := pull(t.Context(), e, "app", image)
			wantError(t, err, "token realm", "refused for "+server.Host, tt.want)
			if strings.Contains(err.Error(), "word") {
				t.Errorf("the error quotes the password of the realm: %v", err)
			}
			var own *endpoint.Error
			if !errors.As(err, &own) || own.Cause != endpoint.RealmRefused {
				t.Errorf("got cause %+v, want %s", own, endpoint.RealmRefused)
			}
			if got := len(server.Requests()); got != 1 {
				t.Errorf("got %d requests, want 1", got)
			}
			if got := server.Received(secrets[:5]...); len(got) != 0 {
				t.Errorf("the registry received %q, want no credential", got)
			}
		})
	}
	for what, s := range map[string]*registrytest.Server{"plain": plain, "secure": secure} {
		if got := len(s.Requests()); got != 0 {
			t.Errorf("got %d requests at the %s realm, want 0", got, what)
		}
		noSecrets(t, "the "+what+" realm", s)
	}
}

// SEC-02: realms that the credential may go to.
func TestRealmAllowed(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("realm", 1<<10)
	authority := registrytest.NewAuthority(t)
	for _, tt := range []struct {
		name, realm, listed string
		plain               bool
	}{
		{name: "own host at another port", realm: "https://127.0.0.1:PORT/token"},
		{name: "listed host", realm: "https://localhost:PORT/token", listed: "LocalHost"},
		{name: "listed host and port", realm: "https://localhost:PORT/token", listed: "localhost:PORT"},
		{name: "own host of a plain registry", realm: "http://127.0.0.1:PORT/token", plain: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, opts := authority.Server(t), trusting(authority)
			if tt.plain {
				config, opts = nil, endpoint.Options{Insecure: true}
			}
			tokens := registrytest.NewTokens(user, password)
			realm := registrytest.Serve(t, config, tokens)
			_, port, _ := net.SplitHostPort(realm.Host)
			tokens.Realm = strings.ReplaceAll(tt.realm, "PORT", port)
			if tt.listed != "" {
				opts.TokenRealms = []string{strings.ReplaceAll(tt.listed, "PORT", port)}
			}
			server := registrytest.Serve(t, config, tokens.Protect(registrytest.Registry{Image: image}))
			if err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image); err != nil {
				t.Fatal(err)
			}
			if got := len(realm.Requests()); got != 1 {
				t.Errorf("got %d token requests, want 1", got)
			}
		})
	}
}

// SEC-03: a token request, which carries the credential, stays on its host and on HTTPS.
func TestTokenRedirect(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("token redirect", 1<<10)
	authority := registrytest.NewAuthority(t)
	plain := registrytest.Serve(t, nil, http.NotFoundHandler())
	other := registrytest.Serve(t, authority.Server(t), http.NotFoundHandler())
	for _, tt := range []struct{ name, to, want string }{
		{"other port", other.URL + "/token", "refusing token redirect to https://" + other.Host},
		{"plain HTTP", plain.URL + "/token", "refusing token redirect to http://" + plain.Host},
		{"plain HTTP of the same port", "http://REALM/token", "refusing token redirect to http://127.0.0.1:"},
		{"same host", "/elsewhere", ""},
	} {
		for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
			t.Run(tt.name+" "+http.StatusText(code), func(t *testing.T) {
				tokens := registrytest.NewTokens(user, password)
				realm := registrytest.Serve(t, authority.Server(t), only("/token", func(w http.ResponseWriter, r *http.Request) {
					http.Redirect(w, r, strings.ReplaceAll(tt.to, "REALM", r.Host)+"?"+r.URL.RawQuery, code)
				}, tokens))
				tokens.Realm = realm.URL + "/token"
				server := registrytest.Serve(t, authority.Server(t), tokens.Protect(registrytest.Registry{Image: image}))
				err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image)
				if tt.want != "" {
					wantError(t, err, tt.want)
				} else if err != nil {
					t.Fatal(err)
				}
			})
		}
	}
	for what, s := range map[string]*registrytest.Server{"plain": plain, "other": other} {
		if got := s.Connections(); got != 0 {
			t.Errorf("got %d connections to the %s host, want 0", got, what)
		}
	}
}

// Repositories of one registry may have token servers of their own, as those of Artifactory have: pulls of several at
// once do not disturb each other.
func TestRealmOfEachRepository(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("each", 1<<10)
	authority := registrytest.NewAuthority(t)
	var asked sync.WaitGroup // both repositories challenge before either is asked again
	asked.Add(2)
	handler := make(map[string]http.Handler)
	for _, name := range []string{"one", "two"} {
		tokens := registrytest.NewTokens(user, password)
		tokens.Realm = registrytest.Serve(t, authority.Server(t), tokens).URL + "/token"
		inner := tokens.Protect(registrytest.Registry{Image: image})
		var challenged atomic.Bool
		handler[name] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if challenged.CompareAndSwap(false, true) {
				asked.Done()
				asked.Wait()
			}
			inner.ServeHTTP(w, r)
		})
	}
	server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler[strings.Split(r.URL.Path, "/")[2]].ServeHTTP(w, r)
	}))
	e := newEndpoint(t, server.Host, login(), trusting(authority))
	var pulls sync.WaitGroup
	for name := range handler {
		pulls.Go(func() {
			for range 10 {
				if err := pull(t.Context(), e, name, image); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	pulls.Wait()
	var challenges int
	for _, r := range server.Requests() {
		if r.Header.Get("Authorization") == "" {
			challenges++
		}
	}
	if got, want := len(server.Requests()), 2*10*4+2; challenges != 2 || got != want {
		t.Errorf("got %d requests, %d of them without authorization, want %d and 2", got, challenges, want)
	}
}
