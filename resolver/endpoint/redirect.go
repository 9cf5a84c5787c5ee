// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// sendFollowed is one request of a client that follows redirects. That client quotes an address that it cannot parse,
// which may be a credential in itself.
func (e *Endpoint) sendFollowed(req *http.Request) (*http.Response, error) {
	resp, err := e.send(req)
	if err != nil || resp.StatusCode < 300 || resp.StatusCode > 399 {
		return resp, err
	}
	if _, err := req.URL.Parse(resp.Header.Get("Location")); err != nil {
		resp.Body.Close()
		return nil, &Error{Cause: Redirected, Text: fmt.Sprintf("%s: redirects with status %d to an address that cannot be parsed", req.URL.Host, resp.StatusCode)}
	}
	return resp, nil
}

// kept are the headers that a redirect to another host or port may carry. Authorization, cookies and whatever an
// operator configured stay behind.
var kept = map[string]bool{"Accept": true, "Accept-Encoding": true, "Range": true, "User-Agent": true}

const maxRedirects = 10

func (e *Endpoint) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return errors.New("stopped after 10 redirects")
	}
	if req.Response.StatusCode == http.StatusSeeOther && strings.Contains(via[0].URL.Path, "/referrers/") {
		return http.ErrUseLastResponse // to a page for people, as GitHub has one in the place of a list
	}
	// What this very answer came by counts: another pull may be finding out meanwhile whether the port still is plain HTTP.
	plain := req.Response.Request.URL.Scheme == "http"
	if req.URL.Scheme != "https" && !(req.URL.Scheme == "http" && plain) {
		return &Error{Cause: Redirected, Text: e.host + ": refusing redirect to " + req.URL.Scheme + "://" + req.URL.Host + ": it is not HTTPS"}
	}
	if e.isOwn(req.URL) {
		// Go does not take another spelling of a host for the same. From a foreign host there is none to take over.
		if authorization := via[len(via)-1].Header.Get("Authorization"); authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		return nil
	}
	for name := range req.Header {
		if !kept[name] {
			req.Header.Del(name)
		}
	}
	return nil
}
