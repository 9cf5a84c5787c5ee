// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The processors of an operator's stream_processors are registered later, and asked first.
func init() { diff.RegisterProcessor(layerProcessor) }

// layerProcessor is containerd's own for compressed layers, but for one thing: they are read in whole buffers. What decompresses
// returns what it has, so that files were written by odd pieces, most of which begin and end within a page. That costs the kernel an
// eighth of its time, and such a page is written twice if the disk is synced meanwhile. A layer that is not compressed is a file,
// which is read in whole buffers anyway, and left to containerd.
func layerProcessor(ctx context.Context, mediaType string) (diff.StreamProcessorInit, bool) {
	compressed, err := images.DiffCompression(ctx, mediaType)
	if err != nil || compressed == "" {
		return nil, false
	}
	return func(_ context.Context, stream diff.StreamProcessor, _ map[string]typeurl.Any) (diff.StreamProcessor, error) {
		layer, err := compression.DecompressStream(stream)
		if err != nil {
			return nil, err
		}
		return wholeReads{layer}, nil
	}, true
}

// wholeReads is a layer of which a read returns less than asked for at its end alone.
type wholeReads struct{ io.ReadCloser }

// MediaType implements [diff.StreamProcessor].
func (wholeReads) MediaType() string { return ocispec.MediaTypeImageLayer }

// Read implements [io.Reader].
func (w wholeReads) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = w.ReadCloser.Read(p[n:])
		n += more
	}
	return n, err
}
