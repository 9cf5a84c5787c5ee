// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package endpoint speaks HTTP to one registry: connections, certificates, redirects, tokens and time limits.
//
// An [Endpoint] is shared by every pull from its registry, so that connections, TLS sessions and tokens are made
// once. What it holds of secrets goes to the registry's own host and port, and to the token realm that the
// registry names if that is one the credential may go to (see [Options.TokenRealms]); nothing of it follows a
// redirect.
package endpoint

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	defaultDialTimeout  = 5 * time.Second
	defaultStallTimeout = 60 * time.Second
	handshakeTimeout    = 10 * time.Second
)

// Options is how a registry is reached. The zero value is HTTPS with the system's certificates and the proxy of
// the environment.
type Options struct {
	// Certificates are added to the system's for this registry: PEM texts, each of one or more certificates.
	Certificates []string
	// Roots are the system's certificates. Nil is those that Go reads, once in the life of a process.
	Roots *Roots
	// ClientCertificate and ClientKey are PEM text; both or neither. They are shown to the registry's own host and port
	// only.
	ClientCertificate, ClientKey string
	// Insecure accepts any certificate of the registry's host and of TokenRealms, and plain HTTP if the port does
	// not speak TLS.
	Insecure bool
	// PlainHTTP says that plain HTTP is expected. Whether the port speaks TLS is found out; where no port is written, and nobody
	// is at that of HTTPS, it is that of HTTP.
	PlainHTTP bool
	// Proxy is the URL of a proxy for this registry, in place of the environment's.
	Proxy string
	// TokenRealms are hosts (host or host:port) that may be sent the credential for a token, beside the registry's
	// own host and public names.
	TokenRealms []string
	// DialTimeout bounds one connection attempt. Zero is 5 seconds.
	DialTimeout time.Duration
	// StallTimeout bounds the time without a byte. Zero is 60 seconds.
	StallTimeout time.Duration
}

// TLS names how the registry's certificate is checked: "system", "custom", "insecure" or "http".
func (o Options) TLS() string {
	switch {
	case o.Insecure && o.PlainHTTP:
		return "http"
	case o.Insecure:
		return "insecure"
	case len(o.Certificates) > 0:
		return "custom"
	}
	return "system"
}

// ParseCertificates returns the certificates in PEM text.
func ParseCertificates(text string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("no certificate found (contains %s)", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if begun := strings.Count(text, "-----BEGIN "); begun > max(len(certs), 1) { // package pem skips what it cannot read
		return nil, fmt.Errorf("%d of %d certificates can be read; is one cut off, or is a line break missing before -----BEGIN?", len(certs), begun)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate found; want PEM, which begins with -----BEGIN CERTIFICATE-----")
	}
	return certs, nil
}

// ParseKeyPair returns the client certificate of cert and key, each PEM text. The error does not quote either.
func ParseKeyPair(cert, key string) (tls.Certificate, error) {
	if block, _ := pem.Decode([]byte(key)); block != nil && (block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "") {
		return tls.Certificate{}, errors.New("client key is encrypted; want one without a passphrase")
	}
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("client key does not match certificate, or one of them is not PEM: %w", err)
	}
	return pair, nil
}

// ParseProxy checks the URL of a proxy. The error does not quote it, since it may hold a password.
func ParseProxy(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, errors.New("is not a URL; want http://host:port")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return u, nil
	}
	return nil, fmt.Errorf("has the scheme %q; want http, https or socks5", u.Scheme)
}
