// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
)

// referrers copies what refers to an image and to the manifests of its index: by the field subject (OCI distribution
// specification 1.1, whose fall-back by tags is included), and by the tags that cosign gives signatures.
func (t *transfer) referrers(ctx context.Context, root ocispec.Descriptor) (int, error) {
	graph, ok := t.src.ReadOnlyTarget.(oras.ReadOnlyGraphTarget)
	if !ok {
		return 0, nil
	}
	manifests := []ocispec.Descriptor{root}
	if images.IsIndexType(root.MediaType) {
		index, err := fetchIndex(ctx, t.src, root)
		if err != nil {
			return 0, err
		}
		manifests = append(manifests, index.Manifests...)
	}
	copied := 0
	for _, desc := range manifests {
		n, err := t.bySubject(ctx, graph, desc)
		if err != nil {
			return copied, fmt.Errorf("copy what refers to %s: %w", desc.Digest, err)
		}
		copied += n
		if n, err = t.byTag(ctx, desc); err != nil {
			return copied, err
		}
		copied += n
	}
	return copied, nil
}

// bySubject copies the referrers of a manifest, and theirs.
func (t *transfer) bySubject(ctx context.Context, src oras.ReadOnlyGraphTarget, desc ocispec.Descriptor) (int, error) {
	referrers, err := src.Predecessors(ctx, desc)
	if err != nil || len(referrers) == 0 {
		return 0, err
	}
	copied := 0
	for _, referrer := range referrers {
		if images.IsIndexType(referrer.MediaType) && referrer.ArtifactType == "" {
			continue // an index of images that has this one in it, which bundles tell of
		}
		if err := oras.CopyGraph(ctx, reading{t.src, t}, t.dst, referrer, t.graph()); err != nil {
			return copied, plainly(err)
		}
		copied++
		n, err := t.bySubject(ctx, src, referrer)
		if err != nil {
			return copied, err
		}
		copied += n
	}
	return copied, nil
}

// cosignTags are the endings of the tags that cosign makes of a digest.
var cosignTags = []string{"sig", "att", "sbom"}

func (t *transfer) byTag(ctx context.Context, desc ocispec.Descriptor) (int, error) {
	copied := 0
	for _, ending := range cosignTags {
		tag := fmt.Sprintf("%s-%s.%s", desc.Digest.Algorithm(), desc.Digest.Encoded(), ending)
		if _, err := t.src.Resolve(ctx, tag); causeOf(err) == Missing {
			continue
		} else if err != nil {
			return copied, fmt.Errorf("look for %s: %w", tag, err)
		}
		if _, err := oras.Copy(ctx, reading{t.src, t}, tag, t.dst, tag, oras.CopyOptions{CopyGraphOptions: t.graph()}); err != nil {
			return copied, fmt.Errorf("copy %s: %w", tag, plainly(err))
		}
		copied++
	}
	return copied, nil
}
