// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

const (
	// largeBlob is the size in bytes from which on a blob is worth a connection: well over what opening one costs.
	largeBlob = 8 << 20
	// maxLarge is how many large blobs have connections of their own at once, so that a registry need not fear a node that
	// pulls many images.
	maxLarge = 4
)

type sizeKey struct{}

// WithSize says how many bytes of a blob the requests of a context ask for. A large one comes over a connection of its own.
func WithSize(ctx context.Context, bytes int64) context.Context {
	return context.WithValue(ctx, sizeKey{}, bytes)
}

func isLarge(req *http.Request) bool {
	size, _ := req.Context().Value(sizeKey{}).(int64)
	return size >= largeBlob && req.Method == http.MethodGet && req.URL.Scheme == "https"
}

// way is one way out. Its requests share a connection where the server speaks HTTP/2, but for a few large blobs: whatever
// comes over one connection is decrypted by one core, and Go's HTTP/2 copies it twice. These come over HTTP/1.1, side by side.
type way struct {
	shared, alone *http.Transport

	large  atomic.Int64 // blobs that come alone now
	refuse atomic.Bool  // the server speaks HTTP/2 only
}

func newWay(config *tls.Config, proxy proxyFunc, opts Options) *way {
	w := &way{shared: newTransport(config, proxy, opts), alone: newTransport(config.Clone(), proxy, opts)}
	w.alone.Protocols = new(http.Protocols)
	w.alone.Protocols.SetHTTP1(true)
	w.alone.MaxIdleConnsPerHost = maxLarge
	return w
}

// RoundTrip implements [http.RoundTripper].
func (w *way) RoundTrip(req *http.Request) (*http.Response, error) {
	if !isLarge(req) || w.refuse.Load() {
		return w.shared.RoundTrip(req)
	}
	if w.large.Add(1) > maxLarge {
		w.large.Add(-1)
		return w.shared.RoundTrip(req)
	}
	end := sync.OnceFunc(func() { w.large.Add(-1) })
	resp, err := w.alone.RoundTrip(req)
	if err != nil {
		end()
		if isNoProtocol(err) {
			w.refuse.Store(true)
			return w.shared.RoundTrip(req)
		}
		return nil, err
	}
	resp.Body = &aloneBody{resp.Body, end}
	return resp, nil
}

// isNoProtocol reports that a server does not speak what was offered to it (RFC 7301, 3.2).
func isNoProtocol(err error) bool {
	const noApplicationProtocol = tls.AlertError(120)
	var alert tls.AlertError
	return errors.As(err, &alert) && alert == noApplicationProtocol
}

func (w *way) closeIdle() {
	w.shared.CloseIdleConnections()
	w.alone.CloseIdleConnections()
}

type aloneBody struct {
	io.ReadCloser
	end func()
}

func (b *aloneBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
