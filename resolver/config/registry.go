// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/strict"
)

// registry reads one registry: where it is, what authenticates to it, how it is reached.
func (l *loader) registry(t *strict.Table) {
	text := t.Text("domain")
	domain, err := resolver.ParseDomain(text)
	if err != nil {
		noteFields(t, &resolver.FieldError{Key: "domain", Value: text, Err: err})
	} else {
		l.once(t, "domain", "domain", string(domain))
	}
	r := resolver.Registry{
		Domain:     domain,
		Name:       t.Text("name"),
		Credential: l.credential(t),
		Endpoint: endpoint.Options{
			Certificates:      t.Texts("certificates"),
			ClientCertificate: t.Text("client_certificate"),
			ClientKey:         t.Text("client_key"),
			Insecure:          t.Truth("insecure"),
			Proxy:             t.Text("proxy"),
			TokenRealms:       l.realms(t),
		},
	}
	l.checkTLS(t, &r, text)
	t.Unknown()
	l.loaded.Registries = append(l.loaded.Registries, r)
}

func (l *loader) realms(t *strict.Table) []string {
	realms := t.Texts("token_realms")
	for i, realm := range realms {
		p, err := resolver.ParseDomain(realm)
		if err != nil || p.Host() != string(p) {
			t.Problem("token_realms", "element %d is not a host; want host or host:port", i+1)
		}
		realms[i] = p.Host()
		if strings.HasSuffix(strings.TrimRight(realm, "/"), ":443") {
			realms[i] += ":443" // without it every port is meant
		}
	}
	return realms
}

// checkTLS reads the certificates once, so that a mistake is found now and not by a pull.
func (l *loader) checkTLS(t *strict.Table, r *resolver.Registry, domain string) {
	o := &r.Endpoint
	for i, text := range o.Certificates {
		key := fmt.Sprintf("certificates[%d]", i)
		if !isPEMOrPath(text) {
			t.Problem(key, "%s", notPEM)
			continue
		}
		pem, ok := l.pem(t, key, text)
		if !ok {
			continue
		}
		certs, err := endpoint.ParseCertificates(pem)
		if err != nil {
			t.Problem(key, "%v", pathError(text, err))
		}
		o.Certificates[i] = pem
		for _, cert := range certs {
			if time.Now().After(cert.NotAfter) {
				l.warn("registry %s: certificate %s expired at %s", r.Domain, cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))
			}
		}
	}
	l.checkClient(t, o)
	if o.Proxy != "" {
		u, err := endpoint.ParseProxy(o.Proxy)
		switch {
		case err != nil:
			t.Problem("proxy", "%v", err)
		case l.inStanza && u.User != nil:
			t.Problem("proxy", "has a password, which `containerd config dump` would print; move the registry to a file of config_path")
		case u.User != nil:
			l.inline(t, "proxy")
		}
	}
	if strings.HasPrefix(strings.ToLower(domain), "http://") {
		o.PlainHTTP = o.Insecure
		if !o.Insecure {
			l.warn("registry %s: http:// has no effect; set insecure = true to allow plain HTTP", r.Domain)
		}
	}
	if o.Insecure {
		l.warn("registry %s: insecure = true: its certificate is not checked, and plain HTTP is allowed", r.Domain)
	}
}

// checkClient reads the client's certificate and key.
func (l *loader) checkClient(t *strict.Table, o *endpoint.Options) {
	good := true
	for _, file := range []struct {
		key, other string
		to         *string
	}{{"client_certificate", "client_key", &o.ClientCertificate}, {"client_key", "client_certificate", &o.ClientKey}} {
		text := *file.to
		switch {
		case !t.Has(file.key):
			good = false
			continue
		case !isPEMOrPath(text):
			t.Problem(file.key, "%s", notPEM)
			good = false
			continue
		case !t.Has(file.other):
			t.Problem(file.key, "wants %s beside it", file.other)
		}
		pem, ok := l.pem(t, file.key, text)
		if good = good && ok; !ok {
			continue
		}
		*file.to = pem
	}
	switch key := t.Text("client_key"); {
	case isPEM(key) && l.inStanza:
		t.Problem("client_key", "`containerd config dump` would print it; name a file, or move the registry to a file of config_path")
	case isPEM(key):
		l.inline(t, "client_key")
	case good:
		l.secrets = append(l.secrets, secretFile{t, "client_key", key})
	}
	if good {
		if _, err := endpoint.ParseKeyPair(o.ClientCertificate, o.ClientKey); err != nil {
			t.Problem("client_certificate", "%v", err)
		}
	}
}

// pem returns text itself if it is PEM, and the content of the file that it names if not.
func (l *loader) pem(t *strict.Table, key, text string) (pem string, ok bool) {
	if isPEM(text) {
		return text, true
	}
	content, err := l.content(text)
	if err != nil {
		t.Problem(key, "%s: %v", text, err)
		return "", false
	}
	l.checkNamed(t, key, text)
	return string(content), true
}

// notPEM does not quote the value, which may be a key without its head line.
const notPEM = "is neither PEM text nor an absolute path"

func isPEM(text string) bool       { return strings.Contains(text, "-----BEGIN") }
func isPEMOrPath(text string) bool { return isPEM(text) || filepath.IsAbs(text) }

// pathError names the file that text is, unless the error does; PEM text itself is not quoted.
func pathError(text string, err error) error {
	var path *os.PathError
	if errors.As(err, &path) || isPEM(text) {
		return err
	}
	return fmt.Errorf("%s: %w", text, err)
}
