// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// answering has a registry do what it is asked, and say another status if that went well.
func answering(code int) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(otherwise{w, code}, r)
	}
}

type otherwise struct {
	http.ResponseWriter
	code int
}

func (o otherwise) WriteHeader(code int) {
	if code/100 == 2 {
		code = o.code
	}
	o.ResponseWriter.WriteHeader(code)
}

// TestCopyDialects copies into registries that answer in other ways than most, and from which nodes pull: two images of one repository that
// share a layer, one after the other, and one of another. No blob that is there is sent.
func TestCopyDialects(t *testing.T) {
	for _, tt := range []struct {
		name       string
		middleware func(http.Handler) http.Handler
	}{
		{"no HEAD", registry.On("HEAD", "", -1, registry.Fail(http.StatusMethodNotAllowed))},
		{"HEAD is not implemented", registry.On("HEAD", "", -1, registry.Fail(http.StatusNotImplemented))},
		{"blobs without a length", registry.On("HEAD", "/v2/*/blobs/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(withoutHeader{w, "Content-Length"}, r)
		})},
		{"200 for what was put", registry.On("PUT", "", -1, answering(http.StatusOK))},
		{"202 for what was put", registry.On("PUT", "", -1, answering(http.StatusAccepted))},
		{"204 for what was put", registry.On("PUT", "", -1, answering(http.StatusNoContent))},
		{"a manifest is there a moment later", func(next http.Handler) http.Handler {
			var late sync.Map // by path, how often it was asked for since it was put
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				times, _ := late.LoadOrStore(r.URL.Path, new(atomic.Int64))
				switch {
				case r.Method == http.MethodPut:
					times.(*atomic.Int64).Store(2)
				case r.Method == http.MethodGet && times.(*atomic.Int64).Add(-1) > 0:
					w.WriteHeader(http.StatusNotFound)
					return
				}
				next.ServeHTTP(w, r)
			})
		}},
	} {
		for _, http1 := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				p := newProfile(t, 0, registry.Options{Middleware: tt.middleware, HTTP1: http1})
				shared := image.NewLayer(image.Random("shared", 1, 100_000))
				for _, name := range []string{"team/app:1", "team/app:2", "team/other:1"} {
					p.add(t, name, image.Index(image.New(image.Config{Layers: []image.Layer{shared}, Cmd: []string{name}})))
					out, problems, code := berth(t, "copy", "--config", p.config, p.refs[len(p.refs)-1])
					if code != 0 || !strings.Contains(out, " 1 copied, ") {
						t.Errorf("%s: got %d\n%s%s", name, code, out, problems)
					}
				}
				if out, code := p.copied(t); code != 0 || !strings.Contains(out, " 0 copied, 3 present, ") {
					t.Errorf("again: got %d\n%s", code, out)
				}
				if got := len(p.own.Log.Match("POST", "/v2/cluster/mirror/team/app/blobs/uploads/")); got != 3 {
					t.Errorf("got %d uploads, want a layer and two configurations:\n%s", got, p.own.Log.Lines())
				}
			})
		}
	}
}

// TestCopyNotKept copies to what is no registry, or none that keeps what it is sent: nothing is there, and nothing says so.
func TestCopyNotKept(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>Log in</html>"))
	}
	for _, tt := range []struct {
		name       string
		middleware func(http.Handler) http.Handler
		want       string
	}{
		{"a page", registry.On("", "/v2/cluster/*", -1, page), "got text/html and not a manifest; is this the address of a registry, "},
		{"a page after all", registry.On("PUT", "/v2/*/manifests/*", -1, page), "the registry said that it took it, and does not have it: "},
		{"nothing", registry.On("PUT", "/v2/*/manifests/*", -1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusCreated)
		}), "the registry said that it took it, and does not have it: "},
		{"what may not be read", registry.On("GET", "/v2/*/manifests/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if next.ServeHTTP(w, r); w.Header().Get("Docker-Content-Digest") != "" {
				panic(http.ErrAbortHandler)
			}
		}), "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProfile(t, 2, registry.Options{Middleware: tt.middleware})
			if out, code := p.copied(t); code != 1 || strings.Count(out, tt.want) != 2 || !strings.Contains(out, " 0 copied, 0 present, ") {
				t.Errorf("got %d\n%s\nwant %q", code, out, tt.want)
			}
		})
	}
}

// TestManifestDialects checks, copies and bundles at registries from which nodes pull, though they call the manifests of an index by another
// type, or lose the connection within one.
func TestManifestDialects(t *testing.T) {
	for name, fault := range map[string]func() func(http.Handler) http.Handler{
		"another type": func() func(http.Handler) http.Handler {
			return registry.On("GET", "/v2/*/manifests/sha256:*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				next.ServeHTTP(typed{w}, r)
			})
		},
		"cut": func() func(http.Handler) http.Handler {
			return registry.On("GET", "/v2/*/manifests/*", 2, registry.Truncate(100))
		},
	} {
		for _, command := range []string{"node", "check", "bundle", "copy"} {
			t.Run(name+", "+command, func(t *testing.T) {
				p := newProfile(t, 0, registry.Options{})
				p.public = registry.Start(t, registry.Options{Middleware: fault(), HTTP1: true})
				p.add(t, "team/app:1", image.Multi(78))
				config := entry(t, p.public, "")
				if command == "copy" {
					config += entry(t, p.own, "cluster", login("ann", "s3cret")) + rule(p.public.Host(), p.own.Host()+"/cluster/mirror")
				}
				write(t, p.config, config)
				args := []string{command, "--config", p.config, p.refs[0]}
				switch command {
				case "node":
					if err := pullCtr(t, startNode(t, config, daemon.Options{}).Daemon, p.refs[0]); err != nil {
						t.Error(err)
					}
					return
				case "bundle":
					args = append(args, "--out", t.TempDir()+"/app.tar")
				}
				if out, problems, code := berth(t, args...); code != 0 {
					t.Errorf("got %d\n%s%s", code, out, problems)
				}
			})
		}
	}
}

// typed is an answer that does not say what it is.
type typed struct{ http.ResponseWriter }

func (t typed) Write(p []byte) (int, error) {
	t.Header().Set("Content-Type", "application/octet-stream")
	return t.ResponseWriter.Write(p)
}
