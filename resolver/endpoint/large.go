// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// LargeBlob is the size in bytes from which on a blob is worth a connection: well over what opening one costs.
	LargeBlob = 8 << 20
	// MaxLarge is how many large blobs have connections of their own at once, so that a registry need not fear a node that
	// pulls many images.
	MaxLarge = 4
	// sharedFor is how long large blobs come over the shared connection after a server did not take to another one.
	sharedFor = 5 * time.Minute
)

type sizeKey struct{}

// WithSize says how many bytes of a blob the requests of a context ask for. A large one comes over a connection of its own.
func WithSize(ctx context.Context, bytes int64) context.Context {
	return context.WithValue(ctx, sizeKey{}, bytes)
}

// isLarge reports whether a request is for the whole of a large blob. Parts that are fetched at once are each asked for with
// what comes behind them, and left before its end, which ends a connection of HTTP/1.1. The rest of a blob that was cut short
// is better asked for in the other way.
func isLarge(req *http.Request) bool {
	size, _ := req.Context().Value(sizeKey{}).(int64)
	return size >= LargeBlob && req.Method == http.MethodGet && req.URL.Scheme == "https" && req.Header.Get("Range") == ""
}

// way is one way out. Its requests share a connection where the server speaks HTTP/2, but for a few large blobs: whatever
// comes over one connection is decrypted by one core, and Go's HTTP/2 copies it twice. These come over HTTP/1.1, side by side.
type way struct {
	shared, alone *http.Transport

	large   atomic.Int64              // blobs that come alone now
	refused atomic.Pointer[time.Time] // when a blob could not come alone, and came over the shared connection; nil for never
}

func newWay(config *tls.Config, proxy proxyFunc, opts Options) *way {
	w := &way{shared: newTransport(config, proxy, opts), alone: newTransport(config.Clone(), proxy, opts)}
	w.alone.Protocols = new(http.Protocols)
	w.alone.Protocols.SetHTTP1(true)
	w.alone.MaxIdleConnsPerHost = MaxLarge
	return w
}

// RoundTrip implements [http.RoundTripper]. A connection of its own is never what a large blob fails for: a server may speak
// HTTP/2 only, and it or what is before it may allow one client no more than one connection.
func (w *way) RoundTrip(req *http.Request) (*http.Response, error) {
	if at := w.refused.Load(); !isLarge(req) || at != nil && time.Since(*at) < sharedFor {
		return w.shared.RoundTrip(req)
	}
	if w.large.Add(1) > MaxLarge {
		w.large.Add(-1)
		return w.shared.RoundTrip(req)
	}
	end := sync.OnceFunc(func() { w.large.Add(-1) })
	resp, err := w.alone.RoundTrip(req)
	if err == nil {
		resp.Body = &aloneBody{resp.Body, end}
		return resp, nil
	}
	end()
	if req.Context().Err() != nil {
		return nil, err
	}
	if resp, err = w.shared.RoundTrip(req); err == nil {
		now := time.Now()
		w.refused.Store(&now)
	}
	return resp, err
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
