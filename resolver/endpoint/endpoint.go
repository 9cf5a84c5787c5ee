// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/berth-edge/berth/resolver/credential"
)

// downFor is how long a registry that could not be reached is put behind the other targets of a route.
const downFor = 5 * time.Second

// Endpoint is one registry, reached over HTTP. It is safe for concurrent use and shared by every pull.
type Endpoint struct {
	host   string // host[:port] of the registry's API
	domain string // host[:port] that images and the configuration name it by
	opts   Options
	routes func() transports
	auth   *Authorizer
	trials *trials
	follow *http.Client // follows redirects, under the rules of checkRedirect

	plain atomic.Bool               // the port does not speak TLS; only ever set with Insecure
	spoke atomic.Bool               // TLS worked once, so that the port is never taken for plain HTTP again
	down  atomic.Pointer[time.Time] // when it could not be reached; nil if it could since
}

// New returns the endpoint of the registry at host, which is host[:port]. Errors are about certificates of opts that are
// none.
func New(host string, keychain credential.Keychain, opts Options) (*Endpoint, error) {
	if opts.DialTimeout == 0 {
		opts.DialTimeout = defaultDialTimeout
	}
	if opts.StallTimeout == 0 {
		opts.StallTimeout = defaultStallTimeout
	}
	e := &Endpoint{host: apiHost(host), domain: host, opts: opts}
	e.trials = newTrials(e.host)
	var err error
	if e.routes, err = newTransports(e.host, opts); err != nil {
		return nil, err
	}
	e.follow = &http.Client{Transport: roundTripper(e.sendFollowed), CheckRedirect: e.checkRedirect}
	e.auth = e.Authorizer(keychain)
	return e, nil
}

// apiHost is where a registry answers: Docker Hub's API has a host of its own.
func apiHost(host string) string {
	if host == "docker.io" {
		return "registry-1.docker.io"
	}
	return host
}

// Hosts returns what containerd's docker resolver asks for, with auth or, if that is nil, with the endpoint's own
// authorizer, whose tokens every pull shares. They are for one pull.
func (e *Endpoint) Hosts(auth *Authorizer) docker.RegistryHosts {
	if auth == nil {
		auth = e.auth
	}
	p := newPull(auth)
	host := docker.RegistryHost{
		Client:       &http.Client{Transport: p},
		Authorizer:   p,
		Host:         e.host,
		Scheme:       "https",
		Path:         "/v2",
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
	}
	return func(string) ([]docker.RegistryHost, error) { return []docker.RegistryHost{host}, nil }
}

// Trouble returns why the registry's own credential cannot be read as it is now, false if it can.
func (e *Endpoint) Trouble(ctx context.Context) (credential.Trouble, bool) {
	if k, ok := e.auth.keychain.(credential.Troubled); ok {
		return k.Trouble(ctx)
	}
	return credential.Trouble{}, false
}

// Host returns the host[:port] of the registry's API.
func (e *Endpoint) Host() string { return e.host }

// Down reports whether the registry could not be reached a moment ago, and how long ago that was.
func (e *Endpoint) Down() (time.Duration, bool) {
	at := e.down.Load()
	if at == nil {
		return 0, false
	}
	ago := time.Since(*at) // monotonic: a node may start in 1970, and its clock be set later
	return ago, ago < downFor
}

// CloseIdle closes the connections that no pull uses.
func (e *Endpoint) CloseIdle() { e.routes().closeIdle() }

// roundTripper makes a method an [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// roundTrip serves containerd's resolver: redirects are followed here, so that no address that one led to, which may
// be a credential in itself, is in an error or a log. Nothing that comes back has a secret of auth in it. Wait is how long not
// to ask for the same again.
func (e *Endpoint) roundTrip(req *http.Request, auth *Authorizer) (_ *http.Response, wait time.Duration, _ error) {
	req, end, err := auth.begin(req)
	if err != nil {
		return nil, 0, err
	}
	redact := auth.redactor(req)
	ctx, guard := newStallGuard(req.Context(), e.host, e.opts.StallTimeout)
	sent := offerGzip(req.Clone(ctx))
	guard.sends(sent)
	resp, err := e.follow.Do(sent)
	end(resp)
	guard.isAnswered()
	if err == nil {
		err = e.checkEncoding(resp)
	}
	if err != nil {
		guard.cancel()
		return nil, 0, redactError(withoutURL(err), redact)
	}
	guard.host = resp.Request.URL.Host
	resp.Body = guard.body(resp.Body)
	if path.Base(path.Dir(req.URL.Path)) == "manifests" { // a component of the repository's name may be that too
		resp.Body = bounded(resp.Body, "manifest", docker.MaxManifestSize) // containerd reads one without a digest to its end
	}
	wait = retryAfter(resp, time.Now())                       // as the server said it: redaction may change every header
	slow := time.AfterFunc(e.opts.StallTimeout, guard.cancel) // that it is an error is known; the rest of what it says is not worth more
	redactResponse(resp, req, redact)
	slow.Stop()
	return resp, wait, nil
}

// offerGzip has a request that offers encodings offer gzip alone. containerd decodes zstd too, with a window of up to 512 MiB that
// a few bytes ask for, and no registry sends what is compressed already in it.
func offerGzip(req *http.Request) *http.Request {
	if req.Header.Get("Accept-Encoding") != "" {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	return req
}

// checkEncoding returns an error for content that is encoded in another way, or more than once, and closes it.
func (e *Endpoint) checkEncoding(resp *http.Response) error {
	encoding := strings.Join(resp.Header.Values("Content-Encoding"), ", ")
	switch strings.ToLower(encoding) {
	case "", "identity", "gzip":
		return nil
	}
	if resp.StatusCode >= http.StatusBadRequest || resp.Request.Method == http.MethodHead {
		return nil // there is nothing that is decoded
	}
	resp.Body.Close()
	return &Error{Cause: BadResponse, Text: fmt.Sprintf("%s: unsupported Content-Encoding %.64q; want gzip or none", e.host, encoding)}
}

// withoutURL drops the method and URL that [http.Client] puts before an error.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// send is one request, without redirects. Its errors name the host that they are about.
func (e *Endpoint) send(req *http.Request) (*http.Response, error) {
	if !e.isOwn(req.URL) {
		transport := e.routes().other
		if e.isNear(req.URL) {
			transport = e.routes().near
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			err = explain(req.Context(), e.host+" redirects to "+req.URL.Host, e.opts.StallTimeout, err)
		}
		return resp, err
	}
	resp, err := e.sendOwn(req)
	if e.isMissed(err) {
		resp, err = e.sendOwn(req) // it may be by chance that the connection ended: a registry can ask and not insist
	}
	if late := stalled(req.Context(), e.host, e.opts.StallTimeout); late != nil && err == nil {
		resp.Body.Close() // the server saw that it is left, and ended its answer in good order before this side was closed
		err = late
	}
	if e.isMissed(err) {
		return nil, &Error{Cause: NoTLS, Text: fmt.Sprintf("%s: certificate required: the registry asked for a client's and closed the connection; set client_certificate and client_key: %v", e.host, err), err: err}
	}
	if err != nil {
		err = explain(req.Context(), e.host, e.opts.StallTimeout, err)
		if IsDown(err) {
			now := time.Now()
			e.down.Store(&now)
		}
		return nil, err
	}
	e.down.Store(nil)
	e.routes().wanted.Store(false)
	return resp, nil
}

// isMissed reports whether err may be how the registry says that it misses a client's certificate. A server says so after
// the handshake, while the first request is written, and may not be heard any more.
func (e *Endpoint) isMissed(err error) bool {
	return err != nil && e.routes().wanted.Load() && (isCutShort(err) || errors.Is(err, io.EOF) || isTLS(err))
}

// isOwn reports whether u is on the registry's host and port, which are all that secrets may go to. A server may spell
// them in another way than the configuration: in capitals, or with the scheme's own port, or an address in another way.
func (e *Endpoint) isOwn(u *url.URL) bool {
	return e.isNear(u) && port(u) == port(&url.URL{Scheme: u.Scheme, Host: e.host})
}

// isNear reports whether u is on the registry's host, at any port.
func (e *Endpoint) isNear(u *url.URL) bool { return isSameHost(u.Hostname(), hostname(e.host)) }
