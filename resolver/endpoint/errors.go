// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Cause is why a registry could not be spoken to, in a word that is fit for a metric's label.
type Cause string

// The causes. What else can go wrong has an HTTP status or an error of containerd.
const (
	Refused      Cause = "connection_refused"
	NoSuchHost   Cause = "no_such_host"
	NoNameServer Cause = "name_server_failed"
	Unreachable  Cause = "unreachable"
	TimedOut     Cause = "timed_out"
	Untrusted    Cause = "unknown_authority"
	BadCert      Cause = "bad_certificate"
	PlainHTTP    Cause = "plain_http"
	NoTLS        Cause = "tls_failed"
	RealmRefused Cause = "token_realm_refused"
	Redirected   Cause = "redirect_refused"
	BadResponse  Cause = "bad_response"
	RateLimited  Cause = "rate_limited" // for too long to wait
	Busy         Cause = "server_error" // the same, with status 503
)

// Error is a failure to speak to a registry. It is never a timeout in the sense of [net.Error], since containerd
// would then ask five times.
type Error struct {
	Cause Cause
	Text  string
	err   error
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns the error below, unless it is a timeout.
func (e *Error) Unwrap() error {
	var timeout net.Error
	if errors.As(e.err, &timeout) && timeout.Timeout() {
		return context.DeadlineExceeded
	}
	return e.err
}

// Down reports whether nothing at all was reached, so that the next pull need not try.
func (e *Error) Down() bool {
	switch e.Cause {
	case Refused, NoSuchHost, NoNameServer, Unreachable, TimedOut:
		return true
	}
	return false
}

// IsDown reports whether err says that nothing at all was reached.
func IsDown(err error) bool {
	var own *Error
	return errors.As(err, &own) && own.Down()
}

// explain turns an error of [http.Transport] into one that says what is wrong and what to do. Errors that mean a
// connection cut short stay as they are: containerd tries those again.
func explain(ctx context.Context, host string, stall time.Duration, err error) error {
	if err := stalled(ctx, host, stall); err != nil {
		return err
	}
	var own *Error
	if ctx.Err() != nil || errors.As(err, &own) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if isCutShort(err) {
		return fmt.Errorf("%s: connection lost: %w", host, io.ErrUnexpectedEOF)
	}
	fail := func(cause Cause, format string, args ...any) error {
		return &Error{Cause: cause, Text: fmt.Sprintf(format, args...), err: err}
	}
	var (
		dns     *net.DNSError
		record  tls.RecordHeaderError
		timeout net.Error
		op      *net.OpError
		proxy   *proxyError
	)
	if errors.As(err, &proxy) {
		return fail(Unreachable, "%s: %v", host, proxy)
	}
	if errors.As(err, &op) && op.Op == "proxyconnect" {
		return fail(Unreachable, "%s: proxy cannot be reached: %v", host, op.Err)
	}
	if cause, text := explainCertificate(time.Now(), err); cause != "" {
		return fail(cause, "%s: %s", host, text)
	}
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fail(NoSuchHost, "%s: host not found: %v", host, dns)
	case errors.As(err, &dns) && dns.IsTimeout:
		return fail(NoNameServer, "%s: the name server did not answer: %v", host, dns)
	case errors.As(err, &dns):
		return fail(NoNameServer, "%s: the name server failed: %v", host, dns)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail(Refused, "%s: connection refused", host)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return fail(PlainHTTP, "%s: server gave HTTP response to HTTPS client; set insecure = true to allow plain HTTP", host)
	case isDial(err) && errors.As(err, &timeout) && timeout.Timeout():
		return fail(TimedOut, "%s: connection timed out: %v", host, err)
	case isDial(err):
		return fail(Unreachable, "%s: unreachable: %v", host, err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fail(TimedOut, "%s: timed out: %v", host, err)
	case isTLS(err):
		return fail(NoTLS, "%s: %v", host, err)
	}
	return err
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func isTLS(err error) bool {
	var (
		alert tls.AlertError
		cert  *tls.CertificateVerificationError
		op    *net.OpError
	)
	return errors.As(err, &alert) || errors.As(err, &cert) || errors.As(err, &op) && op.Op == "remote error"
}
