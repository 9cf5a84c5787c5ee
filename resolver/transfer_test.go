// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/imageverifier"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// verifier notes what it is asked, and judges.
type verifier struct {
	ok    bool
	err   error
	names []string
}

func (v *verifier) VerifyImage(_ context.Context, name string, _ ocispec.Descriptor) (*imageverifier.Judgement, error) {
	v.names = append(v.names, name)
	return &imageverifier.Judgement{OK: v.ok, Reason: "reason of the test"}, v.err
}

// SEC-30: only where the bytes come from changes: the image, its labels and what a verifier sees have its own name.
func TestNamesAreTheOriginal(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("names", 4<<10)
	s := serve(t, registrytest.Basic("canary-user", "canary/pass+word", registrytest.Registry{Image: content}))
	v := &verifier{ok: true}
	n := newNode(t, s.registry(withPassword)+from(s), v)
	digested := "quay.io/org/app@" + content.Digest().String()
	for _, ref := range []string{ref, digested} {
		if err := n.pull(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		got := n.wantImage(t, ref, content)
		pulledAs := s.Host + "/mirror/" + strings.TrimPrefix(ref, "quay.io/")
		for label, want := range map[string]string{
			resolver.LabelPulledAs: pulledAs, resolver.LabelRule: "quay.io", resolver.LabelSource: s.Host,
		} {
			if got.Labels[label] != want {
				t.Errorf("%s: got label %s=%q, want %q", ref, label, got.Labels[label], want)
			}
		}
		if got.Labels[resolver.LabelPulledAt] == "" {
			t.Errorf("%s: no label %s", ref, resolver.LabelPulledAt)
		}
		wantNoSecret(t, "the labels", fmt.Sprint(got.Labels))
	}
	if want := []string{ref, digested}; fmt.Sprint(v.names) != fmt.Sprint(want) {
		t.Errorf("the verifier saw %q, want %q", v.names, want)
	}
	ctx := namespaces.WithNamespace(t.Context(), "test")
	info, err := n.Content.Info(ctx, digest.FromBytes(content.Layer))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Labels["containerd.io/distribution.source.quay.io"], "org/app"; got != want {
		t.Errorf("got distribution source %q, want %q", got, want)
	}
	for label := range info.Labels {
		if strings.Contains(label, "127.0.0.1") {
			t.Errorf("label %s names the target", label)
		}
	}
	if all, _ := n.images.List(ctx); len(all) != 2 {
		t.Errorf("got %d images, want 2", len(all))
	}
	n.wantNoLeftovers(t)
}

// SEC-31, SEC-33, R8, R23: a target that serves other bytes than it said or was asked for fails, and nothing is stored.
func TestWrongBytesAreNotStored(t *testing.T) {
	t.Parallel()
	content, other := registrytest.NewImage("right", 4<<10), registrytest.NewImage("wrong", 4<<10)
	right := registrytest.Registry{Image: content}
	sent := func(mediaType string, named, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(named).String())
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			if r.Method == http.MethodGet {
				_, _ = w.Write(body)
			}
		}
	}
	manifest := ocispec.MediaTypeImageManifest
	confused := []byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`)
	for _, tt := range []struct {
		name, ref string
		handler   http.Handler
		kind      error
		want      string
	}{
		{"SEC-31 other manifest of a digest", "quay.io/org/app@" + content.Digest().String(),
			at("/manifests/", sent(manifest, content.Manifest, append([]byte(" "), content.Manifest[1:]...)), right), errdefs.ErrDataLoss, "unexpected commit digest"},
		{"SEC-31 other blob", ref, at(content.LayerPath(), sent("", content.Layer, other.Layer), right), errdefs.ErrDataLoss, "unexpected commit digest"},
		{"SEC-33 digest in the header", ref, at("/manifests/", sent(manifest, other.Manifest, content.Manifest), right), errdefs.ErrDataLoss, "digest"},
		{"SEC-33 manifest said to be an index", ref, at("/manifests/", sent(ocispec.MediaTypeImageIndex, content.Manifest, content.Manifest), right), errdefs.ErrDataLoss, "expected index but found"},
		{"SEC-33 index within a manifest", ref, at("/manifests/", sent(manifest, confused, confused), right), errdefs.ErrDataLoss, "expected manifest but found index"},
		{"R8 longer than said", ref, at(content.LayerPath(), func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(append(append([]byte(nil), content.Layer...), other.Layer...))
		}, right), errdefs.ErrDataLoss, "expected size"},
		{"schema 1", ref, at("/manifests/", sent("application/vnd.docker.distribution.manifest.v1+prettyjws", content.Manifest, content.Manifest), right), nil, "schema 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.handler)
			n := newNode(t, s.registry()+from(s))
			wantError(t, n.pull(t.Context(), tt.ref), tt.kind, tt.want, "pull "+tt.ref, `rule "quay.io"`, s.Host+"/mirror/org/app")
			n.wantNothing(t)
		})
	}
}

// R22: a tag that moves while it is pulled gives one image or the other.
func TestTagMoves(t *testing.T) {
	t.Parallel()
	first, second := registrytest.NewImage("first", 4<<10), registrytest.NewImage("second", 4<<10)
	var moved atomic.Bool
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g := registrytest.Registry{Image: first}
		if strings.HasSuffix(r.URL.Path, "/manifests/1") && moved.Swap(true) {
			g.Image = second
		}
		g.ServeHTTP(w, r)
	}))
	n := newNode(t, s.registry()+from(s))
	if err := n.pull(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	n.wantImage(t, ref, first)
}

// SEC-36: addresses that a descriptor brings along are not asked, in a manifest and in its config and layers.
func TestForeignURLs(t *testing.T) {
	t.Parallel()
	foreign := registrytest.Serve(t, nil, http.NotFoundHandler())
	content := registrytest.NewImage("foreign", 4<<10).With(func(m *ocispec.Manifest) {
		m.Config.URLs = []string{foreign.URL + "/config"}
		m.Layers[0].URLs = []string{foreign.URL + "/layer"}
	})
	s := serve(t, registrytest.Registry{Image: content})
	n := newNode(t, s.registry()+from(s))
	if err := n.pull(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	n.wantImage(t, ref, content)
	if got := foreign.Connections(); got != 0 {
		t.Errorf("got %d connections to the address of a descriptor, want 0", got)
	}
}

// R25: many pulls of one image at once fetch each blob once, under one token.
func TestManyPullsOfOneImage(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("many", 64<<10)
	tokens := registrytest.NewTokens("canary-user", "canary/pass+word")
	s := serve(t, tokens.Protect(registrytest.Registry{Image: content}))
	realm := serve(t, tokens)
	tokens.Realm = realm.URL + "/token"
	n := newNode(t, strings.Replace(s.registry(withPassword), "certificates = [", fmt.Sprintf("certificates = [%q, ", realm.ca), 1)+from(s))
	var pulls sync.WaitGroup
	for range 32 {
		pulls.Go(func() {
			if err := n.pull(t.Context(), ref); err != nil {
				t.Error(err)
			}
		})
	}
	pulls.Wait()
	n.wantImage(t, ref, content)
	if got := len(tokens.Issued()); got != 1 {
		t.Errorf("got %d tokens, want 1", got)
	}
	seen := map[string]int{}
	for _, r := range s.Requests() {
		if strings.HasPrefix(r.Line, "GET ") && r.Header.Get("Authorization") != "" {
			seen[r.Line]++
		}
	}
	for line, times := range seen {
		if times != 1 {
			t.Errorf("%s: got %d requests, want 1", line, times)
		}
	}
	n.wantNoLeftovers(t)
}

// With nothing configured a pull is stock's: no label of ours, its own error, and addresses of descriptors.
func TestNothingConfigured(t *testing.T) {
	t.Parallel()
	foreign := registrytest.Serve(t, nil, http.NotFoundHandler())
	content := registrytest.NewImage("stock", 4<<10).With(func(m *ocispec.Manifest) { m.Layers[0].URLs = []string{foreign.URL} })
	s := registrytest.Serve(t, nil, registrytest.Registry{Image: content})
	n := newNode(t, "")
	ref := s.Host + "/org/app:1"
	if err := n.pull(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	got := n.wantImage(t, ref, content)
	for label := range got.Labels {
		if strings.HasPrefix(label, "io.berth") {
			t.Errorf("got label %s, want none of ours", label)
		}
	}
	if foreign.Connections() == 0 {
		t.Error("the address of a descriptor was not asked, which stock does")
	}
	gone := registrytest.Serve(t, nil, http.NotFoundHandler())
	err := n.pull(t.Context(), gone.Host+"/org/app:1")
	wantError(t, err, errdefs.ErrNotFound, "failed to resolve image: "+gone.Host+"/org/app:1: not found")
	if strings.Contains(err.Error(), "pull ") {
		t.Errorf("got error %q, want stock's own", err)
	}
	n.wantNoLeftovers(t)
}

// Without routes, and along a rule that denies, a pull is refused before anything is asked.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, registrytest.Registry{Image: registrytest.NewImage("refused", 1<<10)})
	n := newNode(t, s.registry()+"[[rules]]\nfrom = \"quay.io\"\ndeny = true\n")
	wantError(t, n.pull(t.Context(), ref), errdefs.ErrPermissionDenied, "pull "+ref, `denied by rule "quay.io"`)
	wantError(t, n.pull(t.Context(), "UPPER/Case"), errdefs.ErrInvalidArgument, "UPPER/Case")
	n.Routes = func(context.Context) (*resolver.Routes, error) { return nil, errors.New("berth.toml:1: a mistake") }
	wantError(t, n.pull(t.Context(), ref), errdefs.ErrFailedPrecondition, "pull "+ref, "berth.toml:1: a mistake")
	if got := s.Connections(); got != 0 {
		t.Errorf("got %d connections, want 0", got)
	}
	n.wantNothing(t)
}

// through is a transfer service that notes what it is given.
type through struct{ src, dst any }

func (s *through) Transfer(_ context.Context, src, dst any, _ ...transfer.Opt) error {
	s.src, s.dst = src, dst
	return errThrough
}

var errThrough = errors.New("the error of the service")

// What is no pull passes through, also where there are no routes. Only what stores an image is wrapped.
func TestOtherTransfersPassThrough(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	n.Routes = func(context.Context) (*resolver.Routes, error) { return nil, errors.New("not to be asked for") }
	client, err := registry.NewOCIRegistry(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		src, dst any
		wrapped  bool
	}{
		{"push", image.NewStore(ref), client, false},
		{"tag", image.NewStore(ref), image.NewStore("quay.io/org/app:2"), true},
		{"of a registry, to what stores no image", client, new(int), false},
		{"import", new(int), image.NewStore(ref), true},
	} {
		inner := &through{}
		n.Inner = inner
		if err := n.Transfer(t.Context(), tt.src, tt.dst); !errors.Is(err, errThrough) || inner.src != tt.src || inner.dst != tt.dst != tt.wrapped {
			t.Errorf("%s: got %v from %v to %v, want it passed through", tt.name, err, inner.src, inner.dst)
		}
		if _, unpacks := inner.dst.(transfer.ImageUnpacker); tt.wrapped && !unpacks {
			t.Errorf("%s: got %T, want what is wrapped to unpack still", tt.name, inner.dst)
		}
	}
}

// A source that is no registry is refused where there are rules, since it would go past them, and there alone.
func TestOtherSourceIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, registrytest.Registry{Image: registrytest.NewImage("other", 1<<10)})
	n := newNode(t, s.registry()+from(s))
	ctx := namespaces.WithNamespace(t.Context(), "test")
	inner, err := registry.NewOCIRegistry(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, n.Transfer(ctx, struct{ *registry.OCIRegistry }{inner}, image.NewStore(ref)), errdefs.ErrPermissionDenied, ref)
	if got := s.Connections(); got != 0 {
		t.Errorf("got %d connections, want 0", got)
	}

	plain := registrytest.Serve(t, nil, registrytest.Registry{Image: registrytest.NewImage("other", 1<<10)})
	ref := plain.Host + "/org/app:1"
	if inner, err = registry.NewOCIRegistry(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if err := newNode(t, "").Transfer(ctx, struct{ *registry.OCIRegistry }{inner}, image.NewStore(ref)); err != nil {
		t.Errorf("with nothing configured: %v", err)
	}
}

// A refusal is one line for clients, too, which get it over gRPC.
func TestRefusalOverGRPC(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[[rules]]\nfrom = \"quay.io\"\nto = [\"source\"]\n")
	broken := newNode(t, "")
	broken.Routes = func(context.Context) (*resolver.Routes, error) { return nil, errors.New("no such file") }
	for ref, refuses := range map[string]*node{"quay.io/App:1": n, "quay.io/app:1": broken} {
		err := refuses.pull(t.Context(), ref)
		if got := errgrpc.ToNative(errgrpc.ToGRPC(err)); err == nil || got.Error() != err.Error() {
			t.Errorf("got %q, want %q", got, err)
		}
	}
}

// A download that was begun goes on where it ended: its reader can be moved.
func TestDownloadGoesOn(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("go on", 64<<10)
	s := serve(t, registrytest.Registry{Image: image})
	n := newNode(t, s.registry()+from(s))
	ctx := namespaces.WithNamespace(t.Context(), "test")
	desc := registrytest.Descriptor(ocispec.MediaTypeImageLayer, image.Layer)
	w, err := n.Content.Writer(ctx, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(image.Layer[:48<<10]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.pull(ctx, ref); err != nil {
		t.Fatal(err)
	}
	n.wantImage(t, ref, image)
	var got []string
	for _, r := range s.Requests() {
		if strings.HasSuffix(r.Line, image.LayerPath()) {
			got = append(got, r.Header.Get("Range"))
		}
	}
	if want := []string{"bytes=49152-"}; !slices.Equal(got, want) {
		t.Errorf("got requests for the layer with the ranges %q, want %q", got, want)
	}
}
