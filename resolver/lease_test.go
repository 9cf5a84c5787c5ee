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
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// A lease that the client brought keeps what was pulled, along rules and without any, and stays.
func TestClientLease(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("lease", 4<<10)
	s := serve(t, registrytest.Registry{Image: content})
	plain := registrytest.Serve(t, nil, registrytest.Registry{Image: content})
	for _, tt := range []struct{ name, config, ref string }{
		{"configured", s.registry() + from(s), ref},
		{"not configured", "", plain.Host + "/org/app:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, tt.config)
			ctx := namespaces.WithNamespace(t.Context(), "test")
			lease, err := n.Leases.Create(ctx, leases.WithID("mine"))
			if err != nil {
				t.Fatal(err)
			}
			if err := n.pull(leases.WithLease(ctx, lease.ID), tt.ref); err != nil {
				t.Fatal(err)
			}
			if left, err := n.Leases.List(ctx); err != nil || len(left) != 1 || left[0].ID != "mine" {
				t.Errorf("got leases %v (%v), want the client's alone", left, err)
			}
			if err := n.images.Delete(ctx, tt.ref); err != nil {
				t.Fatal(err)
			}
			if _, err := n.db.GarbageCollect(ctx); err != nil {
				t.Fatal(err)
			}
			for _, b := range [][]byte{content.Manifest, content.Config, content.Layer} {
				if _, err := n.Content.Info(ctx, digest.FromBytes(b)); err != nil {
					t.Errorf("the lease does not keep a blob of %d bytes: %v", len(b), err)
				}
			}
			err = n.pull(leases.WithLease(ctx, "gone"), tt.ref)
			wantError(t, err, errdefs.ErrNotFound, "pull "+tt.ref, "lease gone")
		})
	}
}

// A lease of the client keeps what it would keep with stock: an image that may be collected at any time, the manifest that
// containerd makes of one of an old kind, and what a pull fetched that failed.
func TestClientLeaseKeeps(t *testing.T) {
	t.Parallel()
	plain := registrytest.NewImage("kept", 4<<10)
	serves := func(i registrytest.Image) func(func([]byte)) http.Handler {
		return func(func([]byte)) http.Handler { return registrytest.Registry{Image: i} }
	}
	old := plain.With(func(m *ocispec.Manifest) { m.Config.MediaType = docker.LegacyConfigMediaType })
	collectible := image.WithImageLabels(map[string]string{"containerd.io/gc.expire": time.Now().Add(-time.Hour).Format(time.RFC3339)})
	for _, tt := range []struct {
		name    string
		handler func(has func(content []byte)) http.Handler
		opts    []image.StoreOpt
		remove  bool // the image, once it is pulled
		err     error
		images  int
		blobs   int
	}{
		{name: "collectible image", handler: serves(plain), opts: []image.StoreOpt{collectible}, images: 1, blobs: 3},
		{name: "converted", handler: serves(old), remove: true, blobs: 3},
		{name: "failed", handler: func(has func([]byte)) http.Handler {
			return at(plain.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
				has(plain.Config)
				http.NotFound(w, r)
			}, registrytest.Registry{Image: plain})
		}, err: errdefs.ErrNotFound, blobs: 2},
	} {
		for _, configured := range []bool{true, false} {
			t.Run(fmt.Sprint(tt.name, ", configured ", configured), func(t *testing.T) {
				t.Parallel()
				ctx := namespaces.WithNamespace(t.Context(), "test")
				nodes := make(chan *node, 1)
				handler := tt.handler(func(content []byte) {
					n := <-nodes
					for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
						if _, err := n.Content.Info(ctx, digest.FromBytes(content)); err == nil {
							break
						}
					}
					nodes <- n
				})
				var n *node
				name := ref
				if configured {
					s := serve(t, handler)
					n = newNode(t, s.registry()+from(s))
				} else {
					n, name = newNode(t, ""), registrytest.Serve(t, nil, handler).Host+"/org/app:1"
				}
				nodes <- n
				if _, err := n.Leases.Create(ctx, leases.WithID("mine")); err != nil {
					t.Fatal(err)
				}
				leased := leases.WithLease(ctx, "mine")
				src, err := registry.NewOCIRegistry(leased, name)
				if err != nil {
					t.Fatal(err)
				}
				if err := n.Transfer(leased, src, image.NewStore(name, tt.opts...)); !errors.Is(err, tt.err) {
					t.Fatalf("got %v, want %v", err, tt.err)
				}
				if !tt.remove {
					n.wantKept(t, tt.images, tt.blobs)
				} else {
					stored, err := n.images.Get(ctx, name)
					if err == nil {
						err = n.images.Delete(ctx, name)
					}
					if err != nil {
						t.Fatal(err)
					}
					n.wantKept(t, tt.images, tt.blobs)
					if _, err := n.Content.Info(ctx, stored.Target.Digest); err != nil {
						t.Errorf("manifest of the image: %v", err)
					}
				}
				if err := n.Leases.Delete(ctx, leases.Lease{ID: "mine"}); err != nil {
					t.Fatal(err)
				}
				n.wantKept(t, 0, 0)
			})
		}
	}
}

// wantKept checks how many images and blobs are left when garbage is collected.
func (n *node) wantKept(t *testing.T, images, blobs int) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "test")
	if _, err := n.db.GarbageCollect(ctx); err != nil {
		t.Fatal(err)
	}
	if left, err := n.images.List(ctx); err != nil || len(left) != images {
		t.Errorf("got images %v (%v), want %d", left, err, images)
	}
	var left []digest.Digest
	err := n.Content.Walk(ctx, func(info content.Info) error {
		left = append(left, info.Digest)
		return nil
	})
	if err != nil || len(left) != blobs {
		t.Errorf("got blobs %v (%v), want %d", left, err, blobs)
	}
}

// While a pull runs, a lease of its own says what it is and which client's it stands for, and expires should nobody come
// back. A flat lease of the client, which keeps each blob alone, is used itself.
func TestLeaseOfPull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		client []leases.Opt // nil: the client has none
		want   map[string]string
	}{
		{name: "no client's", want: map[string]string{resolver.LeaseLabel: "true", resolver.ClientLeaseLabel: "", resolver.BootLabel: "boot"}},
		{name: "client's", client: []leases.Opt{leases.WithID("mine")}, want: map[string]string{resolver.LeaseLabel: "true", resolver.ClientLeaseLabel: "mine", resolver.BootLabel: "boot"}},
		{name: "client's, flat", client: []leases.Opt{leases.WithID("mine"), leases.WithLabel("containerd.io/gc.flat", "x")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			image := registrytest.NewImage("lease", 4<<10)
			whole := registrytest.Registry{Image: image}
			ctx := namespaces.WithNamespace(t.Context(), "test")
			var n *node
			var during []leases.Lease
			s := serve(t, at(image.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
				all, err := n.Leases.List(ctx)
				if err != nil {
					t.Error(err)
				}
				during = slices.DeleteFunc(all, func(l leases.Lease) bool { return l.ID == "mine" })
				whole.ServeHTTP(w, r)
			}, whole))
			n = newNode(t, s.registry()+from(s))
			n.Boot = "boot"
			pull := ctx
			if tt.client != nil {
				if _, err := n.Leases.Create(ctx, tt.client...); err != nil {
					t.Fatal(err)
				}
				pull = leases.WithLease(ctx, "mine")
			}
			if err := n.pull(pull, ref); err != nil {
				t.Fatal(err)
			}
			if tt.want == nil {
				if len(during) > 0 {
					t.Errorf("got leases %v, want the client's alone", during)
				}
				kept, err := n.Leases.ListResources(ctx, leases.Lease{ID: "mine"})
				for _, b := range [][]byte{image.Manifest, image.Config, image.Layer} {
					if want := (leases.Resource{ID: digest.FromBytes(b).String(), Type: "content"}); err != nil || !slices.Contains(kept, want) {
						t.Errorf("got the lease keeping %v (%v), want %v", kept, err, want)
					}
				}
				return
			}
			if len(during) != 1 {
				t.Fatalf("got leases %v, want one of the pull", during)
			}
			for label, want := range tt.want {
				if got := during[0].Labels[label]; got != want {
					t.Errorf("got label %s=%q, want %q", label, got, want)
				}
			}
			if during[0].Labels["containerd.io/gc.expire"] == "" {
				t.Errorf("got labels %v, want that the lease expires", during[0].Labels)
			}
		})
	}
}

// obedient stores do nothing in a context that ended, as those do that are reached by gRPC.
type (
	obedientLeases  struct{ leases.Manager }
	obedientContent struct{ content.Store }
)

func (l obedientLeases) Delete(ctx context.Context, lease leases.Lease, opts ...leases.DeleteOpt) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.Manager.Delete(ctx, lease, opts...)
}

func (c obedientContent) Status(ctx context.Context, ref string) (content.Status, error) {
	if err := ctx.Err(); err != nil {
		return content.Status{}, err
	}
	return c.Store.Status(ctx, ref)
}

// A pull that its client gives up cleans up all the same, and says no more than that.
func TestCanceledPullCleansUp(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("canceled", 64<<10)
	whole := registrytest.Registry{Image: image}
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(t.Context(), "test"))
	defer cancel()
	first := serve(t, at(image.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(image.Layer[:48<<10])
		w.(http.Flusher).Flush()
		time.Sleep(200 * time.Millisecond) // until it has arrived
		cancel()
		<-r.Context().Done()
	}, whole))
	second := serve(t, whole)
	n := newNode(t, first.registry()+second.registry()+from(first, second))
	n.Leases, n.Transferrer.Content = obedientLeases{n.Leases}, obedientContent{n.Content}

	// The client's lease, which is flat, keeps the ingest, so that what became of it can be seen.
	kept := namespaces.WithNamespace(t.Context(), "test")
	if _, err := n.Leases.Create(kept, leases.WithID("mine"), leases.WithLabel("containerd.io/gc.flat", "x")); err != nil {
		t.Fatal(err)
	}
	if err := n.pull(leases.WithLease(ctx, "mine"), ref); !errors.Is(err, context.Canceled) || err.Error() != "pull "+ref+": context canceled" {
		t.Errorf("got %v, want that it was canceled", err)
	}
	statuses, err := n.Content.ListStatuses(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range statuses {
		if strings.HasPrefix(status.Ref, "layer-") && status.Offset != 0 {
			t.Errorf("got an ingest of %d bytes of the layer left, want it empty", status.Offset)
		}
	}
	if got := len(second.Requests()); got != 0 {
		t.Errorf("got %d requests at the second target, want 0", got)
	}
	if err := n.Leases.Delete(kept, leases.Lease{ID: "mine"}); err != nil {
		t.Fatal(err)
	}

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	if err := n.pull(ctx, ref); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	n.wantNothing(t)
}
