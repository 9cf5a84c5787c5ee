// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// writeBundle writes a bundle that gives all images one name.
func writeBundle(t *testing.T, path, name string, bundled ...registrytest.Image) {
	t.Helper()
	var listed []ocispec.Descriptor
	var blobs [][]byte
	for _, image := range bundled {
		listed = append(listed, nameOf(registrytest.Descriptor(ocispec.MediaTypeImageManifest, image.Manifest), name))
		blobs = append(blobs, image.Manifest, image.Config, image.Layer)
	}
	writeLayout(t, path, listed, blobs)
}

func nameOf(desc ocispec.Descriptor, name string) ocispec.Descriptor {
	desc.Annotations = map[string]string{images.AnnotationImageName: name}
	return desc
}

func writeLayout(t *testing.T, path string, listed []ocispec.Descriptor, blobs [][]byte) {
	t.Helper()
	layout, err := NewLayout(path)
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Discard()
	if err := layout.Index(listing(listed...)); err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		desc := ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		if err := layout.Push(t.Context(), desc, bytes.NewReader(blob)); err != nil {
			t.Fatal(err)
		}
	}
	if err := layout.Commit(); err != nil {
		t.Fatal(err)
	}
}

func listing(manifests ...ocispec.Descriptor) ocispec.Index {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests}
	index.SchemaVersion = 2
	return index
}

// TestBundleSourceNames has bundles that write names in other ways than references are normalised to.
func TestBundleSourceNames(t *testing.T) {
	image := registrytest.NewImage("named", 100)
	dir := t.TempDir()
	for i, tc := range []struct{ name, ref string }{
		{"nginx:1.25", "docker.io/library/nginx:1.25"},
		{"index.docker.io/library/nginx:1.25", "docker.io/library/nginx:1.25"},
		{"quay.io/a/b", "quay.io/a/b:latest"},
		{"Host.io/a:1", "host.io/a:1"},
		{"host:443/a:1", "host:443/a:1"},
		{"host.io:443/a:1", "host.io/a:1"},
		{"host.io/a:1", "host.io:443/a:1"},
	} {
		path := filepath.Join(dir, fmt.Sprint(i)+".tar")
		writeBundle(t, path, tc.name, image)
		src, err := OpenBundle(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		got, err := src.Resolve(t.Context(), tc.ref)
		if want := digest.FromBytes(image.Manifest); err != nil || got.Digest != want {
			t.Errorf("%s: got %s %v of a bundle with %s, want %s", tc.ref, got.Digest, err, tc.name, want)
		}
	}
}

// TestBundleSourceSigned has a layout as cosign writes it, which gives an image's signature the name of the image.
func TestBundleSourceSigned(t *testing.T) {
	image := registrytest.NewImage("signed", 100)
	signature := registrytest.NewImage("signature", 100).With(func(m *ocispec.Manifest) {
		m.Layers[0].MediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
	})
	for i, bundled := range [][]registrytest.Image{{image, signature}, {signature, image}} {
		path := filepath.Join(t.TempDir(), fmt.Sprint(i)+".tar")
		writeBundle(t, path, "quay.io/signed:1", bundled...)
		src, err := OpenBundle(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		for ref, want := range map[string]digest.Digest{
			"quay.io/signed:1": digest.FromBytes(image.Manifest),
			"quay.io/signed@" + digest.FromBytes(signature.Manifest).String(): digest.FromBytes(signature.Manifest),
		} {
			if got, err := src.Resolve(t.Context(), ref); err != nil || got.Digest != want {
				t.Errorf("%s: got %s %v, want %s", ref, got.Digest, err, want)
			}
		}
	}
}

// TestBundleSourceDigests asks for the digests of an index and of its manifests, of which a bundle need not hold all.
func TestBundleSourceDigests(t *testing.T) {
	held, absent := registrytest.NewImage("held", 100), registrytest.NewImage("absent", 100)
	of := func(image registrytest.Image) ocispec.Descriptor {
		return registrytest.Descriptor(ocispec.MediaTypeImageManifest, image.Manifest)
	}
	index, err := json.Marshal(listing(of(absent), of(held)))
	if err != nil {
		t.Fatal(err)
	}
	root := registrytest.Descriptor(ocispec.MediaTypeImageIndex, index)
	for _, name := range []string{"of.tar", "of.tar.zst"} {
		path := filepath.Join(t.TempDir(), name)
		writeLayout(t, path, []ocispec.Descriptor{nameOf(root, "quay.io/app:1")}, [][]byte{index, held.Manifest, held.Config, held.Layer})
		src, err := OpenBundle(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		for _, want := range []ocispec.Descriptor{root, of(held)} {
			if got, err := src.Resolve(t.Context(), "quay.io/app@"+want.Digest.String()); err != nil || got.Digest != want.Digest || got.MediaType != want.MediaType {
				t.Errorf("%s: got %v %v, want %v", name, got, err, want)
			}
		}
		if got, err := src.Resolve(t.Context(), "quay.io/app@"+of(absent).Digest.String()); !errors.Is(err, errdef.ErrNotFound) {
			t.Errorf("%s: got %v %v of what is absent, want it not found", name, got, err)
		}
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

// TestLinkedBundle opens and checks bundles by links to them, which may lead to the newest of several, or nowhere.
func TestLinkedBundle(t *testing.T) {
	for _, name := range []string{"app-1.tar", "app-1.tar.zst", "app-1/"} {
		dir := t.TempDir()
		writeBundle(t, dir+"/"+name, "quay.io/app:1", registrytest.NewImage("linked", 100))
		link := filepath.Join(dir, "latest")
		if err := os.Symlink(filepath.Clean(name), link); err != nil {
			t.Fatal(err)
		}
		if src, err := OpenBundle(t.Context(), link); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := src.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
		if checked, err := CheckBundle(t.Context(), link); err != nil || len(checked) != 1 || checked[0].Err != nil {
			t.Errorf("%s: check: got %v and %v, want one image", name, checked, err)
		}
	}
	nowhere := filepath.Join(t.TempDir(), "latest")
	if err := os.Symlink("app-2.tar", nowhere); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBundle(t.Context(), nowhere); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "app-2.tar") {
		t.Errorf("got %v, want that what the link leads to is not there", err)
	}
}

// TestBundleSourceUnpacked unpacks a compressed archive of docker, which holds a layer twice: nothing is left of it.
func TestBundleSourceUnpacked(t *testing.T) {
	layer := string(make([]byte, 1024)) // an empty tar
	diffID := digest.FromString(layer)
	config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q,%q]}}`, diffID, diffID)
	path := filepath.Join(t.TempDir(), "app.tar.zst")
	layout, err := NewLayout(path)
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Discard()
	for _, file := range [][2]string{
		{"manifest.json", `[{"Config":"config.json","RepoTags":["quay.io/app:1"],"Layers":["a/layer.tar","b/layer.tar"]}]`},
		{"config.json", config}, {"a/layer.tar", layer}, {"b/layer.tar", layer},
	} {
		if err := layout.(*archive).entries.write(file[0], int64(len(file[1])), strings.NewReader(file[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := layout.Commit(); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	src, err := OpenBundle(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := content.FetchAll(t.Context(), src, registrytest.Descriptor(ocispec.MediaTypeImageLayer, []byte(layer))); err != nil {
		t.Error(err)
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("got %q left", left)
	}
}

// TestBundleSourceDamaged opens a compressed bundle of which a layer is damaged: nothing is left of what was unpacked.
func TestBundleSourceDamaged(t *testing.T) {
	image := registrytest.NewImage("damaged", 100)
	path := filepath.Join(t.TempDir(), "app.tar.zst")
	layout, err := NewLayout(path)
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Discard()
	if err := layout.Index(listing(nameOf(registrytest.Descriptor(ocispec.MediaTypeImageManifest, image.Manifest), "quay.io/app:1"))); err != nil {
		t.Fatal(err)
	}
	for _, blob := range [][]byte{image.Manifest, image.Config, image.Layer} {
		name := "blobs/sha256/" + digest.FromBytes(blob).Encoded()
		if bytes.Equal(blob, image.Layer) {
			blob = bytes.Repeat([]byte("x"), len(blob))
		}
		if err := layout.(*archive).entries.write(name, int64(len(blob)), bytes.NewReader(blob)); err != nil {
			t.Fatal(err)
		}
	}
	if err := layout.Commit(); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	if src, err := OpenBundle(t.Context(), path); err == nil {
		t.Errorf("got %v of a bundle that is damaged", src.Close())
	}
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("got %q left", left)
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
