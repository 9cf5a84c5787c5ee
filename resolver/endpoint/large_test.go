// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

const largeBlob = 8 << 20

// Large blobs come over connections of their own, a few at once, and give them back.
func TestLargeBlobsComeAlone(t *testing.T) {
	t.Parallel()
	const atOnce, alone = 6, 4
	image := registrytest.NewImage("large", largeBlob)
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

// A server that speaks nothing but HTTP/2 gives large blobs too, and is not asked for HTTP/1.1 twice.
func TestLargeBlobOverHTTP2Only(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("large", largeBlob)
	authority := registrytest.NewAuthority(t)
	config := authority.Server(t)
	config.NextProtos = []string{"h2"}
	server := registrytest.Serve(t, config, registrytest.Registry{Image: image})
	e := newEndpoint(t, server.Host, login(), trusting(authority))
	for range 2 {
		if err := pullLarge(t, e, image); err != nil {
			t.Fatal(err)
		}
	}
	if got := server.Connections(); got != 2 {
		t.Errorf("got %d connections, want 2: that of HTTP/2, and one that was refused", got)
	}
}

// pullLarge pulls as a pull of containerd does, which knows how large its layer is.
func pullLarge(t *testing.T, e *endpoint.Endpoint, image registrytest.Image) error {
	ref := e.Host() + "/app:1"
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: e.Hosts(nil)})
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
	if err := pull(endpoint.WithSize(t.Context(), largeBlob), g.endpoint, "app", g.image); err != nil {
		t.Fatal(err)
	}
	for _, r := range g.realm.Requests() {
		if r.Proto != "HTTP/2.0" {
			t.Errorf("%s: got %s, want HTTP/2.0", r.Line, r.Proto)
		}
	}
}
