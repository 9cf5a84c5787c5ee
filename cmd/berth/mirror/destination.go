// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"io"
	"maps"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
)

// destination is a repository that is asked once what it has, until it forgets.
type destination struct {
	*remote.Repository
	read *origin // the same repository

	mu     sync.Mutex
	has    map[digest.Digest]bool
	absent map[string]error // by tag or digest
}

func newDestination(repo *remote.Repository) *destination {
	return &destination{Repository: repo, read: newOrigin(repo), has: map[digest.Digest]bool{}, absent: map[string]error{}}
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

// Resolve implements [content.Resolver]. The manifest is read, as nodes read it: a web server that is no registry may well say that it has
// everything. That there is nothing is remembered as well.
func (d *destination) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	d.mu.Lock()
	err := d.absent[ref]
	d.mu.Unlock()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := d.read.Resolve(ctx, ref)
	if err == nil || causeOf(err) == Missing {
		d.mu.Lock()
		if err != nil {
			d.absent[ref] = err
		}
		if dgst, invalid := digest.Parse(ref); invalid == nil {
			d.has[dgst] = err == nil
		}
		d.mu.Unlock()
	}
	return desc, err
}

// Fetch implements [content.Fetcher].
func (d *destination) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return d.read.Fetch(ctx, desc)
}

// forget has what was missing asked for again: it may have been sent.
func (d *destination) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.has, func(_ digest.Digest, has bool) bool { return !has })
	clear(d.absent)
}

// look finds out which blobs are there already, before any image is copied: one that another repository has is mounted from
// there. It is for that alone: what goes wrong here goes wrong again when the image is copied.
func look(ctx context.Context, transfers []*transfer) {
	var missing, present []func()
	var mu sync.Mutex
	each(transfers, func(_ int, t *transfer) {
		if t == nil {
			return
		}
		root, err := t.dst.Resolve(ctx, tagOrDigest(t.target))
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			present = append(present, func() { t.lookThere(ctx, root) })
		} else if causeOf(err) == Missing {
			missing = append(missing, func() { t.lookFor(ctx) })
		}
	})
	if len(missing) == 0 {
		return
	}
	each(present, func(_ int, look func()) { look() })
	each(missing, func(_ int, look func()) { look() })
}

// lookThere notes the blobs of an image that is there: what has its manifest has them.
func (t *transfer) lookThere(ctx context.Context, root ocispec.Descriptor) {
	t.blobs(ctx, t.dst, root, content.Successors, func(b blob, _ ocispec.Descriptor) {
		t.m.uploads.done(b, t.dst.Reference.Repository)
	})
}

// lookFor asks for each blob of an image that is not there, and plans to send those that are missing.
func (t *transfer) lookFor(ctx context.Context) {
	root, err := t.root(ctx)
	if err != nil {
		return
	}
	t.blobs(ctx, t.src, root, t.successors(), func(b blob, desc ocispec.Descriptor) {
		if has, err := t.dst.Exists(ctx, desc); err == nil && has {
			t.m.uploads.done(b, t.dst.Reference.Repository)
		} else if t.beside == "" {
			t.plan(b, desc)
		}
	})
}

// plan says of a blob that is to be sent how large it is, once.
func (t *transfer) plan(b blob, desc ocispec.Descriptor) {
	if t.m.uploads.plan(b) {
		t.tell(Step{Planned: desc.Size})
	}
}

// blobs calls f for the blobs that desc leads to, as far as its manifests can be read.
func (t *transfer) blobs(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, find successors, f func(blob, ocispec.Descriptor)) {
	if isBlob(desc) {
		f(blob{t.domain, desc.Digest}, desc)
		return
	}
	below, err := find(ctx, from, desc)
	if err != nil {
		return
	}
	for _, d := range below {
		t.blobs(ctx, from, d, find, f)
	}
}
