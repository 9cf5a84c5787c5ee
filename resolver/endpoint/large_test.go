// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/transfer"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

const LargeBlob = 8 << 20

// Large blobs come over connections of their own, a few at once, and give them back.
func TestLargeBlobsComeAlone(t *testing.T) {
	t.Parallel()
	const atOnce, alone = 6, 4
	image := registrytest.NewImage("large", LargeBlob)
	authority := registrytest.NewAuthority(t)
	var asked sync.WaitGroup // all are asked for before the first is answered
	server := registrytest.Serve(t, authority.Server(t), only(image.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
		asked.Done()
		asked.Wait()
		registrytest.Registry{Image: image}.ServeHTTP(w, r)
	}, registrytest.Registry{Image: image}))
	e := newEndpoint(t, server.Host, login(), trusting(authority))
	asked.Add(1)
	if err := pull(t.Context(), e, "app", image); err != nil { // without a size; the connection is there for what comes next
		t.Fatal(err)
	}
	for range 2 {
		asked.Add(atOnce)
		var pulls sync.WaitGroup
		for range atOnce {
			pulls.Go(func() {
				if err := pullLarge(t, e, image); err != nil {
					t.Error(err)
				}
			})
		}
		pulls.Wait()
	}
	var protos []string
	for _, r := range server.Requests() {
		if r.Line != "GET /v2/app"+image.LayerPath() && r.Proto != "HTTP/2.0" {
			t.Errorf("%s: got %s, want HTTP/2.0", r.Line, r.Proto)
		} else if r.Proto != "HTTP/2.0" {
			protos = append(protos, r.Proto)
		}
	}
	if want := slices.Repeat([]string{"HTTP/1.1"}, 2*alone); !slices.Equal(protos, want) {
		t.Errorf("got %q for large blobs, want %q", protos, want)
	}
	if got := server.Connections(); got != 1+alone {
		t.Errorf("got %d connections, want %d", got, 1+alone)
	}
}

// A server that does not take to a connection of HTTP/1.1 gives large blobs too, and is not asked for another one each time.
func TestLargeBlobDoesNotComeAlone(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("large", LargeBlob)
	authority := registrytest.NewAuthority(t)
	var connections atomic.Int64
	for _, tt := range []struct {
		name  string
		hello func(*tls.ClientHelloInfo) error
		old   http.HandlerFunc // what is asked over HTTP/1.1
	}{
		{name: "no handshake without HTTP/2", hello: func(h *tls.ClientHelloInfo) error {
			if !slices.Contains(h.SupportedProtos, "h2") {
				return errors.New("no HTTP/2")
			}
			return nil
		}},
		{name: "answers in HTTP/2", old: func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = conn.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
			conn.Close()
		}},
		{name: "closes it", old: reset},
		{name: "one connection for a client", hello: func(h *tls.ClientHelloInfo) error {
			if connections.Add(1) > 1 {
				return h.Conn.Close()
			}
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := authority.Server(t)
			if tt.hello != nil {
				config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { return nil, tt.hello(h) }
			}
			server := registrytest.Serve(t, config, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor == 1 {
					tt.old(w, r)
					return
				}
				registrytest.Registry{Image: image}.ServeHTTP(w, r)
			}))
			e := newEndpoint(t, server.Host, login(), trusting(authority))
			for range 2 {
				if err := pullLarge(t, e, image); err != nil {
					t.Fatal(err)
				}
			}
			if got := server.Connections(); got != 2 {
				t.Errorf("got %d connections, want 2: that of HTTP/2, and one that was refused", got)
			}
		})
	}
}

// Parts of a large blob, which containerd fetches at once and leaves before their end, share the connection, and so does the
// rest of one that was cut short.
func TestPartsOfALargeBlobDoNotComeAlone(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("large", LargeBlob)
	authority := registrytest.NewAuthority(t)
	for _, tt := range []struct {
		name    string
		handler http.Handler
		opts    []transfer.ImageResolverOption
		alone   int
	}{
		{"fetched at once", registrytest.Registry{Image: image},
			[]transfer.ImageResolverOption{transfer.WithMaxConcurrentDownloads(4), transfer.WithConcurrentLayerFetchBuffer(1 << 20)}, 0},
		{"cut short", first(1, image.LayerPath(), cutAt(1<<20, image.Layer), registrytest.Registry{Image: image}), nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := registrytest.Serve(t, authority.Server(t), tt.handler)
			if err := pullLarge(t, newEndpoint(t, server.Host, login(), trusting(authority)), image, tt.opts...); err != nil {
				t.Fatal(err)
			}
			alone := 0
			for _, r := range server.Requests() {
				if r.Proto == "HTTP/1.1" {
					alone++
				}
			}
			if parts := len(server.Lines(image.LayerPath())); alone != tt.alone || parts < 2 {
				t.Errorf("got %d of %d requests for the blob over HTTP/1.1, want %d of several", alone, parts, tt.alone)
			}
			if got, want := server.Connections(), 1+tt.alone; got != want {
				t.Errorf("got %d connections, want %d", got, want)
			}
		})
	}
}

// pullLarge pulls as a pull of containerd does, which knows how large its layer is.
func pullLarge(t *testing.T, e *endpoint.Endpoint, image registrytest.Image, opts ...transfer.ImageResolverOption) error {
	ref := e.Host() + "/app:1"
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: e.Hosts(nil)})
	resolver.(remotes.ResolverWithOptions).SetOptions(opts...)
	if _, _, err := resolver.Resolve(t.Context(), ref); err != nil {
		return err
	}
	fetcher, err := resolver.Fetcher(t.Context(), ref)
	if err != nil {
		return err
	}
	layer := registrytest.Descriptor(ocispec.MediaTypeImageLayer, image.Layer)
	return fetch(endpoint.WithSize(t.Context(), layer.Size), fetcher, layer)
}

// A token that a large blob needs is no large blob.
func TestTokenOfLargeBlob(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	if err := pull(endpoint.WithSize(t.Context(), LargeBlob), g.endpoint, "app", g.image); err != nil {
		t.Fatal(err)
	}
	for _, r := range g.realm.Requests() {
		if r.Proto != "HTTP/2.0" {
			t.Errorf("%s: got %s, want HTTP/2.0", r.Line, r.Proto)
		}
	}
}
