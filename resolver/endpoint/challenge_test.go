// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"

	"github.com/berth-edge/berth/resolver/credential"
)

// learn has e's authorizer learn that a repository wants a token of realm.
func learn(ctx context.Context, t *testing.T, e *Endpoint, realm string) {
	t.Helper()
	scheme := "https"
	if e.plain.Load() {
		scheme = "http"
	}
	req := &http.Request{URL: &url.URL{Scheme: scheme, Host: e.host}, Header: http.Header{}}
	c := auth.Challenge{Scheme: auth.BearerAuth, Parameters: map[string]string{"realm": realm}}
	if err := e.auth.learnBearer(ctx, c, req); err != nil {
		t.Fatal(err)
	}
}

// However many repositories are asked for, what is remembered of them is bounded.
func TestChallengesAreBounded(t *testing.T) {
	t.Parallel()
	e, err := New("r.test", credential.Source{}.Keychain(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxChallenges {
		ctx := docker.WithScope(t.Context(), fmt.Sprintf("repository:app%d:pull", i))
		learn(ctx, t, e, "https://auth.test/token")
		if _, ok := e.auth.challenges[scopes(ctx)]; !ok {
			t.Fatalf("challenge %d is not remembered", i)
		}
	}
	if n := len(e.auth.challenges); n > maxChallenges {
		t.Errorf("got %d challenges remembered, want %d at most", n, maxChallenges)
	}
}

// SEC-02: a realm of plain HTTP is good for a registry of plain HTTP, and no longer once that speaks TLS.
func TestPlainRealmIsForgotten(t *testing.T) {
	t.Parallel()
	e, err := New("r.test", credential.Source{Username: "canary-user", Password: "canary-password"}.Keychain(), Options{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	e.plain.Store(true)
	learn(t.Context(), t, e, "http://r.test/token")
	e.plain.Store(false)
	req := &http.Request{URL: &url.URL{Scheme: "https", Host: "r.test"}, Header: http.Header{}}
	if err := newPull(e.auth).Authorize(t.Context(), req); err != nil || len(req.Header) > 0 {
		t.Errorf("got error %v and headers %v, want neither: the registry is to be asked first", err, req.Header)
	}
}

// Tokens that live for a day are bounded too.
func TestTokensAreBounded(t *testing.T) {
	t.Parallel()
	e, err := New("r.test", credential.Source{}.Keychain(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxTokens {
		key := fmt.Sprint("token ", i)
		e.auth.remember(key, newToken(key, 24*60*60))
		if _, ok := e.auth.tokens[key]; !ok {
			t.Fatalf("token %d is not remembered", i)
		}
	}
	if n := len(e.auth.tokens); n > maxTokens {
		t.Errorf("got %d tokens remembered, want %d at most", n, maxTokens)
	}
}

// SEC-02: a realm that was let through for a token that no realm is asked for does not get the password that took its place.
func TestRealmOfReplacedToken(t *testing.T) {
	t.Parallel()
	realm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("got a request at the realm, with authorization %q", r.Header.Get("Authorization"))
	}))
	t.Cleanup(realm.Close)
	k := &replacedKeychain{credential.Credential{Username: credential.RegistryToken, Password: "canary-token"}}
	e, err := New("r.test", k, Options{TokenRealms: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	learn(t.Context(), t, e, realm.URL+"/token")
	k.cred = credential.Credential{Username: "canary-user", Password: "canary-password"}
	options := auth.TokenOptions{Realm: realm.URL + "/token"}
	if _, err := e.auth.fetch(t.Context(), "", options); err == nil || !strings.Contains(err.Error(), "refused for r.test: plain http") {
		t.Errorf("got %v, want the realm refused", err)
	}
}

type replacedKeychain struct{ cred credential.Credential }

func (k *replacedKeychain) Credential(context.Context, string, credential.Credential) (credential.Credential, error) {
	return k.cred, nil
}
