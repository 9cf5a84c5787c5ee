// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// R10: a registry that accepts and then says nothing, at any time, is given up on, and its connection with it.
func TestStalls(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("stalls", 1<<20)
	authority := registrytest.NewAuthority(t)
	for _, http1 := range []bool{true, false} {
		for name, tt := range map[string]struct {
			part string
			sent int
			down bool
		}{
			"before the headers":        {"/manifests/", -1, true},
			"of a blob":                 {image.LayerPath(), -1, true},
			"after the headers":         {image.LayerPath(), 0, false},
			"in the middle of a blob":   {image.LayerPath(), 1 << 19, false},
			"in the middle of an image": {"/manifests/sha256", -1, true},
		} {
			t.Run(fmt.Sprintf("%s, HTTP/1 %t", name, http1), func(t *testing.T) {
				t.Parallel()
				gone := make(chan struct{})
				config := authority.Server(t)
				if http1 {
					config.NextProtos = []string{"http/1.1"}
				}
				server := registrytest.Serve(t, config, first(1, tt.part, func(w http.ResponseWriter, r *http.Request) {
					if tt.sent >= 0 {
						w.Header().Set("Content-Length", fmt.Sprint(len(image.Layer)))
						_, _ = w.Write(image.Layer[:tt.sent])
						w.(http.Flusher).Flush()
					}
					<-r.Context().Done() // the client went away
					close(gone)
				}, registrytest.Registry{Image: image}))
				opts := trusting(authority)
				opts.StallTimeout = time.Second
				e := newEndpoint(t, server.Host, login(), opts)
				err := pull(t.Context(), e, "app", image)
				wantError(t, err, server.Host+": stalled: no byte for 1s")
				var own *endpoint.Error
				if !errors.As(err, &own) || own.Cause != endpoint.TimedOut {
					t.Errorf("got %v, want cause %s", err, endpoint.TimedOut)
				}
				<-gone
				if _, down := e.Down(); down != tt.down {
					t.Errorf("got down %t, want %t", down, tt.down)
				}
				if got := len(server.Lines(tt.part)); got != 1 {
					t.Errorf("got %d requests, want 1: a stall is not tried again by the same pull", got)
				}
			})
		}
	}
}

// A pull that is slow and not stalled goes on: only the time in which no byte comes counts.
func TestSlowIsNotStalled(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("slow", 32)
	authority := registrytest.NewAuthority(t)
	server := registrytest.Serve(t, authority.Server(t), only(image.LayerPath(), func(w http.ResponseWriter, _ *http.Request) {
		for _, b := range image.Layer {
			time.Sleep(25 * time.Millisecond) // what is slow is the point
			_, _ = w.Write([]byte{b})
			w.(http.Flusher).Flush()
		}
	}, registrytest.Registry{Image: image}))
	opts := trusting(authority)
	opts.StallTimeout = 500 * time.Millisecond
	if err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image); err != nil {
		t.Fatal(err)
	}
}

// drip is content that comes a byte at a time.
type drip struct{ left int }

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 || len(p) == 0 {
		return 0, io.EOF
	}
	d.left--
	time.Sleep(25 * time.Millisecond) // what is slow is the point
	p[0] = 'x'
	return 1, nil
}

// upload sends content to path on a server that a vouches for, with a stall timeout of a second.
func upload(t testing.TB, a *registrytest.Authority, host, path string, body io.Reader) error {
	t.Helper()
	opts := trusting(a)
	opts.StallTimeout = time.Second
	hosts, err := newEndpoint(t, host, login(), opts).Hosts(nil)("")
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+host+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := hosts[0].Client.Transport.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// An upload that is slow and not stalled goes on, though a registry answers it only when it has all of it.
func TestSlowUpload(t *testing.T) {
	t.Parallel()
	const size = 80
	authority := registrytest.NewAuthority(t)
	taken := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
			t.Errorf("got %d bytes and %v, want %d", n, err, size)
		}
		w.WriteHeader(http.StatusCreated)
	})
	for name, server := range map[string]*registrytest.Server{
		"HTTP/1.1": overHTTP1(t, authority, taken), "HTTP/2": registrytest.Serve(t, authority.Server(t), taken),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := upload(t, authority, server.Host, "/v2/app/blobs/uploads/1", &drip{size}); err != nil {
				t.Errorf("got %v of an upload that goes on", err)
			}
		})
	}
}

// An upload that nobody takes is given up.
func TestStalledUpload(t *testing.T) {
	t.Parallel()
	authority := registrytest.NewAuthority(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", authority.Server(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			go conn.(*tls.Conn).HandshakeContext(t.Context())
		}
	}()
	wantError(t, upload(t, authority, listener.Addr().String(), "/v2/app/blobs/uploads/1", bytes.NewReader(make([]byte, 64<<20))), "stalled: no byte for 1s")
}

// An error that is told in a byte at a time is one, for which nobody waits longer than for a registry that says nothing.
func TestSlowError(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("slow error", 32)
	authority := registrytest.NewAuthority(t)
	for _, code := range []int{http.StatusForbidden, http.StatusNotFound, http.StatusTeapot} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			server := registrytest.Serve(t, authority.Server(t), only("/manifests/", func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(code)
				for r.Context().Err() == nil {
					_, _ = w.Write([]byte("x"))
					w.(http.Flusher).Flush()
					time.Sleep(20 * time.Millisecond) // what is slow is the point
				}
			}, registrytest.Registry{Image: image}))
			opts := trusting(authority)
			opts.StallTimeout = 300 * time.Millisecond
			e := newEndpoint(t, server.Host, login(), opts)
			start := time.Now()
			err := pull(t.Context(), e, "app", image)
			if err == nil || strings.Contains(err.Error(), "stalled") {
				t.Errorf("got %v, want that of the status", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s, want a few times 300ms", took)
			}
			if _, down := e.Down(); down {
				t.Error("got the registry taken for down, and it answers")
			}
		})
	}
}

// A connection on which nothing comes any more is not used again and again, as it would be under HTTP/2.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("dead", 1<<10)
	authority := registrytest.NewAuthority(t)
	server := registrytest.Serve(t, authority.Server(t), registrytest.Registry{Image: image})
	g := forward(t, server.Host)
	opts := trusting(authority)
	opts.StallTimeout = 4 * time.Second
	e := newEndpoint(t, g.host, login(), opts)
	if err := pull(t.Context(), e, "app", image); err != nil {
		t.Fatal(err)
	}
	g.freeze()
	if err := pull(t.Context(), e, "app", image); err != nil {
		t.Errorf("got %v, want a new connection", err)
	}
}

// A connection of HTTP/1.1 that the network lost is found out too, and the pull goes on over another.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("lost", 1<<20)
	authority := registrytest.NewAuthority(t)
	through := func(t *testing.T, server *registrytest.Server) (*gate, *endpoint.Endpoint) {
		g := forward(t, server.Host)
		opts := trusting(authority)
		opts.StallTimeout, opts.DialTimeout = 8*time.Second, time.Second
		return g, newEndpoint(t, g.host, login(), opts)
	}
	t.Run("in the middle of a blob", func(t *testing.T) {
		t.Parallel()
		half, lost := make(chan struct{}), make(chan struct{})
		server := overHTTP1(t, authority, first(1, image.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(image.Layer)))
			_, _ = w.Write(image.Layer[:1<<19])
			w.(http.Flusher).Flush()
			close(half)
			<-lost
			<-r.Context().Done()
		}, registrytest.Registry{Image: image}))
		g, e := through(t, server)
		go func() {
			<-half
			time.Sleep(500 * time.Millisecond) // so that it has arrived: what is sent again and again is a sign of life
			g.lose(t)
			close(lost)
		}()
		if err := pull(t.Context(), e, "app", image); err != nil {
			t.Errorf("got %v, want the rest over another connection", err)
		}
	})
	t.Run("before a request", func(t *testing.T) {
		t.Parallel()
		g, e := through(t, overHTTP1(t, authority, registrytest.Registry{Image: image}))
		if err := pull(t.Context(), e, "app", image); err != nil {
			t.Fatal(err)
		}
		g.lose(t)
		if err := pull(t.Context(), e, "app", image); err != nil {
			t.Errorf("got %v, want a new connection", err)
		}
	})
}
