// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/loader"
)

// TestEndedUnverified ends containerd, after one that did not end by itself, before all images were looked at (REL-05): the next
// start must not take them for whole.
func TestEndedUnverified(t *testing.T) {
	l, _ := newLoader(t, bundles(t), nil)
	run := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		l.Run(ctx, nil, cancel)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want := func(ended bool) {
		t.Helper()
		if _, err := os.Stat(filepath.Join(l.Root, "ended")); (err == nil) != ended {
			t.Errorf("got %v, want a note that all is well: %t", err, ended)
		}
	}
	if err := l.Close(); err != nil { // before it ran
		t.Fatal(err)
	}
	want(false)
	l.Namespaces = func(context.Context) ([]string, error) { return nil, errors.New("not today") }
	run()
	want(false)
	l.Namespaces = func(context.Context) ([]string, error) { return nil, nil }
	run()
	want(true)
	l = loader.New(l.Options, l.Node)
	run()
	want(true)
}

// kept is a snapshotter that ends before it removes anything.
type kept struct{ snapshots.Snapshotter }

func (kept) Remove(context.Context, string) error { return errors.New("containerd ends") }

// TestEndedWhileLooking ends containerd while a snapshot is looked at: the next start has to end that look, and so looks at all.
func TestEndedWhileLooking(t *testing.T) {
	l, _ := newLoader(t, bundles(t), nil)
	namespaced := namespaces.WithNamespace(t.Context(), "k8s.io")
	img := image.Small("linux/amd64", 0)
	write(namespaced, t, l.Content, img.Blobs())
	var diffs []digest.Digest
	for _, layer := range img.Layers {
		diffs = append(diffs, layer.DiffID)
	}
	if _, err := l.Images.Create(namespaced, images.Image{Name: "quay.io/a:1", Target: img.Descriptor}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Snapshots.Prepare(namespaced, "active", ""); err != nil {
		t.Fatal(err)
	}
	if err := l.Snapshots.Commit(namespaced, identity.ChainID(diffs).String(), "active"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l.Run(ctx, nil, cancel) // as no namespace is known yet, all is well
	l.Namespaces = func(context.Context) ([]string, error) { return []string{"k8s.io"}, nil }
	l.Snapshots = kept{l.Snapshots}
	if _, err := l.Verify(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(l.Root, "ended")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want no note that all is well", err)
	}
}
