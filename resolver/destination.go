// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// destination is a pull's destination that adds labels to the images it stores. It forwards what containerd looks for
// in one, or layers would neither be filtered nor unpacked.
type destination struct {
	transfer.ImageStorer
	labels  map[string]string
	keep    []string
	discard bool
	bundled *Bundled // what is pulled from, nil if it is no bundle
	// checked is where what CRI pulled is looked up, to be of a platform that it can use. Nil does not look.
	checked content.Provider
	lease   string        // id of the one that the client brought, "" if it did not
	stored  digest.Digest // of the image, set when it is stored: containerd may have converted what was pulled
}

var (
	_ transfer.ImageStorer   = (*destination)(nil)
	_ transfer.ImageFilterer = (*destination)(nil)
	_ transfer.ImageUnpacker = (*destination)(nil)
)

func (p *pull) newDestination(ctx context.Context, labels map[string]string) *destination {
	return &destination{ImageStorer: p.storer, labels: labels, keep: p.t.KeepLabels, discard: p.t.discards(ctx), lease: p.lease}
}

// Store implements [transfer.ImageStorer].
func (d *destination) Store(ctx context.Context, desc ocispec.Descriptor, store images.Store) ([]images.Image, error) {
	if d.checked != nil {
		if err := checkPlatform(ctx, d.checked, desc, d.UnpackPlatforms()); err != nil {
			return nil, err
		}
	}
	if d.lease != "" { // an image that may be collected is kept by the lease that it is stored under
		ctx = leases.WithLease(ctx, d.lease)
	}
	d.stored = desc.Digest
	return d.ImageStorer.Store(ctx, desc, labelledStore{store, d.labels, d.keep})
}

// ImageFilter implements [transfer.ImageFilterer].
func (d *destination) ImageFilter(h images.HandlerFunc, cs content.Store) images.HandlerFunc {
	if d.discard && len(d.UnpackPlatforms()) > 0 {
		cs = layerlessStore{cs}
	}
	if f, ok := d.ImageStorer.(transfer.ImageFilterer); ok {
		h = f.ImageFilter(h, cs)
	}
	if d.bundled != nil {
		h = d.bundled.held(h, d.UnpackPlatforms())
	}
	return h
}

// UnpackPlatforms implements [transfer.ImageUnpacker].
func (d *destination) UnpackPlatforms() []transfer.UnpackConfiguration {
	if u, ok := d.ImageStorer.(transfer.ImageUnpacker); ok {
		return u.UnpackPlatforms()
	}
	return nil
}

// labelledStore adds labels to every image that goes into the store, and keeps those of keep for as long as a name is that
// of the same image: an update without field paths, which is how containerd stores what it pulled, replaces all labels, those
// too that were set a moment before.
type labelledStore struct {
	images.Store
	labels map[string]string
	keep   []string
}

func (s labelledStore) Create(ctx context.Context, image images.Image) (images.Image, error) {
	return s.Store.Create(ctx, s.label(image))
}

func (s labelledStore) Update(ctx context.Context, image images.Image, fieldpaths ...string) (images.Image, error) {
	if len(fieldpaths) > 0 {
		return s.Store.Update(ctx, s.label(image), fieldpaths...)
	}
	there, err := s.Store.Get(ctx, image.Name)
	if err != nil {
		return images.Image{}, err
	}
	image = s.label(image)
	paths := []string{"target"}
	for label := range image.Labels {
		paths = append(paths, "labels."+label)
	}
	for label := range there.Labels { // which are removed: the image has none of that name
		_, ok := image.Labels[label]
		if !ok && (there.Target.Digest != image.Target.Digest || !slices.Contains(s.keep, label)) {
			paths = append(paths, "labels."+label)
		}
	}
	return s.Store.Update(ctx, image, paths...)
}

func (s labelledStore) label(image images.Image) images.Image {
	labels := maps.Clone(image.Labels)
	if labels == nil {
		labels = make(map[string]string, len(s.labels))
	}
	maps.Copy(labels, s.labels)
	image.Labels = labels
	return image
}

// layerlessStore leaves out the labels that keep a manifest's layers from garbage collection, as CRI's discard_unpacked_layers
// wants. Those that are there stay: the manifest is also that of an image of which the layers are kept.
type layerlessStore struct{ content.Store }

// layerLabel begins the labels of containerd's garbage collector that refer to layers.
const layerLabel = "containerd.io/gc.ref.content.l."

func (s layerlessStore) Update(ctx context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	paths := slices.DeleteFunc(slices.Clone(fieldpaths), func(p string) bool { return strings.HasPrefix(p, "labels."+layerLabel) })
	if len(fieldpaths) > 0 && len(paths) == 0 {
		return info, nil
	}
	info.Labels = maps.Clone(info.Labels)
	maps.DeleteFunc(info.Labels, func(name, _ string) bool { return strings.HasPrefix(name, layerLabel) })
	return s.Store.Update(ctx, info, paths...)
}
