// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
)

// transfer copies one image.
type transfer struct {
	m             *Mirror
	opts          CopyOptions
	ref           string
	named, target reference.Named // ref, and what it is there
	src           *origin
	dst           *destination
	domain        string // of dst's registry
	beside        string // the repository of src, to mount from, if it is in dst's registry and one credential is for both
	sent, mounted atomic.Int64
	copied        atomic.Int64 // blobs and manifests that are there now and were not before
	missed        bool         // the image was not there, and was sent at least in part

	mu   sync.Mutex
	mine map[blob]bool // blobs that this one said it would send
}

// copy copies the image, several times if need be.
func (t *transfer) copy(ctx context.Context, c *Copied) {
	defer func() { c.Sent, c.Mounted = t.sent.Load(), t.mounted.Load() }()
	for attempt := 1; ; attempt++ {
		before := t.copied.Load()
		if c.Err = t.run(ctx, c); c.Err == nil || !mayPass(c.Err) || ctx.Err() != nil {
			return
		}
		t.dst.forget()
		if t.copied.Load() > before {
			attempt = 1
		} else if attempt == attempts {
			return
		}
		pause(ctx, attempt)
	}
}

var errChangesDigest = errors.New("the reference has the digest of an index, which one platform of it does not have; copy all platforms")

func (t *transfer) run(ctx context.Context, c *Copied) error {
	defer t.giveUp()
	name := tagOrDigest(t.target)
	desc, err := t.dst.Resolve(ctx, name)
	switch {
	case err == nil:
		c.Present, c.Descriptor = !t.missed, desc
		if err := t.checkPresent(ctx, desc); err != nil {
			return fmt.Errorf("%s is there: %w", t.target, plainly(err))
		}
		if err := t.checkSent(ctx, desc); err != nil {
			return fmt.Errorf("copy %s to %s: %w", t.named, t.target, err)
		}
	case causeOf(err) != Missing:
		return fmt.Errorf("look for %s: %w", t.target, plainly(err))
	default:
		t.missed = true
		if c.Descriptor, err = t.image(ctx, name); err != nil {
			return err
		}
		if err := t.checkKept(ctx, name); err != nil {
			return fmt.Errorf("copy %s to %s: %w", t.named, t.target, plainly(err))
		}
	}
	if err := t.tag(ctx, c.Descriptor); err != nil {
		return err
	}
	if !t.opts.Referrers {
		return nil
	}
	var from content.Fetcher = t.src
	if c.Present {
		from = t.dst
	}
	found, err := t.referrers(ctx, from, c.Descriptor)
	if err == nil {
		c.Referrers, err = t.copyReferrers(ctx, found)
	}
	return err
}

// checkPresent returns an error if one platform is wanted, and what is there is for others: an earlier copy took another one.
func (t *transfer) checkPresent(ctx context.Context, desc ocispec.Descriptor) error {
	if !t.opts.OnePlatform {
		return nil
	}
	_, err := t.m.only(ctx, t.dst, desc)
	return err
}

var errStoredOtherwise = errors.New("a registry that changes manifests keeps no digest")

// checkSent returns an error if what is there is not what was sent before: the registry stored something else.
func (t *transfer) checkSent(ctx context.Context, there ocispec.Descriptor) error {
	if !t.missed {
		return nil
	}
	sent, err := t.root(ctx)
	if err == nil && t.opts.OnePlatform {
		sent, err = t.m.only(ctx, t.src, sent)
	}
	if err == nil && sent.Digest != there.Digest {
		err = fmt.Errorf("it was sent %s and has %s in its place: %w", sent.Digest, there.Digest, errStoredOtherwise)
	}
	return err
}

// checkKept returns an error if the registry does not have what it said that it took: who goes by that has no network to send it
// again. One of several machines may have it a moment later.
func (t *transfer) checkKept(ctx context.Context, name string) error {
	for attempt := 1; ; attempt++ {
		t.dst.forget()
		there, err := t.dst.Resolve(ctx, name)
		switch {
		case err == nil:
			return t.checkSent(ctx, there)
		case causeOf(err) != Missing:
			return err
		case attempt == attempts || ctx.Err() != nil:
			return fmt.Errorf("the registry said that it took it, and does not have it: %w", err)
		}
		pause(ctx, attempt)
	}
}

// tell says how far the copy is.
func (t *transfer) tell(step Step) {
	if t.opts.Progress != nil {
		step.Ref = t.ref
		t.opts.Progress(step)
	}
}

// root is what the reference leads to at the source.
func (t *transfer) root(ctx context.Context) (ocispec.Descriptor, error) {
	return t.src.Resolve(ctx, t.nameAt(tagOrDigest(t.target)))
}

// nameAt is how the source is asked for the image.
func (t *transfer) nameAt(name string) string {
	if len(t.opts.From) > 0 {
		return t.named.String()
	}
	return name
}

// image copies what the reference leads to.
func (t *transfer) image(ctx context.Context, name string) (ocispec.Descriptor, error) {
	from := t.nameAt(name)
	opts := oras.CopyOptions{CopyGraphOptions: t.graph()}
	if t.opts.OnePlatform {
		if _, ok := t.named.(reference.Digested); ok {
			root, err := t.src.Resolve(ctx, from)
			if err == nil && images.IsIndexType(root.MediaType) {
				return ocispec.Descriptor{}, fmt.Errorf("%s: %w", t.named, errChangesDigest)
			}
		}
		opts.MapRoot = func(ctx context.Context, src content.ReadOnlyStorage, root ocispec.Descriptor) (ocispec.Descriptor, error) {
			return t.m.only(ctx, src, root)
		}
	}
	desc, err := oras.Copy(ctx, reading{t.src, t}, from, t.dst, name, opts)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("copy %s: %w", t.named, plainly(err))
	}
	return desc, nil
}

// tag gives an image that was copied by its digest the tag that stands beside that.
func (t *transfer) tag(ctx context.Context, desc ocispec.Descriptor) error {
	tagged, ok := t.target.(reference.NamedTagged)
	if _, digested := t.target.(reference.Digested); !ok || !digested {
		return nil
	}
	if there, err := t.dst.Resolve(ctx, tagged.Tag()); err == nil && there.Digest == desc.Digest {
		return nil
	}
	if err := t.dst.Tag(ctx, desc, tagged.Tag()); err != nil {
		return fmt.Errorf("tag %s: %w", t.target, plainly(err))
	}
	return nil
}

// concurrency is how many blobs of one image are copied at once.
const concurrency = 3

func (t *transfer) graph() oras.CopyGraphOptions {
	blobOf := func(desc ocispec.Descriptor) blob { return blob{t.domain, desc.Digest} }
	has := func(_ context.Context, desc ocispec.Descriptor) error {
		t.m.uploads.done(blobOf(desc), t.dst.Reference.Repository)
		return nil
	}
	return oras.CopyGraphOptions{
		Concurrency: concurrency,
		MountFrom: func(ctx context.Context, desc ocispec.Descriptor) ([]string, error) {
			repository, err := t.m.uploads.find(ctx, blobOf(desc))
			if err != nil {
				return nil, err
			}
			if repository == "" {
				t.claim(blobOf(desc))
				repository = t.beside
			}
			if repository == "" {
				return nil, nil
			}
			return []string{repository}, nil
		},
		PreCopy: func(_ context.Context, desc ocispec.Descriptor) error {
			if t.beside != "" && isBlob(desc) {
				t.plan(blobOf(desc), desc) // which could not be mounted
			}
			return nil
		},
		PostCopy: func(ctx context.Context, desc ocispec.Descriptor) error {
			t.copied.Add(1)
			return has(ctx, desc)
		},
		OnCopySkipped: has,
		OnMounted: func(ctx context.Context, desc ocispec.Descriptor) error {
			t.copied.Add(1)
			t.mounted.Add(desc.Size)
			return has(ctx, desc)
		},
	}
}

// claim notes a blob that this one sends.
func (t *transfer) claim(b blob) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mine == nil {
		t.mine = map[blob]bool{}
	}
	t.mine[b] = true
}

// giveUp lets others send what this one did not.
func (t *transfer) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for b := range t.mine {
		t.m.uploads.failed(b)
	}
	t.mine = nil
}
