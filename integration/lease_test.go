// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	transferimage "github.com/containerd/containerd/v2/core/transfer/image"
	transferregistry "github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
)

// TestClientLease pulls under a lease of the client's: what was pulled stays for as long as that does, also when the
// image is gone, as with stock containerd.
func TestClientLease(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	for name, opts := range map[string][]leases.Opt{
		"lease":      nil,
		"flat lease": {leases.WithLabel("containerd.io/gc.flat", "true")},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPowered(t, binaries.Path(t, binaries.Containerd), "")
			p.start(t)
			c := p.daemon.Client()
			ctx := namespaces.WithNamespace(t.Context(), string(laneCtr))
			lease, err := c.LeasesService().Create(ctx, append(opts, leases.WithID("ours"))...)
			if err != nil {
				t.Fatal(err)
			}
			img := p.images[2]
			leased := leases.WithLease(ctx, lease.ID)
			src, err := transferregistry.NewOCIRegistry(leased, img.ref)
			if err != nil {
				t.Fatal(err)
			}
			unpack := transferimage.WithUnpack(platforms.DefaultSpec(), "overlayfs")
			if err := c.Transfer(leased, src, transferimage.NewStore(img.ref, unpack)); err != nil {
				t.Fatal(err)
			}
			if err := c.ImageService().Delete(ctx, img.ref); err != nil {
				t.Fatal(err)
			}
			p.collect(t)
			blobs := []digest.Digest{img.Digest, img.ConfigDigest}
			var diffs []digest.Digest
			for _, l := range img.Layers {
				blobs, diffs = append(blobs, l.Digest), append(diffs, l.DiffID)
			}
			check := func(want error) {
				t.Helper()
				for _, blob := range blobs {
					if _, err := c.ContentStore().Info(ctx, blob); !errors.Is(errdefs.Resolve(err), want) {
						t.Errorf("blob %s: got %v, want %v", blob, err, want)
					}
				}
				if _, err := c.SnapshotService("overlayfs").Stat(ctx, identity.ChainID(diffs).String()); !errors.Is(errdefs.Resolve(err), want) {
					t.Errorf("snapshot: got %v, want %v", err, want)
				}
			}
			check(nil)
			if err := c.LeasesService().Delete(ctx, lease, leases.SynchronousDelete); err != nil {
				t.Fatal(err)
			}
			check(errdefs.ErrNotFound)
			src, err = transferregistry.NewOCIRegistry(leased, img.ref)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Transfer(leased, src, transferimage.NewStore(img.ref)); !errdefs.IsNotFound(err) {
				t.Errorf("pull under a lease that is not there: got %v, want not found", err)
			}
		})
	}
}
