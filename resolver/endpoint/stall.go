// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/net/http2"
)

var errStalled = errors.New("stalled")

// stallGuard ends a request in which no byte arrives for a time: before the headers, or within one read of the body.
// The time in which nobody reads does not count.
type stallGuard struct {
	ctx     context.Context
	cancel  context.CancelFunc
	timer   *time.Timer
	host    string
	timeout time.Duration
}

func newStallGuard(parent context.Context, host string, timeout time.Duration) (context.Context, *stallGuard) {
	ctx, cancel := context.WithCancelCause(parent)
	g := &stallGuard{ctx: ctx, host: host, timeout: timeout, cancel: func() { cancel(nil) }}
	g.timer = time.AfterFunc(timeout, func() { cancel(errStalled) })
	return ctx, g
}

func (g *stallGuard) stop() { g.timer.Stop() }

// stalled is what a guard did to the request of ctx, nil if nothing.
func stalled(ctx context.Context, host string, timeout time.Duration) error {
	if !errors.Is(context.Cause(ctx), errStalled) {
		return nil
	}
	return &Error{Cause: TimedOut, Text: fmt.Sprintf("%s: stalled: no byte for %s", host, timeout), err: context.DeadlineExceeded}
}

func (g *stallGuard) body(body io.ReadCloser) io.ReadCloser { return &guardedBody{body, g} }

type guardedBody struct {
	io.ReadCloser
	guard *stallGuard
}

func (b *guardedBody) Read(p []byte) (int, error) {
	b.guard.timer.Reset(b.guard.timeout)
	n, err := b.ReadCloser.Read(p)
	b.guard.stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = cutShort(err)
		if s := stalled(b.guard.ctx, b.guard.host, b.guard.timeout); s != nil {
			err = s
		}
	}
	return n, err
}

// cutShort makes the reset of an HTTP/2 stream what the end of an HTTP/1 connection is. It is the one error at which
// containerd asks for the rest.
func cutShort(err error) error {
	var reset http2.StreamError
	if errors.As(err, &reset) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (b *guardedBody) Close() error {
	defer b.guard.cancel()
	return b.ReadCloser.Close()
}
