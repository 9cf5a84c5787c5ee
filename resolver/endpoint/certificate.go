// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// earliest is a time before which no clock can be right: a node without a battery starts in 1970.
var earliest = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

// minRSA is the size in bits below which an RSA key is too weak (NIST SP 800-131A).
const minRSA = 2048

// weakKeyError is about a certificate whose key is no proof any more.
type weakKeyError struct{ bits int }

func (e weakKeyError) Error() string {
	return fmt.Sprintf("RSA key of %d bits is too weak; want %d or more", e.bits, minRSA)
}

// refuseWeak refuses a connection that has a weak key in every chain of certificates that leads to a trusted one. What a server
// sends beyond those, such as an old root that signed the new one too, proves nothing and harms nobody.
func refuseWeak(state tls.ConnectionState) (err error) {
	for _, chain := range state.VerifiedChains {
		if err = weakIn(chain[:max(len(chain)-1, 1)]); err == nil { // of the last it counts that it is trusted
			return nil
		}
	}
	return err
}

func weakIn(chain []*x509.Certificate) error {
	for _, cert := range chain {
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < minRSA {
			return weakKeyError{key.N.BitLen()}
		}
	}
	return nil
}

// explainCertificate says what is wrong with a certificate, of the registry's or of ours, and what to do; the cause is "" if
// err is about neither.
func explainCertificate(now time.Time, err error) (Cause, string) {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		weak      weakKeyError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return Untrusted, unknownAuthority(authority)
	case errors.As(err, &hostname):
		return BadCert, fmt.Sprintf("certificate is for another name: %v", hostname)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return BadCert, outOfTime(now, invalid.Cert)
	case errors.As(err, &invalid):
		return BadCert, fmt.Sprintf("certificate is not valid: %v", invalid)
	case errors.As(err, &weak):
		return BadCert, fmt.Sprintf("certificate is not believed: %v", weak)
	case errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Err.Error(), "certificate"):
		return NoTLS, fmt.Sprintf("the registry refuses the client's certificate, or misses one; look at client_certificate: %v", err)
	}
	return "", ""
}

func unknownAuthority(err x509.UnknownAuthorityError) string {
	const text = "certificate signed by unknown authority; add its CA to certificates"
	switch {
	case err.Cert == nil:
		return fmt.Sprintf("%s: %v", text, err)
	case bytes.Equal(err.Cert.RawIssuer, err.Cert.RawSubject):
		return fmt.Sprintf("%s: %s is signed by itself: %v", text, err.Cert.Subject, err)
	}
	return fmt.Sprintf("%s: it is signed by %s; if that is an intermediate certificate, the registry should send it: %v", text, err.Cert.Issuer, err)
}

// outOfTime says when a certificate is valid, in the clock's own time, which may be what is wrong.
func outOfTime(now time.Time, cert *x509.Certificate) string {
	format := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	if now.Before(earliest) {
		return fmt.Sprintf("certificate not valid at %s: it is valid from %s; the system clock is %s, which cannot be: set it", format(now), format(cert.NotBefore), format(now))
	}
	if now.Before(cert.NotBefore) {
		return fmt.Sprintf("certificate not valid at %s: it is not yet valid, but from %s; look at the clocks of this node and of who signed it", format(now), format(cert.NotBefore))
	}
	return fmt.Sprintf("certificate not valid at %s: it expired at %s; renew it", format(now), format(cert.NotAfter))
}
