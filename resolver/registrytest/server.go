// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Server is an HTTP server on loopback that writes down every request.
type Server struct {
	// Host is its host:port, URL its scheme://host:port.
	Host, URL string

	web   *httptest.Server
	conns atomic.Int64
	open  atomic.Int64
	raw   sync.Mutex
	bytes bytes.Buffer // as they came over the wire

	mu       sync.Mutex
	requests []Request
}

// Request is one that was received.
type Request struct {
	// Line is its method and path, without the query.
	Line string
	// Header is what it carried. Query is its raw query.
	Header http.Header
	Query  string
	// Proto is "HTTP/1.1" or "HTTP/2.0".
	Proto string
	// Text is all of it, as HTTP/1.1.
	Text string
}

// BasicAuth returns the username and password that the request carried, if it did.
func (r Request) BasicAuth() (username, password string, ok bool) {
	return (&http.Request{Header: r.Header}).BasicAuth()
}

// Serve starts a server that speaks TLS unless config is nil. It ends with the test.
func Serve(t testing.TB, config *tls.Config, h http.Handler) *Server {
	t.Helper()
	return ServeOn(t, "127.0.0.1:0", config, h)
}

// ServeOn is Serve at an address.
func ServeOn(t testing.TB, address string, config *tls.Config, h http.Handler) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Host: listener.Addr().String()}
	web := &httptest.Server{
		Listener: &recordingListener{listener, s},
		Config:   &http.Server{Handler: s.record(h), ErrorLog: log.New(io.Discard, "", 0)},
	}
	if config == nil {
		web.Start()
	} else {
		web.TLS = config
		web.EnableHTTP2 = true
		web.StartTLS()
	}
	s.URL, s.web = web.URL, web
	t.Cleanup(s.Close)
	return s
}

// Close ends the server before the test does.
func (s *Server) Close() {
	s.web.CloseClientConnections() // or a handler that hangs would hold up the end
	s.web.Close()
}

func (s *Server) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := httputil.DumpRequest(r, true)
		s.mu.Lock()
		s.requests = append(s.requests, Request{
			Line: r.Method + " " + r.URL.Path, Header: r.Header.Clone(), Query: r.URL.RawQuery, Proto: r.Proto, Text: string(text),
		})
		s.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// Requests returns what was received so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Lines returns the method and path of every request whose line contains part.
func (s *Server) Lines(part string) []string {
	var lines []string
	for _, r := range s.Requests() {
		if strings.Contains(r.Line, part) {
			lines = append(lines, r.Line)
		}
	}
	return lines
}

// Received returns those of texts that are in any request, or in what came over the wire.
func (s *Server) Received(texts ...string) []string {
	s.raw.Lock()
	all := s.bytes.String()
	s.raw.Unlock()
	for _, r := range s.Requests() {
		all += r.Text
	}
	var found []string
	for _, text := range texts {
		if strings.Contains(all, text) {
			found = append(found, text)
		}
	}
	return found
}

// Connections returns how many connections were accepted.
func (s *Server) Connections() int { return int(s.conns.Load()) }

// Open returns how many of them are open.
func (s *Server) Open() int { return int(s.open.Load()) }

// CloseConnections ends all of them.
func (s *Server) CloseConnections() { s.web.CloseClientConnections() }

type recordingListener struct {
	net.Listener
	server *Server
}

func (l *recordingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.server.conns.Add(1)
	l.server.open.Add(1)
	return &recordingConn{Conn: conn, server: l.server}, nil
}

type recordingConn struct {
	net.Conn
	server *Server
	closed sync.Once
}

func (c *recordingConn) Close() error {
	c.closed.Do(func() { c.server.open.Add(-1) })
	return c.Conn.Close()
}

func (c *recordingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.server.raw.Lock()
	c.server.bytes.Write(p[:n])
	c.server.raw.Unlock()
	return n, err
}

// Reset ends the connection of a request with a TCP reset. It is for HTTP/1.1.
func Reset(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	inner := conn
	if t, ok := inner.(*tls.Conn); ok {
		inner = t.NetConn()
	}
	if r, ok := inner.(*recordingConn); ok {
		inner = r.Conn
	}
	_ = inner.(*net.TCPConn).SetLinger(0)
	_ = inner.Close()
}
