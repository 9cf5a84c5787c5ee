// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"

	"github.com/berth-edge/berth/resolver/credential"
)

// Authorizer answers the challenges of one registry, for every repository in it. What it learnt of one pull it uses
// for the next: the challenge, so that no request is sent only to be refused, and tokens until they expire. A token
// that could not be fetched is not remembered (containerd's own authorizer remembers it for ever).
type Authorizer struct {
	endpoint *Endpoint
	keychain credential.Keychain
	fetches  singleflight.Group

	mu         sync.Mutex
	challenges map[string]auth.Challenge // by the scopes that containerd asks for, one repository's
	latest     *auth.Challenge           // for a repository that was not challenged yet
	tokens     map[string]token          // by realm, service and scopes
	basic      credential.Credential
	cred       credential.Credential // the last that was used
}

type token struct {
	value   string
	expires time.Time
}

var _ docker.Authorizer = (*Authorizer)(nil)

// Authorizer returns one that has the credentials of keychain and shares nothing with others.
func (e *Endpoint) Authorizer(keychain credential.Keychain) *Authorizer {
	return &Authorizer{endpoint: e, keychain: keychain, challenges: map[string]auth.Challenge{}, tokens: map[string]token{}}
}

// Authorize implements [docker.Authorizer].
func (a *Authorizer) Authorize(ctx context.Context, req *http.Request) error {
	challenge, guessed, ok := a.challenge(ctx)
	switch {
	case !ok || !a.endpoint.isOwn(req.URL):
		return nil
	case challenge.Scheme == auth.BearerAuth && a.endpoint.checkRealm(challenge.Parameters["realm"]) != nil:
		return nil // the registry was plain HTTP when it named that realm, and speaks TLS now: let it ask again
	case challenge.Scheme == auth.BasicAuth:
		a.mu.Lock()
		defer a.mu.Unlock()
		req.SetBasicAuth(a.basic.Username, a.basic.Password.Reveal())
		return nil
	}
	value, err := a.token(ctx, challenge)
	if guessed && err != nil && ctx.Err() == nil && !errors.Is(err, credential.ErrUnavailable) {
		return nil // this repository may be open to all; if it is not, the registry says so
	}
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+value)
	return nil
}

// challenge returns what the registry asks for the repository of ctx: what it said of that, or else of another, since
// most registries have one answer for all. That is a guess.
func (a *Authorizer) challenge(ctx context.Context) (c auth.Challenge, guessed, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.challenges[scopes(ctx)]; ok {
		return c, false, true
	}
	if a.latest == nil {
		return auth.Challenge{}, false, false
	}
	c = *a.latest
	c.Parameters = maps.Clone(c.Parameters)
	delete(c.Parameters, "scope") // that of another repository
	return c, true, true
}

// These bound what is remembered: clients choose the names of repositories, and there is no end of them.
const (
	maxChallenges = 1024
	maxTokens     = 1024
)

// learn remembers a challenge. a.mu is held.
func (a *Authorizer) learn(ctx context.Context, c auth.Challenge) {
	if len(a.challenges) >= maxChallenges {
		clear(a.challenges) // one more request for each that is asked for again
	}
	a.challenges[scopes(ctx)], a.latest = c, &c
}

// scopes are what containerd asks for.
func scopes(ctx context.Context) string { return strings.Join(docker.GetTokenScopes(ctx, nil), " ") }

// AddResponses implements [docker.Authorizer]: it learns from a 401, and drops what the registry refused. A request
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
			return a.learnBasic(ctx, c)
		}
	}
	return fmt.Errorf("%s: no authentication scheme that is supported: %w", a.endpoint.host, errdefs.ErrNotImplemented)
}

// quiet takes secrets out of an error that may quote a challenge.
func (a *Authorizer) quiet(err error) error {
	if err == nil {
		return nil
	}
	return redactError(err, a.Redact)
}

func (a *Authorizer) learnBasic(ctx context.Context, c auth.Challenge) error {
	cred, err := a.credential(ctx)
	if err != nil {
		return err
	}
	if cred.IsZero() || cred.Username == credential.IdentityToken {
		return fmt.Errorf("%s asks for a username and a password, and none is configured: %w", a.endpoint.host, docker.ErrInvalidAuthorization)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.basic = cred
	a.learn(ctx, c)
	return nil
}

func (a *Authorizer) learnBearer(ctx context.Context, c auth.Challenge, req *http.Request) error {
	if err := a.endpoint.checkRealm(c.Parameters["realm"]); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Only the token that was refused: another pull may have replaced it meanwhile.
	if sent, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok {
		for key, t := range a.tokens {
			if t.value == sent {
				delete(a.tokens, key)
			}
		}
	}
	a.learn(ctx, c)
	return nil
}

// token returns a token for the scopes of ctx: one that is still good, or a new one, fetched once for all who wait.
func (a *Authorizer) token(ctx context.Context, c auth.Challenge) (string, error) {
	options := auth.TokenOptions{
		Realm:   c.Parameters["realm"],
		Service: c.Parameters["service"],
		Scopes:  docker.GetTokenScopes(ctx, strings.Fields(c.Parameters["scope"])),
	}
	key := strings.Join(append([]string{options.Realm, options.Service}, options.Scopes...), " ")
	a.mu.Lock()
	t, ok := a.tokens[key]
	a.mu.Unlock()
	if ok && time.Now().Before(t.expires) {
		return t.value, nil
	}
	fetched := a.fetches.DoChan(key, func() (_ any, err error) {
		defer func() { // it runs in a goroutine of its own, in which a panic would end containerd
			if r := recover(); r != nil {
				err = fmt.Errorf("fetch token: panic: %v", r)
			}
		}()
		// The first who asks may give up while others wait.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		return a.fetch(ctx, key, options)
	})
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case r := <-fetched:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(string), nil
	}
}

func (a *Authorizer) fetch(ctx context.Context, key string, options auth.TokenOptions) (string, error) {
	cred, err := a.credential(ctx)
	if err != nil {
		return "", err
	}
	options.Secret = cred.Password.Reveal()
	if cred.Username != credential.IdentityToken {
		options.Username = cred.Username
	}
	t, err := a.endpoint.fetchToken(ctx, options, a)
	if err != nil {
		return "", a.explain(options.Realm, err)
	}
	a.remember(key, t)
	return t.value, nil
}

// remember keeps a token for the pulls to come.
func (a *Authorizer) remember(key string, t token) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for k, old := range a.tokens {
		if now.After(old.expires) {
			delete(a.tokens, k)
		}
	}
	if len(a.tokens) >= maxTokens {
		clear(a.tokens) // one more request for each that is still asked for
	}
	a.tokens[key] = t
}

// explain names the realm, and says "unauthorized" where the credential was refused.
func (a *Authorizer) explain(realm string, err error) error {
	where := "fetch token"
	if u, perr := url.Parse(realm); perr == nil {
		where = "fetch token from " + u.Host
	}
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden) {
		return fmt.Errorf("%s: unauthorized (%s): %w", where, status.Status, docker.ErrInvalidAuthorization)
	}
	return fmt.Errorf("%s: %w", where, withoutURL(err))
}

func (a *Authorizer) credential(ctx context.Context) (credential.Credential, error) {
	cred, err := a.keychain.Credential(ctx, a.endpoint.host, credential.Credential{})
	if err != nil {
		return credential.Credential{}, err
	}
	a.mu.Lock()
	a.cred = cred
	a.mu.Unlock()
	return cred, nil
}
