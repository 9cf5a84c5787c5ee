// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// destination is where an image is loaded to: containerd's stores, under all its names.
type destination struct {
	loader *Loader
	image  *Image
}

var (
	_ transfer.ImageStorer   = (*destination)(nil)
	_ transfer.ImageFilterer = (*destination)(nil)
	_ transfer.ImageUnpacker = (*destination)(nil)
)

// Store implements [transfer.ImageStorer].
func (d *destination) Store(ctx context.Context, _ ocispec.Descriptor, _ images.Store) ([]images.Image, error) {
	return nil, d.loader.Together(ctx, func(ctx context.Context, store images.Store) error {
		_, err := d.loader.record(ctx, store, d.image, true)
		return err
	})
}

// ImageFilter implements [transfer.ImageFilterer]: of an index, only what is for this machine is loaded. Layers and configurations
// are done with when they are there: what would follow labels each with the registry that it came from, and none did. That is a
// write of its own to the disk for every blob.
func (d *destination) ImageFilter(h images.HandlerFunc, store content.Store) images.HandlerFunc {
	labels := images.ChildGCLabels
	if d.loader.DropLayers {
		labels = images.ChildGCLabelsFilterLayers
	}
	h = images.SetChildrenMappedLabels(store, h, labels)
	wanted := d.image.contents.all()
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
			return nil, images.ErrStopHandler
		}
		children, err := h(ctx, desc)
		return slices.DeleteFunc(children, func(child ocispec.Descriptor) bool {
			return !slices.ContainsFunc(wanted, func(w ocispec.Descriptor) bool { return w.Digest == child.Digest })
		}), err
	}
}

// UnpackPlatforms implements [transfer.ImageUnpacker].
func (d *destination) UnpackPlatforms() []transfer.UnpackConfiguration {
	return []transfer.UnpackConfiguration{{Platform: d.loader.Platform, Snapshotter: d.loader.Snapshotter}}
}

// layerLabel begins the labels that keep a manifest's layers from garbage collection.
const layerLabel = "containerd.io/gc.ref.content.l."

// dropLayers takes these away from an image that was loaded or pulled when layers were to be kept.
func (l *Loader) dropLayers(ctx context.Context, image *Image) error {
	if !l.DropLayers || slices.ContainsFunc(image.contents.layers, func(layer ocispec.Descriptor) bool { return !image.Bundle.Has(layer.Digest) }) {
		return nil
	}
	for _, desc := range image.contents.blobs {
		if err := l.dropLayersOf(ctx, desc); err != nil && !errdefs.IsNotFound(err) { // it was removed meanwhile, and collected
			return fmt.Errorf("drop the layers of %s: %w", desc.Digest, err)
		}
	}
	return nil
}

func (l *Loader) dropLayersOf(ctx context.Context, desc ocispec.Descriptor) error {
	info, err := l.Content.Info(ctx, desc.Digest)
	if err != nil {
		return err
	}
	var paths []string
	for name := range info.Labels {
		if strings.HasPrefix(name, layerLabel) {
			paths = append(paths, "labels."+name)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	if _, err := l.lease(ctx); err != nil { // with whose end garbage is collected
		return err
	}
	_, err = l.Content.Update(ctx, content.Info{Digest: desc.Digest}, paths...)
	return err
}
