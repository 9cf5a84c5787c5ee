// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// lacks is what of an image is not there.
type lacks struct {
	missing  []ocispec.Descriptor // blobs that the content store does not know
	damaged  []ocispec.Descriptor // blobs that it knows, and that are not there or have another size
	toUnpack []ocispec.Descriptor // layers that are not unpacked
}

func (k lacks) nothing() bool { return len(k.missing) == 0 && len(k.damaged) == 0 && k.isUnpacked() }

// isUnpacked reports whether the image is unpacked as a whole.
func (k lacks) isUnpacked() bool { return len(k.toUnpack) == 0 }

// maxHashed is the size of the largest blob that is read to be checked.
const maxHashed = 1 << 20

// check looks for everything that an image is made of. It reads no layer: one that has its size is taken for whole, and so is
// a snapshot that is there.
func (l *Loader) check(ctx context.Context, image *Image) (lacks, error) {
	var k lacks
	var err error
	if k.toUnpack, err = l.toUnpack(ctx, image); err != nil {
		return k, err
	}
	wanted := image.contents.all()
	if l.DropLayers {
		wanted = append(slices.Clone(image.contents.blobs), k.toUnpack...)
	}
	for _, desc := range wanted {
		whole, err := l.isWhole(ctx, desc)
		switch {
		case errdefs.IsNotFound(err):
			k.missing = append(k.missing, desc)
		case err != nil:
			return k, err
		case !whole:
			k.damaged = append(k.damaged, desc)
		}
	}
	return k, nil
}

// toUnpack returns the layers of an image that are not unpacked: those above the highest that has a snapshot.
func (l *Loader) toUnpack(ctx context.Context, image *Image) ([]ocispec.Descriptor, error) {
	layers := image.contents.layers
	ids := identity.ChainIDs(slices.Clone(image.contents.diffIDs))
	for n := len(ids); n > 0; n-- {
		_, err := l.Snapshots.Stat(ctx, ids[n-1].String())
		if err == nil {
			return layers[n:], nil
		}
		if !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("look for snapshot %s: %w", ids[n-1], err)
		}
	}
	return layers, nil
}

// isWhole reports whether a blob is there, with its size; what is no layer is small, and must have its digest, too: in the last
// block of a file a power cut leaves zeros. Of a blob that the content store does not know the error is NotFound.
func (l *Loader) isWhole(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	return l.compare(ctx, desc, desc.Size <= maxHashed && !images.IsLayerType(desc.MediaType))
}

// isSound reports whether a blob is there, with the content that its digest says. It reads all of it. Of a blob that the content
// store does not know the error is NotFound.
func (l *Loader) isSound(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	return l.compare(ctx, desc, true)
}

// compare compares a blob that the content store knows before and after: one that is collected meanwhile is not damaged.
func (l *Loader) compare(ctx context.Context, desc ocispec.Descriptor, read bool) (bool, error) {
	if err := l.isKnown(ctx, desc); err != nil {
		return false, err
	}
	same, err := compareBlob(ctx, l.Content, desc, read)
	if errdefs.IsNotFound(err) {
		return false, l.isKnown(ctx, desc)
	}
	return same, err
}

func (l *Loader) isKnown(ctx context.Context, desc ocispec.Descriptor) error {
	if _, err := l.Content.Info(ctx, desc.Digest); err != nil {
		return fmt.Errorf("look for blob %s: %w", desc.Digest, err)
	}
	return nil
}

// isSpoiled reports whether a blob that the content store does not know in this namespace is there all the same, and damaged: it
// is another namespace's, or a power cut came before it was recorded. A pull would take it for whole.
func (l *Loader) isSpoiled(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, err := l.Blobs.Info(ctx, desc.Digest); errdefs.IsNotFound(err) {
		return false, nil
	}
	sound, err := compareBlob(ctx, l.Blobs, desc, true)
	if errdefs.IsNotFound(err) {
		return false, nil // it was garbage, and is collected just now
	}
	return err == nil && !sound, err
}

// compareBlob compares a blob with its size, and with its digest if it is to be read. Where there is no file the error is NotFound.
func compareBlob(ctx context.Context, store content.Provider, desc ocispec.Descriptor, read bool) (bool, error) {
	ra, err := store.ReaderAt(ctx, desc)
	if err != nil {
		return false, fmt.Errorf("open blob %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	switch {
	case !read:
		return ra.Size() == desc.Size, nil
	case desc.Size > 0 && ra.Size() != desc.Size:
		return false, nil
	}
	digester := desc.Digest.Algorithm().Digester()
	if _, err := io.CopyBuffer(digester.Hash(), &until{ctx, content.NewReader(ra)}, make([]byte, min(ra.Size()+1, 256<<10))); err != nil {
		return false, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	return digester.Digest() == desc.Digest, nil
}

// until reads until ctx ends.
type until struct {
	ctx context.Context
	io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}
