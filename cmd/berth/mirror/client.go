// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
)

// What is done in a repository, as token servers call it.
const (
	pull = "pull"
	push = "pull,push"
)

// repository returns the repository that a target names, reached as a pull reaches it.
func (m *Mirror) repository(target resolver.Target, actions string) (*remote.Repository, error) {
	e, err := m.endpoint(target)
	if err != nil {
		return nil, err
	}
	path := reference.Path(target.Pull)
	c, err := newClient(e, m.contact(e), "repository:"+path+":"+actions)
	if err != nil {
		return nil, err
	}
	again := retry.NewTransport(ranged{listed{described{looked{c}}}})
	again.Policy = func() retry.Policy { return patience }
	return &remote.Repository{
		Client:          &http.Client{Transport: again},
		Reference:       registry.Reference{Registry: e.Host(), Repository: path},
		SkipReferrersGC: true, // most registries let nobody delete, and a right to push is none to delete
	}, nil
}

// endpoint returns that of a target's registry; one that is not configured is asked without a credential.
func (m *Mirror) endpoint(target resolver.Target) (*endpoint.Endpoint, error) {
	if e := target.Endpoint(); e != nil {
		return e, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	host := reference.Domain(target.Pull)
	if e, ok := m.unconfigured[host]; ok {
		return e, nil
	}
	e, err := endpoint.New(host, credential.Source{}.Keychain(), endpoint.Options{})
	if err != nil {
		return nil, err
	}
	m.unconfigured[host] = e
	return e, nil
}

// contact returns that with the registry of an endpoint.
func (m *Mirror) contact(e *endpoint.Endpoint) *contact {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.contacts[e]
	if !ok {
		c = newContact()
		m.contacts[e] = c
	}
	return c
}

// client sends the requests of one repository with the credential and the certificates of its registry.
type client struct {
	endpoint *endpoint.Endpoint
	contact  *contact
	scope    string

	host atomic.Pointer[docker.RegistryHost]
}

func newClient(e *endpoint.Endpoint, c *contact, scope string) (*client, error) {
	made := &client{endpoint: e, contact: c, scope: scope}
	return made, made.renew(nil)
}

// renew has requests sent by another host than old. One is for one pull, which asks a registry that was not reached once; here
// it is asked again, since it may be there by then.
func (c *client) renew(old *docker.RegistryHost) error {
	hosts, err := c.endpoint.Hosts(nil)("")
	if err != nil {
		return err
	}
	c.host.CompareAndSwap(old, &hosts[0])
	return nil
}

// asksFor reports whether a request is about one thing of a kind: blobs, manifests or referrers.
func asksFor(req *http.Request, kind string) bool { return path.Base(path.Dir(req.URL.Path)) == kind }

// RoundTrip implements [http.RoundTripper]. A registry that does not let a blob be mounted from another repository, in
// whatever way it says so, is sent it.
func (c *client) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := docker.WithScope(req.Context(), c.scope)
	query := req.URL.Query()
	from := query.Get("from")
	if from == "" {
		return c.send(ctx, req)
	}
	mounting := docker.WithScope(ctx, "repository:"+from+":"+pull)
	resp, err := c.send(mounting, req)
	if err != nil && ctx.Err() == nil { // a connection that was lost is no answer
		resp, err = c.send(mounting, req)
	}
	if ctx.Err() != nil {
		return resp, err
	}
	if err == nil {
		switch resp.StatusCode {
		case http.StatusCreated, http.StatusAccepted, http.StatusTooManyRequests, http.StatusServiceUnavailable:
			return resp, nil
		}
		drain(resp)
	}
	req = req.Clone(ctx)
	req.URL.RawQuery = ""
	return c.send(ctx, req)
}

// send sends a request.
func (c *client) send(ctx context.Context, req *http.Request) (*http.Response, error) {
	end, err := c.contact.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	host := c.host.Load()
	resp, err := c.sendBy(ctx, host, req)
	if err == nil {
		if req.Method == http.MethodPut && resp.StatusCode/100 == 2 { // which oras knows one of
			resp.StatusCode = http.StatusCreated
		}
		return resp, nil
	}
	if unmade := c.renew(host); unmade != nil {
		return nil, unmade
	}
	return nil, err
}

// sendBy answers a challenge as containerd's own client does.
func (c *client) sendBy(ctx context.Context, host *docker.RegistryHost, req *http.Request) (*http.Response, error) {
	var refused []*http.Response
	for {
		attempt, err := again(ctx, req, len(refused) > 0)
		if err != nil {
			return nil, err
		}
		if err := host.Authorizer.Authorize(ctx, attempt); err != nil {
			return nil, unauthorizedError{c.scope, err}
		}
		resp, err := host.Client.Transport.RoundTrip(attempt)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized {
			resp.Request = attempt
			if err := stay(resp); err != nil {
				drain(resp)
				return nil, err
			}
			return resp, nil
		}
		refused = append(refused, resp)
		err = host.Authorizer.AddResponses(ctx, refused)
		if errdefs.IsNotImplemented(err) || req.Body != nil && req.GetBody == nil { // which can be sent once: see mayPass
			return resp, nil // what it says is the error
		}
		if err != nil {
			drain(resp)
			return nil, err
		}
		drain(resp)
	}
}

// errElsewhere is of a registry that has blobs sent to another host.
var errElsewhere = errors.New("it has blobs sent there, and credentials for a registry go to it only; " +
	"set the address that the registry, or a proxy before it, has for itself to the one that is configured here")

// stay makes an address on the registry's own host one that is reached as the registry was. A registry that is spoken to in plain
// HTTP names it with another scheme than was asked by, and one behind a proxy may give an upload any other host or port: its own if
// the path is that of an upload.
func stay(resp *http.Response) error {
	own := resp.Request.URL
	location, err := resp.Location()
	switch upload := resp.StatusCode == http.StatusAccepted; {
	case err != nil:
		return nil //nolint:nilerr // there is none, or whom it is for says so
	case location.Host == own.Host, upload && strings.HasPrefix(location.Path, own.Path):
		location.Scheme, location.Host, location.User = own.Scheme, own.Host, nil
		resp.Header.Set("Location", location.String())
	case upload:
		return fmt.Errorf("%s names %s: %w", own.Host, location.Host, errElsewhere)
	}
	return nil
}

// again returns req to be sent, for another time if it was sent before.
func again(ctx context.Context, req *http.Request, before bool) (*http.Request, error) {
	attempt := req.Clone(ctx)
	if !before || req.GetBody == nil {
		return attempt, nil
	}
	body, err := req.GetBody()
	attempt.Body = body
	return attempt, err
}

// drain reads what is left of a short answer, so that its connection can be used again.
func drain(resp *http.Response) {
	const most = 64 << 10
	_, _ = io.CopyN(io.Discard, resp.Body, most)
	resp.Body.Close()
}

// tagOrDigest is what a reference ends in.
func tagOrDigest(named reference.Named) string {
	switch ref := named.(type) {
	case reference.Digested:
		return ref.Digest().String()
	case reference.Tagged:
		return ref.Tag()
	}
	return strings.TrimPrefix(reference.TagNameOnly(named).String(), named.Name()+":")
}
