// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	transferapi "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/streaming"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/sirupsen/logrus"

	"github.com/berth-edge/berth/resolver/credential"
)

// clientTimeout bounds the wait for a client's credential.
const clientTimeout = 30 * time.Second

// client is what a pull's client handed over with its reference. containerd's OCIRegistry keeps that to itself; its
// own marshalling, with streams that end in this process, gives it back.
type client struct {
	registry *registry.OCIRegistry
	host     string // the host that credentials are asked for
}

var _ credential.Keychain = client{}

// Credential implements [credential.Keychain]: it asks the client, with the reference that the client knows.
func (c client) Credential(ctx context.Context, _ string, _ credential.Credential) (credential.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	// The goroutine of MarshalAny logs errors of the client's callback, and these can quote a secret.
	ctx = log.WithLogger(ctx, silent)

	streams := make(streamMaker)
	defer streams.close()
	message, err := c.marshal(ctx, streams)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("ask client for credential: %w: %w", err, credential.ErrUnavailable)
	}
	stream, ok := streams[message.GetResolver().GetAuthStream()]
	if !ok {
		return credential.Credential{}, nil // the client has none
	}
	request, err := typeurl.MarshalAny(&transferapi.AuthRequest{Host: c.host, Reference: message.Reference})
	if err != nil {
		return credential.Credential{}, err
	}
	answer, err := stream.ask(ctx, request)
	switch {
	case errors.Is(err, errNoAnswer):
		return credential.Credential{}, fmt.Errorf("ask client for credential: it cannot give the one that it has; is that, or the pull secret that it is of, malformed?: %w", credential.ErrUnavailable)
	case errors.Is(err, context.DeadlineExceeded):
		return credential.Credential{}, fmt.Errorf("ask client for credential: no answer in %s: %w", clientTimeout, credential.ErrUnavailable)
	case err != nil:
		return credential.Credential{}, fmt.Errorf("ask client for credential: no answer: %w", credential.ErrUnavailable)
	}
	var response transferapi.AuthResponse
	if err := typeurl.UnmarshalTo(answer, &response); err != nil {
		return credential.Credential{}, fmt.Errorf("ask client for credential: %w: %w", err, credential.ErrUnavailable)
	}
	switch {
	case response.Secret == "":
		return credential.Credential{}, nil
	case response.AuthType == transferapi.AuthType_REFRESH:
		return credential.Credential{Username: credential.IdentityToken, Password: credential.Secret(response.Secret)}, nil
	case response.AuthType == transferapi.AuthType_CREDENTIALS:
		return credential.Credential{Username: response.Username, Password: credential.Secret(response.Secret)}, nil
	}
	return credential.Credential{}, nil
}

// origin returns the client's own way to another reference: its directory of hosts.toml files and default scheme,
// known only for clients inside containerd such as CRI. Credentials and headers were meant for the original
// registry and stay behind.
func (c client) origin(ctx context.Context, ref string) (origin, error) {
	streams := make(streamMaker)
	defer streams.close()
	message, err := c.marshal(ctx, streams)
	if err != nil {
		return nil, err
	}
	return registry.NewOCIRegistry(ctx, ref,
		registry.WithHostDir(message.GetResolver().GetHostDir()),
		registry.WithDefaultScheme(message.GetResolver().GetDefaultScheme()))
}

func (c client) marshal(ctx context.Context, streams streamMaker) (*transferapi.OCIRegistry, error) {
	anyMessage, err := c.registry.MarshalAny(ctx, streams)
	if err != nil {
		return nil, err
	}
	var message transferapi.OCIRegistry
	if err := typeurl.UnmarshalTo(anyMessage, &message); err != nil {
		return nil, err
	}
	return &message, nil
}

var silent = func() *log.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}()

// streamMaker makes streams within this process, and keeps them by their ids.
type streamMaker map[string]*pipe

// Create implements [streaming.StreamCreator].
func (m streamMaker) Create(_ context.Context, id string) (streaming.Stream, error) {
	p := &pipe{requests: make(chan typeurl.Any), answers: make(chan typeurl.Any), failed: make(chan struct{}, 1), closed: make(chan struct{})}
	m[id] = p
	return p, nil
}

// close ends the goroutines that wait on the streams.
func (m streamMaker) close() {
	for _, p := range m {
		p.Close()
	}
}

// pipe is the client's end of a stream; ask is the other.
type pipe struct {
	requests, answers chan typeurl.Any
	failed            chan struct{} // a request will not be answered
	asked             bool          // a request waits for its answer; of the client's one goroutine
	closed            chan struct{}
	once              sync.Once
}

var (
	errClosed   = errors.New("stream closed")
	errNoAnswer = errors.New("the client could not answer")
)

// Recv implements [streaming.Stream]. OCIRegistry only logs an error of the client's callback, and waits for the next
// request: that it does so without having answered is how the error shows.
func (p *pipe) Recv() (typeurl.Any, error) {
	if p.asked {
		p.failed <- struct{}{}
	}
	select {
	case r := <-p.requests:
		p.asked = true
		return r, nil
	case <-p.closed:
		return nil, io.EOF
	}
}

func (p *pipe) Send(a typeurl.Any) error {
	p.asked = false
	select {
	case p.answers <- a:
		return nil
	case <-p.closed:
		return errClosed
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipe) ask(ctx context.Context, request typeurl.Any) (typeurl.Any, error) {
	select {
	case p.requests <- request:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case answer := <-p.answers:
		return answer, nil
	case <-p.failed:
		return nil, errNoAnswer
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
