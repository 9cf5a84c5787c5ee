// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/berth-edge/berth/resolver/endpoint"
)

// origin is where an image comes from. It is asked for each manifest once.
type origin struct {
	oras.ReadOnlyTarget

	mu        sync.Mutex
	roots     map[string]ocispec.Descriptor // by tag or digest
	manifests map[digest.Digest][]byte
}

func newOrigin(target oras.ReadOnlyTarget) *origin {
	return &origin{ReadOnlyTarget: target, roots: map[string]ocispec.Descriptor{}, manifests: map[digest.Digest][]byte{}}
}

// name is for errors.
func (o *origin) name() string {
	switch target := o.ReadOnlyTarget.(type) {
	case *remote.Repository:
		return target.Reference.String()
	case *BundleSource:
		return "bundle " + target.bundle.Path()
	}
	return "the source"
}

// Resolve implements [content.Resolver]. What a registry answers with is the manifest.
func (o *origin) Resolve(ctx context.Context, ref string) (desc ocispec.Descriptor, err error) {
	o.mu.Lock()
	desc, ok := o.roots[ref]
	o.mu.Unlock()
	if ok {
		return desc, nil
	}
	if fetcher, ok := o.ReadOnlyTarget.(registry.ReferenceFetcher); ok {
		var body io.ReadCloser
		if desc, body, err = fetcher.FetchReference(ctx, ref); err == nil {
			_, err = o.keep(desc, body)
		}
	} else {
		desc, err = o.ReadOnlyTarget.Resolve(ctx, ref)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.roots[ref] = desc
	return desc, nil
}

// Fetch implements [content.Fetcher].
func (o *origin) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if isBlob(desc) {
		return o.ReadOnlyTarget.Fetch(endpoint.WithSize(ctx, desc.Size), desc)
	}
	o.mu.Lock()
	text, ok := o.manifests[desc.Digest]
	o.mu.Unlock()
	if !ok {
		body, err := o.ReadOnlyTarget.Fetch(ctx, desc)
		if err != nil {
			return nil, err
		}
		if text, err = o.keep(desc, body); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(bytes.NewReader(text)), nil
}

// keep reads a manifest, and keeps it.
func (o *origin) keep(desc ocispec.Descriptor, body io.ReadCloser) ([]byte, error) {
	text, err := readAll(body, desc)
	if err != nil {
		return nil, fmt.Errorf("read %s: manifest %s: %w", o.name(), desc.Digest, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.manifests[desc.Digest] = text
	return text, nil
}
