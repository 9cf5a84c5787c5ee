// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/transfer/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// cut answers with the first half of a blob, and ends the connection.
func cut(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:len(content)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// page answers everything with one text, as what stands before a registry and wants people to log in does.
func page(mediaType string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{mediaType}
		fmt.Fprint(w, `{"message":"log in first"}`)
	}
}

func closed(t testing.TB) target {
	t.Helper()
	s := serve(t, http.NotFoundHandler())
	gone := registrytest.Serve(t, nil, http.NotFoundHandler())
	gone.Close()
	return target{gone, s.ca}
}

// R16, R17: what a target fails with, the next has; what both fail with is in the error, with its kind.
func TestFallback(t *testing.T) {
	t.Parallel()
	content, other := registrytest.NewImage("fallback", 64<<10), registrytest.NewImage("other", 64<<10)
	whole := registrytest.Registry{Image: content}
	wrong := bytes.Clone(content.Layer)
	wrong[len(wrong)/2] ^= 1
	for _, tt := range []struct {
		name      string
		handler   http.Handler // nil: nobody listens
		keys      []string
		untrusted bool
		cause     string
		kind      error
	}{
		{name: "404", handler: at("/manifests/", status(404), whole), cause: "not found", kind: errdefs.ErrNotFound},
		{name: "404 of a blob", handler: at(content.LayerPath(), status(404), whole), cause: "not found", kind: errdefs.ErrNotFound},
		{name: "401", handler: registrytest.Basic("else", "else", whole), cause: "unauthorized", kind: errdefs.ErrUnauthenticated},
		{name: "401 without a challenge", handler: status(401), cause: "unauthorized: ", kind: errdefs.ErrUnauthenticated},
		{name: "wrong password", handler: registrytest.Basic("else", "else", whole), keys: []string{withPassword}, cause: "unauthorized", kind: errdefs.ErrUnauthenticated},
		{name: "403", handler: status(403), cause: "message of 403", kind: errdefs.ErrPermissionDenied},
		{name: "403 of a blob", handler: at(content.LayerPath(), status(403), whole), cause: "403", kind: errdefs.ErrPermissionDenied},
		{name: "500", handler: status(500), cause: "server error: ", kind: errdefs.ErrUnavailable},
		{name: "502 of a blob", handler: at(content.LayerPath(), status(502), whole), cause: "502 Bad Gateway", kind: errdefs.ErrUnavailable},
		{name: "refused", cause: "connection refused", kind: errdefs.ErrUnavailable},
		{name: "unknown authority", handler: whole, untrusted: true, cause: "unknown authority", kind: errdefs.ErrUnavailable},
		{name: "corrupt blob", handler: at(content.LayerPath(), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wrong) }, whole),
			cause: "unexpected commit digest", kind: errdefs.ErrDataLoss},
		{name: "blob of another length", handler: at(content.LayerPath(), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wrong[1:]) }, whole),
			cause: "truncated: ", kind: errdefs.ErrDataLoss},
		{name: "corrupt and cut", handler: at(content.LayerPath(), cut(other.Layer), whole), cause: "truncated: ", kind: errdefs.ErrDataLoss},
		{name: "stalled", handler: at("/manifests/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, whole),
			cause: "stalled: no byte for 300ms", kind: errdefs.ErrUnavailable},
		{name: "stalled in a blob", handler: at(content.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(other.Layer[:1<<10])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, whole), cause: "stalled: no byte for 300ms", kind: errdefs.ErrUnavailable},
		{name: "page of HTML", handler: page("text/html; charset=utf-8"), cause: "got text/html and not a manifest", kind: errdefs.ErrDataLoss},
		{name: "page of XHTML", handler: page("application/xhtml+xml"), cause: "got application/xhtml+xml and not a manifest", kind: errdefs.ErrDataLoss},
		{name: "answer of another service", handler: page("application/json"), cause: "got application/json and not a manifest", kind: errdefs.ErrDataLoss},
		{name: "answer of a file server", handler: page("application/octet-stream"), cause: "got application/octet-stream and not a manifest", kind: errdefs.ErrDataLoss},
		{name: "answer of no type", handler: page(""), cause: "got no media type and not a manifest", kind: errdefs.ErrDataLoss},
		{name: "error that is called a manifest", handler: page(ocispec.MediaTypeImageManifest), cause: "content size of zero", kind: errdefs.ErrDataLoss},
		{name: "layer of no size", handler: registrytest.Registry{Image: content.With(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 })},
			cause: "negative content size", kind: errdefs.ErrDataLoss},
		{name: "schema 1", handler: at("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Docker-Content-Digest", other.Digest().String())
			page("application/vnd.docker.distribution.manifest.v1+prettyjws")(w, nil)
		}, whole), cause: "schema 1", kind: errdefs.ErrInvalidArgument},
		{name: "token realm", handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://evil.test/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		}), keys: []string{withPassword}, cause: `token realm "http://evil.test/token" refused`, kind: errdefs.ErrUnavailable},
	} {
		for _, alone := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, alone %t", tt.name, alone), func(t *testing.T) {
				t.Parallel()
				first := closed(t)
				if tt.handler != nil {
					first = serve(t, tt.handler)
				}
				second := serve(t, whole)
				if tt.untrusted {
					first.ca = second.ca
				}
				config := first.registry(tt.keys...) + second.registry()
				if strings.HasPrefix(tt.cause, "stalled") { // others may take their time
					config = "stall_timeout = \"300ms\"\n" + config
				}
				if alone {
					n := newNode(t, config+from(first))
					err := n.pull(t.Context(), ref)
					wantError(t, err, tt.kind, tt.cause, "pull "+ref, `rule "quay.io"`, first.Host+"/mirror/org/app:1")
					n.wantNothing(t)
					return
				}
				n := newNode(t, config+from(first, second))
				if err := n.pull(t.Context(), ref); err != nil {
					t.Fatal(err)
				}
				got := n.wantImage(t, ref, content)
				if got.Labels[resolver.LabelSource] != second.Host {
					t.Errorf("got source %q, want %q", got.Labels[resolver.LabelSource], second.Host)
				}
				if tt.handler != nil && first.Connections() == 0 {
					t.Error("the first target was not asked")
				}
				if got := second.Received(canaries...); len(got) > 0 {
					t.Errorf("the second target received %q, which are the first's", got)
				}
				n.wantNoLeftovers(t)
			})
		}
	}
}

// R16: when all fail, all are named in their order, and the kind is of the first that said more than "not found".
func TestAllTargetsFail(t *testing.T) {
	t.Parallel()
	missing, forbidden := serve(t, http.NotFoundHandler()), serve(t, status(403))
	absent := digest.FromString("absent").String()
	for _, tt := range []struct {
		name    string
		ref     string
		targets []target
		kind    error
		want    []string
	}{
		{"not there, forbidden", ref, []target{missing, forbidden}, errdefs.ErrPermissionDenied,
			[]string{"from " + missing.Host + "/mirror/org/app:1: not found; then from " + forbidden.Host + "/mirror/org/app:1: forbidden: "}},
		{"B16 a digest that is nowhere", "quay.io/org/app@" + absent, []target{missing, serve(t, registrytest.Registry{Image: registrytest.NewImage("another", 1<<10)})}, errdefs.ErrNotFound,
			[]string{"from " + missing.Host + "/mirror/org/app@" + absent + ": not found; then from "}},
		{"nowhere", ref, []target{missing, serve(t, http.NotFoundHandler())}, errdefs.ErrNotFound, []string{"not found; then from "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, tt.targets[0].registry()+tt.targets[1].registry()+from(tt.targets...))
			wantError(t, n.pull(t.Context(), tt.ref), tt.kind, append(tt.want, "pull "+tt.ref+` (rule "quay.io"): `)...)
			n.wantNothing(t)
		})
	}
}

// A credential that was configured and cannot be read stops the pull: it does not go on without.
func TestCredentialUnavailableStops(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("unavailable", 4<<10)
	for name, guard := range map[string]func(http.Handler) http.Handler{
		"basic": func(h http.Handler) http.Handler { return registrytest.Basic("canary-user", "canary/pass+word", h) },
		"bearer": func(h http.Handler) http.Handler {
			tokens := registrytest.NewTokens("canary-user", "canary/pass+word")
			tokens.Realm = serve(t, tokens).URL + "/token"
			return tokens.Protect(h)
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := serve(t, guard(registrytest.Registry{Image: content})), serve(t, registrytest.Registry{Image: content})
			file := filepath.Join(t.TempDir(), "password")
			n := newNode(t, first.registry(`username = "canary-user"`, fmt.Sprintf("password_file = %q", file))+second.registry()+from(first, second))
			wantError(t, n.pull(t.Context(), ref), errdefs.ErrUnauthenticated, "read password_file", file, first.Host)
			if got := len(second.Requests()); got != 0 {
				t.Errorf("got %d requests at the second target, want 0", got)
			}
			for _, r := range first.Requests() {
				if r.Header.Get("Authorization") != "" {
					t.Error("the first target was sent an authorization")
				}
			}
			n.wantNothing(t)
			if name == "basic" {
				if err := os.WriteFile(file, []byte("canary/pass+word\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := n.pull(t.Context(), ref); err != nil {
					t.Errorf("after the file appeared: %v", err)
				}
			}
		})
	}
}

// SEC-39: a verifier's no ends the pull, as its failure does, before a blob is asked for and without another target.
func TestVerifierStops(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("denied", 4<<10)
	for _, tt := range []struct {
		name string
		v    verifier
		want string
	}{
		{"says no", verifier{}, "reason of the test"},
		{"is not found", verifier{err: fmt.Errorf("verify: %w", errdefs.ErrNotFound)}, "verify: not found"},
		{"says nothing", verifier{err: fmt.Errorf("verify: %w", io.ErrUnexpectedEOF)}, "verify: unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			first, second := serve(t, registrytest.Registry{Image: content}), serve(t, registrytest.Registry{Image: content})
			n := newNode(t, first.registry()+second.registry()+from(first, second), &tt.v)
			wantError(t, n.pull(t.Context(), ref), nil, "verifier", ref, tt.want)
			if got := len(first.Lines("/blobs/")); got != 0 {
				t.Errorf("got %d requests for blobs, want 0", got)
			}
			if got := len(second.Requests()); got != 0 {
				t.Errorf("got %d requests at the second target, want 0", got)
			}
			n.wantNothing(t)
		})
	}
}

// fullContent has no room for one blob.
type fullContent struct {
	content.Store
	blob digest.Digest
}

func (c fullContent) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Desc.Digest == c.blob {
		return nil, &os.PathError{Op: "write", Path: "blob", Err: syscall.ENOSPC}
	}
	return c.Store.Writer(ctx, opts...)
}

// What this machine fails with, no other target mends, also where it ends a download that was going well.
func TestFullDiskStops(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("full", 64<<10)
	whole := registrytest.Registry{Image: image}
	first := serve(t, at(image.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(image.Layer[:48<<10])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}, whole))
	second := serve(t, whole)
	n := newNode(t, first.registry()+second.registry()+from(first, second))
	n.Inner = local.NewTransferService(fullContent{n.db.ContentStore(), digest.FromBytes(image.Config)}, n.images, local.TransferConfig{Leases: n.Leases})
	wantError(t, n.pull(t.Context(), ref), nil, "from "+first.Host, "no space left on device")
	if got := len(second.Requests()); got != 0 {
		t.Errorf("got %d requests at the second target, want 0", got)
	}
	n.wantNothing(t)
}

// remembered is for how long a target that could not be reached is tried last.
const remembered = 5 * time.Second

// A target that could not be reached is tried last by the pulls that follow, and is still tried if nothing else has the
// image.
func TestUnreachableIsPutLast(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("last", 4<<10)
	stalls := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	second := serve(t, at("/manifests/missing", status(404), registrytest.Registry{Image: content}))
	n := newNode(t, "stall_timeout = \"300ms\"\n"+stalls.registry()+second.registry()+from(stalls, second))
	if err := n.pull(t.Context(), "quay.io/org/app:1"); err != nil {
		t.Fatal(err)
	}
	err := n.pull(t.Context(), "quay.io/org/app:missing")
	failed := time.Now()
	wantError(t, err, errdefs.ErrUnavailable, "stalled")
	if !strings.Contains(err.Error(), "from "+second.Host+"/mirror/org/app:missing: not found; then from "+stalls.Host) {
		t.Errorf("got error %q, want the target that stalls last", err)
	}
	asked := len(stalls.Requests())
	for i := range 4 {
		if err := n.pull(t.Context(), fmt.Sprintf("quay.io/org/app:%d", 2+i)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(failed); len(stalls.Requests()) > asked && took < remembered {
			t.Fatalf("got a request at the target that stalls %s after it could not be reached, want none for %s", took, remembered)
		}
	}
}

// R2, R10, P13: of two targets at one registry the second is not tried after nobody was there for the first, by tag as by digest.
func TestUnreachableIsAskedOnce(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("twice", 4<<10)
	for _, ref := range []string{"quay.io/org/app:1", "quay.io/org/app@" + content.Digest().String()} {
		t.Run(ref, func(t *testing.T) {
			t.Parallel()
			stalls := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			third := serve(t, registrytest.Registry{Image: content})
			rule := fmt.Sprintf("[[rules]]\nfrom = \"quay.io\"\nto = [%q, %q, %q]\n", stalls.Host+"/first", stalls.Host+"/second", third.Host+"/mirror")
			n := newNode(t, "stall_timeout = \"300ms\"\n"+stalls.registry()+third.registry()+rule)
			if err := n.pull(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
			if got := len(stalls.Requests()); got != 1 {
				t.Errorf("got %d requests at the registry that stalls, want 1: %q", got, stalls.Lines(""))
			}
		})
	}
}
