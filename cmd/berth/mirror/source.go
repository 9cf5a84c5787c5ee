// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/berth-edge/berth/loader/bundle"
	"github.com/berth-edge/berth/resolver"
)

// BundleSource is a bundle that images are copied from.
type BundleSource struct {
	bundle   *bundle.Bundle
	blobs    content.Fetcher // the bundle, or what was unpacked of it
	unpacked blobs           // zero if nothing was

	names   map[string]ocispec.Descriptor // by normalised name
	digests map[digest.Digest]ocispec.Descriptor
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
	s := &BundleSource{bundle: b, blobs: b, names: map[string]ocispec.Descriptor{}, digests: map[digest.Digest]ocispec.Descriptor{}}
	if b.Compressed() {
		err = s.unpack(ctx)
	}
	if err == nil {
		err = s.index(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openWhole opens a bundle of which every image can be used.
func openWhole(ctx context.Context, path string) (*bundle.Bundle, error) {
	if _, err := os.Lstat(path); err == nil { // the path is the operator's own and may be a link
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, fmt.Errorf("open bundle %s: %w", path, err)
		}
		path = target
	}
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
		return s.unpacked.Push(ctx, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: size}, r)
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

// index notes what references lead to. A bundle may write a name in another way than a reference is: short, or with the host in
// upper case.
func (s *BundleSource) index(ctx context.Context) error {
	name := func(name string, desc ocispec.Descriptor) {
		if named, err := resolver.ParseNamed(name); err == nil {
			s.names[named.String()] = desc
		}
	}
	for _, r := range s.bundle.Referrers() {
		name(r.Name, r.Target)
	}
	for _, artifacts := range []bool{true, false} { // cosign gives an image's signature the name of the image, whose it is
		for _, image := range s.bundle.Images() { // of two images of one name the last has it, as where they are loaded
			if image.Artifact != artifacts {
				continue
			}
			name(image.Name, image.Target)
			if err := s.indexDigests(ctx, image.Target); err != nil {
				return fmt.Errorf("open bundle %s: %w", s.bundle.Path(), err)
			}
		}
	}
	return nil
}

// indexDigests notes an image, and the manifests of its index that the bundle holds.
func (s *BundleSource) indexDigests(ctx context.Context, desc ocispec.Descriptor) error {
	if _, ok := s.digests[desc.Digest]; ok || !s.bundle.Has(desc.Digest) {
		return nil
	}
	s.digests[desc.Digest] = desc
	if !images.IsIndexType(desc.MediaType) {
		return nil
	}
	index, err := fetchIndex(ctx, s.blobs, desc)
	if err != nil {
		return err
	}
	for _, child := range index.Manifests {
		if err := s.indexDigests(ctx, child); err != nil {
			return err
		}
	}
	return nil
}

// Resolve implements [content.Resolver]. ref is a reference with its repository.
func (s *BundleSource) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	named, err := resolver.ParseNamed(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, ok := s.names[named.String()]
	if digested, byDigest := named.(reference.Digested); byDigest {
		desc, ok = s.digests[digested.Digest()]
	}
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("bundle %s has no image %s: %w", s.bundle.Path(), named, errdef.ErrNotFound)
	}
	return desc, nil
}

// firstWith returns the first of several bundles that has the image of ref.
func firstWith(ctx context.Context, bundles []*BundleSource, ref string) oras.ReadOnlyTarget {
	var without []string
	for _, b := range bundles {
		if _, err := b.Resolve(ctx, ref); err == nil {
			return b
		}
		without = append(without, b.bundle.Path())
	}
	if len(bundles) == 1 {
		return bundles[0] // which says so itself
	}
	return absent{bundles[0], fmt.Errorf("none of the bundles %s has the image %s: %w", strings.Join(without, ", "), ref, errdef.ErrNotFound)}
}

// absent is the source of an image that none of several bundles has.
type absent struct {
	*BundleSource
	err error
}

// Resolve implements [content.Resolver].
func (a absent) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, a.err
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
