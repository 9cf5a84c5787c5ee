// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/loader"
)

// collecting is a content store of which a blob is collected as garbage after it was looked up, just before it is opened.
type collecting struct{ content.Store }

func (c collecting) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := c.Delete(ctx, desc.Digest); err != nil {
		return nil, err
	}
	return c.Store.ReaderAt(ctx, desc)
}

func write(ctx context.Context, t *testing.T, to content.Store, blobs map[digest.Digest][]byte) {
	t.Helper()
	for dgst, data := range blobs {
		desc := ocispec.Descriptor{Digest: dgst, Size: int64(len(data))}
		if err := content.WriteBlob(ctx, to, dgst.String(), bytes.NewReader(data), desc); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCollectedWhileLoaded has what was left of an image be collected while a load looks at it: that is missing, and for the pull
// to bring. It is not damaged, and is not written in the place of anything.
func TestCollectedWhileLoaded(t *testing.T) {
	pulls := 0
	l, _ := newLoader(t, bundles(t, "a"), func(any) error { pulls++; return errors.New("not today") })
	write(t.Context(), t, l.Blobs, image.Small("linux/amd64", 0).Blobs())
	l.Blobs = collecting{l.Blobs}
	if err := l.Load(t.Context()); err == nil || pulls == 0 {
		t.Errorf("got %v after %d pulls, want the error of one", err, pulls)
	}
	err := l.Blobs.Walk(t.Context(), func(info content.Info) error {
		t.Errorf("got blob %s written, want it left to the pull", info.Digest)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestHeldWhileLoaded has what is there of an image, and is no image's, kept by the lease before it is pulled (REL-17): a pull takes
// what is there for granted, and it would be collected meanwhile.
func TestHeldWhileLoaded(t *testing.T) {
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	held := map[string]bool{}
	var l *loader.Loader
	var manager leases.Manager
	l, manager = newLoader(t, bundles(t, "a"), func(any) error {
		used, err := manager.ListResources(ctx, leases.Lease{ID: "io.berth.load"})
		if err != nil {
			t.Error(err)
		}
		for _, r := range used {
			held[r.ID] = true
		}
		return errors.New("not today")
	})
	blobs := image.Small("linux/amd64", 0).Blobs()
	write(ctx, t, l.Content, blobs)
	if err := l.Load(t.Context()); err == nil {
		t.Error("got no error, want that of the pull")
	}
	for dgst := range blobs {
		if !held[dgst.String()] {
			t.Errorf("got %v held, want %s too", held, dgst)
		}
	}
}

// TestCollectedWhileVerified removes an image while it is verified: that is no damage.
func TestCollectedWhileVerified(t *testing.T) {
	l, _ := newLoader(t, bundles(t), nil)
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	img := image.Small("linux/amd64", 0)
	write(ctx, t, l.Content, img.Blobs())
	if _, err := l.Images.Create(ctx, images.Image{Name: "quay.io/a:1", Target: img.Descriptor}); err != nil {
		t.Fatal(err)
	}
	l.Namespaces = func(context.Context) ([]string, error) { return []string{"k8s.io"}, nil }
	l.Content = collecting{l.Content}
	found, err := l.Verify(t.Context(), true)
	if err != nil || len(found) != 0 {
		t.Errorf("got %v %v, want no damage", found, err)
	}
}

// TestVerifyEndsLooks has a look be there that was cut short when containerd was killed.
func TestVerifyEndsLooks(t *testing.T) {
	l, _ := newLoader(t, bundles(t), nil)
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	for _, name := range []string{"berth-look-1-sha256:a", "another"} {
		if _, err := l.Snapshots.View(ctx, name, ""); err != nil {
			t.Fatal(err)
		}
	}
	l.Namespaces = func(context.Context) ([]string, error) { return []string{"k8s.io"}, nil }
	if _, err := l.Verify(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := l.Snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		left = append(left, info.Name)
		return nil
	})
	if err != nil || !slices.Equal(left, []string{"another"}) {
		t.Errorf("got snapshots %q %v, want the one that is not ours", left, err)
	}
}

// collectingImages are records of images. One that is made is removed at once, and its content collected.
type collectingImages struct {
	images.Store
	collect func(context.Context)
}

func (c collectingImages) Create(ctx context.Context, image images.Image) (images.Image, error) {
	image, err := c.Store.Create(ctx, image)
	c.collect(ctx)
	return image, err
}

// TestCollectedOnceLoaded removes an image just after it was loaded, while its layers are let go: that is no fault of its bundle.
func TestCollectedOnceLoaded(t *testing.T) {
	l, _ := newLoader(t, bundles(t, "a"), nil)
	l.DropLayers = true
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	img := image.Small("linux/amd64", 0)
	write(ctx, t, l.Content, img.Blobs())
	if _, err := l.Snapshots.Prepare(ctx, "active", ""); err != nil {
		t.Fatal(err)
	}
	if err := l.Snapshots.Commit(ctx, identity.ChainID([]digest.Digest{img.Layers[0].DiffID}).String(), "active"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"quay.io/a@" + img.Digest.String(), img.ConfigDigest.String()} {
		if _, err := l.Images.Create(ctx, images.Image{Name: name, Target: img.Descriptor}); err != nil {
			t.Fatal(err)
		}
	}
	collected := 0
	l.Images = collectingImages{l.Images, func(ctx context.Context) {
		for dgst := range img.Blobs() {
			if err := l.Content.Delete(ctx, dgst); err == nil {
				collected++
			}
		}
	}}
	if err := l.Load(t.Context()); err != nil || collected == 0 {
		t.Errorf("got %v with %d blobs collected, want no error with some", err, collected)
	}
}
