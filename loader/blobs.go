// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/loader/unpacked"
)

// blobs compares the blobs of an image that the content store knows with their digests. Other platforms of an index, and
// layers that are not kept, are not there by right.
func (v *verification) blobs(ctx context.Context, namespace string, image images.Image) {
	l := v.loader
	err := images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if v.hashed[desc.Digest] {
			return nil, nil
		}
		if errdefs.IsNotFound(l.isKnown(ctx, desc)) {
			return nil, nil
		}
		v.hashed[desc.Digest] = true
		mended, err := l.makeSound(ctx, desc)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil || mended {
			v.note(ctx, Damage{Blob: desc.Digest, Mended: mended, Err: err}, namespace, image.Name)
		}
		if err != nil {
			return nil, nil
		}
		return images.Children(ctx, l.Content, desc)
	}), image.Target)
	if err != nil && ctx.Err() == nil {
		log.G(ctx).WithError(err).WithField("image", image.Name).Warn("verify the blobs of an image")
	}
}

// makeSound compares a blob of the content store with its digest, and writes it again from a bundle if it is another. It
// reports whether it did.
func (l *Loader) makeSound(ctx context.Context, desc ocispec.Descriptor) (mended bool, err error) {
	sound, err := l.isSound(ctx, desc)
	switch {
	case errdefs.IsNotFound(err):
		return false, nil // it was removed meanwhile
	case err != nil || sound:
		return false, err
	}
	b, ok := l.catalog.withBlob(desc.Digest)
	if !ok {
		return false, fmt.Errorf("blob %s is damaged, and in no bundle; remove the image and pull it again: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if err := l.replace(ctx, b.Path(), desc, b.Fetch); err != nil {
		return false, err
	}
	return true, nil
}

// replace puts a blob in the place of one that is damaged, in this namespace or in another. The store itself would refuse to write
// what it has.
func (l *Loader) replace(ctx context.Context, bundle string, desc ocispec.Descriptor, fetch func(context.Context, ocispec.Descriptor) (io.ReadCloser, error)) error {
	l.repairs.Lock()
	defer l.repairs.Unlock()
	if sound, err := l.isSound(ctx, desc); sound || err != nil && !errdefs.IsNotFound(err) {
		return err // another image has it, too
	}
	log.G(ctx).WithFields(log.Fields{"digest": desc.Digest, "bundle": bundle}).Warn("blob is damaged: it is written again from its bundle")
	r, err := fetch(ctx, desc)
	if err != nil {
		return fmt.Errorf("blob %s is damaged: %w", desc.Digest, err)
	}
	defer r.Close()
	// containerd knows what it writes, or it would be garbage while it is written. It is not told of what, or it would not write it.
	w, err := content.OpenWriter(ctx, l.Content, content.WithRef("berth-repair-"+desc.Digest.String()))
	if err != nil {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	return copyBlob(ctx, replacing{w, l.Blobs}, desc, r)
}

// replacing is a writer of a blob that there is already, and that goes when the new one is there.
type replacing struct {
	content.Writer
	blobs content.Manager
}

// Commit implements [content.Writer].
func (w replacing) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	if w.Digest() == expected { // else it is refused
		if err := w.blobs.Delete(ctx, expected); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove damaged blob %s: %w", expected, err)
		}
	}
	return w.Writer.Commit(ctx, size, expected, opts...)
}

// compareLayer compares what a layer was unpacked to with the layer. Where they differ, or the layer cannot be read, the layer itself
// is looked at first: one that is damaged must not be what the files are mended by.
func (l *Loader) compareLayer(ctx context.Context, tree *unpacked.Tree, layer ocispec.Descriptor, d *Damage) error {
	compare := func(r io.Reader) (err error) {
		d.Files, err = tree.Damaged(r)
		return err
	}
	err := l.readLayer(ctx, layer, compare)
	if err == nil && len(d.Files) == 0 {
		return nil
	}
	mended, wrong := l.trustLayer(ctx, layer)
	switch {
	case wrong != nil:
		return wrong
	case mended:
		return l.readLayer(ctx, layer, compare)
	}
	return err
}

// trustLayer verifies what [Loader.readLayer] reads, and reports whether it is another blob since.
func (l *Loader) trustLayer(ctx context.Context, layer ocispec.Descriptor) (mended bool, err error) {
	if l.isKnown(ctx, layer) == nil {
		return l.makeSound(ctx, layer)
	}
	if b, ok := l.catalog.withBlob(layer.Digest); ok {
		return false, b.Check(ctx, layer)
	}
	return false, nil // there is nothing to read, which is what the error says
}

// readLayer reads a layer from the content store, or from a bundle that has it.
func (l *Loader) readLayer(ctx context.Context, layer ocispec.Descriptor, f func(io.Reader) error) error {
	if ra, err := l.Content.ReaderAt(ctx, layer); err == nil {
		defer ra.Close()
		if ra.Size() == layer.Size {
			return f(content.NewReader(ra))
		}
	}
	b, ok := l.catalog.withBlob(layer.Digest)
	if !ok {
		return fmt.Errorf("its compressed layer is not kept, and in no bundle; remove the image and pull it again: %w", errdefs.ErrNotFound)
	}
	r, err := b.Fetch(ctx, layer)
	if err != nil {
		return err
	}
	defer r.Close()
	return f(r)
}
