// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/berth-edge/berth/loader/bundle"
)

// BundleSource is a bundle that images are copied from.
type BundleSource struct {
	bundle   *bundle.Bundle
	blobs    content.Fetcher // the bundle, or what was unpacked of it
	unpacked blobs           // zero if nothing was
}

var _ oras.ReadOnlyGraphTarget = (*BundleSource)(nil)

// OpenBundle opens a bundle of any format that the loader knows. The caller closes it. A compressed one, which can be read
// from its start only, is unpacked into the directory for temporary files.
func OpenBundle(ctx context.Context, path string) (*BundleSource, error) {
	b, err := openWhole(ctx, path)
	if err != nil {
		return nil, err
	}
	b.Hold() // until it is closed, though another takes its place
	s := &BundleSource{bundle: b, blobs: b}
	if b.Compressed() {
		err = s.unpack(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openWhole opens a bundle of which every image can be used.
func openWhole(ctx context.Context, path string) (*bundle.Bundle, error) {
	b, err := bundle.Open(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(b.Problems()...); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (s *BundleSource) unpack(ctx context.Context) (err error) {
	const prefix = "berth-bundle-"
	sweep(os.TempDir(), prefix)
	if s.unpacked, err = newBlobs(os.TempDir(), prefix); err != nil {
		return err
	}
	s.blobs = s.unpacked
	return s.bundle.Walk(ctx, func(dgst digest.Digest, size int64, r io.Reader) error {
		err := s.unpacked.Push(ctx, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: size}, r)
		if errors.Is(err, errdef.ErrAlreadyExists) {
			return nil
		}
		return err
	})
}

// Close closes the bundle, and removes what was unpacked.
func (s *BundleSource) Close() error {
	err := s.bundle.Close()
	if s.unpacked.dir != nil {
		err = errors.Join(err, s.unpacked.remove())
	}
	return err
}

// Exists implements [oras.ReadOnlyTarget].
func (s *BundleSource) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	return s.bundle.Has(desc.Digest), nil
}

// Fetch implements [content.Fetcher].
func (s *BundleSource) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if !s.bundle.Has(desc.Digest) {
		return nil, fmt.Errorf("bundle %s has no blob %s: %w", s.bundle.Path(), desc.Digest, errdef.ErrNotFound)
	}
	return s.blobs.Fetch(ctx, desc)
}

// Resolve implements [content.Resolver]. ref is a normalised reference.
func (s *BundleSource) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	digested, byDigest := named.(reference.Digested)
	for _, image := range slices.Backward(s.bundle.Images()) { // of two images of one name the last has it, as where they are loaded
		if byDigest && image.Target.Digest == digested.Digest() || !byDigest && image.Name == named.String() {
			return image.Target, nil
		}
	}
	for _, r := range s.bundle.Referrers() {
		if r.Name == named.String() {
			return r.Target, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("bundle %s has no image %s: %w", s.bundle.Path(), named, errdef.ErrNotFound)
}

// Predecessors implements [content.PredecessorFinder]. What is found by its name is none.
func (s *BundleSource) Predecessors(_ context.Context, desc ocispec.Descriptor) (found []ocispec.Descriptor, _ error) {
	for _, r := range s.bundle.Referrers() {
		if r.Subject == desc.Digest && r.Name == "" {
			found = append(found, r.Target)
		}
	}
	return found, nil
}

// Names returns the names of the bundle's images. One that has none is left out.
func (s *BundleSource) Names() (names []string) {
	for _, image := range s.bundle.Images() {
		if image.Name != "" {
			names = append(names, image.Name)
		}
	}
	return names
}

// HasReferrers reports whether the bundle holds anything that refers to an image.
func (s *BundleSource) HasReferrers() bool { return len(s.bundle.Referrers()) > 0 }
