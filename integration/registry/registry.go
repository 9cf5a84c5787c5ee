// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package registry runs real registries for tests: github.com/distribution/distribution with its filesystem driver,
// in this process, behind TLS from a private authority, with basic or token authentication.
//
// What a registry was asked is in its [Log], which is the proof in most tests: of the requests that were made, and of
// those that never were. Faults are injected by a middleware around the real thing; see [Fail], [Redirect] and others.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // authentication of Options.Users
	_ "github.com/distribution/distribution/v3/registry/auth/token"    // authentication of Options.Tokens
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the one storage driver
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// Options say what a registry is like. The zero value is an open registry with TLS on a free port of 127.0.0.1.
type Options struct {
	Addr     string       // host:port to listen on; "127.0.0.1:0" by default
	Listener net.Listener // used in place of Addr if set; such a registry cannot be stopped and resumed
	Storage  string       // directory; a temporary one by default

	Plain bool              // HTTP without TLS
	CA    *CA               // signs the certificate; an authority of its own by default
	Names []string          // names and addresses in the certificate besides the loopback ones
	TLS   func(*tls.Config) // changes what is listened with, such as the version or the client certificates
	HTTP1 bool              // no HTTP/2

	Users  map[string]string // name → password: asks for basic authentication
	Tokens *Tokens           // asks for bearer tokens

	// Middleware goes around the registry, and around its token server. The log is outside of it.
	Middleware func(http.Handler) http.Handler

	// Delay is added to every round trip, those of the TCP and TLS handshakes included.
	Delay time.Duration

	// Log takes the requests; one of its own by default. Several registries may share one, to show an order.
	Log *Log
}

// Registry is a running registry.
type Registry struct {
	Log *Log
	CA  *CA // nil for a plain one

	opts   Options
	app    http.Handler // with authentication
	open   http.Handler // without: the same storage
	cancel context.CancelFunc
	temp   string

	main, side, tokens *server // side is for pushes of the tests; tokens only if Elsewhere
}

// Start starts a registry that ends with the test.
func Start(tb testing.TB, opts Options) *Registry {
	tb.Helper()
	logrus.SetLevel(logrus.FatalLevel) // distribution's: every 404 would be a line
	r, err := New(opts)
	if err != nil {
		tb.Fatalf("start registry: %v", err)
	}
	tb.Cleanup(r.Close)
	return r
}

// New starts a registry. The caller closes it.
func New(opts Options) (_ *Registry, err error) {
	r := &Registry{Log: opts.Log, CA: opts.CA, opts: opts}
	if r.Log == nil {
		r.Log = &Log{}
	}
	if opts.Plain {
		r.CA = nil
	} else if r.CA == nil {
		if r.CA, err = NewCA("test authority"); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.temp, err = os.MkdirTemp("", "berth-registry"); err != nil {
		return nil, err
	}
	if r.opts.Storage == "" {
		r.opts.Storage = filepath.Join(r.temp, "storage")
	}
	if opts.Tokens != nil && opts.Tokens.Elsewhere {
		if r.tokens, err = r.listen("127.0.0.1:0", nil, opts.Tokens, false); err != nil {
			return nil, err
		}
	}
	if err = r.handlers(); err != nil {
		return nil, err
	}
	if r.side, err = listenPlain(r.open); err != nil {
		return nil, err
	}
	if r.opts.Addr == "" {
		r.opts.Addr = "127.0.0.1:0"
	}
	if r.main, err = r.listen(r.opts.Addr, opts.Listener, r.app, true); err != nil {
		return nil, err
	}
	r.opts.Addr = r.main.addr // for Resume
	return r, nil
}

// handlers makes the two applications over the one storage.
func (r *Registry) handlers() error {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	auth, err := r.auth()
	if err != nil {
		return err
	}
	config := func(auth configuration.Auth) *configuration.Configuration {
		c := &configuration.Configuration{Auth: auth, Storage: configuration.Storage{
			"filesystem":  {"rootdirectory": r.opts.Storage},
			"delete":      {"enabled": true},
			"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
		}}
		c.HTTP.Secret = "test"
		c.Log.AccessLog.Disabled = true
		return c
	}
	r.open = handlers.NewApp(ctx, config(nil))
	app := http.Handler(handlers.NewApp(ctx, config(auth)))
	if t := r.opts.Tokens; t != nil && !t.Elsewhere {
		mux := http.NewServeMux()
		mux.Handle("/", app)
		mux.Handle(tokenPath, t)
		app = mux
	}
	r.app = app
	return nil
}

// auth returns distribution's configuration of the authentication that the options ask for, nil for none.
func (r *Registry) auth() (configuration.Auth, error) {
	switch t := r.opts.Tokens; {
	case t != nil && r.opts.Users != nil:
		return nil, errors.New("both Users and Tokens are set")
	case t != nil:
		jwks := filepath.Join(r.temp, "jwks.json")
		if err := t.prepare(jwks); err != nil {
			return nil, err
		}
		realm := t.Realm
		if realm == "" && t.Elsewhere {
			realm = r.scheme() + "://" + r.tokens.addr + tokenPath
		}
		return configuration.Auth{"token": {
			"realm": realm, "autoredirect": realm == "", "autoredirectpath": tokenPath,
			"service": tokenService, "issuer": tokenIssuer, "jwks": jwks,
		}}, nil
	case r.opts.Users != nil:
		path := filepath.Join(r.temp, "htpasswd")
		if err := WriteHtpasswd(path, r.opts.Users); err != nil {
			return nil, err
		}
		return configuration.Auth{"htpasswd": {"realm": "test registry", "path": path}}, nil
	}
	return nil, nil
}

// WriteHtpasswd writes a file of users and passwords as the registry reads it.
func WriteHtpasswd(path string, users map[string]string) error {
	var text []byte
	for name, password := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			return fmt.Errorf("hash the password of %s: %w", name, err)
		}
		text = fmt.Appendf(text, "%s:%s\n", name, hash)
	}
	return os.WriteFile(path, text, 0o600)
}

func (r *Registry) scheme() string {
	if r.opts.Plain {
		return "http"
	}
	return "https"
}

// Host returns the address that clients use, host:port.
func (r *Registry) Host() string { return r.opts.Addr }

// URL returns scheme and address.
func (r *Registry) URL() string { return r.scheme() + "://" + r.Host() }

// TokenHost returns the address of a token server that is elsewhere, "" if there is none.
func (r *Registry) TokenHost() string {
	if r.tokens == nil {
		return ""
	}
	return r.tokens.addr
}

// PushURL returns where tests push: the same storage behind a listener that asks for nothing and logs nothing.
func (r *Registry) PushURL() string { return "http://" + r.side.addr }

// Stop closes the listener and all connections, as a registry that dies.
func (r *Registry) Stop() { r.main.close() }

// Resume listens again on the address from before [Registry.Stop].
func (r *Registry) Resume() (err error) {
	r.main, err = r.listen(r.opts.Addr, nil, r.app, true)
	return err
}

// Close ends the registry and removes its temporary files.
func (r *Registry) Close() {
	for _, s := range []*server{r.main, r.side, r.tokens} {
		if s != nil {
			s.close()
		}
	}
	if r.cancel != nil {
		r.cancel()
	}
	_ = os.RemoveAll(r.temp)
}
