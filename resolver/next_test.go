// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/registrytest"
	"github.com/berth-edge/berth/resolver/strict"
)

// reloading makes a node whose configuration is file, read again when the returned function is called.
func reloading(t testing.TB, file string) (*node, func() error) {
	t.Helper()
	var loaded config.Loaded
	var routes atomic.Pointer[resolver.Routes]
	routes.Store(&resolver.Routes{})
	reload := func() (err error) {
		stanza := strict.Stanza{Name: "STANZA", Values: map[string]any{"config_path": []any{file}}}
		if loaded, err = config.Reload(stanza, loaded); err != nil {
			return err
		}
		next, err := routes.Load().Next(loaded.Config)
		if err == nil {
			routes.Store(next)
		}
		return err
	}
	n := newNode(t, "")
	n.Routes = func(context.Context) (*resolver.Routes, error) { return routes.Load(), nil }
	return n, reload
}

func overwrite(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// H8, T11: a registry that has not changed keeps its connections and tokens; one that has, or is gone, keeps none.
func TestNextKeepsWhatHasNotChanged(t *testing.T) {
	tokens := registrytest.NewTokens("canary-user", "canary/pass+word")
	realm := serve(t, tokens)
	tokens.Realm = realm.URL + "/token"
	s := serve(t, tokens.Protect(registrytest.Registry{Image: registrytest.NewImage("next", 1<<10)}))
	file := filepath.Join(t.TempDir(), "berth.toml")
	registry := s.registry(withPassword, fmt.Sprintf("token_realms = [%q]\ninsecure = true", realm.Host))
	overwrite(t, file, registry+from(s))
	n, reload := reloading(t, file)
	must(t, "load", reload())
	must(t, "pull", n.pull(t.Context(), "quay.io/org/app:1"))
	before := s.Connections()

	overwrite(t, file, registry+from(s)+"[[rules]]\nfrom = \"gcr.io\"\ndeny = true\n")
	must(t, "reload", reload())
	must(t, "pull again", n.pull(t.Context(), "quay.io/org/app:2"))
	if got := len(tokens.Issued()); got != 1 || s.Connections() != before {
		t.Errorf("another rule: got %d tokens and %d connections, want 1 and the %d of before", got, s.Connections(), before)
	}

	overwrite(t, file, registry+"[[registries]]\ndomain = \"r.io\"\n"+from(s)+"[[rules]]\nfrom = \"*\"\nto = [\"r.io\"]\n")
	must(t, "reload", reload())
	overwrite(t, file, s.registry(withPassword, "insecure = true", fmt.Sprintf("token_realms = [%q, \"r.io\"]", realm.Host))+from(s))
	must(t, "reload", reload())
	wantOpen(t, s, 0)
	must(t, "pull once more", n.pull(t.Context(), "quay.io/org/app:3"))
	if got := len(tokens.Issued()); got != 2 || s.Connections() == before {
		t.Errorf("another setting: got %d tokens and %d connections, want 2 and more than %d", got, s.Connections(), before)
	}
	overwrite(t, file, "[[registries]]\ndomain = \"r.io\"\n")
	must(t, "reload", reload())
	wantOpen(t, s, 0)
}

func wantOpen(t testing.TB, s target, want int) {
	t.Helper()
	for begin := time.Now(); s.Open() != want; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("got %d open connections, want %d", s.Open(), want)
		}
	}
}

// H8: a pull goes on by the rules that it began with.
func TestPullGoesOnAsItBegan(t *testing.T) {
	image := registrytest.NewImage("goes on", 64<<10)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	old := serve(t, at(image.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(reached); <-goOn })
		registrytest.Registry{Image: image}.ServeHTTP(w, r)
	}, registrytest.Registry{Image: image}))
	next := serve(t, registrytest.Registry{Image: image})
	file := filepath.Join(t.TempDir(), "berth.toml")
	overwrite(t, file, old.registry()+from(old))
	n, reload := reloading(t, file)
	must(t, "load", reload())
	pulled := make(chan error)
	go func() { pulled <- n.pull(t.Context(), ref) }()
	<-reached
	overwrite(t, file, next.registry()+from(next))
	must(t, "reload", reload())
	close(goOn)
	must(t, "pull", <-pulled)
	n.wantImage(t, ref, image)
	if got := len(next.Requests()); got != 0 {
		t.Errorf("got %d requests at the new target, want 0", got)
	}
}

// SEC-25, T7, T9: the authority of a registry, and that of the system, may change while images are pulled. Between the two there
// is a time in which both are known.
func TestRotatedAuthority(t *testing.T) {
	for _, where := range []string{"certificates", "the system's"} {
		t.Run(where, func(t *testing.T) {
			image := registrytest.NewImage("rotated", 1<<10)
			before, after := registrytest.NewAuthority(t), registrytest.NewAuthority(t)
			var served atomic.Pointer[tls.Config]
			serve := func(a *registrytest.Authority) {
				config := a.Server(t)
				config.SessionTicketsDisabled = true // with which no certificate would be shown again
				served.Store(config)
			}
			serve(before)
			s := registrytest.Serve(t, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return served.Load(), nil }},
				registrytest.Registry{Image: image})
			dir := t.TempDir()
			ca, file := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "berth.toml")
			overwrite(t, ca, before.PEM)
			if where == "certificates" {
				overwrite(t, file, fmt.Sprintf("[[registries]]\ndomain = %q\ncertificates = [%q]\n", s.Host, ca))
			} else {
				t.Setenv("SSL_CERT_FILE", ca)
				t.Setenv("SSL_CERT_DIR", dir+"/none")
				overwrite(t, file, fmt.Sprintf("[[registries]]\ndomain = %q\n", s.Host))
			}
			n, reload := reloading(t, file)
			must(t, "load", reload())
			pulls := 0
			pull := func(when string) {
				t.Helper()
				pulls++
				must(t, when, n.pull(t.Context(), fmt.Sprintf("quay.io/org/app:%d", pulls)))
			}
			pull("before")
			overwrite(t, ca, before.PEM+after.PEM)
			must(t, "reload", reload())
			pull("with both, and the old certificate")
			serve(after)
			s.CloseConnections()
			pull("with both, and the new certificate")
			overwrite(t, ca, after.PEM)
			must(t, "reload", reload())
			pull("after")
			serve(before)
			s.CloseConnections()
			wantError(t, n.pull(t.Context(), "quay.io/org/other:1"), nil, "unknown authority")
		})
	}
}
