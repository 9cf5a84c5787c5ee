// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/distribution/reference"
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

// bundleOrigin is an image in a bundle while it is pulled.
type bundleOrigin struct{ *Bundled }

var _ origin = bundleOrigin{}

func (o bundleOrigin) String() string { return fmt.Sprintf("bundle (%s)", o.Path) }

// SetResolverOptions implements [transfer.ImageResolverOptionSetter]. Limits of downloads are not about a local file.
func (bundleOrigin) SetResolverOptions(...transfer.ImageResolverOption) {}
