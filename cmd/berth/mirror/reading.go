// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/berth-edge/berth/resolver/endpoint"
)

// reading counts the bytes that are read in order to be sent. A blob for a registry, which would say only that it was sent something
// else, is compared with its digest; a bundle does that itself.
type reading struct {
	*origin
	t *transfer
}

// Fetch implements [content.Fetcher].
func (r reading) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	leave, err := r.enter(ctx, desc)
	if err != nil {
		return nil, err
	}
	body, err := r.origin.Fetch(ctx, desc)
	if err != nil {
		leave()
	}
	switch {
	case errors.Is(err, errdef.ErrNotFound) && desc.Platform != nil:
		return nil, fmt.Errorf("its image for %s is absent; name the platform to take with --platform: %w", platforms.Format(*desc.Platform), err)
	case err != nil:
		return nil, err
	}
	if _, ok := r.ReadOnlyTarget.(*remote.Repository); ok {
		body = &resumed{ctx: ctx, from: r.origin, desc: desc, body: body}
	}
	if r.t.dst != nil {
		body = &compared{ReadCloser: body, desc: desc, digester: desc.Digest.Algorithm().Digester(), from: r.origin}
	}
	return &counted{ReadCloser: body, t: r.t, leave: leave}, nil
}

// enter waits until a large blob for a bundle can have a connection of its own. leave is called when it has been read.
func (r reading) enter(ctx context.Context, desc ocispec.Descriptor) (leave func(), err error) {
	if r.t.dst != nil || desc.Size < endpoint.LargeBlob {
		return func() {}, nil
	}
	large := r.t.m.large
	select {
	case large <- struct{}{}:
		return func() { <-large }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// compared is a blob of which the end is withheld if the digest is not what it should be.
type compared struct {
	io.ReadCloser
	desc     ocispec.Descriptor
	digester digest.Digester
	from     *origin
	at       int64
}

func (c *compared) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	_, _ = c.digester.Hash().Write(p[:n])
	c.at += int64(n)
	if c.at >= c.desc.Size && c.digester.Digest() != c.desc.Digest {
		n, err = 0, fmt.Errorf("blob %s: %w", c.desc.Digest, content.ErrMismatchedDigest)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = readError{c.from.name(), err}
	}
	return n, err
}

type counted struct {
	io.ReadCloser
	t      *transfer
	leave  func()
	closed sync.Once
}

// Close implements [io.Closer]. Oras closes what it has sent, and so does the transport that sent it, at the same time.
func (c *counted) Close() (err error) {
	c.closed.Do(func() {
		err = c.ReadCloser.Close()
		c.leave()
	})
	return err
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.t.sent.Add(int64(n))
	c.t.tell(Step{Sent: int64(n)})
	return n, err
}
