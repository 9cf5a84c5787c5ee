// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
)

func answered(code int, body string) error {
	return fmt.Errorf("pull: %w", remoteerrors.ErrUnexpectedStatus{
		Status: fmt.Sprintf("%d %s", code, http.StatusText(code)), StatusCode: code, Body: []byte(body),
		RequestURL: "https://s3.test/blob?sig=canary-signature", RequestMethod: http.MethodGet,
	})
}

// How an attempt ended, and the kind of error that a client sees of it.
func TestOutcome(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("pull: %w", err) }
	for _, tt := range []struct {
		in   error
		want outcome
		kind error
	}{
		{nil, succeeded, nil},
		{answered(401, ""), unauthorized, errdefs.ErrUnauthenticated},
		{answered(403, ""), forbidden, errdefs.ErrPermissionDenied},
		{answered(429, ""), rateLimited, errdefs.ErrResourceExhausted},
		{answered(500, ""), serverError, errdefs.ErrUnavailable},
		{answered(503, ""), serverError, errdefs.ErrUnavailable},
		{answered(418, ""), other, errdefs.ErrUnknown},
		{wrap(errdefs.ErrNotFound), notFound, errdefs.ErrNotFound},
		{wrap(errdefs.ErrFailedPrecondition), wrongContent, errdefs.ErrDataLoss},
		{wrap(io.ErrUnexpectedEOF), truncated, errdefs.ErrDataLoss},
		{wrap(io.EOF), truncated, errdefs.ErrDataLoss},
		{wrap(docker.ErrInvalidAuthorization), unauthorized, errdefs.ErrUnauthenticated},
		{wrap(fmt.Errorf("%w: %w", credential.ErrUnavailable, errdefs.ErrNotFound)), noCredential, errdefs.ErrUnauthenticated},
		{wrap(context.Canceled), canceled, context.Canceled},
		{wrap(&endpoint.Error{Cause: endpoint.Refused}), outcome(endpoint.Refused), errdefs.ErrUnavailable},
		{wrap(errdefs.ErrNotImplemented), other, errdefs.ErrUnknown},
		{wrap(errdefs.ErrInvalidArgument), other, errdefs.ErrInvalidArgument},
		{wrap(errors.New("no space left on device")), other, errdefs.ErrUnknown},
	} {
		got := outcomeOf(tt.in)
		if got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.in, got, tt.want)
		}
		if kind := (attempt{err: tt.in}).kind(); tt.kind != nil && !errors.Is(kind, tt.kind) {
			t.Errorf("%v: got the kind %v, want %v", tt.in, kind, tt.kind)
		}
	}
}

// The text of a failure says what kind it is and what the registry said, in bounds and without the query of an address.
func TestCause(t *testing.T) {
	t.Parallel()
	pull, err := reference.ParseNamed("reg.test/app:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		in         error
	}{
		{"status", "forbidden: pull: unexpected status from GET request to https://s3.test/blob?*** 403 Forbidden: denied", answered(403, " denied\n")},
		{"status of no kind", "pull: unexpected status from GET request to https://s3.test/blob?*** 418 I'm a teapot", answered(418, "")},
		{"long body", "rate limited: pull: unexpected status from GET request to https://s3.test/blob?*** 429 Too Many Requests: " + strings.Repeat("x", 512), answered(429, strings.Repeat("x", 4096))},
		{"not there", "not found", fmt.Errorf("failed to resolve image: reg.test/app:1: %w", errdefs.ErrNotFound)},
		{"a blob not there", "blob sha256:1: not found", fmt.Errorf("blob sha256:1: %w", errdefs.ErrNotFound)},
		{"address in an error", `pull: Get "https://s3.test/x?***": broken`, errors.New(`pull: Get "https://s3.test/x?sig=canary-signature": broken`)},
	} {
		if got := (attempt{target: Target{Pull: pull}, err: tt.in}).cause(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
