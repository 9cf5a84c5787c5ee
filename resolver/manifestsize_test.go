// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// SEC-15: a manifest that is said to be larger than containerd reads is not asked for; the next target is.
func TestManifestTooLarge(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("large", 4<<10)
	child := registrytest.Descriptor(ocispec.MediaTypeImageManifest, content.Manifest)
	child.Size = docker.MaxManifestSize + 1
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []ocispec.Descriptor{child}})
	if err != nil {
		t.Fatal(err)
	}
	whole := registrytest.Registry{Image: content}
	first := serve(t, at("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(index).String())
		w.Header().Set("Content-Length", fmt.Sprint(len(index)))
		_, _ = w.Write(index)
	}, whole))
	second := serve(t, whole)
	wantError(t, newNode(t, first.registry()+from(first)).pull(t.Context(), ref), nil, fmt.Sprintf("is %d bytes, limit %d", child.Size, docker.MaxManifestSize))
	n := newNode(t, first.registry()+second.registry()+from(first, second))
	if err := n.pull(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	n.wantImage(t, ref, content)
	if got := first.Lines(child.Digest.String()); len(got) > 0 {
		t.Errorf("got requests %q, want none for it", got)
	}
}

// With nothing configured containerd's limit is the only one: it is about what a tag is, and not about what an index names.
func TestLargeManifestAsStock(t *testing.T) {
	t.Parallel()
	large := registrytest.NewImage("large", 4<<10).With(func(m *ocispec.Manifest) {
		m.Annotations = map[string]string{"large": strings.Repeat("x", int(docker.MaxManifestSize))}
	})
	child := registrytest.Descriptor(ocispec.MediaTypeImageManifest, large.Manifest)
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []ocispec.Descriptor{child}})
	if err != nil {
		t.Fatal(err)
	}
	s := registrytest.Serve(t, nil, at("/manifests/", func(w http.ResponseWriter, r *http.Request) {
		mediaType, body := ocispec.MediaTypeImageIndex, index
		if strings.HasSuffix(r.URL.Path, child.Digest.String()) {
			mediaType, body = child.MediaType, large.Manifest
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body)
	}, registrytest.Registry{Image: large}))
	if err := newNode(t, "").pull(t.Context(), s.Host+"/org/app:1"); err != nil {
		t.Error(err)
	}
}
