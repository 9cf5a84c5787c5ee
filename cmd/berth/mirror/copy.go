// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"

	"github.com/berth-edge/berth/resolver"
)

// CopyOptions say what of an image is copied. The zero value is all of its platforms and nothing else.
type CopyOptions struct {
	// From are asked in the place of the registry that the reference names, if there are any. An image is that of the first that has it.
	From []*BundleSource
	// OnePlatform copies the platform only that images are wanted for. The image has another digest then than at its source. An image
	// for another platform is an error, at the destination too.
	OnePlatform bool
	// Referrers takes along signatures and whatever else refers to the image.
	Referrers bool
	// Progress is told of bytes that are to be sent and of those that are, by several goroutines. It may be nil.
	Progress func(Step)
}

// Step is a part of a copy, in bytes.
type Step struct {
	Ref string
	// Planned are those that were found to be missing; Sent those that were sent.
	Planned, Sent int64
}

// Copied is how the copy of one image ended.
type Copied struct {
	// Route is the image's route. Target is the target of it that the image was put into; nil if there is none, since the
	// registry that the reference names is where it is pulled from, and it is the source or is not configured.
	Route  resolver.Route
	Target *resolver.Target
	// Present says that it was there, and Descriptor what is there.
	Present    bool
	Descriptor ocispec.Descriptor
	// Sent is how many bytes were sent, and Mounted how many were not, since the registry had them in another repository.
	Sent, Mounted int64
	// Referrers counts the manifests that were copied beside the image.
	Referrers int
	Err       error
}

// Copy puts images into the first registries of their routes, under the names that the rules give them, if they are missing
// there. done, which may be nil, is called with the index of each image that is done, by several goroutines.
func (m *Mirror) Copy(ctx context.Context, refs []string, opts CopyOptions, done func(i int, c Copied)) []Copied {
	copied := make([]Copied, len(refs))
	transfers := make([]*transfer, len(refs))
	each(refs, func(i int, ref string) { copied[i], transfers[i] = m.begin(ctx, ref, opts) })
	for i, err := range clashes(ctx, transfers) {
		copied[i].Err, transfers[i] = err, nil
	}
	look(ctx, transfers)
	each(refs, func(i int, _ string) {
		if t := transfers[i]; t != nil {
			t.copy(ctx, &copied[i])
		}
		if done != nil {
			done(i, copied[i])
		}
	})
	return copied
}

// clashes finds the transfers that would put another image into the place of one before, by index, and says so. One image that has
// two names at its sources may well have one at the destination.
func clashes(ctx context.Context, transfers []*transfer) map[int]error {
	found := map[int]error{}
	first := map[string]*transfer{} // by target
	for i, t := range transfers {
		if t == nil {
			continue
		}
		before, ok := first[t.target.String()]
		if !ok {
			first[t.target.String()] = t
			continue
		}
		this, err := t.root(ctx)
		if err != nil {
			continue // which the copy says
		}
		if that, err := before.root(ctx); err == nil && this.Digest != that.Digest {
			found[i] = fmt.Errorf("copy %s: %s is where %s is pulled from too, and is another image; change the rules, such as to path = \"full\"",
				t.named, t.target, before.named)
		}
	}
	return found
}

// begin returns what copies an image, nil if nothing is to be copied or it cannot be.
func (m *Mirror) begin(ctx context.Context, ref string, opts CopyOptions) (c Copied, t *transfer) {
	c.Route = m.routes.Route(ctx, ref)
	if c.Err = c.Route.Err; c.Err != nil {
		return c, nil
	}
	if c.Target = destinationOf(c.Route, opts); c.Target == nil {
		return c, nil
	}
	dst, err := m.repository(*c.Target, push)
	if err != nil {
		c.Err = err
		return c, nil
	}
	from := m.routes.Source(c.Route.Named)
	src, err := m.sourceOf(ctx, from, opts)
	if err != nil {
		c.Err = fmt.Errorf("reach %s: %w", c.Route.Named, err)
		return c, nil
	}
	t = &transfer{
		m: m, opts: opts, ref: ref, named: c.Route.Named, target: c.Target.Pull,
		src: newOrigin(src), dst: newDestination(dst), domain: cmp.Or(c.Target.Domain(), dst.Reference.Registry),
	}
	if len(opts.From) == 0 && from.Endpoint() != nil && from.Endpoint() == c.Target.Endpoint() {
		t.beside = reference.Path(from.Pull)
	}
	return c, t
}

// sourceOf is where an image is copied from: bundles, if there are any, and else the registry that its reference names.
func (m *Mirror) sourceOf(ctx context.Context, from resolver.Target, opts CopyOptions) (oras.ReadOnlyTarget, error) {
	if len(opts.From) > 0 {
		return firstWith(ctx, opts.From, from.Pull.String()), nil
	}
	return m.repository(from, pull)
}

// destinationOf is the target that an image is put into, nil if there is none: the first that is another than the registry which the
// reference names. What comes from elsewhere is put into that one too, if it is configured.
func destinationOf(route resolver.Route, opts CopyOptions) *resolver.Target {
	i := slices.IndexFunc(route.Targets, func(t resolver.Target) bool { return t.Kind == resolver.KindRegistry })
	if i < 0 && len(opts.From) > 0 {
		i = slices.IndexFunc(route.Targets, func(t resolver.Target) bool { return t.Registry != nil })
	}
	if i < 0 {
		return nil
	}
	return &route.Targets[i]
}
