// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// TestOnce writes two images that have a blob in common, one after the other. What the first has as a layer is a manifest to the
// second, and brings what it leads to; with another size it is refused.
func TestOnce(t *testing.T) {
	image := registrytest.NewImage("app", 100)
	manifest := registrytest.Descriptor(ocispec.MediaTypeImageManifest, image.Manifest)
	layer := registrytest.Descriptor(ocispec.MediaTypeImageLayer, image.Layer)
	other := func(layer ocispec.Descriptor) registrytest.Image {
		return image.With(func(m *ocispec.Manifest) { m.Layers = []ocispec.Descriptor{layer} })
	}
	asLayer, short := manifest, layer
	asLayer.MediaType = "application/octet-stream"
	short.Size--
	for _, tc := range []struct {
		name          string
		first, second registrytest.Image
		want          string // error
	}{
		{"the same", image, image, ""},
		{"a manifest as a layer", other(asLayer), image, ""},
		{"another size", image, other(short), "it is said to have 99 bytes, and 100 by another image"},
	} {
		src, err := oci.NewStorage(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, blob := range [][]byte{image.Config, image.Layer, image.Manifest, tc.first.Manifest, tc.second.Manifest} {
			if err := src.Push(t.Context(), registrytest.Descriptor("", blob), bytes.NewReader(blob)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
				t.Fatal(err)
			}
		}
		path := filepath.Join(t.TempDir(), "of.tar")
		layout, err := NewLayout(path)
		if err != nil {
			t.Fatal(err)
		}
		defer layout.Discard()
		last := registrytest.Descriptor(ocispec.MediaTypeImageManifest, tc.second.Manifest)
		if err := layout.Index(listing(nameOf(last, "quay.io/app:1"))); err != nil {
			t.Fatal(err)
		}
		to := &once{Layout: layout}
		for _, manifest := range [][]byte{tc.first.Manifest, tc.second.Manifest} {
			root := registrytest.Descriptor(ocispec.MediaTypeImageManifest, manifest)
			err = oras.CopyGraph(t.Context(), src, to, root, oras.CopyGraphOptions{PreCopy: to.claim})
		}
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: got %v, want an error with %q", tc.name, err, tc.want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := layout.Commit(); err != nil {
			t.Fatal(err)
		}
		if checked, err := CheckBundle(t.Context(), path); err != nil || len(checked) != 1 || checked[0].Err != nil {
			t.Errorf("%s: got %v %v, want it whole", tc.name, checked, err)
		}
	}
}
