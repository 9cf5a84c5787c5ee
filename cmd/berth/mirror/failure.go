// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
)

// Cause is why an image is not to be had from a target, in a word.
type Cause string

// The causes.
const (
	Missing       Cause = "missing"
	Unauthorized  Cause = "unauthorized"
	WrongPlatform Cause = "wrong platform"
	Certificate   Cause = "certificate"
	Unreachable   Cause = "unreachable"
	NoCredential  Cause = "credential unavailable"
	Failed        Cause = "failed"
)

// Failure is what keeps an image from being pulled from one target.
type Failure struct {
	Target resolver.Target
	Cause  Cause
	Err    error
}

func (f Failure) Error() string {
	if f.Cause == Missing {
		return fmt.Sprintf("%s: %s", f.Target.Pull, f.Cause)
	}
	return fmt.Sprintf("%s: %s: %v", f.Target.Pull, f.Cause, f.Err)
}

func (f Failure) Unwrap() error { return f.Err }

// plain is an error of a copy without the library's names of its steps, which blame the wrong side of what cannot be read, and
// without the queries of addresses: a registry may sign where a blob is to be sent. A right that is missing is named.
type plain struct{ error }

func (p plain) Error() string { return missingRight(p.error) + endpoint.RedactQueries(p.error.Error()) }

func (p plain) Unwrap() error { return p.error }

func plainly(err error) error {
	var read readError
	if errors.As(err, &read) {
		return plain{read}
	}
	for {
		step, ok := err.(*oras.CopyError) //nolint:errorlint // what is outermost
		if !ok {
			return plain{err}
		}
		err = step.Err
	}
}

// readError is of a blob that could not be read to be sent. What it was sent to has no part in it.
type readError struct {
	from string
	err  error
}

func (r readError) Error() string { return fmt.Sprintf("read %s: %v", r.from, r.err) }

func (r readError) Unwrap() error { return r.err }

// unauthorizedError is of a request that was not sent, since what it needs for that scope was not to be had.
type unauthorizedError struct {
	scope string
	error
}

func (u unauthorizedError) Unwrap() error { return u.error }

// overQuota is what registries say, with the status of a right that is missing, when there is no room for more.
var overQuota = regexp.MustCompile(`(?i)\bquota\b|\bexceed`)

// missingRight says which right a registry found to be missing when it refused a request, in words that go before the error; "" if
// it did not.
func missingRight(err error) string {
	var (
		response     *errcode.ErrorResponse
		sent         *url.Error
		unauthorized unauthorizedError
		method       string
		address      *url.URL
	)
	switch {
	case causeOf(err) != Unauthorized:
		return ""
	case errors.As(err, &response):
		if overQuota.MatchString(response.Error()) {
			return ""
		}
		method, address = response.Method, response.URL
	case errors.As(err, &sent):
		method = strings.ToUpper(sent.Op)
		address, _ = url.Parse(sent.URL)
	}
	if address == nil {
		return ""
	}
	repository := strings.TrimPrefix(address.Path, "/v2/")
	for _, of := range []string{"/blobs/", "/manifests/", "/referrers/"} {
		if i := strings.LastIndex(repository, of); i >= 0 {
			repository = repository[:i]
		}
	}
	right := "push to"
	switch {
	case errors.As(err, &unauthorized) && strings.HasSuffix(unauthorized.scope, ":"+push):
		right = "pull from and push to" // which are asked for at once
	case method == http.MethodGet, method == http.MethodHead:
		right = "pull from"
	}
	return fmt.Sprintf("no right to %s %s/%s: ", right, address.Host, repository)
}

// platformError is about an image that there is none of for the platform wanted.
type platformError struct{ has, want string }

func (e platformError) Error() string { return fmt.Sprintf("it is for %s, not for %s", e.has, e.want) }

// causeOf tells what an error of a registry means.
func causeOf(err error) Cause {
	var (
		reached  *endpoint.Error
		response *errcode.ErrorResponse
		platform platformError
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &platform):
		return WrongPlatform
	case errors.Is(err, credential.ErrUnavailable):
		return NoCredential
	case errors.As(err, &reached):
		return reachedCause(reached)
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return Unauthorized
	case errors.Is(err, errdef.ErrNotFound):
		return Missing
	case errors.Is(err, context.DeadlineExceeded):
		return Unreachable
	case errors.As(err, &response):
		switch response.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return Unauthorized
		case http.StatusNotFound:
			return Missing
		}
	}
	return Failed
}

func reachedCause(err *endpoint.Error) Cause {
	switch err.Cause {
	case endpoint.Untrusted, endpoint.BadCert:
		return Certificate
	case endpoint.RealmRefused, endpoint.Redirected, endpoint.BadResponse, endpoint.RateLimited, endpoint.Busy:
		return Failed
	}
	return Unreachable
}
