// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// overHTTP1 serves h without HTTP/2, for handlers that take a connection over.
func overHTTP1(t testing.TB, a *registrytest.Authority, h http.Handler) *registrytest.Server {
	t.Helper()
	config := a.Server(t)
	config.NextProtos = []string{"http/1.1"}
	return registrytest.Serve(t, config, h)
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func reset(w http.ResponseWriter, _ *http.Request) { registrytest.Reset(w) }

// cutAt answers with the first n bytes of content that were asked for, and then ends the connection: with a reset, or as
// HTTP/2 ends a stream.
func cutAt(n int, content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var from int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(content[from:min(from+n, len(content))])
		w.(http.Flusher).Flush()
		if r.ProtoMajor == 2 {
			panic(http.ErrAbortHandler)
		}
		registrytest.Reset(w)
	}
}

// R4, R5, R6, R11, R13, R15: what a registry gets wrong once is tried again, and the content is right.
func TestTriedAgain(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("again", 1<<20)
	authority := registrytest.NewAuthority(t)
	whole := registrytest.Registry{Image: image}
	layer := image.LayerPath()
	for _, tt := range []struct {
		name    string
		handler http.Handler
		http2   bool
		want    int // requests for the layer
	}{
		{name: "R4 reset of a manifest", handler: first(2, "/manifests/", reset, whole), want: 1},
		{name: "R4 reset of a blob", handler: first(2, layer, reset, whole), want: 3},
		{name: "R5 cut at the first byte", handler: first(1, layer, cutAt(1, image.Layer), whole), want: 2},
		{name: "R5 cut in the middle", handler: first(1, layer, cutAt(1<<19, image.Layer), whole), want: 2},
		{name: "R5 cut at the last byte", handler: first(1, layer, cutAt(1<<20-1, image.Layer), whole), want: 2},
		{name: "R5 cut again and again", handler: first(6, layer, cutAt(1<<17, image.Layer), whole), want: 7},
		{name: "R5 cut in the middle, HTTP/2", handler: first(1, layer, cutAt(1<<19, image.Layer), whole), http2: true, want: 2},
		{name: "R6 range ignored", handler: first(1, layer, cutAt(1<<19, image.Layer), only(layer, func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			whole.ServeHTTP(w, r)
		}, whole)), want: 2},
		{name: "R13 500 of a manifest", handler: first(1, "/manifests/", status(500), whole), want: 1},
		{name: "R13 500 of a blob", handler: first(1, layer, status(500), whole), want: 2},
		{name: "R13 503 of a blob", handler: first(1, layer, status(503), whole), want: 2},
		{name: "R15 no HEAD", handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			whole.ServeHTTP(w, r)
		}), want: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			serve := overHTTP1
			if tt.http2 {
				serve = func(t testing.TB, a *registrytest.Authority, h http.Handler) *registrytest.Server {
					return registrytest.Serve(t, a.Server(t), h)
				}
			}
			server := serve(t, authority, tt.handler)
			e := newEndpoint(t, server.Host, login(), trusting(authority))
			if err := pull(t.Context(), e, "app", image); err != nil {
				t.Fatal(err)
			}
			if got := len(server.Lines(layer)); got != tt.want {
				t.Errorf("got %d requests for the layer, want %d", got, tt.want)
			}
			for i, r := range server.Requests() {
				if resumed := strings.Contains(r.Line, layer) && i > 0 && strings.HasPrefix(tt.name, "R5") && r.Header.Get("Range") != ""; resumed {
					return
				}
			}
			if strings.HasPrefix(tt.name, "R5") {
				t.Error("the download was not resumed where it ended")
			}
		})
	}
}

// R24: a server that is about to end says so on its connections of HTTP/2, and ends before a blob has: the rest is asked for on
// another one.
func TestGoneAway(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("away", 1<<20)
	authority := registrytest.NewAuthority(t)
	layer := image.LayerPath()
	var server *registrytest.Server
	server = registrytest.Serve(t, authority.Server(t), first(1, layer, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // which Go's server says as GOAWAY
		w.Header().Set("Content-Length", fmt.Sprint(len(image.Layer)))
		_, _ = w.Write(image.Layer[:1<<19])
		w.(http.Flusher).Flush()
		time.Sleep(100 * time.Millisecond) // in which it is said
		server.CloseConnections()
	}, registrytest.Registry{Image: image}))
	if err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image); err != nil {
		t.Fatal(err)
	}
	requests := server.Requests()
	if last := requests[len(requests)-1]; last.Proto != "HTTP/2.0" || last.Header.Get("Range") == "" {
		t.Errorf("got %s of %q over %s, want the rest of the layer over HTTP/2", last.Line, last.Header.Get("Range"), last.Proto)
	}
}

// encoded answers with body, and says how it is encoded.
func encoded(body []byte, encodings ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Encoding"] = encodings
		_, _ = w.Write(body)
	}
}

// R21: gzip is the one encoding that is offered, and that is taken.
func TestEncoding(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("encoded", 64<<10)
	authority := registrytest.NewAuthority(t)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(image.Layer); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	server := registrytest.Serve(t, authority.Server(t), only(image.LayerPath(), encoded(packed.Bytes(), "gzip"), registrytest.Registry{Image: image}))
	if err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image); err != nil {
		t.Fatal(err)
	}
	for _, r := range server.Requests() {
		if got := r.Header.Get("Accept-Encoding"); got != "gzip" && strings.HasPrefix(r.Line, http.MethodGet) {
			t.Errorf("got Accept-Encoding %q of %s, want gzip", got, r.Line)
		}
	}
}

// R4, R7, R8, R12, R13, R14, R16, R21, R22, R23, SEC-33: what stays wrong is an error, after few requests.
func TestFails(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("fails", 64<<10)
	authority := registrytest.NewAuthority(t)
	whole := registrytest.Registry{Image: image}
	layer := image.LayerPath()
	layerDigest := digest.FromBytes(image.Layer).String()
	bomb := func() []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		chunk := make([]byte, 1<<20)
		for range 64 {
			_, _ = w.Write(chunk)
		}
		_ = w.Close()
		return b.Bytes()
	}()
	endless := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			return
		}
		for chunk := make([]byte, 64<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	small := func() []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(image.Layer, nil)
	}()
	other := bytes.Repeat([]byte("x"), len(image.Layer))
	for _, tt := range []struct {
		name    string
		handler http.Handler
		want    string
		is      error
		most    int // requests
	}{
		{name: "R4 reset for ever", handler: only("/manifests/", reset, whole), is: io.ErrUnexpectedEOF, most: 5},
		{name: "R5 cut for ever", handler: only(layer, cutAt(0, image.Layer), whole), is: io.ErrUnexpectedEOF, most: 10},
		{name: "R7 wrong range", handler: first(1, layer, cutAt(100, image.Layer), only(layer, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(image.Layer)-1, len(image.Layer)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(image.Layer)
		}, whole)), is: errdefs.ErrFailedPrecondition, most: 6},
		{name: "R8 longer than said", handler: only(layer, endless, whole), want: "read past expected size", most: 4},
		{name: "R8 SEC-15 endless manifest without a digest", handler: only("/manifests/", endless, whole), want: "larger than", most: 2},
		{name: "other bytes", handler: only(layer, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(other) }, whole), is: errWrongBytes, most: 4},
		{name: "R13 500 for ever", handler: only(layer, status(500), whole), want: "500", most: 5},
		{name: "R14 403 with a body on GET", handler: only("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			registrytest.Fail(w, http.StatusForbidden, "DENIED", "key vault access denied")
		}, whole), want: "key vault access denied", most: 2},
		{name: "R16 404 of a manifest", handler: only("/manifests/", status(404), whole), is: errdefs.ErrNotFound, most: 1},
		{name: "404 of a blob", handler: only(layer, status(404), whole), is: errdefs.ErrNotFound, most: 4},
		{name: "R21 bomb", handler: only(layer, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		}, whole), want: "read past expected size", most: 4},
		{name: "R21 unknown encoding", handler: only(layer, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = w.Write(image.Layer)
		}, whole), want: "unsupported Content-Encoding", most: 4},
		{name: "R21 zstd", handler: only(layer, encoded(small, "zstd"), whole), want: `unsupported Content-Encoding "zstd"; want gzip or none`, most: 4},
		{name: "R21 stacked", handler: only(layer, encoded(small, "gzip, gzip, zstd"), whole), want: `unsupported Content-Encoding "gzip, gzip, zstd"`, most: 4},
		{name: "R21 stacked in two lines", handler: only(layer, encoded(small, "gzip", "Zstd"), whole), want: `unsupported Content-Encoding "gzip, Zstd"`, most: 4},
		{name: "R21 gzip twice", handler: only(layer, encoded(small, "gzip, gzip"), whole), want: `unsupported Content-Encoding "gzip, gzip"`, most: 4},
		{name: "SEC-15 manifest of 5 MB", handler: only("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			big := bytes.Repeat([]byte(" "), 5<<20)
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(big).String())
			_, _ = w.Write(big)
		}, whole), want: "rejecting 5242880 byte manifest", most: 1},
		{name: "SEC-33 R23 another digest in the header", handler: only("/manifests/", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(image.Manifest)))
			w.Header().Set("Docker-Content-Digest", layerDigest)
			if r.Method == http.MethodGet {
				_, _ = w.Write(image.Manifest)
			}
		}, whole), is: errdefs.ErrFailedPrecondition, most: 2},
		{name: "SEC-33 no digest in the header", handler: only("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(image.Manifest)))
			w.Header().Set("Docker-Content-Digest", "sha256:../../etc/passwd")
		}, whole), want: "not a valid digest", most: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := overHTTP1(t, authority, tt.handler)
			e := newEndpoint(t, server.Host, login(), trusting(authority))
			err := pull(t.Context(), e, "app", image)
			wantError(t, err, tt.want)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v, want %v", err, tt.is)
			}
			if got := len(server.Requests()); got > tt.most {
				t.Errorf("got %d requests, want %d at most: %q", got, tt.most, server.Lines(""))
			}
		})
	}
}
