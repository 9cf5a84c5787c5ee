// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// SEC-21, T6: a port that does not speak TLS gets nothing secret, and with insecure it is spoken to in plain HTTP, which is
// remembered.
func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("plain", 1<<10)
	t.Run("without insecure", func(t *testing.T) {
		server := registrytest.Serve(t, nil, registrytest.Basic(user, password, registrytest.Registry{Image: image}))
		e := newEndpoint(t, server.Host, login(), endpoint.Options{PlainHTTP: true})
		err := pull(t.Context(), e, "app", image)
		wantError(t, err, server.Host+": server gave HTTP response to HTTPS client; set insecure = true")
		noSecrets(t, "the plain server", server)
		if got := server.Received("GET ", "HEAD "); len(got) != 0 {
			t.Errorf("the plain server received %q, want no request", got)
		}
	})
	t.Run("insecure", func(t *testing.T) {
		server := registrytest.Serve(t, nil, registrytest.Basic(user, password, registrytest.Registry{Image: image}))
		e := newEndpoint(t, server.Host, login(), endpoint.Options{Insecure: true})
		for range 3 {
			if err := pull(t.Context(), e, "app", image); err != nil {
				t.Fatal(err)
			}
		}
		if got := server.Connections(); got > 2 {
			t.Errorf("got %d connections, want 2: TLS is tried once", got)
		}
	})
	t.Run("insecure, at the port of HTTP", func(t *testing.T) {
		const host = "127.0.0.80" // where nobody is at port 443
		l, err := net.Listen("tcp", host+":80")
		if errors.Is(err, syscall.EACCES) && os.Getenv("CI") == "" {
			t.Skip("needs root to listen at port 80")
		}
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: registrytest.Basic(user, password, registrytest.Registry{Image: image}), ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(l) }()
		t.Cleanup(func() { server.Close() })
		if err := pull(t.Context(), newEndpoint(t, host, login(), endpoint.Options{Insecure: true, PlainHTTP: true}), "app", image); err != nil {
			t.Error(err)
		}
		for name, opts := range map[string]endpoint.Options{"not expected": {Insecure: true}, "not insecure": {PlainHTTP: true}} {
			k := login()
			wantError(t, pull(t.Context(), newEndpoint(t, host, k, opts), "app", image), host+": connection refused")
			if k.asked.Load() != 0 {
				t.Errorf("%s: the password was asked for", name)
			}
		}
	})
	t.Run("insecure, and the port speaks TLS by now", func(t *testing.T) {
		authority := registrytest.NewAuthority(t)
		secure := registrytest.Serve(t, authority.Server(t), registrytest.Basic(user, password, registrytest.Registry{Image: image}))
		plain := registrytest.Serve(t, nil, registrytest.Basic(user, password, registrytest.Registry{Image: image}))
		gate := forward(t, plain.Host)
		e := newEndpoint(t, gate.host, login(), endpoint.Options{Insecure: true})
		if err := pull(t.Context(), e, "app", image); err != nil {
			t.Fatal(err)
		}
		e.CloseIdle()
		gate.to(secure.Host)
		if err := pull(t.Context(), e, "app", image); err != nil {
			t.Error(err)
		}
	})
	t.Run("insecure, after TLS worked", func(t *testing.T) {
		authority := registrytest.NewAuthority(t)
		secure := registrytest.Serve(t, authority.Server(t), registrytest.Basic(user, password, registrytest.Registry{Image: image}))
		plain := registrytest.Serve(t, nil, registrytest.Basic(user, password, registrytest.Registry{Image: image}))
		gate := forward(t, secure.Host)
		e := newEndpoint(t, gate.host, login(), endpoint.Options{Insecure: true})
		if err := pull(t.Context(), e, "app", image); err != nil {
			t.Fatal(err)
		}
		e.CloseIdle()
		gate.to(plain.Host)
		err := pull(t.Context(), e, "app", image)
		wantError(t, err, "server gave HTTP response to HTTPS client")
		noSecrets(t, "the plain server", plain)
	})
}

// SEC-21, R4: what is uploaded to a registry of plain HTTP is sent whole, also where it has to be found out first whether the port
// speaks TLS, as after a connection that was lost; and to one that does speak TLS over that alone.
func TestUploadToPlainHTTP(t *testing.T) {
	t.Parallel()
	const content = "layer"
	authority := registrytest.NewAuthority(t)
	taken := only("/lost/", reset, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got, err := io.ReadAll(r.Body); r.Method == http.MethodPut && (string(got) != content || err != nil) {
			t.Errorf("got %q and %v, want %q", got, err, content)
		}
	}))
	for name, server := range map[string]*registrytest.Server{
		"plain HTTP": registrytest.Serve(t, nil, taken), "TLS": overHTTP1(t, authority, taken),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hosts, err := newEndpoint(t, server.Host, login(), endpoint.Options{Insecure: true}).Hosts(nil)("")
			if err != nil {
				t.Fatal(err)
			}
			put := func(path string) error {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+server.Host+path, io.NopCloser(strings.NewReader(content)))
				if err != nil {
					t.Fatal(err)
				}
				req.Body = &onceClosed{ReadCloser: req.Body}
				resp, err := hosts[0].Client.Transport.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				return err
			}
			for range 2 {
				if err := put("/v2/app/blobs/uploads/1"); err != nil {
					t.Error(err)
				}
				if err := put("/lost/"); err == nil {
					t.Error("got no error of a connection that was lost")
				}
			}
			if got := len(server.Lines("PUT /v2/")); got != 2 {
				t.Errorf("got %d uploads, want 2", got)
			}
		})
	}
}
