// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// Authority is a certificate authority that only one test trusts.
type Authority struct {
	// PEM is its own certificate.
	PEM string

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	return newAuthority(t, "authority of "+t.Name(), nil)
}

// Intermediate returns an authority that a vouches for.
func (a *Authority) Intermediate(t testing.TB) *Authority {
	t.Helper()
	return newAuthority(t, "intermediate of "+t.Name(), a)
}

// newAuthority makes an authority that signer vouches for; it does itself if that is nil.
func newAuthority(t testing.TB, name string, signer *Authority) *Authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	if signer == nil {
		signer = &Authority{cert: template, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{PEM: encode("CERTIFICATE", der), cert: cert, key: key}
}

// Issue returns a certificate for names and addresses, for a server or a client, and it and its key as PEM.
func (a *Authority) Issue(t testing.TB, names ...string) (pair tls.Certificate, certPEM, keyPEM string) {
	t.Helper()
	return a.IssueFor(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), names...)
}

// IssueFor is Issue with the time from which to which the certificate is valid.
func (a *Authority) IssueFor(t testing.TB, begin, end time.Time, names ...string) (pair tls.Certificate, certPEM, keyPEM string) {
	t.Helper()
	return a.issue(t, newKey(t), begin, end, names)
}

// IssueRSA is Issue with an RSA key of the given size.
func (a *Authority) IssueRSA(t testing.TB, bits int, names ...string) (pair tls.Certificate, certPEM, keyPEM string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return a.issue(t, key, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), names)
}

// issue makes a certificate for names; one that begins with CN= is in the subject alone.
func (a *Authority) issue(t testing.TB, key crypto.Signer, begin, end time.Time, names []string) (pair tls.Certificate, certPEM, keyPEM string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: strings.TrimPrefix(names[0], "CN=")},
		NotBefore:    begin,
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if strings.HasPrefix(name, "CN=") {
			continue
		}
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM = encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
	if pair, err = tls.X509KeyPair([]byte(certPEM), []byte(keyPEM)); err != nil {
		t.Fatal(err)
	}
	return pair, certPEM, keyPEM
}

// Server returns the configuration of a TLS server on 127.0.0.1, ::1 and localhost.
func (a *Authority) Server(t testing.TB) *tls.Config {
	t.Helper()
	pair, _, _ := a.Issue(t, "127.0.0.1", "::1", "localhost")
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// Pool holds the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
