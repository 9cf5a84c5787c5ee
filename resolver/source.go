// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/endpoint"
)

// origin is where one attempt of a pull goes: containerd's OCIRegistry is one.
type origin interface {
	transfer.ImageFetcher
	transfer.ImageResolverOptionSetter
	fmt.Stringer
}

// source is one target of a route while it is pulled from. It answers with the image's own name, so that verifiers,
// labels and events speak of what the user asked for, and it counts what it was asked for and what it gave.
type source struct {
	origin origin
	name   string // the image's name
	ref    string // what the origin is asked for
	limit  *Downloads

	asStock bool // use the addresses that descriptors bring along, and take any answer for a manifest, however long below an index

	resolved digest.Digest // set when Resolve succeeded
	chosen   atomic.Bool   // containerd asked for the content: no verifier refused the image
	failed   atomic.Bool   // reading content failed, and not since something else did
	bytes    atomic.Int64

	mu      sync.Mutex
	fetched []ocispec.Descriptor
}

var (
	_ transfer.ImageFetcher              = (*source)(nil)
	_ transfer.ImageResolverOptionSetter = (*source)(nil) // or containerd's download limits are lost
	_ fmt.Stringer                       = (*source)(nil) // progress lines say where a pull goes
)

func (s *source) String() string { return s.origin.String() }

// Resolve implements [transfer.ImageResolver].
func (s *source) Resolve(ctx context.Context) (string, ocispec.Descriptor, error) {
	_, desc, err := s.origin.Resolve(ctx)
	if err == nil && !s.asStock {
		err = CheckManifest(desc)
	}
	if err != nil {
		return "", ocispec.Descriptor{}, err
	}
	s.resolved = desc.Digest
	return s.name, desc, nil
}

// CheckManifest returns an error for what is no manifest that containerd pulls: what Docker's first schema has, and what a web
// server answers that is no registry, or stands before one. containerd would store the page as the image.
func CheckManifest(desc ocispec.Descriptor) error {
	switch {
	case desc.MediaType == images.MediaTypeDockerSchema1Manifest:
		return fmt.Errorf("schema 1 image manifests are no longer supported: %w", errdefs.ErrInvalidArgument)
	case !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType):
		return fmt.Errorf("got %s and not a manifest; is this the address of a registry, and is nobody asked to log in first?: %w",
			cmp.Or(desc.MediaType, "no media type"), errdefs.ErrFailedPrecondition)
	case desc.Size == 0:
		return fmt.Errorf("got nothing and not a manifest; is this the address of a registry?: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// SetResolverOptions implements [transfer.ImageResolverOptionSetter].
func (s *source) SetResolverOptions(opts ...transfer.ImageResolverOption) {
	s.origin.SetResolverOptions(append(opts, s.limit.options()...)...)
}

// Fetcher implements [transfer.ImageFetcher].
func (s *source) Fetcher(ctx context.Context, _ string) (transfer.Fetcher, error) {
	s.chosen.Store(true)
	f, err := s.origin.Fetcher(ctx, s.ref)
	if err != nil {
		return nil, err
	}
	return &fetcher{f, s}, nil
}

type fetcher struct {
	transfer.Fetcher
	source *source
}

// Fetch implements [transfer.Fetcher]. Addresses that a descriptor brings along are not used: they lead past the rules.
func (f *fetcher) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	f.source.mu.Lock()
	f.source.fetched = append(f.source.fetched, desc)
	f.source.mu.Unlock()
	if !f.source.asStock {
		if max := docker.MaxManifestSize; desc.Size > max && (images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType)) {
			f.source.fail(ctx)
			return nil, fmt.Errorf("manifest %s is %d bytes, limit %d: %w", desc.Digest, desc.Size, max, errdefs.ErrInvalidArgument)
		}
		desc.URLs = nil
	}
	rc, err := f.Fetcher.Fetch(endpoint.WithSize(ctx, desc.Size), desc)
	if err != nil {
		f.source.fail(ctx)
		return nil, err
	}
	r := &reader{rc, ctx, f.source}
	if seeker, ok := rc.(io.Seeker); ok {
		return &seekingReader{r, seeker}, nil
	}
	return r, nil
}

// fail notes that a download failed, unless that is since its context ended: containerd ends all downloads of an image
// when one of them cannot be stored.
func (s *source) fail(ctx context.Context) {
	if ctx.Err() == nil {
		s.failed.Store(true)
	}
}

// reader counts bytes and notes failures.
type reader struct {
	io.ReadCloser
	ctx    context.Context // of the download
	source *source
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.source.bytes.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		r.source.fail(r.ctx)
	}
	return n, err
}

// seekingReader forwards Seek, or an interrupted download could not be resumed.
type seekingReader struct {
	*reader
	io.Seeker
}

// endpointOrigin asks a configured registry.
type endpointOrigin struct {
	resolver remotes.Resolver
	ref      string
	redact   func(string) string // takes out what authenticates there
}

var _ origin = (*endpointOrigin)(nil)

func newEndpointOrigin(ref string, hosts docker.RegistryHosts, redact func(string) string) *endpointOrigin {
	return &endpointOrigin{docker.NewResolver(docker.ResolverOptions{Hosts: hosts}), ref, redact}
}

func (o *endpointOrigin) String() string { return fmt.Sprintf("OCI Registry (%s)", o.ref) }

func (o *endpointOrigin) Resolve(ctx context.Context) (string, ocispec.Descriptor, error) {
	return o.resolver.Resolve(unrepeated(ctx), o.ref)
}

func (o *endpointOrigin) SetResolverOptions(opts ...transfer.ImageResolverOption) {
	if r, ok := o.resolver.(remotes.ResolverWithOptions); ok {
		r.SetOptions(opts...)
	}
}

func (o *endpointOrigin) Fetcher(ctx context.Context, ref string) (transfer.Fetcher, error) {
	return o.resolver.Fetcher(ctx, ref)
}
