// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	idlePerHost = 16
	idleTimeout = 30 * time.Second
)

// transports are the ways out of one endpoint. They differ in what they show and in what they may reach.
type transports struct {
	own   *way            // the registry's host and port: with the client certificate
	near  *way            // other ports of the registry's host, and token_realms
	other *way            // where else redirects lead: insecure does not reach there
	realm *http.Transport // token realms that the registry names: not to this machine
	proxy proxyFunc
	// wanted is set when the registry asked for a client certificate, there is none, and nothing was answered since.
	wanted *atomic.Bool
}

type proxyFunc = func(*http.Request) (*url.URL, error)

// newTransports checks opts, and returns what makes the transports when they are first used: the system's
// pool costs megabytes, which a daemon that does not pull need not hold.
func newTransports(host string, opts Options) (func() transports, error) {
	var added []*x509.Certificate
	for _, text := range opts.Certificates {
		certs, err := ParseCertificates(text)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		added = append(added, certs...)
	}
	var shown []tls.Certificate
	if opts.ClientCertificate != "" {
		pair, err := ParseKeyPair(opts.ClientCertificate, opts.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client_certificate: %w", err)
		}
		shown = append(shown, pair)
	}
	proxy := http.ProxyFromEnvironment
	if opts.Proxy != "" {
		u, err := ParseProxy(opts.Proxy)
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		proxy = http.ProxyURL(u)
	}
	return sync.OnceValue(func() transports {
		config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: opts.Roots.with(added), VerifyConnection: refuseWeak}
		t := transports{proxy: directIfLocal(proxy), wanted: new(atomic.Bool)}
		t.other = newWay(config.Clone(), proxy, opts)
		t.realm = newTransport(config.Clone(), nil, opts)
		t.realm.DialContext = (&net.Dialer{Timeout: opts.DialTimeout, Control: refuseLocal}).DialContext
		if opts.Insecure {
			acceptAny(config, append([]string{host}, opts.TokenRealms...))
		}
		t.near = newWay(config.Clone(), proxy, opts)
		if config.Certificates = shown; len(shown) == 0 {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				t.wanted.Store(true)
				return &tls.Certificate{}, nil
			}
		}
		t.own = newWay(config, proxy, opts)
		return t
	}), nil
}

// minPing is how long a connection has at least to show that it is not lost: longer than a round trip by satellite takes.
const minPing = time.Second

func newTransport(config *tls.Config, proxy proxyFunc, opts Options) *http.Transport {
	ping := max(opts.StallTimeout/4, minPing)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	return &http.Transport{
		Proxy:               proxy,
		TLSClientConfig:     config,
		DialContext:         newDialer(opts.DialTimeout, ping).DialContext,
		TLSHandshakeTimeout: handshakeTimeout,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // containerd asks for what it wants itself
		MaxIdleConnsPerHost: idlePerHost,
		IdleConnTimeout:     idleTimeout,
		// A connection that the network lost is found out before a pull stalls on it, and given up: under HTTP/2 it would
		// be used again and again.
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: ping, PingTimeout: ping},
		OnProxyConnectResponse: proxied,
	}
}

// proxyError is a proxy that does not let a request through. Package http's own has the text of the status alone, which reads
// as if the registry had said it.
type proxyError struct {
	host   string // of the proxy
	status int
}

func (e *proxyError) Error() string {
	text := fmt.Sprintf("the proxy %s answers %d %s", e.host, e.status, http.StatusText(e.status))
	if e.status == http.StatusProxyAuthRequired {
		text += "; its user and password belong into its URL"
	}
	return text
}

// proxied looks at what a proxy answers before it lets a request through.
func proxied(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &proxyError{proxy.Host, resp.StatusCode}
}

// newDialer returns what opens connections that the kernel asks whether they are still there, when nothing came for the time of
// ping, and that it gives up when nothing is said to that, or to what was sent, for as long again: HTTP/1.1 has no ping.
func newDialer(timeout, ping time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:         timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: ping, Interval: ping},
		Control: func(_, _ string, conn syscall.RawConn) error {
			// It counts for a connection that is being made too. An error is not one of the pull.
			return conn.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(max(2*ping, timeout).Milliseconds()))
			})
		},
	}
}

func (t transports) closeIdle() {
	for _, w := range []*way{t.own, t.near, t.other} {
		w.closeIdle()
	}
	t.realm.CloseIdleConnections()
}

// acceptAny makes config accept any certificate of the given hosts, which are all that it is used for but for a proxy
// that is spoken to over TLS. That is verified as usual, unless both are IP addresses: a handshake names none.
func acceptAny(config *tls.Config, hosts []string) {
	names := make([]string, 0, len(hosts))
	for _, host := range hosts {
		name := hostname(host)
		if net.ParseIP(name) != nil {
			name = ""
		}
		names = append(names, name)
	}
	config.InsecureSkipVerify = true // or VerifyConnection would come too late
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, state.ServerName) }) {
			return nil
		}
		chain := x509.VerifyOptions{Roots: config.RootCAs, DNSName: state.ServerName, Intermediates: x509.NewCertPool()}
		for _, cert := range state.PeerCertificates[1:] {
			chain.Intermediates.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(chain)
		return err
	}
}

// hostname returns host[:port] without its port and brackets.
func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// refuseLocal keeps a token realm from leading the credential to a service of this machine or this link.
func refuseLocal(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("%w %s", errLocalRealm, host)
	}
	return nil
}

var errLocalRealm = errors.New("it resolves to the local address")

// isNotTLS reports that a port answered a TLS handshake with something else, or, as some plain HTTP servers do with
// what they cannot read, with nothing.
func isNotTLS(err error) bool {
	var record tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record) || isHandshakeTimeout(err)
}

func isHandshakeTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() && !isDial(err)
}
