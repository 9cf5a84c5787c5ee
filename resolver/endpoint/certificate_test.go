// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"math/big"
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

// T10: a chain is as strong as the weakest key in it but the last one's, which is trusted as it is; one chain that is strong is enough.
func TestWeakKeys(t *testing.T) {
	t.Parallel()
	key := func(bits uint) *x509.Certificate {
		return &x509.Certificate{PublicKey: &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1)}}
	}
	weak, strong := key(1024), key(2048)
	for _, tt := range []struct {
		name   string
		chains [][]*x509.Certificate
		ok     bool
	}{
		{"itself", [][]*x509.Certificate{{weak}}, false},
		{"the server's", [][]*x509.Certificate{{weak, strong}}, false},
		{"an intermediate", [][]*x509.Certificate{{strong, weak, strong}}, false},
		{"the root", [][]*x509.Certificate{{strong, strong, weak}}, true},
		{"one chain", [][]*x509.Certificate{{strong, weak, strong}, {strong, strong}}, true},
		{"both chains", [][]*x509.Certificate{{strong, weak, strong}, {weak, strong}}, false},
		{"sent, and in no chain", [][]*x509.Certificate{{strong, strong}}, true},
	} {
		if err := refuseWeak(tls.ConnectionState{PeerCertificates: []*x509.Certificate{strong, weak}, VerifiedChains: tt.chains}); (err == nil) != tt.ok {
			t.Errorf("%s: got %v, want it believed: %t", tt.name, err, tt.ok)
		}
	}
}
