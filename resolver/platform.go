// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxPlatforms bounds how many platforms an error names.
const maxPlatforms = 20

// checkPlatform returns an error for an index without a manifest for any of the platforms that it is to be unpacked for. CRI,
// which cannot use such an image, would refuse it once it is pulled, and say neither what it wants nor what there is.
func checkPlatform(ctx context.Context, blobs content.Provider, desc ocispec.Descriptor, unpacks []transfer.UnpackConfiguration) error {
	if !images.IsIndexType(desc.MediaType) || len(unpacks) == 0 {
		return nil
	}
	text, err := content.ReadBlob(ctx, blobs, desc)
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("read index %s: %w", desc.Digest, err)
	}
	var wanted []string
	for _, u := range unpacks {
		if slices.ContainsFunc(index.Manifests, mayBeFor(u.Platform)) {
			return nil
		}
		wanted = append(wanted, platforms.FormatAll(u.Platform))
	}
	return fmt.Errorf("no match for platform %s in manifest %s (available: %s): %w",
		strings.Join(wanted, ", "), desc.Digest, cmp.Or(Available(index), "none"), errdefs.ErrNotFound)
}

// mayBeFor tells the manifests of an index that may be for a platform: those that name none may be for any.
func mayBeFor(p ocispec.Platform) func(ocispec.Descriptor) bool {
	matcher := platforms.Only(p)
	return func(m ocispec.Descriptor) bool { return m.Platform == nil || matcher.Match(*m.Platform) }
}

// Available lists the platforms of an index, "" if it names none. Those of attestations are not known, and are left out; no more than
// 20 are named.
func Available(index ocispec.Index) string {
	var names []string
	for _, m := range index.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" {
			continue
		}
		name := platforms.FormatAll(*m.Platform)
		if _, err := platforms.Parse(name); err != nil || slices.Contains(names, name) {
			continue
		}
		if len(names) == maxPlatforms {
			return strings.Join(names, ", ") + " and others"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
