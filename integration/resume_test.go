// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestResume cuts the connection in the middle of a layer, over HTTP/1 and HTTP/2, with a server that resumes and one
// that does not (R5, R6): the pull goes on from there, and what comes out is the image.
func TestResume(t *testing.T) {
	daemon.RequireRoot(t)
	layer := image.NewLayer(image.Random("file", 240, 300_000))
	img := image.New(image.Config{Layers: []image.Layer{layer}})
	size := len(layer.Blob)
	noRange := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	}
	for _, http1 := range []bool{true, false} {
		for _, tc := range []struct {
			name  string
			at    int
			fault registry.Fault // of requests after the first
		}{{"first byte", 1, nil}, {"middle", size / 2, nil}, {"last byte", size - 1, nil}, {"no ranges", size / 2, noRange}} {
			t.Run(fmt.Sprintf("%s, HTTP/1 %t", tc.name, http1), func(t *testing.T) {
				faults := registry.On("GET", "*/blobs/"+layer.Digest.String(), 1, registry.Truncate(tc.at))
				if tc.fault != nil {
					faults = registry.Chain(faults, registry.On("GET", "*/blobs/"+layer.Digest.String(), -1, tc.fault))
				}
				r := registry.Start(t, registry.Options{HTTP1: http1, Middleware: faults})
				img.Push(t, r, "p/quay.io/a:1")
				n := startNode(t, entry(t, r, "p"), daemon.Options{})
				if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
					t.Fatalf("%v\n%s", err, r.Log.Lines())
				}
				if err := img.Compare(n.Rootfs(t, "default", "quay.io/a:1")); err != nil {
					t.Error(err)
				}
				requests := r.Log.Match("GET", "*/blobs/"+layer.Digest.String())
				var sent int64
				for _, req := range requests {
					sent += req.Sent
				}
				if len(requests) < 2 || !strings.Contains(strings.ToLower(string(requests[1].Raw)), "range: bytes=") {
					t.Errorf("got requests %v, want a second one with a range", requests)
				}
				if tc.fault == nil && sent > int64(size)+32<<10 {
					t.Errorf("got %d bytes sent for a layer of %d, want the rest alone sent again", sent, size)
				}
			})
		}
	}
}
