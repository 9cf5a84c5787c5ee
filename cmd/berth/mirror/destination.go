// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
)

// destination is a repository that asks once whether it has a blob.
type destination struct {
	*remote.Repository

	mu  sync.Mutex
	has map[digest.Digest]bool
}

func newDestination(repo *remote.Repository) *destination {
	return &destination{Repository: repo, has: map[digest.Digest]bool{}}
}

// Exists implements [content.ReadOnlyStorage].
func (d *destination) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	d.mu.Lock()
	has, known := d.has[desc.Digest]
	d.mu.Unlock()
	if known {
		return has, nil
	}
	has, err := d.Repository.Exists(ctx, desc)
	if err == nil {
		d.mu.Lock()
		d.has[desc.Digest] = has
		d.mu.Unlock()
	}
	return has, err
}

// forget has everything asked for again: what was missing may have been sent.
func (d *destination) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.has)
}

// look finds out which blobs of an image are there already, before any image is copied: one that another repository has is
// mounted from there. It is for that alone: what goes wrong here goes wrong again when the image is copied.
func (t *transfer) look(ctx context.Context, c Copied) {
	name := tagOrDigest(c.Target.Pull)
	if _, err := t.dst.Resolve(ctx, name); err == nil || causeOf(err) != Missing {
		return
	}
	src, err := t.source(c.Route.Named)
	if err != nil {
		return
	}
	root, err := src.Resolve(ctx, t.nameAt(c.Route.Named, name))
	if err != nil {
		return
	}
	successors := content.Successors
	if t.opts.Platform != nil {
		successors = only(platforms.Only(*t.opts.Platform))
	}
	t.lookBelow(ctx, src, root, successors)
}

func (t *transfer) lookBelow(ctx context.Context, src content.Fetcher, desc ocispec.Descriptor,
	successors func(context.Context, content.Fetcher, ocispec.Descriptor) ([]ocispec.Descriptor, error)) {
	if !images.IsIndexType(desc.MediaType) && !images.IsManifestType(desc.MediaType) {
		b := blob{t.domain, desc.Digest}
		if has, err := t.dst.Exists(ctx, desc); err == nil && has {
			t.m.uploads.done(b, t.dst.Reference.Repository)
		} else if t.m.uploads.plan(b) {
			t.tell(Step{Planned: desc.Size})
		}
		return
	}
	below, err := successors(ctx, src, desc)
	if err != nil {
		return
	}
	for _, d := range below {
		t.lookBelow(ctx, src, d, successors)
	}
}
