// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/berth-edge/berth/resolver/endpoint"
)

// attempts is how often a copy is begun that fails, if that may pass and nothing was copied meanwhile. What was sent is not sent again.
const attempts = 3

// pause waits before what failed is tried again.
func pause(ctx context.Context, attempt int) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(attempt) * 500 * time.Millisecond):
	}
}

// mayPass reports whether a failure may be gone the next time: the registry has too much to do, or the connection was lost.
func mayPass(err error) bool {
	var response *errcode.ErrorResponse
	if errors.As(err, &response) {
		switch response.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests:
			return true
		case http.StatusUnauthorized: // the upload was begun with a token that ended before the blob was sent
			return response.Method == http.MethodPut
		}
		return response.StatusCode >= http.StatusInternalServerError
	}
	switch causeOf(err) {
	case Missing, Unauthorized, WrongPlatform, Certificate, NoCredential:
		return false
	}
	var reached *endpoint.Error
	if errors.As(err, &reached) && (reached.Cause == endpoint.RateLimited || reached.Cause == endpoint.Busy) {
		return false
	}
	for _, lasting := range []error{errChangesDigest, errElsewhere, errStoredOtherwise, errOwnSignature, errdefs.ErrFailedPrecondition, errdefs.ErrInvalidArgument, content.ErrMismatchedDigest} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// patience is how often a request is sent again, over two seconds or what the registry asks for.
var patience = &retry.GenericPolicy{
	Retryable: mayPassSoon, Backoff: retry.DefaultBackoff, MinWait: 200 * time.Millisecond, MaxWait: 3 * time.Second, MaxRetry: 3,
}

// mayPassSoon reports whether a request is to be sent again: the registry has no time, or the connection was lost, which
// HTTP/1 says as EOF.
func mayPassSoon(resp *http.Response, err error) (bool, error) {
	if errors.Is(err, io.EOF) || errors.Is(err, errEndsEarly) {
		return true, nil
	}
	return retry.DefaultPredicate(resp, err)
}
