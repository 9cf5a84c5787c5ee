// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"net/http"
	"net/url"
)

// sendOwn is one request to the registry itself. One in plain HTTP is what a registry of plain HTTP redirects to, and says nothing of TLS.
func (e *Endpoint) sendOwn(req *http.Request) (*http.Response, error) {
	if !e.opts.Insecure || req.URL.Scheme == "http" {
		return e.routes().own.RoundTrip(req)
	}
	if e.plain.Load() {
		resp, err := e.routes().own.RoundTrip(overHTTP(req))
		if err == nil && (resp.StatusCode != http.StatusBadRequest || req.Body != nil) {
			return resp, nil
		}
		e.plain.Store(false) // the port may speak TLS by now, which many servers say with this status: look again
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
	}
	if req.Body != nil && req.Body != http.NoBody && !e.spoke.Load() && e.findPlain(req.Context()) {
		return e.routes().own.RoundTrip(overHTTP(req))
	}
	resp, err := e.routes().own.RoundTrip(req)
	switch {
	case err == nil:
		e.spoke.Store(true)
	case (isNotTLS(err) || e.isPlainPort(err)) && !e.spoke.Load() && req.Context().Err() == nil:
		if resp, err = e.routes().own.RoundTrip(overHTTP(req)); err == nil {
			e.plain.Store(true)
		}
	}
	return resp, err
}

// findPlain finds out whether the port is one of plain HTTP, for a request whose content can be sent once.
func (e *Endpoint) findPlain(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, (&url.URL{Scheme: "https", Host: e.host, Path: "/v2/"}).String(), nil)
	if err != nil {
		return false
	}
	resp, err := e.sendOwn(req)
	if err != nil {
		return false // the request itself is told why
	}
	resp.Body.Close()
	return resp.Request.URL.Scheme == "http"
}

// isPlainPort reports whether the registry is to be looked for at the port of HTTP, since that is expected, no port is written,
// and there is nobody at the port of HTTPS.
func (e *Endpoint) isPlainPort(err error) bool {
	return e.opts.PlainHTTP && isDial(err) && (&url.URL{Host: e.host}).Port() == ""
}

func overHTTP(req *http.Request) *http.Request {
	req = req.Clone(req.Context())
	req.URL.Scheme = "http"
	return req
}
