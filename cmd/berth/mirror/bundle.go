// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/berth-edge/berth/resolver"
)

// Bundled is one image of a bundle.
type Bundled struct {
	// Route is the image's route, Target where it was read.
	Route  resolver.Route
	Target *resolver.Target
	// Descriptor is its manifest or index, as it is at its source.
	Descriptor ocispec.Descriptor
	// Referrers counts the manifests that are bundled beside the image.
	Referrers int
	Err       error

	transfer  *transfer
	referrers []referrer
}

// Layout is what a bundle is written to. Each blob is pushed once.
type Layout interface {
	content.Pusher
	// Index writes the list of images. It comes before the blobs.
	Index(ocispec.Index) error
}

// BundleOptions say what of an image is bundled. The zero value is all of its platforms.
type BundleOptions struct {
	// OnePlatform leaves out the blobs of all platforms but the one that images are wanted for. Their manifests stay named in the
	// index. An image for another platform is an error.
	OnePlatform bool
	// Referrers takes along signatures and whatever else refers to the image, or to a manifest of it that is bundled.
	Referrers bool
	// Progress is told of bytes that are to be read and of those that are, by several goroutines. It may be nil.
	Progress func(Step)
}

// Bundle writes images into a layout, with the manifests that they have at their source, so that digests stay what they are.
// Each is read from the first target of its route that has it. Nothing is written if an image is not to be had. done, which may
// be nil, is called with the index of each image that is read, by several goroutines.
func (m *Mirror) Bundle(ctx context.Context, refs []string, to Layout, opts BundleOptions, done func(i int)) ([]Bundled, error) {
	bundled := make([]Bundled, len(refs))
	each(refs, func(i int, ref string) {
		bundled[i] = m.root(ctx, ref, opts)
	})
	if slices.ContainsFunc(bundled, func(b Bundled) bool { return b.Err != nil }) {
		return bundled, nil
	}
	if err := to.Index(indexOf(bundled)); err != nil {
		return bundled, err
	}
	shared := &once{Layout: to}
	each(refs, func(i int, ref string) {
		b := &bundled[i]
		if err := b.write(ctx, shared); err != nil {
			b.Err = fmt.Errorf("bundle %s: %w", b.Target.Pull, plainly(err))
		}
		if done != nil {
			done(i)
		}
	})
	return bundled, nil
}

// indexOf is the list of what is bundled: images by their names, and then what refers to them, each once.
func indexOf(bundled []Bundled) ocispec.Index {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, b := range bundled {
		desc := b.Descriptor
		desc.Annotations = map[string]string{images.AnnotationImageName: b.Route.Named.String(), ocispec.AnnotationRefName: tagOrDigest(b.Route.Named)}
		index.Manifests = append(index.Manifests, desc)
	}
	listed := map[string]bool{}
	for _, b := range bundled {
		for _, r := range b.referrers {
			desc := r.descriptor(b.Route.Named.Name())
			if key := fmt.Sprint(desc.Digest, desc.Annotations); !listed[key] {
				listed[key] = true
				index.Manifests = append(index.Manifests, desc)
			}
		}
	}
	return index
}

// write writes the image, and what refers to it.
func (b *Bundled) write(ctx context.Context, to *once) error {
	t := b.transfer
	graph := oras.CopyGraphOptions{Concurrency: concurrency, FindSuccessors: t.planned(t.successors()), PreCopy: to.claim}
	if err := oras.CopyGraph(ctx, reading{t.src, t}, to, b.Descriptor, graph); err != nil {
		return err
	}
	graph.FindSuccessors = t.planned(content.Successors)
	for _, r := range b.referrers {
		if err := oras.CopyGraph(ctx, reading{t.src, t}, to, r.desc, graph); err != nil {
			return err
		}
		b.Referrers++
	}
	return nil
}

// once is a layout that several images are written to at once. A blob that they share is read for the first of them, and for no other.
type once struct {
	Layout
	claimed sync.Map // sizes by digest: written, or being written
	whole   sync.Map // by use: and so is what it leads to
}

var _ content.Storage = (*once)(nil)

// use is a blob as an image has it. What is a manifest to one may be a layer to another, and lead to nothing there.
type use struct {
	mediaType string
	digest    digest.Digest
	size      int64
}

// claim is a PreCopy of [oras.CopyGraphOptions]. Blobs are asked for after it, which a look at what exists is too early for.
func (o *once) claim(_ context.Context, desc ocispec.Descriptor) error {
	size, others := o.claimed.LoadOrStore(desc.Digest, desc.Size)
	if size != desc.Size {
		return fmt.Errorf("blob %s: it is said to have %d bytes, and %d by another image", desc.Digest, desc.Size, size)
	}
	o.whole.Store(use{desc.MediaType, desc.Digest, desc.Size}, true)
	if others {
		return oras.SkipNode
	}
	return nil
}

// Exists implements [content.ReadOnlyStorage].
func (o *once) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	_, ok := o.whole.Load(use{desc.MediaType, desc.Digest, desc.Size})
	return ok, nil
}

// Fetch implements [content.Fetcher]. What was written is not read again.
func (o *once) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, fmt.Errorf("read %s of a bundle that is being written: %w", desc.Digest, errdef.ErrUnsupported)
}

// successors finds what of a manifest is wanted.
type successors func(context.Context, content.Fetcher, ocispec.Descriptor) ([]ocispec.Descriptor, error)

func (t *transfer) successors() successors {
	if t.opts.OnePlatform {
		return t.m.below
	}
	return content.Successors
}

// planned tells of what is found the first time.
func (t *transfer) planned(find successors) successors {
	return func(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		below, err := find(ctx, fetcher, desc)
		for _, d := range below {
			if t.m.uploads.plan(blob{digest: d.Digest}) {
				t.tell(Step{Planned: d.Size})
			}
		}
		return below, err
	}
}

// root finds an image along its route, and what refers to it if that is wanted.
func (m *Mirror) root(ctx context.Context, ref string, opts BundleOptions) Bundled {
	b := m.find(ctx, ref, opts)
	if b.Err != nil {
		return b
	}
	var err error
	if opts.OnePlatform {
		_, err = m.only(ctx, b.transfer.src, b.Descriptor)
	}
	if err == nil && opts.Referrers {
		b.referrers, err = b.transfer.referrers(ctx, b.transfer.src, b.Descriptor)
	}
	if err != nil {
		b.Err = fmt.Errorf("%s: %w", b.Target.Pull, err)
	}
	return b
}

// find finds an image along its route.
func (m *Mirror) find(ctx context.Context, ref string, opts BundleOptions) Bundled {
	b := Bundled{Route: m.routes.Route(ctx, ref)}
	if b.Err = b.Route.Err; b.Err != nil {
		return b
	}
	var failures []error
	for i, target := range b.Route.Targets {
		repo, err := m.repository(target, pull)
		if err == nil {
			src := newOrigin(repo)
			if b.Descriptor, err = src.Resolve(ctx, tagOrDigest(target.Pull)); err == nil {
				b.Target = &b.Route.Targets[i]
				b.transfer = &transfer{m: m, ref: ref, src: src, opts: CopyOptions{OnePlatform: opts.OnePlatform, Progress: opts.Progress}}
				return b
			}
		}
		failures = append(failures, Failure{target, causeOf(err), err})
	}
	b.Err = errors.Join(failures...)
	return b
}

// only returns the manifest of the platform that images are wanted for, of an index or of an image that has none.
func (m *Mirror) only(ctx context.Context, from content.Fetcher, root ocispec.Descriptor) (ocispec.Descriptor, error) {
	if images.IsIndexType(root.MediaType) {
		index, err := fetchIndex(ctx, from, root)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		best, err := m.choose(index)
		if err == nil && best.Platform == nil {
			_, err = m.only(ctx, from, best)
		}
		return best, err
	}
	text, err := content.FetchAll(ctx, from, root)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("read manifest %s: %w", root.Digest, err)
	}
	return root, m.checkPlatform(ctx, from, manifest.Config)
}

// below are the [successors] for the platform that images are wanted for.
func (m *Mirror) below(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if !images.IsIndexType(desc.MediaType) {
		return content.Successors(ctx, from, desc)
	}
	best, err := m.only(ctx, from, desc)
	return []ocispec.Descriptor{best}, err
}
