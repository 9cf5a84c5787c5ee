// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/berth-edge/berth/resolver"
)

// Found is where an image was looked for, and whether it will be pulled from there.
type Found struct {
	// Route is the image's route. Its Err is why there is none.
	Route resolver.Route
	// Target is where the image is; nil if it is nowhere where it has to be.
	Target *resolver.Target
	// Digest is what the reference leads to: an index, or a manifest. Size is that of the image for one platform, in bytes:
	// its manifest, its configuration and its layers.
	Digest digest.Digest
	Size   int64
	// Failures are the targets before Target, or all of them.
	Failures []Failure
}

// Check looks for images along their routes. The registry that a reference names counts only if the rules leave the image to
// it alone: one that stands behind others is there for a time in which they do not have it.
func (m *Mirror) Check(ctx context.Context, refs []string) []Found {
	found := make([]Found, len(refs))
	each(refs, func(i int, ref string) { found[i] = m.check(ctx, ref) })
	return found
}

func (m *Mirror) check(ctx context.Context, ref string) Found {
	found := Found{Route: m.routes.Route(ctx, ref)}
	targets := found.Route.Targets
	for i, target := range targets {
		if target.Kind == resolver.KindSource && i > 0 {
			break
		}
		dgst, size, err := m.look(ctx, target)
		if err == nil {
			found.Target, found.Digest, found.Size = &targets[i], dgst, size
			return found
		}
		found.Failures = append(found.Failures, Failure{target, causeOf(err), err})
	}
	return found
}

// look reads the manifest that a target names, and that of the platform.
func (m *Mirror) look(ctx context.Context, target resolver.Target) (digest.Digest, int64, error) {
	repo, err := m.repository(target, pull)
	if err != nil {
		return "", 0, err
	}
	root, body, err := repo.FetchReference(ctx, tagOrDigest(target.Pull))
	if err != nil {
		return "", 0, err
	}
	text, err := readAll(body, root)
	if err != nil {
		return "", 0, err
	}
	desc := root
	for images.IsIndexType(desc.MediaType) {
		index, err := parseIndex(desc, text)
		if err != nil {
			return "", 0, err
		}
		if desc, err = m.choose(index); err != nil {
			return "", 0, err
		}
		if body, err = repo.Fetch(ctx, desc); err == nil {
			text, err = readAll(body, desc)
		}
		if err != nil {
			return "", 0, fmt.Errorf("manifest of the index: %w", err)
		}
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return "", 0, fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	if desc.Platform == nil {
		if err := m.checkPlatform(ctx, repo, manifest.Config); err != nil {
			return "", 0, err
		}
	}
	size := desc.Size + manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return root.Digest, size, nil
}

// readAll reads a manifest, and checks that it is what its descriptor says.
func readAll(body io.ReadCloser, desc ocispec.Descriptor) ([]byte, error) {
	defer body.Close()
	if err := resolver.CheckManifest(desc); err != nil {
		return nil, err
	}
	if desc.Size > docker.MaxManifestSize {
		return nil, fmt.Errorf("manifest of %d bytes is larger than %d", desc.Size, docker.MaxManifestSize)
	}
	return content.ReadAll(body, desc)
}

// fetchIndex reads an index.
func fetchIndex(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) (ocispec.Index, error) {
	text, err := content.FetchAll(ctx, fetcher, desc)
	if err != nil {
		return ocispec.Index{}, fmt.Errorf("read index %s: %w", desc.Digest, err)
	}
	return parseIndex(desc, text)
}

func parseIndex(desc ocispec.Descriptor, text []byte) (index ocispec.Index, err error) {
	if err = json.Unmarshal(text, &index); err != nil {
		err = fmt.Errorf("read index %s: %w", desc.Digest, err)
	}
	return index, err
}

// choose returns the manifest of an index that a node of the platform that images are wanted for takes. As in containerd, one that
// names no platform may be for any, and stands behind those that name theirs.
func (m *Mirror) choose(index ocispec.Index) (ocispec.Descriptor, error) {
	var best *ocispec.Descriptor
	for i, desc := range index.Manifests {
		if desc.Platform != nil && !m.platform.Match(*desc.Platform) {
			continue
		}
		if best == nil || desc.Platform != nil && (best.Platform == nil || m.platform.Less(*desc.Platform, *best.Platform)) {
			best = &index.Manifests[i]
		}
	}
	if best == nil {
		return ocispec.Descriptor{}, platformError{cmp.Or(resolver.Available(index), "no platform"), m.wanted}
	}
	return *best, nil
}

// checkPlatform reads the configuration of an image that no index names the platform of: it alone says what the image is for.
func (m *Mirror) checkPlatform(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) error {
	if !images.IsConfigType(desc.MediaType) {
		return nil // an artifact
	}
	const most = 8 << 20
	if desc.Size > most {
		return fmt.Errorf("configuration of %d bytes is larger than %d", desc.Size, most)
	}
	text, err := content.FetchAll(ctx, from, desc)
	if err != nil {
		return fmt.Errorf("configuration of the image: %w", err)
	}
	var platform ocispec.Platform
	if err := json.Unmarshal(text, &platform); err != nil {
		return fmt.Errorf("read configuration %s: %w", desc.Digest, err)
	}
	if platform.OS == "" || platform.Architecture == "" {
		return errors.New("its configuration names no platform")
	}
	if !m.platform.Match(platform) {
		return platformError{platforms.Format(platform), m.wanted}
	}
	return nil
}
