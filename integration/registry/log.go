// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"
)

// Request is one request as a server received it. It holds secrets on purpose: tests look for them where they must
// not be.
type Request struct {
	Time   time.Time
	Proto  string // "HTTP/1.1" or "HTTP/2.0"
	Method string
	Host   string // the Host header, with its port
	Path   string
	Query  url.Values
	Auth   string // the scheme of the Authorization header, such as "Basic"; empty without one
	Remote string // the client's address: one for each connection
	Status int    // 0 while the request is under way
	Sent   int64  // bytes of the body sent
	Raw    []byte // request line and headers as they came, and the body of a token request
}

// String returns method, host, path, query, scheme and status: what a failing test prints.
func (r Request) String() string {
	u := url.URL{Path: r.Path, RawQuery: r.Query.Encode()}
	auth := r.Auth
	if auth == "" {
		auth = "-"
	}
	return fmt.Sprintf("%s %s%s %s %d", r.Method, r.Host, u.RequestURI(), auth, r.Status)
}

// Log is what one or more servers were asked, and how many connections it took. Its zero value is ready to use.
type Log struct {
	mu       sync.Mutex
	requests []*Request
	pending  int
	counts   Counts
}

// Counts are what the connections of a [Log] add up to.
type Counts struct {
	Conns      int // connections accepted
	Open       int // of those, connections that are open now
	Hellos     int // TLS handshakes begun
	Handshakes int // TLS handshakes completed, resumed ones included
	Resumed    int // of those, handshakes that resumed a session
}

// Requests returns the requests so far in the order of their arrival. It lets requests that are under way finish for
// up to half a second, since a client has its answer a little before the server has noted it.
func (l *Log) Requests() []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	for end := time.Now().Add(500 * time.Millisecond); l.pending > 0 && time.Now().Before(end); {
		l.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
		l.mu.Lock()
	}
	all := make([]Request, len(l.requests))
	for i, r := range l.requests {
		all[i] = *r
	}
	return all
}

// Match returns the requests of the given method whose path has the given pattern, in which * stands for any text,
// slashes included. An empty method or pattern matches all.
func (l *Log) Match(method, pattern string) []Request {
	var found []Request
	for _, r := range l.Requests() {
		if (method == "" || r.Method == method) && (pattern == "" || glob(pattern, r.Path)) {
			found = append(found, r)
		}
	}
	return found
}

// Containing returns the requests in which text occurs, in a header, the address or the form of a token request.
func (l *Log) Containing(text string) []Request {
	var found []Request
	for _, r := range l.Requests() {
		if bytes.Contains(r.Raw, []byte(text)) {
			found = append(found, r)
		}
	}
	return found
}

// Lines returns [Request.String] of every request, a line each.
func (l *Log) Lines() string {
	var b strings.Builder
	for _, r := range l.Requests() {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

// Counts returns the connections so far.
func (l *Log) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// Reset forgets all requests, and all counts but that of the open connections.
func (l *Log) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = nil
	l.counts = Counts{Open: l.counts.Open}
}

// Handler returns h with every request noted.
func (l *Log) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entry := l.begin(r)
		cw := &countingWriter{ResponseWriter: w}
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.pending--
			entry.Status, entry.Sent = cw.status, cw.sent
		}()
		h.ServeHTTP(cw, r)
	})
}

func (l *Log) begin(r *http.Request) *Request {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	raw, _ := httputil.DumpRequest(r, false)
	if r.Method == http.MethodPost && r.Header.Get("Content-Type") == "application/x-www-form-urlencoded" {
		form, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		r.Body = io.NopCloser(bytes.NewReader(form))
		raw = append(raw, form...)
	}
	entry := &Request{
		Time: time.Now(), Proto: r.Proto, Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.Query(),
		Auth: scheme, Remote: r.RemoteAddr, Raw: raw,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending++
	l.requests = append(l.requests, entry)
	return entry
}

// connState is for [http.Server.ConnState].
func (l *Log) connState(_ net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateNew:
		l.counts.Conns++
		l.counts.Open++
	case http.StateClosed, http.StateHijacked:
		l.counts.Open--
	}
}

// count makes cfg count handshakes.
func (l *Log) count(cfg *tls.Config) {
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.counts.Hellos++
		return nil, nil
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.counts.Handshakes++
		if state.DidResume {
			l.counts.Resumed++
		}
		return nil
	}
}

type countingWriter struct {
	http.ResponseWriter
	status int
	sent   int64
}

// Unwrap is how [http.ResponseController] finds the writer below, which handlers that cut a body short need.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countingWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// glob is [path.Match] in which * crosses slashes.
func glob(pattern, name string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(name, "/", "\x00"))
	return err == nil && ok
}
