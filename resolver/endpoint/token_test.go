// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// guarded is a registry with its token server, and the endpoint of one node.
type guarded struct {
	tokens        *registrytest.Tokens
	server, realm *registrytest.Server
	endpoint      *endpoint.Endpoint
	keychain      *keychain
	image         registrytest.Image
	authority     *registrytest.Authority
}

// guard serves an image to holders of a token. around, if not nil, stands before the token server.
func guard(t testing.TB, k *keychain, around func(http.Handler) http.Handler) *guarded {
	t.Helper()
	authority := registrytest.NewAuthority(t)
	g := &guarded{authority: authority, tokens: registrytest.NewTokens(k.cred.Username, k.cred.Password.Reveal()), keychain: k, image: registrytest.NewImage(t.Name(), 32<<10)}
	var handler http.Handler = g.tokens
	if around != nil {
		handler = around(g.tokens)
	}
	g.realm = registrytest.Serve(t, authority.Server(t), handler)
	g.tokens.Realm = g.realm.URL + "/token"
	g.server = registrytest.Serve(t, authority.Server(t), g.tokens.Protect(registrytest.Registry{Image: g.image}))
	g.endpoint = newEndpoint(t, g.server.Host, k, trusting(authority))
	return g
}

func (g *guarded) pull(t testing.TB, name string) {
	t.Helper()
	if err := pull(t.Context(), g.endpoint, name, g.image); err != nil {
		t.Fatalf("pull %s: %v", name, err)
	}
}

// counts are the requests of a registry without a credential and with one, and those for tokens.
func (g *guarded) counts() (anonymous, authorized, tokens int) {
	for _, r := range g.server.Requests() {
		if r.Header.Get("Authorization") == "" {
			anonymous++
		} else {
			authorized++
		}
	}
	return anonymous, authorized, len(g.realm.Requests())
}

func (g *guarded) want(t testing.TB, after string, anonymous, authorized, tokens int) {
	t.Helper()
	a, z, n := g.counts()
	if a != anonymous || z != authorized || n != tokens {
		t.Errorf("after %s: got %d anonymous and %d authorized requests and %d for tokens, want %d, %d and %d", after, a, z, n, anonymous, authorized, tokens)
	}
}

// SEC-01: a token is asked for with the password, the registry sees the token alone, and both are used again: a second
// pull is not challenged, and another repository costs a token and no challenge.
func TestTokenReuse(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	g.pull(t, "team/app:1")
	g.want(t, "the first pull", 1, 4, 1)
	g.pull(t, "team/app:2")
	g.want(t, "the second pull", 1, 8, 1)
	g.pull(t, "team/other:1")
	g.want(t, "a pull of another repository", 1, 12, 2)
	if got := g.server.Received(user, password, userpass); len(got) > 0 {
		t.Errorf("the registry received %q, want the token alone", got)
	}
	for i, scope := range []string{"repository:team/app:pull", "repository:team/other:pull"} {
		if got := g.realm.Requests()[i].Query; !strings.Contains(got, "scope="+strings.NewReplacer(":", "%3A", "/", "%2F").Replace(scope)) {
			t.Errorf("got token request %q, want the scope %s", got, scope)
		}
	}
}

// R25: pulls at once share one token.
func TestTokenOfManyPulls(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	var pulls sync.WaitGroup
	for i := range 100 {
		pulls.Go(func() {
			if err := pull(t.Context(), g.endpoint, fmt.Sprintf("team/app:%d", i), g.image); err != nil {
				t.Error(err)
			}
		})
	}
	pulls.Wait()
	if _, _, tokens := g.counts(); tokens != 1 {
		t.Errorf("got %d token requests, want 1", tokens)
	}
}

// One that waits for a token may give up, and the others get it.
func TestTokenWaiterGivesUp(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}, 1), make(chan struct{})
	g := guard(t, login(), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			<-release
			next.ServeHTTP(w, r)
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() { gaveUp <- pull(ctx, g.endpoint, "app", g.image) }()
	<-asked
	second := make(chan error, 1)
	go func() { second <- pull(t.Context(), g.endpoint, "app", g.image) }()
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	close(release)
	if err := <-second; err != nil {
		t.Error(err)
	}
	if _, _, tokens := g.counts(); tokens != 1 {
		t.Errorf("got %d token requests, want 1", tokens)
	}
}

// A token that has come to its end is replaced before the registry has to refuse it.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	g.tokens.Life = 1
	g.pull(t, "app")
	deadline := time.Now().Add(10 * time.Second)
	for len(g.realm.Requests()) == 1 && time.Now().Before(deadline) {
		g.pull(t, "app")
	}
	anonymous, _, tokens := g.counts()
	if anonymous != 1 || tokens < 2 {
		t.Errorf("got %d anonymous requests and %d for tokens, want 1 and more than 1", anonymous, tokens)
	}
	if refused := len(g.server.Requests()) % 4; refused != 1 {
		t.Errorf("got %d requests, want 4 a pull and the first challenge", len(g.server.Requests()))
	}
}

// C12: a token that the registry no longer takes is replaced, once.
func TestTokenRevoked(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	g.pull(t, "app")
	g.tokens.Revoke()
	g.pull(t, "app")
	g.want(t, "a pull with a revoked token", 1, 9, 2)
}

// C12: a registry that takes no token is not asked for ever.
func TestTokenNeverTaken(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"token":"canary-token-useless"}`) })
	})
	err := pull(t.Context(), g.endpoint, "app", g.image)
	if !errors.Is(err, docker.ErrInvalidAuthorization) {
		t.Errorf("got %v, want %v", err, docker.ErrInvalidAuthorization)
	}
	g.want(t, "a pull", 1, 2, 2)
}

// A token that could not be fetched is not remembered: containerd's own authorizer does so for ever.
func TestTokenFailureIsNotRemembered(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), func(next http.Handler) http.Handler {
		return first(2, "/token", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, next)
	})
	wantError(t, pull(t.Context(), g.endpoint, "app", g.image), "fetch token from "+g.realm.Host, "502")
	g.pull(t, "app")
}

// R13, C11: a token server that fails once is asked once more, as a registry is.
func TestTokenServerFailsOnce(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable} {
		g := guard(t, login(), func(next http.Handler) http.Handler { return first(1, "/token", status(code), next) })
		g.pull(t, "app")
	}
}

// A registry may get another token server, or none: what it wanted a while ago is not held on to.
func TestTokenServerMoves(t *testing.T) {
	t.Parallel()
	const first, second, none = 0, 1, 2 // the token server that there is
	for name, gone := range map[string]http.HandlerFunc{
		"not found":    status(http.StatusNotFound),
		"another page": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"cut off":      reset,
		"forbidden":    status(http.StatusForbidden),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := registrytest.NewImage("moves", 1<<10)
			authority := registrytest.NewAuthority(t)
			var now atomic.Int32
			var handlers [3]http.Handler
			for i := range int32(none) {
				tokens := registrytest.NewTokens(user, password)
				tokens.Life = 1
				tokens.Realm = overHTTP1(t, authority, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if now.Load() != i {
						gone(w, r)
						return
					}
					tokens.ServeHTTP(w, r)
				})).URL + "/token"
				handlers[i] = tokens.Protect(registrytest.Registry{Image: image})
			}
			handlers[none] = registrytest.Registry{Image: image}
			server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handlers[now.Load()].ServeHTTP(w, r)
			}))
			e := newEndpoint(t, server.Host, login(), trusting(authority))
			for _, i := range []int32{first, second, none} {
				now.Store(i)
				err := pull(t.Context(), e, "app", image)
				if errors.Is(err, docker.ErrInvalidAuthorization) {
					err = pull(t.Context(), e, "app", image) // that the server refuses the password is told, once
				}
				if err != nil {
					t.Errorf("token server %d: got %v", i, err)
				}
				time.Sleep(time.Second) // the life of a token
			}
		})
	}
}

// A token server that is gone, since the registry is open to all now, is asked once, and not for every request.
func TestTokenServerGone(t *testing.T) {
	t.Parallel()
	var gone atomic.Bool
	g := guard(t, login(), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if gone.Load() {
				http.NotFound(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	g.tokens.Life = 1
	guarded := g.tokens.Protect(registrytest.Registry{Image: g.image})
	server := registrytest.Serve(t, g.authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gone.Load() {
			registrytest.Registry{Image: g.image}.ServeHTTP(w, r)
			return
		}
		guarded.ServeHTTP(w, r)
	}))
	e := newEndpoint(t, server.Host, login(), trusting(g.authority))
	if err := pull(t.Context(), e, "app", g.image); err != nil {
		t.Fatal(err)
	}
	gone.Store(true)
	time.Sleep(time.Second) // the life of a token
	before := len(g.realm.Requests())
	for _, name := range []string{"app", "app", "other"} {
		if err := pull(t.Context(), e, name, g.image); err != nil {
			t.Error(err)
		}
	}
	if got := len(g.realm.Requests()) - before; got != 1 {
		t.Errorf("got %d requests for tokens, want 1", got)
	}
}

// A wrong password is said to be one, with few requests, and a right one is used as soon as there is one.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	k := login()
	g := guard(t, k, nil)
	k.cred.Password = "canary-wrong"
	err := pull(t.Context(), g.endpoint, "app", g.image)
	wantError(t, err, "fetch token from "+g.realm.Host, "unauthorized (401 Unauthorized)")
	if !errors.Is(err, docker.ErrInvalidAuthorization) {
		t.Errorf("got %v, want %v", err, docker.ErrInvalidAuthorization)
	}
	g.want(t, "a pull with a wrong password", 1, 0, 1)
	k.cred.Password = password
	g.pull(t, "app")

	authority := registrytest.NewAuthority(t)
	server := registrytest.Serve(t, authority.Server(t), registrytest.Basic(user, password, registrytest.Registry{Image: g.image}))
	k.cred.Password = "canary-wrong"
	e := newEndpoint(t, server.Host, k, trusting(authority))
	if err := pull(t.Context(), e, "app", g.image); !errors.Is(err, docker.ErrInvalidAuthorization) {
		t.Errorf("basic: got %v, want %v", err, docker.ErrInvalidAuthorization)
	}
	if got := len(server.Requests()); got > 3 {
		t.Errorf("basic: got %d requests, want 3 at most", got)
	}
	k.cred.Password = password
	if err := pull(t.Context(), e, "app", g.image); err != nil {
		t.Errorf("basic: %v", err)
	}
}

// An identity token is exchanged by POST, and is in no URL and in no request to the registry.
func TestIdentityToken(t *testing.T) {
	t.Parallel()
	g := guard(t, &keychain{cred: credential.Credential{Username: credential.IdentityToken, Password: "canary-refresh"}}, nil)
	g.pull(t, "app")
	r := g.realm.Requests()[0]
	if r.Line != "POST /token" || strings.Contains(r.Query, "canary") {
		t.Errorf("got %q with query %q, want a POST without the token in the query", r.Line, r.Query)
	}
	if got := g.server.Received("canary-refresh"); len(got) > 0 {
		t.Error("the registry received the identity token")
	}
}

// A credential that was configured and cannot be obtained is an error of its own kind, and nothing is tried without it.
func TestCredentialUnavailable(t *testing.T) {
	t.Parallel()
	k := login()
	g := guard(t, k, nil)
	k.err = fmt.Errorf("read it: %w", credential.ErrUnavailable)
	if err := pull(t.Context(), g.endpoint, "app", g.image); !errors.Is(err, credential.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, credential.ErrUnavailable)
	}
	g.want(t, "a pull", 1, 0, 0)
}

// SEC-15, R8, C11: a token server that answers without end is not read without end.
func TestTokenBodyIsBounded(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	g := guard(t, login(), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"token":"`)
			chunk := []byte(strings.Repeat("a", 64<<10))
			for sent.Load() < 256<<20 {
				n, err := w.Write(chunk)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
			io.WriteString(w, `"}`)
		})
	})
	wantError(t, pull(t.Context(), g.endpoint, "app", g.image), "token response is larger than 1048576 bytes")
	if got := sent.Load(); got > 16<<20 {
		t.Errorf("the token server could send %d bytes, want little more than 1 MiB", got)
	}
}

// A repository that is open to all is pulled after one that is not was refused, with a wrong password and with none.
func TestOpenRepositoryBesideRefused(t *testing.T) {
	t.Parallel()
	for _, k := range []*keychain{{}, {cred: credential.Credential{Username: user, Password: "wrong"}}} {
		t.Run("user "+k.cred.Username, func(t *testing.T) {
			t.Parallel()
			image := registrytest.NewImage("open", 4<<10)
			authority := registrytest.NewAuthority(t)
			tokens := registrytest.NewTokens(user, password)
			realm := registrytest.Serve(t, authority.Server(t), tokens)
			tokens.Realm = realm.URL + "/token"
			open := registrytest.Registry{Image: image}
			server := registrytest.Serve(t, authority.Server(t), only("/v2/private/", tokens.Protect(open).ServeHTTP, open))
			e := newEndpoint(t, server.Host, k, trusting(authority))
			wantError(t, pull(t.Context(), e, "private/app", image), "unauthorized")
			if err := pull(t.Context(), e, "public/app", image); err != nil {
				t.Error(err)
			}
			wantError(t, pull(t.Context(), e, "private/other", image), "unauthorized")
		})
	}
}
