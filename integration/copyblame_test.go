// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestCopyRights copies with credentials that do not do: the error names the right that is missing, and where.
func TestCopyRights(t *testing.T) {
	denied := func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"not for you"}]}`))
	}
	may := func(scopes ...string) registry.Options {
		return registry.Options{Tokens: &registry.Tokens{Users: map[string]registry.User{"ann": {Password: "s3cret", Scopes: scopes}}}}
	}
	with := func(method, path string, fault registry.Fault) registry.Options {
		return registry.Options{Users: ann, Middleware: registry.On(method, path, -1, fault)}
	}
	refusing := may("*")
	refusing.Middleware = registry.On("", "/token", -1, registry.Fail(http.StatusForbidden))
	for _, tt := range []struct {
		name, login string
		own         registry.Options
		want, why   string
	}{
		{"upload", login("ann", "s3cret"), with("POST", "/v2/*/blobs/uploads/", denied), "push to", "403: denied: not for you"},
		{"manifest", login("ann", "s3cret"), with("PUT", "/v2/*/manifests/*", denied), "push to", "403: denied: not for you"},
		{"look", login("ann", "s3cret"), with("HEAD", "/v2/*/manifests/*", denied), "pull from", "403: Forbidden"},
		{"wrong password", login("ann", "wrong"), registry.Options{Users: ann}, "pull from and push to", "the credential was refused"},
		{"no password", "", registry.Options{Users: ann}, "pull from", "asks for a username and a password, and none is configured"},
		{"token for pull", login("ann", "s3cret"), may("repository:cluster/*:pull"), "push to", "authorization failed"},
		{"token for nothing", login("ann", "s3cret"), may(), "pull from", "authorization failed"},
		{"no token", login("ann", "s3cret"), refusing, "pull from and push to", "the credential was refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			public, own := registry.Start(t, registry.Options{}), registry.Start(t, tt.own)
			image.Small("linux/amd64", 3).Push(t, public, "team/app:1")
			config := t.TempDir() + "/berth.toml"
			write(t, config, entry(t, public, "")+entry(t, own, "cluster", tt.login)+rule(public.Host(), own.Host()+"/cluster/mirror"))
			out, _, code := berth(t, "copy", "--config", config, public.Host()+"/team/app:1")
			want := ": no right to " + tt.want + " " + own.Host() + "/cluster/mirror/team/app: "
			if code != 1 || !strings.Contains(out, want) || !strings.Contains(out, tt.why) {
				t.Errorf("got %d\n%s\nwant %q and %q", code, out, want, tt.why)
			}
		})
	}
}

// TestCopyDamaged copies from a registry and from a bundle that have another content than a digest says: the error names where that is.
func TestCopyDamaged(t *testing.T) {
	img := image.Small("linux/amd64", 3)
	layer := img.Layers[0]
	flip := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		text := answer.Body.Bytes()
		if answer.Code == http.StatusOK {
			text[len(text)/2] ^= 1
		}
		_, _ = w.Write(text)
	}
	name := func(r *registry.Registry) string { return r.Host() + "/team/app" }
	for _, tt := range []struct {
		what, damaged string // "": in the bundle
		http1         bool
		digest        digest.Digest
	}{
		{"blob", "/v2/*/blobs/" + layer.Digest.String(), false, layer.Digest},
		{"blob over HTTP/1", "/v2/*/blobs/" + layer.Digest.String(), true, layer.Digest},
		{"manifest", "/v2/*/manifests/" + img.Digest.String(), false, img.Digest},
		{"blob of a bundle", "", false, layer.Digest},
	} {
		t.Run(tt.what, func(t *testing.T) {
			public := registry.Start(t, registry.Options{Middleware: registry.On("GET", tt.damaged, -1, flip)})
			own := registry.Start(t, registry.Options{HTTP1: tt.http1})
			img.Push(t, public, "team/app:1")
			config := t.TempDir() + "/berth.toml"
			write(t, config, entry(t, public, "")+entry(t, own, "")+rule(public.Host(), own.Host()+"/mirror"))
			ref := name(public) + ":1@" + img.Digest.String()
			args, from := []string{"copy", "--config", config, ref}, name(public)
			if tt.damaged == "" {
				entries := image.OCI([]image.Named{img.Name(name(public) + ":1")})
				for i, e := range entries {
					if bytes.Equal(e.Data, layer.Blob) {
						entries[i].Data = append(bytes.Clone(e.Data[1:]), e.Data[0])
					}
				}
				path := image.WriteFile(t, t.TempDir()+"/app.tar", image.Tar(entries))
				args, from = append(args, "--from", path), "bundle "+path
			}
			out, _, code := berth(t, args...)
			want := fmt.Sprintf("read %s: %s %s: mismatched digest\n", from, strings.Fields(tt.what)[0], tt.digest)
			if code != 1 || !strings.Contains(out, want) || strings.Contains(out, own.Host()) {
				t.Errorf("got %d\n%s\nwant %q, and nothing of %s", code, out, want, own.Host())
			}
			if got := uploads(own); got[tt.digest.String()] > 0 {
				t.Errorf("got %v in the registry", got)
			}
		})
	}
}

// TestCopyStoredOtherwise copies into a registry that changes a manifest before it keeps it, whether it says so or not: that is no copy,
// the first time or any other.
func TestCopyStoredOtherwise(t *testing.T) {
	for _, hidden := range []string{"", "Docker-Content-Digest"} {
		p := newProfile(t, 0, registry.Options{Middleware: registry.On("PUT", "/v2/*/manifests/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			manifest, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			manifest = append(manifest, '\n')
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(manifest)), int64(len(manifest))
			next.ServeHTTP(withoutHeader{w, hidden}, r)
		})})
		img := image.Small("linux/amd64", 3)
		p.add(t, "team/app:1", img)
		out, code := p.copied(t)
		if want := fmt.Sprintf("it was sent %s and has sha256:", img.Digest); code != 1 || !strings.Contains(out, want) {
			t.Errorf("without %q: got %d\n%s\nwant %q", hidden, code, out, want)
		}
	}
}

// TestCopyUploadElsewhere copies into registries that name another host for an upload: by another name of their own, and one that is
// not theirs, where nothing is sent (SEC-01).
func TestCopyUploadElsewhere(t *testing.T) {
	other := registry.Start(t, registry.Options{})
	for _, tt := range []struct {
		name, location string // of an upload; in the place of "https://HOST/v2"
		want           string
	}{
		{"another name", "https://inside.invalid/v2", ""},
		{"another port", "https://127.0.0.1:1/v2", ""},
		{"plain HTTP", "http://inside.invalid:5000/v2", ""},
		{"relative", "/v2", ""},
		{"storage", "https://" + other.Host() + "/bucket", " names " + other.Host() + ": it has blobs sent there, and credentials for a registry go to it only; "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			posts := atomic.Int64{}
			p := newProfile(t, 2, registry.Options{Middleware: registry.On("POST", "/v2/*/blobs/uploads/", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				answer := httptest.NewRecorder()
				next.ServeHTTP(answer, r)
				if _, path, ok := strings.Cut(answer.Header().Get("Location"), "/v2"); ok && answer.Code == http.StatusAccepted {
					posts.Add(1)
					answer.Header().Set("Location", tt.location+path)
				}
				maps.Copy(w.Header(), answer.Header())
				w.WriteHeader(answer.Code)
			})})
			out, code := p.copied(t)
			if got := other.Log.Requests(); len(got) > 0 {
				t.Errorf("the other host was asked:\n%s", other.Log.Lines())
			}
			if posts.Load() == 0 || (code == 0) != (tt.want == "") || strings.Count(out, tt.want) < len(p.refs) || strings.Contains(out, "_state=") {
				t.Errorf("got %d after %d uploads\n%s\nwant %q", code, posts.Load(), out, tt.want)
			}
		})
	}
}
