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

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
)

// outcome is how an attempt ended, in a word that is fit for a message and for a metric's label.
type outcome string

const (
	succeeded    outcome = "ok"
	notFound     outcome = "not_found"
	unauthorized outcome = "unauthorized"
	forbidden    outcome = "forbidden"
	rateLimited  outcome = "rate_limited"
	serverError  outcome = "server_error"
	wrongContent outcome = "wrong_content"
	truncated    outcome = "truncated"
	noCredential outcome = "credential_unavailable"
	canceled     outcome = "canceled"
	denied       outcome = "denied"
	unusable     outcome = "configuration"
	other        outcome = "error"
)

func outcomeOf(err error) outcome {
	var (
		status  remoteerrors.ErrUnexpectedStatus
		reached *endpoint.Error
	)
	switch {
	case err == nil:
		return succeeded
	case errors.Is(err, credential.ErrUnavailable):
		return noCredential
	case errors.As(err, &reached):
		return outcome(reached.Cause)
	case errors.Is(err, context.Canceled):
		return canceled
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return unauthorized
	case errors.As(err, &status):
		switch {
		case status.StatusCode == http.StatusUnauthorized:
			return unauthorized
		case status.StatusCode == http.StatusForbidden:
			return forbidden
		case status.StatusCode == http.StatusTooManyRequests:
			return rateLimited
		case status.StatusCode >= http.StatusInternalServerError:
			return serverError
		}
		return other
	case errdefs.IsNotFound(err):
		return notFound
	case errdefs.IsFailedPrecondition(err):
		return wrongContent // content.Writer's commit: not the digest or the size of the descriptor
	case strings.Contains(err.Error(), invalidManifest), strings.Contains(err.Error(), invalidDescriptor):
		return wrongContent
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return truncated
	}
	return other
}

// invalidManifest is what package images' Children says of a manifest or an index that is no JSON, or is the one while its
// descriptor says the other. There is no kind of error for it.
const invalidManifest = "children: invalid desc "

// invalidDescriptor is what package remotes says of a descriptor in a manifest that has no size, or none that can be.
const invalidDescriptor = "unable to fetch descriptor ("

// sentinel is the kind of error that a client sees. It never is ErrNotImplemented, which would make containerd ask
// another transfer plugin.
func (o outcome) sentinel() error {
	switch o {
	case notFound:
		return errdefs.ErrNotFound
	case unauthorized, noCredential:
		return errdefs.ErrUnauthenticated
	case forbidden, denied:
		return errdefs.ErrPermissionDenied
	case rateLimited:
		return errdefs.ErrResourceExhausted
	case wrongContent, truncated:
		return errdefs.ErrDataLoss
	case unusable:
		return errdefs.ErrFailedPrecondition
	case canceled:
		return context.Canceled
	case other:
		return errdefs.ErrUnknown
	}
	return errdefs.ErrUnavailable
}

// attempt is one target of a route that was tried, and how that ended.
type attempt struct {
	target Target
	source *source
	err    error
}

func (a attempt) outcome() outcome { return outcomeOf(a.err) }

// goOn reports whether the next target may be tried: the failure was the target's, and not the client's, a verifier's
// or this machine's.
func (a attempt) goOn(ctx context.Context) bool {
	switch {
	case ctx.Err() != nil, a.outcome() == noCredential:
		return false
	case a.source == nil:
		return true
	case a.source.resolved == "":
		return true // could not be resolved
	case !a.source.chosen.Load():
		return false // a verifier refused it
	case errors.Is(a.err, errNotHeld):
		return true
	}
	switch a.outcome() {
	case wrongContent, truncated:
		return true
	}
	return a.source.failed.Load()
}

// PullError says why no target of a route gave the image: one clause for each target that was tried.
type PullError struct {
	route    Route
	attempts []attempt
}

func (e *PullError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pull %s", e.route.Ref)
	if e.route.Rule != "" {
		fmt.Fprintf(&b, " (rule %q)", e.route.Rule)
	}
	for i, a := range e.attempts {
		b.WriteString(map[bool]string{true: ": ", false: "; then "}[i == 0])
		fmt.Fprintf(&b, "from %s: %s", a.target.Pull, a.cause())
	}
	return b.String()
}

// Unwrap returns the one kind that the error has: not found if that is what every target said, else what was wrong
// with the first target that said something else.
func (e *PullError) Unwrap() error {
	for _, a := range e.attempts {
		if a.outcome() != notFound {
			return a.kind()
		}
	}
	return errdefs.ErrNotFound
}

// kind is the kind of error that a client sees of an attempt. What containerd does not pull at all, such as Docker's first
// schema, stays the client's mistake that it says it is.
func (a attempt) kind() error {
	if a.outcome() == other && errdefs.IsInvalidArgument(a.err) {
		return errdefs.ErrInvalidArgument
	}
	return a.outcome().sentinel()
}

// cause is the text of one attempt's error, without secrets.
func (a attempt) cause() string {
	var (
		reached *endpoint.Error
		status  remoteerrors.ErrUnexpectedStatus
		text    string
	)
	switch {
	case errors.As(a.err, &reached):
		text = reached.Text
	case errors.As(a.err, &status):
		text = a.err.Error()
		if o := a.outcome(); o != other {
			text = strings.ReplaceAll(string(o), "_", " ") + ": " + text
		}
		if body := strings.TrimSpace(string(status.Body)); body != "" && !strings.Contains(text, body) {
			text += ": " + strings.ToValidUTF8(body[:min(len(body), maxBodyInError)], "")
		}
	case a.outcome() == notFound:
		// What is said of a reference that is simply not there is short; there are other ways not to be found.
		text = strings.TrimPrefix(a.err.Error(), "failed to resolve image: ")
		if text == a.target.Pull.String()+": not found" {
			text = "not found"
		}
	case a.outcome() == unauthorized:
		text = "unauthorized: " + a.err.Error()
	case a.outcome() == truncated:
		text = "truncated: " + a.err.Error()
	default:
		text = a.err.Error()
	}
	if a.source != nil {
		if o, ok := a.source.origin.(*endpointOrigin); ok {
			text = o.redact(text)
		}
	}
	return endpoint.RedactQueries(text)
}

const maxBodyInError = 512
