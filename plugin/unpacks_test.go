// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-edge/berth/loader/storetest"
	"github.com/berth-edge/berth/resolver"
)

// pulling is a transfer service of which a pull is a function.
type pulling func(context.Context) error

func (p pulling) Transfer(ctx context.Context, _, _ any, _ ...transfer.Opt) error { return p(ctx) }

// No more layers of a pull are unpacked at once than may be.
func TestUnpacksAtOnce(t *testing.T) {
	const limit = 2
	var now, most, all atomic.Int32
	d := syncedDiffer{unpacker{apply: func(context.Context, ocispec.Descriptor, []mount.Mount, ...diff.ApplyOpt) (ocispec.Descriptor, error) {
		if n := now.Add(1); n > limit {
			most.Store(n)
		}
		all.Add(1)
		time.Sleep(20 * time.Millisecond) // so that the others come
		now.Add(-1)
		return layerDesc, nil
	}}}
	dir := t.TempDir()
	pull := pulling(func(ctx context.Context) error {
		var layers errgroup.Group
		for range 3 * limit {
			layers.Go(func() error {
				_, err := d.Apply(ctx, layerDesc, []mount.Mount{{Source: dir}})
				return err
			})
		}
		return layers.Wait()
	})
	routes, err := resolver.NewRoutes(resolver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	db, _ := storetest.New(t)
	service := &resolver.Transferrer{
		Inner: pull, Routes: func(context.Context) (*resolver.Routes, error) { return routes, nil }, Unpacks: limit,
		Leases: metadata.NewLeaseManager(db), Content: db.ContentStore(), Downloads: &resolver.Downloads{},
	}
	ctx := namespaces.WithNamespace(t.Context(), "test")
	source, err := registry.NewOCIRegistry(ctx, "quay.io/a:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Transfer(ctx, source, image.NewStore("quay.io/a:1")); err != nil || all.Load() != 3*limit {
		t.Errorf("got %v and %d layers unpacked, want %d", err, all.Load(), 3*limit)
	}
	if got := most.Load(); got > 0 {
		t.Errorf("got %d layers unpacked at once, want %d at most", got, limit)
	}
}
