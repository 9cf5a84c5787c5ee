// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bundles are the images that ship with this machine. They come before every registry, so that such an image is pulled
// without a network.
type Bundles interface {
	// Find returns the image that a bundle holds under named: by its digest if named has one, else by its tag.
	Find(ctx context.Context, named reference.Named) (Bundled, bool)
	// Wait returns when it is known whether a bundle holds named, and when the image is not being loaded any more. It does
	// not wait for long.
	Wait(ctx context.Context, named reference.Named)
}

// Bundled is an image in a bundle.
type Bundled struct {
	// Path is the bundle's.
	Path string
	// Labels are those that the image is stored with.
	Labels map[string]string
	// Holds reports whether the bundle has the content of a digest.
	Holds func(digest.Digest) bool
	// DiscardLayers lets garbage collection take a compressed layer that is unpacked: the bundle can serve it again.
	DiscardLayers bool
	// Service does the work of a pull from it: bundles are part of the system, and need not be put to verifiers.
	Service transfer.Transferrer

	transfer.ImageFetcher
}

// With returns rs with bundles in front of every route whose rule does not say otherwise.
func (rs *Routes) With(bundles Bundles) *Routes {
	with := *rs
	with.bundles = bundles
	return &with
}

func (rs *Routes) bundled(ctx context.Context, named reference.Named) (Bundled, bool) {
	if rs.bundles == nil {
		return Bundled{}, false
	}
	return rs.bundles.Find(ctx, named)
}

func (r Route) inBundle() bool { return len(r.Targets) > 0 && r.Targets[0].Bundled != nil }

// held returns h without what an index names that the bundle does not hold: platforms that were left out of it, which a
// client that wants all that there is, as ctr does, need not have. It is an error if nothing is left of what is wanted, or of a
// platform that is to be unpacked: ctr wants the manifests of the others, too, and would take those for the image.
func (b Bundled) held(h images.HandlerFunc, unpacks []transfer.UnpackConfiguration) images.HandlerFunc {
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		wanted, err := h(ctx, desc)
		if err != nil || !images.IsIndexType(desc.MediaType) || len(wanted) == 0 {
			return wanted, err
		}
		held := slices.DeleteFunc(slices.Clone(wanted), func(d ocispec.Descriptor) bool { return !b.Holds(d.Digest) })
		lacks := func(u transfer.UnpackConfiguration) bool {
			is := mayBeFor(u.Platform)
			return slices.ContainsFunc(wanted, is) && !slices.ContainsFunc(held, is)
		}
		if len(held) == 0 || slices.ContainsFunc(unpacks, lacks) {
			return nil, fmt.Errorf("bundle %s %w of index %s: %w", b.Path, errNotHeld, desc.Digest, errdefs.ErrNotFound)
		}
		return held, nil
	}
}

// errNotHeld is returned where the next target is to be asked: a bundle need not have what a registry has.
var errNotHeld = errors.New("holds no image for the platform that is wanted")

// bundleOrigin is an image in a bundle while it is pulled.
type bundleOrigin struct{ *Bundled }

var _ origin = bundleOrigin{}

func (o bundleOrigin) String() string { return fmt.Sprintf("bundle (%s)", o.Path) }

// SetResolverOptions implements [transfer.ImageResolverOptionSetter]. Limits of downloads are not about a local file.
func (bundleOrigin) SetResolverOptions(...transfer.ImageResolverOption) {}
