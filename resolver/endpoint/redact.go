// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"

	"github.com/berth-edge/berth/resolver/credential"
)

// Redact replaces every secret that a holds in text.
func (a *Authorizer) Redact(text string) string {
	a.mu.Lock()
	var known []string
	for _, cred := range a.used {
		known = append(known, cred.Secrets()...)
	}
	for _, t := range a.tokens {
		known = append(known, t.value)
	}
	a.mu.Unlock()
	return replace(text, known)
}

// Redact replaces every secret that the endpoint's own authorizer holds in text.
func (e *Endpoint) Redact(text string) string { return e.auth.Redact(text) }

// redactor is for what answers req: it replaces what a holds, what req carried, which a may not hold any more, and the
// username. In a text of ours a username may be a word like any other.
func (a *Authorizer) redactor(req *http.Request) func(string) string {
	a.mu.Lock()
	used := slices.Clone(a.used)
	a.mu.Unlock()
	var carried []string
	if u, p, ok := req.BasicAuth(); ok {
		used = append(used, credential.Credential{Username: u})
		carried = credential.Credential{Username: u, Password: credential.Secret(p)}.Secrets()
	}
	if token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok {
		carried = append(carried, token)
	}
	for _, cred := range used {
		// One that is in the registry's host too is told with it anyway, and would be taken out of that.
		if cred.Username != "" && !cred.IsToken() && !strings.Contains(a.endpoint.host, cred.Username) {
			carried = append(carried, cred.Username)
		}
	}
	return func(text string) string { return RedactQueries(replace(a.Redact(text), carried)) }
}

// queries are those of URLs: a signed address is a credential.
var queries = regexp.MustCompile(`(https?://[^\s"'?]+)\?[^\s"']+`)

// RedactQueries replaces the query of every URL in text.
func RedactQueries(text string) string { return queries.ReplaceAllString(text, "$1?***") }

func replace(text string, secrets []string) string {
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, credential.Secret("").String())
	}
	return text
}

// redactError takes secrets out of an error: some quote what a server sent.
func redactError(err error, redact func(string) string) error {
	text := redact(err.Error())
	if text == err.Error() {
		return err
	}
	cause := BadResponse
	var own *Error
	if errors.As(err, &own) {
		cause = own.Cause
	}
	return &Error{Cause: cause, Text: text, err: err}
}

// maxErrorBody bounds what is read of an answer that is an error.
const maxErrorBody = 64 << 10

// meant are the headers that containerd goes by. They are left as they are: a short password may be part of one.
var meant = map[string]bool{
	"Content-Encoding": true, "Content-Length": true, "Content-Range": true, "Content-Type": true, "Docker-Content-Digest": true, "Link": true, "Location": true,
}

// redactResponse makes the response to asked fit for errors and for containerd's log, which has every header at debug
// level. A body is read if it is an error's; having read it, the connection can be used again.
func redactResponse(resp *http.Response, asked *http.Request, redact func(string) string) {
	resp.Status = redact(resp.Status)
	resp.Request = printable(resp, asked.URL)
	resp.Header.Del("Set-Cookie")
	if asked.Method != http.MethodPost && asked.Method != http.MethodPut { // of these it is where an upload goes on
		resp.Header.Del("Location")
	}
	if path.Base(path.Dir(asked.URL.Path)) != "referrers" { // of these it is where a list goes on
		resp.Header.Del("Link")
	}
	for name, values := range resp.Header {
		for i := range values {
			if !meant[name] {
				values[i] = redact(values[i])
			}
		}
	}
	if resp.StatusCode < http.StatusBadRequest {
		return
	}
	text, _ := io.ReadAll(io.LimitReader(plainBody(resp), maxErrorBody))
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader([]byte(redact(string(text)))))
}

// plainBody is the body of an answer that is an error, to be read by people: blobs are asked for with gzip offered, and what is
// before a registry may compress errors alone. What is not the gzip that it is said to be is left out.
func plainBody(resp *http.Response) io.Reader {
	if !strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip") {
		return resp.Body
	}
	resp.Header.Del("Content-Encoding")
	plain, err := gzip.NewReader(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return http.NoBody
	}
	return plain
}

// printable is the request that was answered, with no more of its address than may be printed: the host alone, if a
// redirect led there. It keeps the challenges, which redaction may change.
func printable(resp *http.Response, asked *url.URL) *http.Request {
	at := *resp.Request.URL
	if at.Host != asked.Host || at.Path != asked.Path {
		at = url.URL{Scheme: at.Scheme, Host: at.Host}
	}
	at.RawQuery, at.User = "", nil
	req := resp.Request.WithContext(context.WithValue(resp.Request.Context(), challengesKey{}, auth.ParseAuthHeader(resp.Header)))
	req.URL = &at
	return req
}

type challengesKey struct{}

// challenges are those of a response as the server sent them.
func challenges(resp *http.Response) []auth.Challenge {
	c, _ := resp.Request.Context().Value(challengesKey{}).([]auth.Challenge)
	return c
}
