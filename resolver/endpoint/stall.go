// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

var errStalled = errors.New("stalled")

// stallGuard ends a request in which no byte moves for a time: none of what is sent is taken, nor comes before the headers, or
// within one read of the body. The time in which nobody reads does not count.
type stallGuard struct {
	ctx     context.Context
	cancel  context.CancelFunc
	timer   *time.Timer
	host    string
	timeout time.Duration

	mu       sync.Mutex
	answered bool // what is sent does not count any more
}

func newStallGuard(parent context.Context, host string, timeout time.Duration) (context.Context, *stallGuard) {
	ctx, cancel := context.WithCancelCause(parent)
	g := &stallGuard{ctx: ctx, host: host, timeout: timeout, cancel: func() { cancel(nil) }}
	g.timer = time.AfterFunc(timeout, func() { cancel(errStalled) })
	return ctx, g
}

func (g *stallGuard) stop() { g.timer.Stop() }

// sends has what is read to be sent by req count: a registry answers an upload when it has all of it.
func (g *stallGuard) sends(req *http.Request) {
	if req.Body == nil || req.Body == http.NoBody {
		return
	}
	req.Body = &sentBody{req.Body, g}
	if again := req.GetBody; again != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := again()
			if err != nil {
				return nil, err
			}
			return &sentBody{body, g}, nil
		}
	}
}

// isAnswered ends the wait for an answer.
func (g *stallGuard) isAnswered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answered = true
	g.stop()
}

type sentBody struct {
	io.ReadCloser
	guard *stallGuard
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.guard.mu.Lock()
	defer b.guard.mu.Unlock()
	if !b.guard.answered {
		b.guard.timer.Reset(b.guard.timeout)
	}
	return n, err
}

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
	if err != nil {
		err = cutShort(err)
		// Also at an EOF: the server may see that it is left, and end its answer in good order, before this side is closed.
		if s := stalled(b.guard.ctx, b.guard.host, b.guard.timeout); s != nil {
			err = s
		}
	}
	return n, err
}

// cutShort makes what ends a connection, or a stream of HTTP/2, io.ErrUnexpectedEOF itself: containerd compares, and that is
// the one error at which it asks again, and for the rest.
func cutShort(err error) error {
	if isCutShort(err) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func isCutShort(err error) bool {
	var stream http2.StreamError
	return errors.As(err, &stream) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || isLost(err) ||
		// net/http does not export these: pings were not answered, the server closed a new connection at once, or one on which
		// it had said that it is about to end
		strings.Contains(err.Error(), "http2: client connection lost") ||
		strings.Contains(err.Error(), "http2: client conn could not be established") ||
		strings.Contains(err.Error(), "http2: server sent GOAWAY and closed the connection")
}

// isLost reports whether the kernel gave up a connection that there was: nothing is said on it any more, see newDialer.
func isLost(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "read" || op.Op == "write") &&
		(errors.Is(op, syscall.ETIMEDOUT) || errors.Is(op, syscall.EHOSTUNREACH) || errors.Is(op, syscall.ENETUNREACH))
}

func (b *guardedBody) Close() error {
	defer b.guard.cancel()
	return b.ReadCloser.Close()
}
