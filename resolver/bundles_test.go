// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// shelf is a bundle that holds one image under one name.
type shelf struct {
	name    string
	content registrytest.Image
	service transfer.Transferrer
	lacks   []byte // a blob that it does not have after all
	waited  []string
}

func (s *shelf) Find(_ context.Context, named reference.Named) (resolver.Bundled, bool) {
	if named.String() != s.name {
		return resolver.Bundled{}, false
	}
	return resolver.Bundled{Path: "/opt/bundle.tar", Labels: map[string]string{"io.berth.bundle": "/opt/bundle.tar"}, Service: s.service, ImageFetcher: s}, true
}

func (s *shelf) Wait(_ context.Context, named reference.Named) {
	s.waited = append(s.waited, named.String())
}

func (s *shelf) Resolve(context.Context) (string, ocispec.Descriptor, error) {
	return s.name, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: s.content.Digest(), Size: int64(len(s.content.Manifest))}, nil
}

func (s *shelf) Fetcher(context.Context, string) (transfer.Fetcher, error) { return s, nil }

func (s *shelf) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	for _, b := range [][]byte{s.content.Manifest, s.content.Config, s.content.Layer} {
		if digest.FromBytes(b) == desc.Digest && !bytes.Equal(b, s.lacks) {
			return io.NopCloser(bytes.NewReader(b)), nil
		}
	}
	return nil, errdefs.ErrNotFound
}

// An image that a bundle holds is pulled from it before anything is asked, with rules and without; a rule can take it out, or
// deny it.
func TestBundleComesFirst(t *testing.T) {
	t.Parallel()
	content, other := registrytest.NewImage("bundled", 4<<10), registrytest.NewImage("registry", 4<<10)
	for _, tt := range []struct {
		name    string
		config  func(s target) string // s is a registry with other in it
		lacks   []byte
		want    registrytest.Image
		err     error
		asked   bool
		targets []resolver.Kind
	}{
		{"nothing configured", func(target) string { return "" }, nil, content, nil, false,
			[]resolver.Kind{resolver.KindBundle, resolver.KindSource}},
		{"a rule", func(s target) string { return s.registry() + from(s) }, nil, content, nil, false,
			[]resolver.Kind{resolver.KindBundle, resolver.KindRegistry}},
		{"a rule that takes it out", func(s target) string { return s.registry() + from(s) + "bundle = false\n" }, nil, other, nil, true,
			[]resolver.Kind{resolver.KindRegistry}},
		{"a rule that denies it", func(s target) string { return s.registry() + "[[rules]]\nfrom = \"quay.io\"\ndeny = true\n" }, nil, other, errdefs.ErrPermissionDenied, false,
			nil},
		{"a rule by which its name cannot be rewritten", func(s target) string {
			return s.registry() + "[[rules]]\nfrom = \"quay.io/org/app\"\nto = [\"bare.test\"]\n"
		}, nil, content, nil, false, []resolver.Kind{resolver.KindBundle}},
		{"a bundle that lacks a layer", func(s target) string { return s.registry() + from(s) }, content.Layer, other, nil, true,
			[]resolver.Kind{resolver.KindBundle, resolver.KindRegistry}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, registrytest.Registry{Image: other})
			v := &verifier{ok: true}
			n := newNode(t, tt.config(s), v)
			b := &shelf{name: ref, content: content, lacks: tt.lacks, service: n.unverified}
			routes, err := n.Routes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			routes = routes.With(b)
			n.Routes = func(context.Context) (*resolver.Routes, error) { return routes, nil }

			var kinds []resolver.Kind
			route := routes.Route(t.Context(), ref)
			for _, target := range route.Targets {
				kinds = append(kinds, target.Kind)
			}
			if !slices.Equal(kinds, tt.targets) {
				t.Errorf("got targets %q, want %q", kinds, tt.targets)
			}
			err = n.pull(t.Context(), ref)
			if asked := s.Connections() > 0; asked != tt.asked {
				t.Errorf("got registry asked %t, want %t", asked, tt.asked)
			}
			if len(b.waited) != 1 || b.waited[0] != ref {
				t.Errorf("got a wait for %q, want one for %s", b.waited, ref)
			}
			if tt.err != nil {
				wantError(t, err, tt.err, "pull "+ref)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			image := n.wantImage(t, ref, tt.want)
			fromBundle := map[bool]string{false: "/opt/bundle.tar"}[tt.asked]
			if got := image.Labels["io.berth.bundle"]; got != fromBundle {
				t.Errorf("got label %q, want %q", got, fromBundle)
			}
			if put := len(v.names) > 0; put != tt.asked {
				t.Errorf("got image put to the verifier %t, want %t", put, tt.asked)
			}
			n.wantNoLeftovers(t)
		})
	}
}

// `berth explain` names the bundle in the place of a registry.
func TestRouteFromBundleAsJSON(t *testing.T) {
	t.Parallel()
	routes := routesOf(t, "").With(&shelf{name: ref})
	got, err := json.Marshal(routes.Route(t.Context(), ref))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"ref":"quay.io/org/app:1","named":"quay.io/org/app:1","rule":"","targets":[` +
		`{"kind":"bundle","pull":"quay.io/org/app:1","registry":"/opt/bundle.tar","credential":"none","tls":""},` +
		`{"kind":"source","pull":"quay.io/org/app:1","registry":"","credential":"client","tls":"system"}],"error":""}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
