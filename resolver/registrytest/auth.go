// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Basic lets pass who has the password.
func Basic(user, password string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			Fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Tokens is a token server. It is a handler itself, and guards registries.
type Tokens struct {
	// Realm is where registries send clients for a token.
	Realm string
	// Life is what is said of a token's life, in seconds; 0 says nothing.
	Life int
	// Ends is how long a token is taken; 0 is for ever.
	Ends time.Duration

	user, password string
	mu             sync.Mutex
	valid          map[string]grant // by token
	issued         []string
}

// grant is what a token is good for.
type grant struct {
	scopes []string
	ends   time.Time
}

// NewTokens returns a server that gives tokens for a password, or for an identity token where user is "<token>".
func NewTokens(user, password string) *Tokens {
	return &Tokens{user: user, password: password, valid: map[string]grant{}}
}

func (s *Tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	user, password, _ := r.BasicAuth()
	if r.Method == http.MethodPost && r.PostForm.Get("grant_type") == "refresh_token" {
		user, password = "<token>", r.PostForm.Get("refresh_token")
	}
	if user != s.user || password != s.password {
		Fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	}
	scopes := strings.Fields(strings.Join(r.Form["scope"], " "))
	s.mu.Lock()
	defer s.mu.Unlock()
	token := fmt.Sprintf("canary-token-%d-of-%s", len(s.issued), r.Form.Get("service"))
	s.issued = append(s.issued, token)
	s.valid[token] = grant{scopes, time.Now().Add(cmp.Or(s.Ends, 24*time.Hour))}
	answer := map[string]any{"token": token, "access_token": token}
	if s.Life > 0 {
		answer["expires_in"] = s.Life
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// Protect lets pass who has a token for the repository.
func (s *Tokens) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := cut(strings.TrimPrefix(r.URL.Path, "/v2/"))
		scope := "repository:" + name + ":pull"
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		s.mu.Lock()
		g, ok := s.valid[token]
		s.mu.Unlock()
		if !ok || !slices.Contains(g.scopes, scope) || time.Now().After(g.ends) {
			why := ""
			if token != "" {
				why = `,error="invalid_token"`
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry.test",scope=%q%s`, s.Realm, scope, why))
			Fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Issued returns the tokens that were given out.
func (s *Tokens) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// Revoke makes every token invalid.
func (s *Tokens) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.valid)
}
