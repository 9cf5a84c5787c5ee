// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// copied runs berth copy of the whole profile.
func (p profile) copied(t testing.TB, flags ...string) (out string, code int) {
	t.Helper()
	args := append([]string{"copy", "--config", p.config}, flags...)
	out, problems, code := berth(t, append(args, p.refs...)...)
	return out + problems, code
}

// uploads counts how often each blob was taken by a registry.
func uploads(r *registry.Registry) map[string]int {
	count := map[string]int{}
	for _, request := range r.Log.Match("PUT", "/v2/*/blobs/uploads/*") {
		if request.Status == http.StatusCreated {
			count[request.Query.Get("digest")]++
		}
	}
	return count
}

// wantSentOnce fails t unless a registry took each blob that it has once.
func wantSentOnce(t *testing.T, r *registry.Registry) {
	t.Helper()
	for digest, n := range uploads(r) {
		if n != 1 {
			t.Errorf("blob %s: got it sent %d times, want once", digest, n)
		}
	}
}

// TestCopyInterrupted kills a copy half-way and begins it again: no blob that the registry has is sent twice.
func TestCopyInterrupted(t *testing.T) {
	var taken atomic.Int64
	p := newProfile(t, 12, registry.Options{Middleware: registry.On("PUT", "/v2/*/blobs/uploads/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		time.Sleep(20 * time.Millisecond)
		next.ServeHTTP(w, r)
		taken.Add(1)
	})})
	cmd := exec.Command(binaries.Path(t, binaries.Berth), append([]string{"copy", "--config", p.config}, p.refs...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for taken.Load() < 9 && cmd.ProcessState == nil {
		time.Sleep(time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	before := uploads(p.own)
	if len(before) < 5 {
		t.Fatalf("got %d blobs before the kill, want a copy that had begun", len(before))
	}
	out, code := p.copied(t)
	if code != 0 || !strings.Contains(out, " 0 failed; ") || strings.Contains(out, " 0 copied, ") {
		t.Fatalf("copy again: got %d\n%s", code, out)
	}
	wantSentOnce(t, p.own)
	if present, _ := p.checked(t); present != len(p.refs) {
		t.Errorf("got %d images, want %d", present, len(p.refs))
	}
}

// TestStopped tells commands to stop that have files which are not whole: none is left, and the exit status is that of a fault.
func TestStopped(t *testing.T) {
	dir := t.TempDir()
	hang, hanging := hangs()
	p := newProfile(t, 2, registry.Options{Middleware: registry.Chain(
		registry.On("GET", "/v2/*/blobs/*", -1, hang), registry.On("POST", "/v2/*/blobs/uploads/", -1, hang))})
	p.images[p.refs[0]].Push(t, p.own, "cluster/mirror/"+strings.TrimPrefix(p.refs[0], p.public.Host()+"/"))
	compressed := image.WriteFile(t, t.TempDir()+"/app.tar.gz", image.Gzip(image.Tar(image.OCI([]image.Named{p.images[p.refs[1]].Name(p.refs[1])}))))
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}
	if signal.Ignored(syscall.SIGHUP) {
		signals = signals[:2]
	}
	for _, args := range [][]string{
		{"bundle", "--out", dir + "/app.tar", "--config", p.config, p.refs[0]},
		{"bundle", "--out", dir + "/app/", "--config", p.config, p.refs[0]},
		{"copy", "--from", compressed, "--config", p.config, p.refs[1]},
	} {
		for _, told := range signals {
			cmd := exec.CommandContext(t.Context(), binaries.Path(t, binaries.Berth), args...)
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			within(t, 10*time.Second, "request", func() bool { return hanging.Load() > 0 })
			if left, _ := os.ReadDir(dir); len(left) == 0 {
				t.Fatalf("%q: got no files before the signal", args)
			}
			_ = cmd.Process.Signal(told)
			_ = cmd.Wait()
			if left, _ := os.ReadDir(dir); len(left) > 0 || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("%q after %v: got exit status %d and %v left, want 1 and nothing", args, told, cmd.ProcessState.ExitCode(), left)
			}
			within(t, 10*time.Second, "end of the requests", func() bool { return hanging.Load() == 0 })
			_ = os.RemoveAll(dir)
			_ = os.Mkdir(dir, 0o755)
		}
	}
}

// TestBundleKilled kills a run that writes a bundle, or has unpacked one: the next removes what it left, and not what another uses.
func TestBundleKilled(t *testing.T) {
	var whole atomic.Bool
	hang, hanging := hangs()
	unlessWhole := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if whole.Load() {
			next.ServeHTTP(w, r)
		} else {
			hang(w, r, next)
		}
	}
	p := newProfile(t, 0, registry.Options{Middleware: registry.Chain(
		registry.On("GET", "/v2/*/blobs/*", -1, unlessWhole), registry.On("POST", "/v2/*/blobs/uploads/", -1, unlessWhole))})
	ref, other := p.public.Host()+"/app:1", p.public.Host()+"/other:1"
	image.Small("linux/amd64", 7).Push(t, p.own, "cluster/mirror/app:1")
	compressed := image.WriteFile(t, t.TempDir()+"/other.tar.zst", image.Zstd(image.Tar(image.OCI([]image.Named{image.Small("linux/amd64", 8).Name(other)}))))
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, args := range [][]string{
		{"bundle", "--config", p.config, ref, "--out", dir + "/app.tar"},
		{"bundle", "--config", p.config, ref, "--out", dir + "/app/"},
		{"copy", "--config", p.config, other, "--from", compressed},
	} {
		begin := func() (cmd *exec.Cmd, writing []string) {
			cmd = exec.CommandContext(t.Context(), binaries.Path(t, binaries.Berth), args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			within(t, 10*time.Second, "two requests", func() bool { return hanging.Load() == 2 }) // the configuration and a layer
			return cmd, names(t, dir)
		}
		kill := func(cmd *exec.Cmd) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			within(t, 10*time.Second, "end of the requests", func() bool { return hanging.Load() == 0 })
		}
		whole.Store(false)
		cmd, killed := begin()
		kill(cmd)
		cmd, writing := begin()
		if len(writing) != 1 || slices.Equal(writing, killed) {
			t.Errorf("%q: got %q, want what a run is writing, and no more", args, writing)
		}
		whole.Store(true)
		if out, problems, code := berth(t, args...); code != 0 {
			t.Fatalf("%q: got %d\n%s%s", args, code, out, problems)
		}
		left := slices.DeleteFunc(names(t, dir), func(name string) bool { return name == filepath.Base(args[len(args)-1]) })
		if !slices.Equal(left, writing) {
			t.Errorf("%q: got %q left beside the bundle, want %q, which another run is writing", args, left, writing)
		}
		kill(cmd)
		_ = os.RemoveAll(dir)
		_ = os.Mkdir(dir, 0o755)
	}
}

// hangs returns a fault that answers nothing, and how many requests have met it and wait.
func hangs() (fault registry.Fault, hanging *atomic.Int64) {
	hanging = &atomic.Int64{}
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		defer hanging.Add(-1)
		hanging.Add(1)
		registry.Hang(w, r, next)
	}, hanging
}

// names are those of the files in a directory.
func names(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// TestCopyGoesOn copies a whole cluster after a part of it: a layer that an image has which was copied before is mounted.
func TestCopyGoesOn(t *testing.T) {
	p := newProfile(t, 8, registry.Options{})
	part := p
	part.refs = p.refs[2:4] // an image, and an index
	for _, p := range []profile{part, p} {
		if out, code := p.copied(t); code != 0 {
			t.Fatalf("got %d\n%s", code, out)
		}
	}
	wantSentOnce(t, p.own)
}

// TestCopyThroughFaults copies an image of many layers, of which a registry takes a few at a time: as long as there is more of the
// image each time, the copy goes on.
func TestCopyThroughFaults(t *testing.T) {
	var puts atomic.Int64
	p := newProfile(t, 0, registry.Options{Middleware: registry.On("PUT", "/v2/*/blobs/uploads/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if puts.Add(1)%5 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})})
	var layers []image.Layer
	for i := range uint64(30) {
		layers = append(layers, image.NewLayer(image.Random("file", 7000+i, 1000)))
	}
	p.add(t, "team0/many:1", image.New(image.Config{Layers: layers}))
	if out, code := p.copied(t); code != 0 {
		t.Fatalf("got %d\n%s", code, out)
	}
	wantSentOnce(t, p.own)
}

// TestCopyTokenEnds copies into a registry that takes the first token no more once a blob comes with it: the blob goes with the next.
func TestCopyTokenEnds(t *testing.T) {
	var ended atomic.Value
	tokens := &registry.Tokens{Users: map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:cluster/*:pull", "repository:cluster/*:push"}}}}
	own := registry.Start(t, registry.Options{Tokens: tokens, Middleware: registry.On("PUT", "/v2/*/blobs/uploads/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		token := r.Header.Get("Authorization")
		ended.CompareAndSwap(nil, token)
		if token == ended.Load() {
			r.Header.Del("Authorization")
		}
		next.ServeHTTP(w, r)
	})})
	public := registry.Start(t, registry.Options{})
	image.Small("linux/amd64", 3).Push(t, public, "team/app:1")
	config := t.TempDir() + "/berth.toml"
	write(t, config, entry(t, public, "")+entry(t, own, "cluster", login("ann", "s3cret"))+rule(public.Host(), own.Host()+"/cluster/mirror"))
	if out, problems, code := berth(t, "copy", "--config", config, public.Host()+"/team/app:1"); code != 0 {
		t.Errorf("got %d\n%s%s", code, out, problems)
	}
}

// TestLostConnections looks for an image, and bundles it, where connections are lost before a manifest comes.
func TestLostConnections(t *testing.T) {
	lost := func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }
	for name, command := range map[string][]string{"check": {"check"}, "bundle": {"bundle", "--out", t.TempDir() + "/a.tar"}} {
		t.Run(name, func(t *testing.T) {
			p := newProfile(t, 0, registry.Options{HTTP1: true, Middleware: registry.On("", "/v2/*/manifests/*", 2, lost)})
			img := image.Small("linux/amd64", 7)
			img.Push(t, p.own, "cluster/mirror/team0/app:1")
			out, problems, code := berth(t, append(command, "--config", p.config, p.public.Host()+"/team0/app:1")...)
			if code != 0 {
				t.Errorf("got %d\n%s%s", code, out, problems)
			}
		})
	}
}

// TestCopyFaults copies into registries as they are in the field.
func TestCopyFaults(t *testing.T) {
	var requests atomic.Int64
	for _, tt := range []struct {
		name       string
		middleware func(http.Handler) http.Handler
		want       string // of the error; "" if all is copied in spite of it
	}{
		{"every tenth request fails", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1)%10 == 0 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				next.ServeHTTP(w, r)
			})
		}, ""},
		{"mounting is ignored", mounting(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.URL.RawQuery = ""
			next.ServeHTTP(w, r)
		}), ""},
		{"mounting is refused", mounting(registry.Fail(http.StatusMethodNotAllowed)), ""},
		{"mounting is unauthorized", mounting(registry.Fail(http.StatusUnauthorized, "WWW-Authenticate", `Basic realm="registry"`)), ""},
		{"full", registry.On("PUT", "/v2/*/blobs/uploads/*", -1, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"errors":[{"code":"UNKNOWN","message":"write /data: no space left on device"}]}`))
		}), "response status code 500: unknown: write /data: no space left on device"},
		{"over its quota", registry.On("PUT", "/v2/*/blobs/uploads/*", -1, func(w http.ResponseWriter, r *http.Request, _ http.Handler) { // as Harbor says it
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"adding 1.0 MiB of storage resource, which when updated to current usage of 9.9 GiB will exceed the configured upper limit of 10.0 GiB."}]}`))
		}), "response status code 403: denied: adding 1.0 MiB of storage resource, "},
		{"limited for an hour", registry.On("POST", "/v2/*/blobs/uploads/", -1, registry.Fail(http.StatusTooManyRequests, "Retry-After", "3600")), "429 Too Many Requests: it asks for another "},
		{"what is taken is said to have failed", registry.On("PUT", "/v2/*/manifests/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusBadGateway)
		}), ""},
		{"read-only", registry.On("POST", "/v2/*/blobs/uploads/", -1, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusMethodNotAllowed)
			_, _ = w.Write([]byte(`{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`))
		}), "response status code 405: unsupported: The operation is unsupported."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProfile(t, 6, registry.Options{Middleware: tt.middleware})
			out, code := p.copied(t)
			if tt.want == "" {
				if code != 0 || !strings.Contains(out, "6 images: 6 copied, 0 present, 0 skipped, 0 failed; ") {
					t.Fatalf("got %d\n%s", code, out)
				}
				if present, _ := p.checked(t); present != len(p.refs) {
					t.Errorf("got %d images, want %d", present, len(p.refs))
				}
				return
			}
			if code != 1 || strings.Count(out, tt.want) != len(p.refs) || !strings.Contains(out, "0 copied, 0 present, 0 skipped, 6 failed; ") {
				t.Errorf("got %d\n%s\nwant %q for each", code, out, tt.want)
			}
			for _, secret := range []string{"s3cret", "_state=", "failed to", "no right"} { // of an upload, which the registry signs; no secret, and no wrong cause
				if strings.Contains(out, secret) {
					t.Errorf("got %q in\n%s", secret, out)
				}
			}
		})
	}
}

// withoutHeader answers as the registry does, but for a header: without its length a body comes in chunks.
type withoutHeader struct {
	http.ResponseWriter
	name string
}

func (w withoutHeader) WriteHeader(status int) {
	w.Header().Del(w.name)
	w.ResponseWriter.WriteHeader(status)
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// TestSparseHeaders checks, copies and bundles at registries that say less of a manifest than others do, from which nodes pull.
func TestSparseHeaders(t *testing.T) {
	for _, name := range []string{"Content-Length", "Docker-Content-Digest"} {
		t.Run(name, func(t *testing.T) {
			opts := registry.Options{Middleware: registry.On("", "/v2/*/manifests/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				next.ServeHTTP(withoutHeader{w, name}, r)
			})}
			p := newProfile(t, 0, opts)
			p.public = registry.Start(t, opts)
			write(t, p.config, entry(t, p.public, "")+entry(t, p.own, "cluster", login("ann", "s3cret"))+rule(p.public.Host(), p.own.Host()+"/cluster/mirror"))
			p.add(t, "team/app:1", image.Multi(78))
			for _, want := range []string{" 1 copied", " 1 present"} {
				if out, code := p.copied(t); code != 0 || !strings.Contains(out, want) {
					t.Errorf("copy: got %d\n%s\nwant %q", code, out, want)
				}
			}
			if present, out := p.checked(t); present != 1 {
				t.Errorf("check: got\n%s", out)
			}
			if out, problems, code := berth(t, "bundle", "--out", t.TempDir()+"/app.tar", "--config", p.config, p.refs[0]); code != 0 {
				t.Errorf("bundle: got %d\n%s%s", code, out, problems)
			}
		})
	}
}
