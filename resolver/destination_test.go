// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/local"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// asCRI is a namespace of pullTo: that of CRI, for a pull that comes by CRI's API.
const asCRI = "k8s.io, as CRI"

// within returns the context of a request in a namespace.
func within(ctx context.Context, namespace string) context.Context {
	name, _, isCRI := strings.Cut(namespace, ", as CRI")
	if isCRI {
		ctx = grpc.NewContextWithServerTransportStream(ctx, criStream{})
	}
	return namespaces.WithNamespace(ctx, name)
}

// criStream is a request for an image by CRI's API.
type criStream struct{ grpc.ServerTransportStream }

func (criStream) Method() string { return "/runtime.v1.ImageService/PullImage" }

// pullTo pulls ref in a namespace to a destination that the client chose.
func (n *node) pullTo(ctx context.Context, namespace, ref string, to *image.Store, opts ...transfer.Opt) error {
	ctx = within(ctx, namespace)
	src, err := registry.NewOCIRegistry(ctx, ref)
	if err != nil {
		return err
	}
	return n.Transfer(ctx, src, to, opts...)
}

// CRI's setting to discard layers is about what CRI unpacks. Whatever else was pulled survives garbage collection whole,
// with the snapshots that were made of it.
func TestDiscardLayers(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("discard", 4<<10)
	s := serve(t, registrytest.Registry{Image: content})
	plain := registrytest.Serve(t, nil, registrytest.Registry{Image: content})
	unpack := image.WithUnpack(platforms.DefaultSpec(), "native")
	for _, tt := range []struct {
		name, config, ref, namespace string
		opts                         []image.StoreOpt
		discard                      func() bool
		want                         bool // the layer is discarded
	}{
		{"of CRI", s.registry() + from(s), ref, asCRI, []image.StoreOpt{unpack}, func() bool { return true }, true},
		{"of CRI, not configured", "", plain.Host + "/org/app:1", asCRI, []image.StoreOpt{unpack}, func() bool { return true }, true},
		{"of CRI, not set", s.registry() + from(s), ref, asCRI, []image.StoreOpt{unpack}, func() bool { return false }, false},
		{"of CRI, not known", s.registry() + from(s), ref, asCRI, []image.StoreOpt{unpack}, nil, false},
		{"not of CRI", s.registry() + from(s), ref, "test", []image.StoreOpt{unpack}, func() bool { return true }, false},
		{"not of CRI, in its namespace", s.registry() + from(s), ref, "k8s.io", []image.StoreOpt{unpack}, func() bool { return true }, false},
		{"not unpacked", s.registry() + from(s), ref, asCRI, nil, func() bool { return true }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, tt.config)
			n.DiscardLayers = tt.discard
			if err := n.pullTo(t.Context(), tt.namespace, tt.ref, image.NewStore(tt.ref, tt.opts...)); err != nil {
				t.Fatal(err)
			}
			if _, err := n.db.GarbageCollect(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx := within(t.Context(), tt.namespace)
			for _, blob := range []struct {
				name string
				text []byte
				gone bool
			}{{"manifest", content.Manifest, false}, {"config", content.Config, false}, {"layer", content.Layer, tt.want}} {
				_, err := n.Content.Info(ctx, digest.FromBytes(blob.text))
				if gone := errdefs.IsNotFound(err); gone != blob.gone || err != nil && !gone {
					t.Errorf("got the %s gone %t (%v), want %t", blob.name, gone, err, blob.gone)
				}
			}
			made := 0
			if err := n.db.Snapshotter("native").Walk(ctx, func(context.Context, snapshots.Info) error { made++; return nil }); err != nil {
				t.Fatal(err)
			}
			if want := len(tt.opts); made != want {
				t.Errorf("got %d snapshots, want %d", made, want)
			}
		})
	}
}

// A snapshotter that fetches layers itself asks the host that the image's name says, so that nothing is pulled for it along
// rules, whoever names it: a client, or CRI for one of its runtimes.
func TestLazySnapshotter(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("lazy", 4<<10)
	unpack := image.WithUnpack(platforms.DefaultSpec(), "native")
	for _, tt := range []struct {
		name    string
		rules   bool
		opts    []image.StoreOpt
		refused bool
	}{
		{"unpacked", true, []image.StoreOpt{unpack}, true},
		{"not unpacked", true, nil, false},
		{"without rules", false, []image.StoreOpt{unpack}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			plain := registrytest.Serve(t, nil, registrytest.Registry{Image: content})
			s, config, ref := serve(t, registrytest.Registry{Image: content}), "", plain.Host+"/org/app:1"
			if tt.rules {
				config, ref = s.registry()+from(s), "quay.io/org/app:1"
			}
			n := newNode(t, config)
			n.IsLazy = func(snapshotter string) bool { return snapshotter == "native" }
			err := n.pullTo(t.Context(), "test", ref, image.NewStore(ref, tt.opts...))
			if !tt.refused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, errdefs.ErrFailedPrecondition, "pull "+ref, `snapshotter "native" fetches layers itself`, "use a local snapshotter")
			if got := len(s.Requests()); got != 0 {
				t.Errorf("got %d requests, want none", got)
			}
			n.wantNothing(t)
		})
	}
}

// An image that is pulled again says where it came from last, and keeps the labels that the client wants on it.
func TestLabelsOfAnImageThatIsThere(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("again", 4<<10)
	first, second := serve(t, registrytest.Registry{Image: content}), serve(t, registrytest.Registry{Image: content})
	n := newNode(t, first.registry()+second.registry()+from(first, second))
	to := func() *image.Store {
		return image.NewStore(ref, image.WithImageLabels(map[string]string{"client": "mine", resolver.LabelRule: "not ours"}))
	}
	for _, want := range []string{first.Host, second.Host} {
		if err := n.pullTo(t.Context(), "test", ref, to()); err != nil {
			t.Fatal(err)
		}
		got := n.wantImage(t, ref, content).Labels
		if got[resolver.LabelSource] != want || got[resolver.LabelRule] != "quay.io" || got["client"] != "mine" {
			t.Errorf("got labels %v, want those of %s beside the client's", got, want)
		}
		first.Close()
	}
}

// REL-07: a pin that is set while a pull records its image stays.
func TestLabelSetMeanwhile(t *testing.T) {
	t.Parallel()
	const pin = "io.cri-containerd.pinned"
	content := registrytest.NewImage("meanwhile", 4<<10)
	s := serve(t, registrytest.Registry{Image: content})
	n := newNode(t, s.registry()+from(s))
	n.KeepLabels = []string{pin}
	store := pinningStore{n.images, pin}
	n.Inner = local.NewTransferService(n.db.ContentStore(), store, local.TransferConfig{Leases: n.Leases})
	for range 2 {
		if err := n.pull(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.wantImage(t, ref, content).Labels; got[pin] != "pinned" || got[resolver.LabelSource] != s.Host {
		t.Errorf("got labels %v, want the pin and those of the pull", got)
	}
}

// REL-07: a pin stays for as long as the name is that of the same image; what else the image is said to be goes with each pull.
func TestKeptLabels(t *testing.T) {
	t.Parallel()
	const pin = "io.cri-containerd.pinned"
	content, other := registrytest.NewImage("kept", 4<<10), registrytest.NewImage("moved", 4<<10)
	var moved atomic.Bool
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serves := content
		if moved.Load() {
			serves = other
		}
		registrytest.Registry{Image: serves}.ServeHTTP(w, r)
	}))
	n := newNode(t, s.registry()+from(s))
	n.KeepLabels = []string{pin}
	pull := func(want registrytest.Image, pinned string) {
		t.Helper()
		if err := n.pull(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if got := n.wantImage(t, ref, want).Labels; got[pin] != pinned || got["team"] != "" || got[resolver.LabelSource] != s.Host {
			t.Errorf("got labels %v, want the pin %q, no team, and those of the pull", got, pinned)
		}
	}
	pull(content, "")
	labels := map[string]string{pin: "pinned", "team": "x"}
	if _, err := n.images.Update(namespaces.WithNamespace(t.Context(), "test"), images.Image{Name: ref, Labels: labels}, "labels."+pin, "labels.team"); err != nil {
		t.Fatal(err)
	}
	pull(content, "pinned")
	moved.Store(true)
	pull(other, "")
}

// pinningStore pins an image right after it was looked up.
type pinningStore struct {
	images.Store
	pin string
}

func (s pinningStore) Get(ctx context.Context, name string) (images.Image, error) {
	image, err := s.Store.Get(ctx, name)
	if err == nil {
		_, err = s.Update(ctx, images.Image{Name: name, Labels: map[string]string{s.pin: "pinned"}}, "labels."+s.pin)
	}
	return image, err
}

// What a client asked of the transfer, it gets: progress, with the image's own name.
func TestProgress(t *testing.T) {
	t.Parallel()
	s := serve(t, registrytest.Registry{Image: registrytest.NewImage("progress", 4<<10)})
	plain := registrytest.Serve(t, nil, registrytest.Registry{Image: registrytest.NewImage("progress", 4<<10)})
	for _, tt := range []struct{ name, config, ref, at string }{
		{"configured", s.registry() + from(s), ref, s.Host + "/mirror/org/app:1"},
		{"not configured", "", plain.Host + "/org/app:1", plain.Host + "/org/app:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, tt.config)
			var mu sync.Mutex
			seen := map[string]string{} // what happened, and to what
			note := func(p transfer.Progress) {
				mu.Lock()
				defer mu.Unlock()
				seen[p.Event] = p.Name
			}
			if err := n.pullTo(t.Context(), "test", tt.ref, image.NewStore(tt.ref), transfer.WithProgress(note)); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if _, ok := seen["Pulling from OCI Registry ("+tt.at+")"]; !ok || seen["saved"] != tt.ref {
				t.Errorf("got %v, want it pulled from %s and saved as %s", seen, tt.at, tt.ref)
			}
		})
	}
}
