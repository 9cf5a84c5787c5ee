// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"

	"github.com/berth-edge/berth/resolver/credential"
)

// basicFor is how long a password is sent before the keychain is asked again. It knows how long the password is good, and
// may have another: a registry need not answer 401 to one that has expired (ECR says 403). It is not asked for every request,
// since the answer of a helper may be one that is not kept.
const basicFor = 5 * time.Second

// authorizeBasic sends a username and a password: those that the repository got a moment ago, unless they were refused
// since. A guess that is refused is followed by a request without any, see learnBasic.
func (a *Authorizer) authorizeBasic(ctx context.Context, req *http.Request, known learned, since int) error {
	cred := known.basic
	if cred.IsZero() || time.Since(known.asked) > basicFor || known.of < since || a.endpoint.trials.check(sent{cred, ""}, a.image(ctx)) != nil {
		version := a.version(ctx)
		fresh, err := a.credential(ctx, "")
		if err != nil {
			return err
		}
		cred = fresh
		a.mu.Lock()
		if l, ok := a.challenges[scopes(ctx)]; ok { // and not a guess
			l.basic, l.asked, l.of = cred, time.Now(), version
			a.challenges[scopes(ctx)] = l
		}
		a.mu.Unlock()
	}
	if cred.IsZero() || cred.IsToken() {
		return nil
	}
	req.SetBasicAuth(cred.Username, cred.Password.Reveal())
	return nil
}

// learnBasic finds the credential for a repository that asks for one, after req was refused.
func (a *Authorizer) learnBasic(ctx context.Context, c auth.Challenge, req *http.Request) error {
	refused := basicOf(req)
	a.mu.Lock()
	if l, ok := a.challenges[scopes(ctx)]; (!ok || l.open) && !refused.IsZero() {
		a.learn(ctx, learned{open: true}) // a wrong guess
		a.mu.Unlock()
		return nil
	}
	for key, l := range a.challenges {
		if !refused.IsZero() && l.basic == refused {
			l.basic = credential.Credential{}
			a.challenges[key] = l
		}
	}
	a.mu.Unlock()
	version := a.version(ctx)
	cred, err := a.credential(ctx, "")
	if err != nil {
		return err
	}
	if cred.IsZero() || cred.IsToken() {
		return fmt.Errorf("%s asks for a username and a password, and none is configured: %w", a.endpoint.host, docker.ErrInvalidAuthorization)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.learn(ctx, learned{Challenge: c, basic: cred, asked: time.Now(), of: version})
	return nil
}

func basicOf(req *http.Request) credential.Credential {
	user, password, _ := req.BasicAuth()
	return credential.Credential{Username: user, Password: credential.Secret(password)}
}

// begin waits until the password of req may be sent, and returns the request to send in its place: with another password if
// its own was found to be wrong meanwhile. End must be called with the answer.
func (a *Authorizer) begin(req *http.Request) (_ *http.Request, end func(*http.Response), _ error) {
	cred := basicOf(req)
	if cred.IsZero() {
		return req, func(*http.Response) {}, nil
	}
	ctx := req.Context()
	image := a.image(ctx)
	done, err := a.endpoint.trials.begin(ctx, sent{cred, ""}, image)
	if err != nil && ctx.Err() == nil {
		fresh, ferr := a.credential(ctx, "")
		if ferr != nil || fresh.IsZero() || fresh.IsToken() {
			return nil, nil, err
		}
		req = req.Clone(ctx)
		req.SetBasicAuth(fresh.Username, fresh.Password.Reveal())
		done, err = a.endpoint.trials.begin(ctx, sent{fresh, ""}, image)
	}
	if err != nil {
		return nil, nil, err
	}
	return req, func(resp *http.Response) { done(a.endpoint.verdictOf(resp)) }, nil
}

// verdictOf reads what an answer says of the password that was sent for it. Nil is none.
func (e *Endpoint) verdictOf(resp *http.Response) verdict {
	switch {
	case resp == nil:
		return noAnswer
	case !e.isOwn(resp.Request.URL):
		return taken // and redirected to where it does not go along
	case resp.StatusCode == http.StatusUnauthorized && resp.Request.URL.Query().Has("mount"):
		return noVerdict // it may be about the repository that a blob is to be mounted from
	case resp.StatusCode == http.StatusUnauthorized:
		return wrong
	case resp.StatusCode < http.StatusBadRequest, resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusNotFound:
		return taken
	}
	return noVerdict
}

// maxUsed bounds the credentials that are kept to be taken out of texts.
const maxUsed = 64

// credential asks for the credential for the repository of ctx. One that was refused a moment ago, by the token server or,
// if realm is "", by the registry, is asked for anew, and is an error if there is no other.
func (a *Authorizer) credential(ctx context.Context, realm string) (credential.Credential, error) {
	image := a.image(ctx)
	cred, err := a.keychain.Credential(ctx, image, credential.Credential{})
	if err == nil && !cred.IsZero() && a.endpoint.trials.check(sent{cred, realm}, image) != nil {
		cred, err = a.keychain.Credential(ctx, image, cred)
	}
	if err != nil {
		return credential.Credential{}, err
	}
	if cred.IsZero() {
		return cred, nil
	}
	a.mu.Lock()
	if !slices.Contains(a.used, cred) {
		if len(a.used) >= maxUsed {
			a.used = slices.Clone(a.used[1:])
		}
		a.used = append(a.used, cred)
	}
	a.mu.Unlock()
	return cred, a.endpoint.trials.check(sent{cred, realm}, image)
}

// image names the repository that ctx is about, as the configuration names its registry.
func (a *Authorizer) image(ctx context.Context) string {
	for _, scope := range docker.GetTokenScopes(ctx, nil) {
		name, ok := strings.CutPrefix(scope, "repository:")
		if i := strings.LastIndexByte(name, ':'); ok && i > 0 {
			return a.endpoint.domain + "/" + name[:i]
		}
	}
	return a.endpoint.domain
}
