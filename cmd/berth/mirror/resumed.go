// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// resumed reads a blob of a registry, and goes on where it was if the connection is lost: a bundle is one stream, which cannot be
// written anew for one layer.
type resumed struct {
	ctx  context.Context
	from content.Fetcher
	desc ocispec.Descriptor

	body io.ReadCloser
	at   int64 // how much of it was read
	lost int   // how often the connection was lost since there was more
}

// Read implements [io.Reader].
func (r *resumed) Read(p []byte) (int, error) {
	for {
		n, err := r.body.Read(p)
		r.at += int64(n)
		if n > 0 {
			r.lost = 0
		}
		switch {
		case err == nil, r.ctx.Err() != nil:
			return n, err
		case r.at >= r.desc.Size:
			return n, io.EOF
		case n > 0:
			return n, nil // the body says it again
		}
		if r.lost++; r.lost == attempts {
			return 0, fmt.Errorf("blob %s: after %d of %d bytes: %w", r.desc.Digest, r.at, r.desc.Size, cut(err))
		}
		if pause(r.ctx, r.lost); r.ctx.Err() != nil {
			return 0, r.ctx.Err()
		}
		if err := r.again(); err != nil && !mayPass(err) {
			return 0, err
		}
	}
}

// cut is the error of a body that ended: one that is shorter than it should be is not at its end.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// again asks for the blob again, from where it was read to.
func (r *resumed) again() error {
	body, err := r.from.Fetch(r.ctx, r.desc)
	if err != nil {
		return err
	}
	seeker, ok := body.(io.Seeker)
	if ok {
		_, err = seeker.Seek(r.at, io.SeekStart)
	}
	if !ok || err != nil { // then body is at its beginning
		_, err = io.CopyN(io.Discard, body, r.at)
	}
	if err != nil {
		return errors.Join(err, body.Close())
	}
	r.body.Close()
	r.body = body
	return nil
}

// Close implements [io.Closer].
func (r *resumed) Close() error { return r.body.Close() }

// ranged says of each blob that parts of it can be asked for, unless the registry says that they cannot: nodes ask without being told
// (RFC 9110, 14.3), and oras does not.
type ranged struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (r ranged) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.RoundTripper.RoundTrip(req)
	if err == nil && asksFor(req, "blobs") && resp.Header.Get("Accept-Ranges") == "" {
		resp.Header.Set("Accept-Ranges", "bytes")
	}
	return resp, err
}
