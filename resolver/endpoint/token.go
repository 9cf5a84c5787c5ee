// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/containerd/errdefs"
)

const (
	tokenTimeout = 30 * time.Second
	maxTokenBody = 1 << 20

	// Lifetime of a token whose server does not say (distribution's token specification), and bounds of what it says.
	defaultTokenLife = 60 * time.Second
	maxTokenLife     = 24 * time.Hour
)

// checkRealm reports why the credential may not be sent to a token realm, nil if it may: it is HTTPS unless the
// registry is plain HTTP, and it is the registry's own host, one of token_realms, or a name. That a name does not lead to this
// machine is checked when it is dialled, see [refuseLocal].
func (e *Endpoint) checkRealm(realm string, plain bool) error {
	refuse := func(why string) error {
		return &Error{Cause: RealmRefused, Text: fmt.Sprintf("token realm %q refused for %s: %s", realm, e.host, why)}
	}
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" {
		return refuse("not a URL")
	}
	realm = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String() // and no more, in an error
	switch {
	case u.User != nil:
		return refuse("it has a username")
	case u.Scheme == "http" && !plain:
		return refuse("plain http")
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse("neither http nor https")
	case e.trustsRealm(u):
		return nil
	case isAddress(u.Hostname()):
		return refuse("an address that is not the registry's; add it to token_realms to allow it")
	}
	return nil
}

// isAddress reports whether host is an IP address, with a zone or without.
func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// trustsRealm reports whether a realm is the registry's own host, at any port, or one of token_realms.
func (e *Endpoint) trustsRealm(u *url.URL) bool {
	if e.isNear(u) {
		return true
	}
	for _, realm := range e.opts.TokenRealms {
		listed := &url.URL{Host: realm}
		if strings.EqualFold(listed.Hostname(), u.Hostname()) && (listed.Port() == "" || listed.Port() == port(u)) {
			return true
		}
	}
	return false
}

// port returns the port of a URL, also where it is its scheme's own.
func port(u *url.URL) string {
	return cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
}

// fetchToken asks a realm that checkRealm let through: by GET with a password (or anonymously), as the specification
// has it, and by POST with an identity token.
func (e *Endpoint) fetchToken(ctx context.Context, options auth.TokenOptions, a *Authorizer) (token, error) {
	client := &http.Client{
		Transport:     roundTripper(func(req *http.Request) (*http.Response, error) { return e.sendToken(req, a) }),
		CheckRedirect: e.checkTokenRedirect,
	}
	if options.Secret != "" && options.Username == "" {
		r, err := auth.FetchTokenWithOAuth(ctx, client, nil, "containerd-client", options)
		if err != nil {
			return token{}, err
		}
		return newToken(r.AccessToken, r.ExpiresInSeconds), nil
	}
	r, err := auth.FetchToken(ctx, client, nil, options)
	if err != nil {
		return token{}, err
	}
	return newToken(r.Token, r.ExpiresInSeconds), nil
}

// newToken makes a token that is used for nine tenths of its life.
func newToken(value string, seconds int) token {
	life := defaultTokenLife
	if seconds > 0 {
		life = min(time.Duration(min(seconds, int(maxTokenLife/time.Second)))*time.Second, maxTokenLife)
	}
	return token{value: value, expires: time.Now().Add(life * 9 / 10)}
}

// maxTokenRequests is how often a token server that is too busy is asked, which is as often as a registry is.
const maxTokenRequests = 5

// sendToken sends a request for a token, and again if it is to wait, or failed on the server's side, for as long as there is time for that.
func (e *Endpoint) sendToken(req *http.Request, a *Authorizer) (*http.Response, error) {
	ctx := req.Context()
	for tries := 1; ; tries++ {
		resp, wait, err := e.sendTokenOnce(req, a)
		if err == nil && wait == 0 && resp.StatusCode >= http.StatusInternalServerError && tries == 1 {
			wait = minRetryWait // as a registry is asked once more
		}
		deadline, ok := ctx.Deadline()
		if wait == 0 || tries == maxTokenRequests || ok && time.Until(deadline) < wait {
			return resp, err
		}
		resp.Body.Close()
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
		req = req.Clone(ctx)
		if req.GetBody != nil {
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// sendTokenOnce also returns how long to wait before the request is sent again, 0 if it need not be.
func (e *Endpoint) sendTokenOnce(req *http.Request, a *Authorizer) (_ *http.Response, wait time.Duration, _ error) {
	redact := a.redactor(req)
	transport, err := e.realmTransport(req)
	if err != nil {
		return nil, 0, err
	}
	resp, err := transport.RoundTrip(req)
	if errors.Is(err, errLocalRealm) {
		return nil, 0, &Error{Cause: RealmRefused, Text: fmt.Sprintf("token realm %q refused for %s: %v; add it to token_realms to allow it", req.URL.Host, e.host, errLocalRealm)}
	}
	if err != nil {
		return nil, 0, redactError(explain(req.Context(), req.URL.Host, tokenTimeout, err), redact)
	}
	resp.Body = bounded(resp.Body, "token response", maxTokenBody)
	wait = retryAfter(resp, time.Now()) // as the server said it
	if resp.StatusCode >= http.StatusBadRequest {
		redactResponse(resp, req, redact)
	}
	return resp, wait, nil
}

func (e *Endpoint) realmTransport(req *http.Request) (http.RoundTripper, error) {
	switch {
	case e.isOwn(req.URL):
		return e.routes().own.shared, nil
	case e.trustsRealm(req.URL):
		return e.routes().near.shared, nil
	}
	proxied, err := e.routes().proxy(req)
	if err != nil {
		return nil, err
	}
	if proxied != nil {
		return e.routes().other.shared, nil
	}
	return e.routes().realm, nil
}

// checkTokenRedirect keeps a token request, which carries the credential, on its host.
func (e *Endpoint) checkTokenRedirect(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		return &Error{Cause: RealmRefused, Text: fmt.Sprintf("refusing token redirect to %s://%s: it is not %s://%s", req.URL.Scheme, req.URL.Host, first.Scheme, first.Host)}
	}
	if len(via) >= maxRedirects {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// boundedBody fails once more than left bytes were read.
type boundedBody struct {
	io.ReadCloser
	what string
	max  int64
	left int64
}

func bounded(body io.ReadCloser, what string, max int64) io.ReadCloser {
	return &boundedBody{body, what, max, max}
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%s is larger than %d bytes: %w", b.what, b.max, errdefs.ErrInvalidArgument)
	}
	return n, err
}
