// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/loader"
)

// bare is an image without layers, of which everything is there once its blobs are.
func bare(t *testing.T, l *loader.Loader, number int) *image.Image {
	t.Helper()
	img := image.New(image.Config{Env: []string{fmt.Sprint("NUMBER=", number)}})
	write(namespaces.WithNamespace(t.Context(), "k8s.io"), t, l.Content, img.Blobs())
	return img
}

// twoAtOnce is newLoader of one that works on two bundles at once.
func twoAtOnce(t *testing.T, folder string, service transferFunc) *loader.Loader {
	t.Helper()
	l, _ := newLoader(t, folder, service)
	l.Pin, l.Parallel = true, 2
	return loader.New(l.Options, l.Node)
}

// long is a bundle that it takes much longer to list than any other here.
func long(t *testing.T, path string, named image.Named) {
	t.Helper()
	entries := image.OCI([]image.Named{named})
	for i := range 20_000 {
		entries = append(entries, image.Entry{Name: fmt.Sprint("more/", i)})
	}
	image.WriteFile(t, path, image.Gzip(image.Tar(entries)))
}

// TestLoadWaitsForNames has the bundle in front be the last to be listed: of an image that turns out to have no name nothing is loaded.
func TestLoadWaitsForNames(t *testing.T) {
	folder := bundles(t)
	var mu sync.Mutex
	var pulled []string
	l := twoAtOnce(t, folder, func(source any) error {
		_, target, err := source.(*loader.Source).Resolve(t.Context())
		mu.Lock()
		defer mu.Unlock()
		pulled = append(pulled, target.Digest.String())
		return err
	})
	first, second := bare(t, l, 1), bare(t, l, 2)
	long(t, filepath.Join(folder, "a.tgz"), first.Name("quay.io/a:1"))
	image.WriteFile(t, filepath.Join(folder, "b.tar"), image.Tar(image.OCI([]image.Named{second.Name("quay.io/a:1")})))
	if err := l.Load(t.Context()); err != nil {
		t.Error(err)
	}
	if want := []string{first.Digest.String()}; !slices.Equal(pulled, want) {
		t.Errorf("got pulls of %q, want %q, that of the bundle in front", pulled, want)
	}
}

// TestLoadSettlesRecords has records of an image's digest be another bundle's, which does not have the image any more, and is listed when
// the image is loaded already: they are the image's from then on, and stay pinned.
func TestLoadSettlesRecords(t *testing.T) {
	folder := bundles(t)
	l := twoAtOnce(t, folder, func(any) error { return nil })
	img := bare(t, l, 1)
	front, behind := filepath.Join(folder, "a.tar"), filepath.Join(folder, "b.tgz")
	image.WriteFile(t, front, image.Tar(image.OCI([]image.Named{img.Name("quay.io/a:1")})))
	long(t, behind, bare(t, l, 2).Name("quay.io/b:1"))
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	digested := []string{"quay.io/a@" + img.Digest.String(), img.ConfigDigest.String()}
	for _, name := range digested {
		was := images.Image{Name: name, Target: img.Descriptor, Labels: l.Labels(behind, "k8s.io")}
		if _, err := l.Images.Create(ctx, was); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Load(t.Context()); err != nil {
		t.Error(err)
	}
	for _, name := range digested {
		is, err := l.Images.Get(ctx, name)
		if err != nil || is.Labels[loader.BundleLabel] != front || is.Labels[loader.PinLabel] != "pinned" {
			t.Errorf("%s: got labels %v %v, want it pinned, and the bundle's that has the image", name, is.Labels, err)
		}
	}
}
