// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"

	"github.com/berth-edge/berth/resolver/credential"
)

// Authorizer answers the challenges of one registry, for every repository in it and every [pull] of one. What it learnt of one pull it uses
// for the next: the challenge, so that no request is sent only to be refused, and tokens until they expire. A token
// that could not be fetched is not remembered (containerd's own authorizer remembers it for ever).
type Authorizer struct {
	endpoint *Endpoint
	keychain credential.Keychain
	fetches  singleflight.Group

	mu         sync.Mutex
	challenges map[string]learned      // by the scopes that containerd asks for, one repository's
	latest     *auth.Challenge         // for a repository that was not challenged yet
	tokens     map[string]token        // by realm, service and scopes
	used       []credential.Credential // the last ones, to be taken out of texts
}

// learned is what the registry asks for a repository.
type learned struct {
	auth.Challenge
	basic credential.Credential // what it gets, if it asks for a password; zero is to be found anew
	asked time.Time             // when the keychain was asked for basic
	of    int                   // the version of the keychain that basic is of
	open  bool                  // it was not asked without a credential, and may be open to all
}

type token struct {
	value   string
	expires time.Time
	of      int // the version of the keychain whose credential it was made of
}

// Authorizer returns one that has the credentials of keychain, and shares nothing with others but which of them the registry
// refused a moment ago.
func (e *Endpoint) Authorizer(keychain credential.Keychain) *Authorizer {
	return &Authorizer{endpoint: e, keychain: keychain, challenges: map[string]learned{}, tokens: map[string]token{}}
}

// version is that of the keychain, 0 if it has none.
func (a *Authorizer) version(ctx context.Context) int {
	if k, ok := a.keychain.(credential.Versioned); ok {
		return k.Version(ctx)
	}
	return 0
}

// forget has the registry asked again what it wants for the repository of ctx: c is of no use.
func (a *Authorizer) forget(ctx context.Context, c auth.Challenge) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.challenges, scopes(ctx))
	if a.latest != nil && a.latest.Parameters["realm"] == c.Parameters["realm"] {
		a.latest = nil
	}
}

// challenge returns what the registry asks for the repository of ctx: what it said of that, or else of another, since
// most registries have one answer for all. That is a guess.
func (a *Authorizer) challenge(ctx context.Context) (l learned, guessed, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l, ok := a.challenges[scopes(ctx)]; ok {
		return l, false, !l.open
	}
	if a.latest == nil {
		return learned{}, false, false
	}
	l.Challenge = *a.latest
	l.Parameters = maps.Clone(l.Parameters)
	delete(l.Parameters, "scope") // that of another repository
	return l, true, true
}

// These bound what is remembered: clients choose the names of repositories, and there is no end of them.
const (
	maxChallenges = 1024
	maxTokens     = 1024
)

// learn remembers what is asked for the repository of ctx. a.mu is held.
func (a *Authorizer) learn(ctx context.Context, l learned) {
	if len(a.challenges) >= maxChallenges {
		clear(a.challenges) // one more request for each that is asked for again
	}
	a.challenges[scopes(ctx)] = l
	if !l.open {
		a.latest = &l.Challenge
	}
}

// scopes are what containerd asks for.
func scopes(ctx context.Context) string { return strings.Join(docker.GetTokenScopes(ctx, nil), " ") }

// AddResponses is that of [docker.Authorizer]: it learns from a 401, and drops what the registry refused. A request
// that was refused twice with a fresh authorization is not sent again.
func (a *Authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	last := responses[len(responses)-1]
	if !a.endpoint.isOwn(last.Request.URL) {
		return fmt.Errorf("%s asks for a credential that is not its own: %w", last.Request.URL.Host, errdefs.ErrNotImplemented)
	}
	refused := 0
	for _, r := range responses {
		if r.StatusCode == http.StatusUnauthorized && r.Request.Header.Get("Authorization") != "" {
			refused++
		}
	}
	if refused > 1 {
		return fmt.Errorf("%s: %w", a.endpoint.host, docker.ErrInvalidAuthorization)
	}
	for _, c := range challenges(last) {
		switch c.Scheme {
		case auth.BearerAuth:
			return a.quiet(a.learnBearer(ctx, c, last.Request))
		case auth.BasicAuth:
			return a.learnBasic(ctx, c, last.Request)
		}
	}
	if asked := last.Header.Get("WWW-Authenticate"); asked != "" {
		scheme, _, _ := strings.Cut(asked, " ")
		return fmt.Errorf("%s asks for authentication by %.32q, and Basic and Bearer are what is supported: %w", a.endpoint.host, scheme, docker.ErrInvalidAuthorization)
	}
	return fmt.Errorf("%s does not say how it wants to be authenticated to: %w", a.endpoint.host, errdefs.ErrNotImplemented)
}

// quiet takes secrets out of an error that may quote a challenge.
func (a *Authorizer) quiet(err error) error {
	if err == nil {
		return nil
	}
	return redactError(err, a.Redact)
}
