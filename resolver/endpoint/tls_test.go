// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// SEC-20 to SEC-24, SEC-26, T1, T2, T10: which servers are believed, and what the error says of the others.
func TestCertificates(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("certificates", 1<<10)
	authority, other := registrytest.NewAuthority(t), registrytest.NewAuthority(t)
	onePair, _, _ := authority.Issue(t, "localhost")
	now := time.Now()
	expired, _, _ := authority.IssueFor(t, now.Add(-time.Hour), now.Add(-time.Minute), "127.0.0.1", "localhost")
	early, _, _ := authority.IssueFor(t, now.Add(time.Minute), now.Add(time.Hour), "127.0.0.1", "localhost")
	addressed, _, _ := authority.Issue(t, "registry.example.com")
	subject, _, _ := authority.Issue(t, "CN=localhost")
	weak, _, _ := authority.IssueRSA(t, 1024, "127.0.0.1")
	strong, _, _ := authority.IssueRSA(t, 2048, "127.0.0.1")
	along := strong
	along.Certificate = append(slices.Clone(strong.Certificate), weak.Certificate...)
	intermediate := authority.Intermediate(t)
	alone, _, _ := intermediate.Issue(t, "127.0.0.1")
	chain := alone
	block, _ := pem.Decode([]byte(intermediate.PEM))
	chain.Certificate = append(slices.Clone(alone.Certificate), block.Bytes)
	certificate := func(pair tls.Certificate, versions ...uint16) *tls.Config {
		c := &tls.Config{Certificates: []tls.Certificate{pair}}
		if len(versions) > 0 {
			c.MinVersion, c.MaxVersion = versions[0], versions[0]
		}
		return c
	}
	pair, _, _ := authority.Issue(t, "127.0.0.1", "localhost")
	signed := httptest.NewTLSServer(nil)
	self := signed.TLS.Certificates[0]
	signed.Close()
	for _, tt := range []struct {
		name   string
		server *tls.Config
		host   string
		opts   endpoint.Options
		cause  endpoint.Cause // "" for a pull that works
		want   string
	}{
		{name: "its authority", server: certificate(pair), opts: trusting(authority)},
		{name: "its authority among others", server: certificate(pair), opts: endpoint.Options{Certificates: []string{other.PEM + authority.PEM}}},
		{name: "SEC-20 unknown authority", server: certificate(pair), cause: endpoint.Untrusted, want: "add its CA to certificates"},
		{name: "SEC-20 unknown authority by name", server: certificate(pair), host: "localhost", cause: endpoint.Untrusted, want: "add its CA to certificates"},
		{name: "T3 signed by itself", server: certificate(self), cause: endpoint.Untrusted, want: "add its CA to certificates: O=Acme Co is signed by itself: "},
		{name: "SEC-22 authority of another registry", server: certificate(pair), opts: trusting(other), cause: endpoint.Untrusted, want: "unknown authority"},
		{name: "T2 no such address", server: certificate(onePair), opts: trusting(authority), cause: endpoint.BadCert, want: "certificate is for another name: x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs"},
		{name: "T2 another name", server: certificate(addressed), host: "localhost", opts: trusting(authority), cause: endpoint.BadCert, want: "certificate is for another name: x509: certificate is valid for registry.example.com, not localhost"},
		{name: "T2 only in the subject", server: certificate(subject), host: "localhost", opts: trusting(authority), cause: endpoint.BadCert, want: "certificate is for another name: x509: certificate relies on legacy Common Name field, use SANs instead"},
		{name: "T10 RSA, 1024 bits", server: certificate(weak), opts: trusting(authority), cause: endpoint.BadCert, want: "certificate is not believed: RSA key of 1024 bits is too weak; want 2048 or more"},
		{name: "T10 RSA, 2048 bits", server: certificate(strong), opts: trusting(authority)},
		{name: "T10 an old certificate of 1024 bits sent along", server: certificate(along), opts: trusting(authority)},
		{name: "T10 insecure, RSA, 1024 bits", server: certificate(weak), opts: endpoint.Options{Insecure: true}},
		{name: "expired", server: certificate(expired), opts: trusting(authority), cause: endpoint.BadCert, want: "certificate not valid at " + stamp(now)[:10]},
		{name: "T1 expired", server: certificate(expired), opts: trusting(authority), cause: endpoint.BadCert, want: "it expired at " + stamp(now.Add(-time.Minute)) + "; renew it"},
		{name: "T1 not yet valid", server: certificate(early), opts: trusting(authority), cause: endpoint.BadCert, want: "it is not yet valid, but from " + stamp(now.Add(time.Minute))},
		{name: "intermediate missing", server: certificate(alone), opts: trusting(authority), cause: endpoint.Untrusted, want: "unknown authority; add its CA to certificates: it is signed by CN=intermediate of TestCertificates; if that is an intermediate certificate, the registry should send it"},
		{name: "intermediate sent", server: certificate(chain), opts: trusting(authority)},
		{name: "intermediate configured", server: certificate(alone), opts: trusting(intermediate)},
		{name: "SEC-23, T10 TLS 1.0", server: certificate(pair, tls.VersionTLS10), opts: trusting(authority), cause: endpoint.NoTLS, want: "protocol version"},
		{name: "SEC-23, T10 TLS 1.1", server: certificate(pair, tls.VersionTLS11), opts: trusting(authority), cause: endpoint.NoTLS, want: "protocol version"},
		{name: "TLS 1.2", server: certificate(pair, tls.VersionTLS12), opts: trusting(authority)},
		{name: "insecure, by address", server: certificate(pair), opts: endpoint.Options{Insecure: true}},
		{name: "insecure, by name", server: certificate(pair), host: "localhost", opts: endpoint.Options{Insecure: true}},
		{name: "insecure, expired", server: certificate(expired), opts: endpoint.Options{Insecure: true}},
		{name: "insecure, another name", server: certificate(onePair), opts: endpoint.Options{Insecure: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := registrytest.Serve(t, tt.server, registrytest.Basic(user, password, registrytest.Registry{Image: image}))
			host := server.Host
			if tt.host != "" {
				_, port, _ := net.SplitHostPort(host)
				host = tt.host + ":" + port
			}
			e := newEndpoint(t, host, login(), tt.opts)
			err := pull(t.Context(), e, "app", image)
			if tt.cause == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantError(t, err, host+": ", tt.want)
			var own *endpoint.Error
			if !errors.As(err, &own) || own.Cause != tt.cause {
				t.Errorf("got %v, want cause %s", err, tt.cause)
			}
			if got := len(server.Requests()); got != 0 {
				t.Errorf("got %d requests, want 0: none over plain HTTP either", got)
			}
			if got := server.Connections(); got != 1 {
				t.Errorf("got %d connections, want 1", got)
			}
			noSecrets(t, "the server", server)
			if _, down := e.Down(); down {
				t.Error("a server that answered is taken for down")
			}
		})
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// SEC-22, SEC-26, R18: insecure is for the registry's own host, and for nothing that it redirects to or sends for a token.
func TestInsecureIsNotInherited(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("insecure", 1<<10)
	authority := registrytest.NewAuthority(t)
	for _, tt := range []struct{ name, registry, other string }{
		{"from an address to a name", "127.0.0.1", "localhost"},
		{"from a name to an address", "localhost", "127.0.0.1"},
		{"from an address to another", "127.0.0.1", "[::1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cdn := registrytest.ServeOn(t, tt.other+":0", authority.Server(t), registrytest.Registry{Image: image})
			_, port, _ := net.SplitHostPort(cdn.Host)
			base := "https://" + tt.other + ":" + port
			server := registrytest.Serve(t, authority.Server(t), registrytest.Redirect("/blobs/", base, "", registrytest.Registry{Image: image}))
			_, port, _ = net.SplitHostPort(server.Host)
			err := pull(t.Context(), newEndpoint(t, tt.registry+":"+port, login(), endpoint.Options{Insecure: true}), "app", image)
			var own *endpoint.Error
			if !errors.As(err, &own) || own.Cause != endpoint.Untrusted {
				t.Errorf("got %v, want cause %s", err, endpoint.Untrusted)
			}
			if got := len(cdn.Requests()); got != 0 {
				t.Errorf("got %d requests at the other host, want 0", got)
			}
		})
	}
	t.Run("to another port of the same host", func(t *testing.T) {
		cdn := registrytest.Serve(t, authority.Server(t), registrytest.Registry{Image: image})
		server := registrytest.Serve(t, authority.Server(t), registrytest.Redirect("/blobs/", cdn.URL, "", registrytest.Registry{Image: image}))
		if err := pull(t.Context(), newEndpoint(t, server.Host, login(), endpoint.Options{Insecure: true}), "app", image); err != nil {
			t.Error(err)
		}
	})
	t.Run("to a token realm that is not listed", func(t *testing.T) {
		tokens := registrytest.NewTokens(user, password)
		realm := registrytest.Serve(t, authority.Server(t), tokens)
		_, port, _ := net.SplitHostPort(realm.Host)
		tokens.Realm = "https://localhost:" + port + "/token"
		server := registrytest.Serve(t, authority.Server(t), tokens.Protect(registrytest.Registry{Image: image}))
		if err := pull(t.Context(), newEndpoint(t, server.Host, login(), endpoint.Options{Insecure: true}), "app", image); err == nil {
			t.Error("got no error, want one")
		}
		noSecrets(t, "the realm", realm)
		listed := endpoint.Options{Insecure: true, TokenRealms: []string{"localhost"}}
		if err := pull(t.Context(), newEndpoint(t, server.Host, login(), listed), "app", image); err != nil {
			t.Errorf("a realm that is listed: %v", err)
		}
	})
}

// onceClosed is a body that cannot be read once it is closed, as a file.
type onceClosed struct {
	io.ReadCloser
	closed atomic.Bool
}

func (b *onceClosed) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, os.ErrClosed
	}
	return b.ReadCloser.Read(p)
}

func (b *onceClosed) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

// SEC-24, T4: a client certificate is shown to the registry, and to no host that it redirects to or that gives tokens for it.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("mutual", 1<<10)
	authority := registrytest.NewAuthority(t)
	_, cert, key := authority.Issue(t, "node")
	var shown []string
	ask := func(must tls.ClientAuthType) *tls.Config {
		c := authority.Server(t)
		c.ClientAuth, c.ClientCAs = must, authority.Pool()
		return c
	}
	note := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, c := range r.TLS.PeerCertificates {
				shown = append(shown, c.Subject.CommonName)
			}
			next.ServeHTTP(w, r)
		})
	}
	tokens := registrytest.NewTokens(user, password)
	tokens.Realm = registrytest.Serve(t, ask(tls.RequestClientCert), note(tokens)).URL + "/token"
	redirecting := func(at string) *registrytest.Server {
		cdn := registrytest.ServeOn(t, at, ask(tls.RequestClientCert), note(registrytest.Registry{Image: image}))
		return registrytest.Serve(t, ask(tls.RequireAndVerifyClientCert), tokens.Protect(registrytest.Redirect("/blobs/", cdn.URL, "", registrytest.Registry{Image: image})))
	}
	server := redirecting("127.0.0.1:0") // to another port

	err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image)
	wantError(t, err, server.Host+": ", "certificate required")
	// T4: one that the registry does not accept.
	_, foreignCert, foreignKey := registrytest.NewAuthority(t).Issue(t, "node")
	_, oldCert, oldKey := authority.IssueFor(t, time.Now().Add(-time.Hour), time.Now().Add(-time.Minute), "node")
	for _, pair := range [][2]string{{foreignCert, foreignKey}, {oldCert, oldKey}} {
		opts := trusting(authority)
		opts.ClientCertificate, opts.ClientKey = pair[0], pair[1]
		err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image)
		wantError(t, err, server.Host+": the registry refuses the client's certificate", "look at client_certificate: remote error: tls: ")
	}
	opts := trusting(authority)
	opts.ClientCertificate, opts.ClientKey = cert, key
	for _, server := range []*registrytest.Server{server, redirecting("[::1]:0")} {
		if err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image); err != nil {
			t.Fatal(err)
		}
	}
	if len(shown) != 0 {
		t.Errorf("another host was shown the certificate of %q", shown)
	}
}

// R21, T10: HTTP/2 where the registry speaks it; IPv6.
func TestHTTP2AndIPv6(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("h2", 1<<20)
	authority := registrytest.NewAuthority(t)
	server := registrytest.ServeOn(t, "[::1]:0", authority.Server(t), registrytest.Basic(user, password, registrytest.Registry{Image: image}))
	if !strings.HasPrefix(server.Host, "[::1]:") {
		t.Fatalf("got host %s", server.Host)
	}
	if err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image); err != nil {
		t.Fatal(err)
	}
	for _, r := range server.Requests() {
		if r.Proto != "HTTP/2.0" {
			t.Errorf("%s: got %s, want HTTP/2.0", r.Line, r.Proto)
		}
	}
	if got := server.Connections(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}

// A registry that asks for a client's certificate and does without is tried again when a connection ends, as any other. One that
// answered is not said to miss it when its connections end before they have asked for it.
func TestClientCertificateIsOptional(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("optional", 1<<10)
	authority := registrytest.NewAuthority(t)
	config := authority.Server(t)
	config.NextProtos = []string{"http/1.1"}
	config.ClientAuth = tls.VerifyClientCertIfGiven
	server := registrytest.Serve(t, config, first(1, "/manifests/", reset, registrytest.Registry{Image: image}))
	gate := forward(t, server.Host)
	e := newEndpoint(t, gate.host, login(), trusting(authority))
	if err := pull(t.Context(), e, "app", image); err != nil {
		t.Error(err)
	}
	gate.to(closedPort(t))
	server.CloseConnections()
	if err := pull(t.Context(), e, "app", image); err == nil || strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want that the connection ended, and nothing of a certificate", err)
	}
}

// T5: a server that ends the handshake, or never finishes it, is not spoken to in plain HTTP; it is asked once more at
// most, and the error names it.
func TestBrokenHandshakes(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("handshake", 1<<10)
	for _, tt := range []struct {
		name string
		// hold is what the server does with a connection once it has read the client's first record.
		hold func(net.Conn)
		want string
	}{
		{"closed", func(conn net.Conn) { conn.Close() }, "EOF"},
		{"reset", func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0); conn.Close() }, "connection lost"},
		{"stalled", func(net.Conn) {}, "timed out: net/http: TLS handshake timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var received []byte
			var conns []net.Conn
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					hello := make([]byte, 1<<14)
					n, _ := conn.Read(hello)
					mu.Lock()
					conns, received = append(conns, conn), append(received, hello[:n]...)
					mu.Unlock()
					tt.hold(conn)
				}
			}()
			t.Cleanup(func() {
				listener.Close()
				mu.Lock()
				defer mu.Unlock()
				for _, conn := range conns {
					conn.Close()
				}
			})
			host := listener.Addr().String()
			err = pull(t.Context(), newEndpoint(t, host, login(), endpoint.Options{}), "app", image)
			wantError(t, err, tt.want)
			mu.Lock()
			defer mu.Unlock()
			if len(conns) == 0 || len(conns) > 5 {
				t.Errorf("got %d connections, want 1 to 5", len(conns))
			}
			for _, text := range append([]string{"GET ", "HEAD "}, secrets...) {
				if strings.Contains(string(received), text) {
					t.Errorf("the server received %q", text)
				}
			}
		})
	}
}
