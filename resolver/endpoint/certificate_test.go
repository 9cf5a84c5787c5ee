// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

// T1: a node that starts in 1970 is told so.
func TestClockThatCannotBe(t *testing.T) {
	cert := &x509.Certificate{NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
	err := x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}
	for now, want := range map[string]string{
		"1970-01-01T00:01:00Z": "the system clock is 1970-01-01T00:01:00Z, which cannot be: set it",
		"2025-12-31T00:00:00Z": "it is not yet valid, but from 2026-01-01T00:00:00Z",
		"2027-01-02T00:00:00Z": "it expired at 2027-01-01T00:00:00Z",
	} {
		at, _ := time.Parse(time.RFC3339, now)
		if cause, text := explainCertificate(at, err); cause != BadCert || !strings.Contains(text, want) {
			t.Errorf("at %s: got %s, %q, want %q", now, cause, text, want)
		}
	}
}
