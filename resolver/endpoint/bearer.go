// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"

	"github.com/berth-edge/berth/resolver/credential"
)

func (a *Authorizer) authorizeBearer(ctx context.Context, req *http.Request, c auth.Challenge, since int) error {
	value, err := a.token(ctx, c, since)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+value)
	return nil
}

// checkRealm is that of the endpoint, but for a token for the registry itself, which no realm is asked for: a registry that takes
// nothing else may name none.
func (a *Authorizer) checkRealm(ctx context.Context, realm string, plain bool) error {
	err := a.endpoint.checkRealm(realm, plain)
	if err == nil {
		return nil
	}
	if cred, kerr := a.keychain.Credential(ctx, a.image(ctx), credential.Credential{}); kerr == nil && cred.Username == credential.RegistryToken {
		return nil
	}
	return err
}

func (a *Authorizer) learnBearer(ctx context.Context, c auth.Challenge, req *http.Request) error {
	if err := a.checkRealm(ctx, c.Parameters["realm"], req.URL.Scheme == "http"); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Only the token that was refused: another pull may have replaced it meanwhile.
	if value, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok {
		own := credential.Credential{Username: credential.RegistryToken, Password: credential.Secret(value)}
		a.endpoint.trials.note(sent{own, c.Parameters["realm"]}, a.image(ctx))
		for key, t := range a.tokens {
			if t.value == value {
				delete(a.tokens, key)
			}
		}
	}
	a.learn(ctx, learned{Challenge: c})
	return nil
}

// token returns a token for the scopes of ctx: one that is still good and not of before since, or a new one, fetched once for
// all who wait.
func (a *Authorizer) token(ctx context.Context, c auth.Challenge, since int) (string, error) {
	options := auth.TokenOptions{
		Realm:   c.Parameters["realm"],
		Service: c.Parameters["service"],
		Scopes:  docker.GetTokenScopes(ctx, strings.Fields(c.Parameters["scope"])),
	}
	key := strings.Join(append([]string{options.Realm, options.Service}, options.Scopes...), " ")
	if value, ok := a.remembered(key, since); ok {
		return value, nil
	}
	fetched := a.fetches.DoChan(fmt.Sprint(since, " ", key), func() (_ any, err error) {
		defer func() { // it runs in a goroutine of its own, in which a panic would end containerd
			if r := recover(); r != nil {
				err = fmt.Errorf("fetch token: panic: %v", r)
			}
		}()
		if value, ok := a.remembered(key, since); ok { // by a fetch that ended just now
			return value, nil
		}
		return a.fetch(context.WithoutCancel(ctx), key, options) // the first who asks may give up while others wait
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

// remembered returns a token that is still good and not of before since.
func (a *Authorizer) remembered(key string, since int) (value string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.tokens[key]
	return t.value, ok && t.of >= since && time.Now().Before(t.expires)
}

func (a *Authorizer) fetch(ctx context.Context, key string, options auth.TokenOptions) (string, error) {
	version := a.version(ctx)
	cred, err := a.credential(ctx, options.Realm)
	if err != nil {
		return "", err
	}
	t, err := a.fetchAs(ctx, cred, options)
	if !cred.IsZero() && errors.Is(err, docker.ErrInvalidAuthorization) {
		fresh, ferr := a.credential(ctx, options.Realm)
		switch {
		case errors.Is(ferr, credential.ErrUnavailable):
			return "", ferr
		case ferr == nil:
			t, err = a.fetchAs(ctx, fresh, options)
		}
	}
	if err != nil {
		return "", err
	}
	t.of = version
	a.remember(key, t)
	return t.value, nil
}

// fetchAs fetches a token for one credential.
func (a *Authorizer) fetchAs(ctx context.Context, cred credential.Credential, options auth.TokenOptions) (token, error) {
	if cred.Username == credential.RegistryToken {
		return newToken(cred.Password.Reveal(), 0), nil
	}
	// Again: the credential may have been a token for the registry itself when the challenge came.
	if err := a.endpoint.checkRealm(options.Realm, a.endpoint.plain.Load()); err != nil {
		return token{}, err
	}
	options.Secret = cred.Password.Reveal()
	if cred.Username != credential.IdentityToken {
		options.Username = cred.Username
	}
	end := func(verdict) {}
	if !cred.IsZero() {
		var err error
		if end, err = a.endpoint.trials.begin(ctx, sent{cred, options.Realm}, a.image(ctx)); err != nil {
			return token{}, err
		}
	}
	limit := min(tokenTimeout, a.endpoint.opts.StallTimeout) // of the server's time, and not of what was waited for others
	silent := &Error{Cause: TimedOut, Text: fmt.Sprintf("timed out: no answer in %s", limit), err: context.DeadlineExceeded}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, silent)
	defer cancel()
	t, err := a.endpoint.fetchToken(ctx, options, a)
	if err != nil && errors.Is(context.Cause(ctx), silent) {
		err = silent
	}
	var status remoteerrors.ErrUnexpectedStatus
	switch {
	case err == nil:
		end(taken)
		return t, nil
	case errors.As(err, &status) && status.StatusCode == http.StatusUnauthorized:
		end(wrong)
	case errors.As(err, &status) && status.StatusCode == http.StatusForbidden:
		end(notForThis) // or wrong: some servers have one answer for both
	case errors.As(err, &status):
		end(noVerdict)
	default:
		end(noAnswer)
	}
	return token{}, a.explain(options.Realm, err)
}

// isBusy reports that a token server wants to be asked less.
func isBusy(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	return errors.As(err, &status) && status.StatusCode == http.StatusTooManyRequests
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
		return fmt.Errorf("%s: unauthorized (%s)%s: %w", where, status.Status, reason(status.Body), docker.ErrInvalidAuthorization)
	}
	return fmt.Errorf("%s: %w", where, withoutURL(err))
}

// maxReason bounds what an error quotes of a server.
const maxReason = 512

// reason is what a token server says of its refusal, after a colon; "" if it says nothing, or has a page for people with browsers. It
// may be another than the credential: an address that is not let in, an account without a right.
func reason(body []byte) string {
	var listed docker.Errors
	text := string(body)
	if err := json.Unmarshal(body, &listed); err == nil && listed.Len() > 0 {
		text = listed.Error()
	}
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "")), " ")
	if text == "" || text[0] == '<' {
		return ""
	}
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return ": " + text
}
