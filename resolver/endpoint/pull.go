// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"

	"github.com/berth-edge/berth/resolver/credential"
)

// pull is how one pull speaks to the registry. It ends as it began: tokens and passwords are good for it that were in use
// when it began, or that came later, and none that an operator had replaced by then.
type pull struct {
	*Authorizer
	begun sync.Once
	since int                   // the version of the keychain; nothing that is of one before it is used
	asked atomic.Bool           // the registry said to this pull what it wants
	gone  atomic.Pointer[error] // why the registry, or its token server, cannot be reached; nil if it can
	// unheard are the errors of token servers that could not be reached, by realm: the registry may not insist on one, or name another.
	unheard sync.Map

	mu    sync.Mutex
	later map[string]later // by path
}

var (
	_ docker.Authorizer = (*pull)(nil)
	_ http.RoundTripper = (*pull)(nil)
)

func newPull(a *Authorizer) *pull { return &pull{Authorizer: a, later: map[string]later{}} }

// Authorize implements [docker.Authorizer].
func (p *pull) Authorize(ctx context.Context, req *http.Request) error {
	if err := p.gone.Load(); err != nil {
		return *err
	}
	if err := p.wait(ctx, req); err != nil {
		return err
	}
	p.begun.Do(func() { p.since = p.version(ctx) })
	return p.note(p.authorize(ctx, req))
}

// authorize goes by what the registry said it wants. That may have changed, unless it said so to this pull.
func (p *pull) authorize(ctx context.Context, req *http.Request) error {
	fresh := p.asked.Load()
	challenge, guessed, ok := p.challenge(ctx)
	realm := challenge.Parameters["realm"]
	switch {
	case !ok || !p.endpoint.isOwn(req.URL):
		return nil
	case challenge.Scheme == auth.BearerAuth && p.checkRealm(ctx, realm, p.endpoint.plain.Load()) != nil:
		return nil // the registry was plain HTTP when it named that realm, and speaks TLS now: let it ask again
	}
	var err error
	if challenge.Scheme == auth.BasicAuth {
		err = p.authorizeBasic(ctx, req, challenge, p.since)
	} else if before, ok := p.unheard.Load(realm); ok && guessed {
		return nil
	} else if ok {
		return before.(error)
	} else if err = p.authorizeBearer(ctx, req, challenge.Challenge, p.since); IsDown(err) {
		p.unheard.Store(realm, err)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, credential.ErrUnavailable) {
		return err
	}
	if guessed {
		return nil // this repository may be open to all; if it is not, the registry says so
	}
	if fresh || isBusy(err) {
		return err
	}
	p.forget(ctx, challenge.Challenge)
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		return err
	}
	return nil // the token server may have moved, or be gone; if not, the registry says so
}

// AddResponses implements [docker.Authorizer].
func (p *pull) AddResponses(ctx context.Context, responses []*http.Response) error {
	p.asked.Store(true)
	return p.Authorizer.AddResponses(ctx, responses)
}

// RoundTrip implements [http.RoundTripper].
func (p *pull) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := p.gone.Load(); err != nil {
		return nil, *err
	}
	if err := p.tooLong(req); err != nil {
		return nil, err
	}
	resp, wait, err := p.endpoint.roundTrip(req, p.Authorizer)
	if err == nil {
		p.hold(req.URL.Path, resp.StatusCode, wait)
	}
	if _, down := p.endpoint.Down(); down { // and not where it redirects to
		err = p.note(err)
	}
	return resp, err
}

// note remembers that nothing was reached, and returns err. containerd looks among the blobs for what it could not ask for
// among the manifests, and would wait once more.
func (p *pull) note(err error) error {
	if IsDown(err) {
		p.gone.Store(&err)
	}
	return err
}
