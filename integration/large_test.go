// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestLargeLayersComeAlone pulls and bundles an image: large layers come over connections of HTTP/1.1, and all else shares one
// of HTTP/2.
func TestLargeLayersComeAlone(t *testing.T) {
	daemon.RequireRoot(t)
	large := []image.Layer{image.NewLayer(image.Random("one", 301, 9<<20)), image.NewLayer(image.Random("two", 302, 9<<20))}
	img := image.New(image.Config{Layers: append(large, image.NewLayer(image.Random("small", 303, 1<<20)))})
	r := registry.Start(t, registry.Options{})
	img.Push(t, r, "p/quay.io/a:1")
	n := startNode(t, entry(t, r, "p"), daemon.Options{})
	config := filepath.Join(t.TempDir(), "berth.toml")
	write(t, config, entry(t, r, "p"))
	for name, f := range map[string]func(t *testing.T){
		"pull": func(t *testing.T) {
			if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
				t.Error(err)
			}
			if err := img.Compare(n.Rootfs(t, "default", "quay.io/a:1")); err != nil {
				t.Error(err)
			}
		},
		"bundle": func(t *testing.T) {
			if _, problems, code := berth(t, "bundle", "--config", config, "--out", filepath.Join(t.TempDir(), "a.tar"), "quay.io/a:1"); code != 0 {
				t.Error(problems)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.Log.Reset()
			f(t)
			alone := map[string]bool{}
			for _, layer := range large {
				for _, req := range r.Log.Match("GET", "*/blobs/"+layer.Digest.String()) {
					if req.Proto != "HTTP/1.1" {
						t.Errorf("%s over %s, want HTTP/1.1", req.Path, req.Proto)
					}
					alone[req.Remote] = true
				}
			}
			shared := map[string]bool{}
			for _, req := range r.Log.Requests() {
				if !alone[req.Remote] {
					shared[req.Remote] = true
				}
				if !alone[req.Remote] && req.Proto != "HTTP/2.0" {
					t.Errorf("%s over %s, want HTTP/2", req.Path, req.Proto)
				}
			}
			if len(shared) != 1 {
				t.Errorf("got %d connections for all but large layers, want 1\n%s", len(shared), r.Log.Lines())
			}
		})
	}
}

// TestBundleWaitsForConnections bundles more large layers than have connections of their own: the others wait for one of these,
// and do not come over the connection that all else shares.
func TestBundleWaitsForConnections(t *testing.T) {
	r := registry.Start(t, registry.Options{})
	var refs []string
	for i := range 3 {
		var layers []image.Layer
		for j := range 3 {
			layers = append(layers, image.NewLayer(image.Random("data", uint64(310+3*i+j), 9<<20)))
		}
		repository := fmt.Sprintf("p/quay.io/a%d", i)
		image.New(image.Config{Layers: layers}).Push(t, r, repository+":1")
		refs = append(refs, fmt.Sprintf("quay.io/a%d:1", i))
	}
	config := filepath.Join(t.TempDir(), "berth.toml")
	write(t, config, entry(t, r, "p"))
	r.Log.Reset()
	if _, problems, code := berth(t, append([]string{"bundle", "--config", config, "--out", filepath.Join(t.TempDir(), "a.tar")}, refs...)...); code != 0 {
		t.Fatal(problems)
	}
	layers := 0
	for _, req := range r.Log.Match("GET", "*/blobs/*") {
		if req.Sent < 9<<20 {
			continue
		}
		layers++
		if req.Proto != "HTTP/1.1" {
			t.Errorf("%s over %s, want HTTP/1.1", req.Path, req.Proto)
		}
	}
	if layers != 9 {
		t.Errorf("got %d large layers, want 9", layers)
	}
}
