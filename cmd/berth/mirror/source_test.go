// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// writeBundle writes a bundle that gives all images one name.
func writeBundle(t *testing.T, path, name string, bundled ...registrytest.Image) {
	t.Helper()
	layout, err := NewLayout(path)
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Discard()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, image := range bundled {
		desc := registrytest.Descriptor(ocispec.MediaTypeImageManifest, image.Manifest)
		desc.Annotations = map[string]string{images.AnnotationImageName: name}
		index.Manifests = append(index.Manifests, desc)
	}
	if err := layout.Index(index); err != nil {
		t.Fatal(err)
	}
	for _, image := range bundled {
		for _, blob := range [][]byte{image.Manifest, image.Config, image.Layer} {
			desc := ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
			if err := layout.Push(t.Context(), desc, bytes.NewReader(blob)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := layout.Commit(); err != nil {
		t.Fatal(err)
	}
}

// TestBundleSourceReplaced has another bundle take the place of one that is copied from: that one is read to its end.
func TestBundleSourceReplaced(t *testing.T) {
	image := registrytest.NewImage("replaced", 1000)
	for _, name := range []string{"archive.tar", "layout/"} {
		path := filepath.Join(t.TempDir(), "of") + name
		writeBundle(t, path, "quay.io/app:1", image)
		src, err := OpenBundle(t.Context(), filepath.Clean(path))
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if err := os.Rename(path, filepath.Clean(path)+".old"); err != nil {
			t.Fatal(err)
		}
		writeBundle(t, path, "quay.io/app:1", image)
		if _, err := content.FetchAll(t.Context(), src, registrytest.Descriptor(ocispec.MediaTypeImageLayer, image.Layer)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBundleSourceNameTwice copies from a bundle that gives a name to two images: it is the last one's, as where it is loaded.
func TestBundleSourceNameTwice(t *testing.T) {
	const name = "quay.io/app:1"
	first, last := registrytest.NewImage("first", 100), registrytest.NewImage("last", 100)
	path := filepath.Join(t.TempDir(), "twice.tar")
	writeBundle(t, path, name, first, last)
	src, err := OpenBundle(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got, err := src.Resolve(t.Context(), name)
	if want := digest.FromBytes(last.Manifest); err != nil || got.Digest != want {
		t.Errorf("got %s %v, want %s", got.Digest, err, want)
	}
}

// TestBundleWithBadImage is about a bundle of which one image cannot be used: nothing is copied from it, and it does not pass for good.
func TestBundleWithBadImage(t *testing.T) {
	good, bad := registrytest.NewImage("good", 100), registrytest.NewImage("bad", 100)
	bad.Config = []byte("not what the manifest says")
	path := filepath.Join(t.TempDir(), "bad.tar")
	writeBundle(t, path, "quay.io/app:1", good, bad)
	const want = "image quay.io/app:1: config sha256:"
	if src, err := OpenBundle(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("open: got %v %v, want an error with %q", src, err, want)
	}
	if checked, err := CheckBundle(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("check: got %v %v, want an error with %q", checked, err, want)
	}
}
