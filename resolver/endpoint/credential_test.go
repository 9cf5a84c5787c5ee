// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// perImage is a keychain with a credential for each image below a prefix.
type perImage map[string]credential.Credential

func (k perImage) Credential(_ context.Context, image string, _ credential.Credential) (credential.Credential, error) {
	for prefix, cred := range k {
		if _, path, _ := strings.Cut(image, "/"); strings.HasPrefix(path, prefix) {
			return cred, nil
		}
	}
	return credential.Credential{}, nil
}

// rotating is a keychain whose credential changes. It remembers the one that it gave.
type rotating struct {
	mu     sync.Mutex
	given  credential.Credential
	now    credential.Credential
	looked int // how often it looked for what there is now
}

func (k *rotating) Credential(_ context.Context, _ string, refused credential.Credential) (credential.Credential, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.given.IsZero() || k.given == refused {
		k.given = k.now
		k.looked++
	}
	return k.given, nil
}

func (k *rotating) set(password string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = credential.Credential{Username: user, Password: credential.Secret(password)}
}

// paths serves each path below /v2/ by its own handler.
func paths(by map[string]http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for prefix, h := range by {
			if strings.HasPrefix(r.URL.Path, "/v2/"+prefix) {
				h.ServeHTTP(w, r)
				return
			}
		}
		http.NotFound(w, r)
	})
}

// choosy is open to who sends nothing, and refuses a wrong password as some registries do.
func choosy(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			registrytest.Fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Paths of one host have credentials of their own, and each is sent to its path alone; one without any is open to all.
func TestCredentialPerRepository(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("paths", 1<<10)
	authority := registrytest.NewAuthority(t)
	registry := registrytest.Registry{Image: image}
	creds := perImage{"ann/": {Username: "ann", Password: "canary-ann"}, "bob/": {Username: "bob", Password: "canary-bob"}, "wrong/": {Username: "bob", Password: "canary-ann"}}
	basic := paths(map[string]http.Handler{
		"ann/": registrytest.Basic("ann", "canary-ann", registry), "bob/": registrytest.Basic("bob", "canary-bob", registry),
		"wrong/": registrytest.Basic("wrong", "other", registry), "open/": choosy(registry),
	})
	ann, bob := registrytest.NewTokens("ann", "canary-ann"), registrytest.NewTokens("bob", "canary-bob")
	realms := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		map[bool]http.Handler{true: ann, false: bob}[strings.HasPrefix(r.URL.Path, "/ann")].ServeHTTP(w, r)
	}))
	ann.Realm, bob.Realm = realms.URL+"/ann", realms.URL+"/bob"
	bearer := paths(map[string]http.Handler{"ann/": ann.Protect(registry), "bob/": bob.Protect(registry), "wrong/": ann.Protect(registry), "open/": choosy(registry)})
	for name, handler := range map[string]http.Handler{"basic": basic, "bearer": bearer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := registrytest.Serve(t, authority.Server(t), handler)
			e := newEndpoint(t, server.Host, creds, trusting(authority))
			for _, path := range []string{"ann/a", "bob/b", "open/c", "wrong/d", "open/e", "ann/f", "bob/b", "ann/a", "open/c"} {
				err := pull(t.Context(), e, path, image)
				if strings.HasPrefix(path, "wrong/") {
					wantError(t, err, "authorization failed")
				} else if err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
			for _, r := range server.Requests() {
				u, _, ok := r.BasicAuth()
				if ok && !strings.Contains(r.Line, "/v2/"+u+"/") && !strings.Contains(r.Line, "/v2/wrong/") && !strings.Contains(r.Line, "/v2/open/") {
					t.Errorf("got the password of %s in %s", u, r.Line)
				}
			}
		})
	}
}

// A password that is wrong, or right elsewhere, does not keep a repository from being pulled that is open to all.
func TestOpenRepositoryBesideWrongPassword(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("open", 1<<10)
	authority := registrytest.NewAuthority(t)
	registry := registrytest.Registry{Image: image}
	for _, tt := range []struct {
		name  string
		right string // password of what is not open
		open  http.Handler
	}{
		{"that takes anything", "right", registry}, {"that takes nothing wrong", "right", choosy(registry)},
		{"that takes nothing wrong, while it is right elsewhere", password, choosy(registry)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := registrytest.Serve(t, authority.Server(t), paths(map[string]http.Handler{
				"private/": registrytest.Basic(user, tt.right, registry), "public/": tt.open,
			}))
			e := newEndpoint(t, server.Host, login(), trusting(authority))
			if err := pull(t.Context(), e, "private/app", image); tt.right == password && err != nil {
				t.Error(err)
			} else if tt.right != password {
				wantError(t, err, "authorization failed")
			}
			for range 2 {
				if err := pull(t.Context(), e, "public/app", image); err != nil {
					t.Error(err)
				}
			}
			if tt.right != password {
				wantError(t, pull(t.Context(), e, "private/app", image), "unauthorized: the credential was refused; it is sent again in 5s, or when it changes")
			}
		})
	}
}

// C9: a password that the registry takes no more in mid-pull is fetched anew, once, and the pull goes on.
func TestPasswordChangesInMidPull(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("rotated", 1<<10)
	authority := registrytest.NewAuthority(t)
	k := &rotating{}
	k.set("canary-old")
	var accepted atomic.Value
	accepted.Store("canary-old")
	server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") && accepted.CompareAndSwap("canary-old", "canary-new") {
			k.set("canary-new")
		}
		registrytest.Basic(user, accepted.Load().(string), registrytest.Registry{Image: image}).ServeHTTP(w, r)
	}))
	e := newEndpoint(t, server.Host, k, trusting(authority))
	if err := pull(t.Context(), e, "app", image); err != nil {
		t.Fatal(err)
	}
	if k.looked != 2 {
		t.Errorf("got %d looks for a credential, want 2", k.looked)
	}
	if got, want := len(server.Requests()), 6; got != want {
		t.Errorf("got %d requests, want %d: a challenge, the manifest twice, the refusal, two blobs", got, want)
	}
}

// C9: an expired password of a token server is fetched anew once.
func TestPasswordOfTokensChanges(t *testing.T) {
	t.Parallel()
	k := &rotating{}
	k.set(password)
	var old atomic.Bool
	g := guard(t, login(), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); old.Load() && p == "canary-new" {
				r.SetBasicAuth(u, password)
			} else if old.Load() {
				r.SetBasicAuth(u, "canary-wrong")
			}
			next.ServeHTTP(w, r)
		})
	})
	e := newEndpoint(t, g.server.Host, k, trusting(g.authority))
	if err := pull(t.Context(), e, "one", g.image); err != nil {
		t.Fatal(err)
	}
	old.Store(true)
	k.set("canary-new")
	g.tokens.Revoke()
	for _, name := range []string{"one", "two", "three"} {
		if err := pull(t.Context(), e, name, g.image); err != nil {
			t.Error(err)
		}
	}
	if got := len(g.realm.Requests()); got != 5 || k.looked != 2 {
		t.Errorf("got %d requests for tokens and %d looks for a credential, want 5 and 2", got, k.looked)
	}
}
