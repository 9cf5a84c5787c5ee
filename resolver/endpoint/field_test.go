// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/credential/helpertest"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// D9: a token for the registry itself is sent as it is, and no token server is asked.
func TestRegistryToken(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	g.pull(t, "app")
	issued := g.tokens.Issued()[0]
	asked := len(g.realm.Requests())
	e := newEndpoint(t, g.server.Host, &keychain{cred: credential.Credential{Username: credential.RegistryToken, Password: credential.Secret(issued)}}, trusting(g.authority))
	if err := pull(t.Context(), e, "app", g.image); err != nil {
		t.Error(err)
	}
	wantError(t, pull(t.Context(), e, "other", g.image), "unauthorized: the credential was refused")
	if got := len(g.realm.Requests()); got != asked {
		t.Errorf("got %d requests for a token, want none", got-asked)
	}
}

// D9: a registry to which a token is sent as it is need not name a token server, nor one that a password could go to.
func TestRegistryTokenWithoutRealm(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("no realm", 1<<10)
	authority := registrytest.NewAuthority(t)
	other := registrytest.Serve(t, nil, status(http.StatusOK))
	for _, challenge := range []string{`Bearer`, `Bearer realm="/token"`, `Bearer realm="` + other.URL + `/token"`} {
		server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer canary-token" {
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			registrytest.Registry{Image: image}.ServeHTTP(w, r)
		}))
		for token, want := range map[string]string{"canary-token": "", "canary-other": "unauthorized: the credential was refused"} {
			e := newEndpoint(t, server.Host, &keychain{cred: credential.Credential{Username: credential.RegistryToken, Password: credential.Secret(token)}}, trusting(authority))
			if err := pull(t.Context(), e, "app", image); want != "" {
				wantError(t, err, want)
			} else if err != nil {
				t.Errorf("%s: %v", challenge, err)
			}
		}
		wantError(t, pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image), "token realm", "refused")
	}
	if got := other.Requests(); len(got) != 0 {
		t.Errorf("got %d requests at another's token server, want none", len(got))
	}
}

// C10: whatever a token server says of its token's life, a pull gets one token.
func TestTokenOfAnyLife(t *testing.T) {
	t.Parallel()
	for _, life := range []string{`0`, `-1`, `-1000000000000`, `1000000000000`, `null`} {
		g := guard(t, login(), func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(replacing{w, `"token"`, `"expires_in":` + life + `,"token"`}, r)
			})
		})
		g.pull(t, "app")
		g.want(t, "a token that lives "+life, 1, 4, 1)
	}
}

// C11: a token server that is down, slow, or says nothing of use is named, and what it says is read within bounds (SEC-15).
func TestTokenServerFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   string // "": the pull succeeds
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "500"},
		{"not JSON", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "invalid character"},
		{"an empty token", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"token":""}`)) }, "token"},
		{"no token", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) }, "token"},
		{"slow", func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) }, ""},
		{"gone", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "connection lost"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := guard(t, login(), func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					tt.answer(w, r)
					if tt.want == "" {
						next.ServeHTTP(w, r)
					}
				})
			})
			start := time.Now()
			if err := pull(t.Context(), g.endpoint, "app", g.image); tt.want != "" {
				wantError(t, err, "fetch token from "+g.realm.Host, tt.want)
			} else if err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("got an answer after %s", took)
			}
		})
	}
}

// R11: a token server that is too busy is waited for, as a registry is, and not for ever.
func TestTokenServerIsBusy(t *testing.T) {
	t.Parallel()
	busy := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		registrytest.Fail(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests")
	}
	for name, k := range map[string]*keychain{
		"password":       login(),
		"identity token": {cred: credential.Credential{Username: credential.IdentityToken, Password: "canary-identity"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := guard(t, k, func(next http.Handler) http.Handler { return first(2, "/token", busy, next) })
			g.pull(t, "app")
			g.want(t, "a pull", 1, 4, 3)
		})
	}
	t.Run("for ever", func(t *testing.T) {
		t.Parallel()
		g := guard(t, login(), func(next http.Handler) http.Handler {
			return first(1, "/token", next.ServeHTTP, http.HandlerFunc(busy))
		})
		g.tokens.Life = 1
		g.pull(t, "app")
		time.Sleep(time.Second) // the life of a token
		wantError(t, pull(t.Context(), g.endpoint, "app", g.image), "fetch token from "+g.realm.Host, "429")
		if got := len(g.realm.Requests()); got != 1+5 {
			t.Errorf("got %d requests for tokens, want 5 for the second", got)
		}
	})
}

// replacing writes something else for a text.
type replacing struct {
	http.ResponseWriter
	old, text string
}

func (r replacing) Write(b []byte) (int, error) {
	_, err := r.ResponseWriter.Write([]byte(strings.Replace(string(b), r.old, r.text, 1)))
	return len(b), err
}

// Tokens that live for two seconds are replaced while an image of many layers is pulled slowly.
func TestShortTokensOfALongPull(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	g.tokens.Life, g.tokens.Ends = 2, 2*time.Second
	slow := registrytest.Serve(t, g.authority.Server(t), only("/blobs/", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		g.tokens.Protect(registrytest.Registry{Image: g.image}).ServeHTTP(w, r)
	}, g.tokens.Protect(registrytest.Registry{Image: g.image})))
	e := newEndpoint(t, slow.Host, g.keychain, trusting(g.authority))
	fetcher, err := docker.NewResolver(docker.ResolverOptions{Hosts: e.Hosts(nil)}).Fetcher(t.Context(), slow.Host+"/app:1")
	if err != nil {
		t.Fatal(err)
	}
	var layers sync.WaitGroup
	limit := make(chan struct{}, 3)
	for range 45 {
		layers.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			if err := fetch(t.Context(), fetcher, registrytest.Descriptor(ocispec.MediaTypeImageLayer, g.image.Layer)); err != nil {
				t.Error(err)
			}
		})
	}
	layers.Wait()
	if got := len(g.tokens.Issued()); got < 2 || got > 15 {
		t.Errorf("got %d tokens, want 2 or a few more", got)
	}
}

// SEC-06: a helper is asked for the configured registry, and never for the host that a redirect or a realm leads to.
func TestHelperIsAskedForItsRegistryAlone(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("asked", 1<<10)
	authority := registrytest.NewAuthority(t)
	tokens := registrytest.NewTokens(user, password)
	tokens.Realm = registrytest.Serve(t, authority.Server(t), tokens).URL + "/token"
	other := registrytest.Serve(t, authority.Server(t), registrytest.Basic(user, password, registrytest.Registry{Image: image}))
	server := registrytest.Serve(t, authority.Server(t), tokens.Protect(registrytest.Redirect("/blobs/", other.URL, "", registrytest.Registry{Image: image})))
	dir := t.TempDir()
	helper := helpertest.Install(t, dir, "docker-credential-test", helpertest.Script{Stdout: fmt.Sprintf(`{"Username":%q,"Secret":%q}`, user, password)})
	e := newEndpoint(t, server.Host, credential.Source{Helper: "test", HelperDirs: dir}.Keychain(), trusting(authority))
	wantError(t, pull(t.Context(), e, "app", image), "401")
	runs := helper.Runs(t)
	if len(runs) != 1 || runs[0].Stdin != server.Host {
		t.Errorf("got helper runs %+v, want one for %s", runs, server.Host)
	}
	if got := other.Received(user, password, userpass); len(got) > 0 {
		t.Errorf("the other host received %q", got)
	}
}
