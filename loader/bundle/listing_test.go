// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/loader/bundle"
)

// TestListing is about a Listing that says something else than the bundle: that shows when it is used.
func TestListing(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)}, "example/a:1")
	wrong := digest.FromString("wrong")
	for _, packing := range packings[:3] {
		path := write(t, packing.pack(t, pack(t, unnamed([]source{image})...)))
		right := open(t, path, nil)
		listing := right.Listing()
		for i, e := range listing.Entries {
			if e.Digest != "" {
				listing.Entries[i].Digest = wrong
			}
		}
		if b := open(t, path, listing); !b.Has(wrong) {
			t.Errorf("%s: got the listing not used", packing.name)
		}
		for name, spoil := range map[string]func(l *bundle.Listing){
			"version": func(l *bundle.Listing) { l.Version = 0 },
			"inode":   func(l *bundle.Listing) { l.File.File.Inode++ },
			"end":     func(l *bundle.Listing) { l.Tail = wrong },
			"digest":  func(l *bundle.Listing) { l.Entries[0].Digest = "sha256:x" },
			"size":    func(l *bundle.Listing) { l.Entries[0].Size = -1 },
		} {
			l := remembered(t, listing)
			spoil(l)
			if b := open(t, path, l); b.Has(wrong) {
				t.Errorf("%s: got a listing used that has another %s", packing.name, name)
			}
		}
		now := time.Now()
		if err := os.Chtimes(path, now, now); err != nil {
			t.Fatal(err)
		}
		if b := open(t, path, listing); b.Has(wrong) {
			t.Errorf("%s: got the listing used for a file that was touched", packing.name)
		}
	}
}

// ending is a context that is canceled when it was looked at so many times.
type ending struct {
	context.Context
	left *int
}

func (c ending) Err() error {
	if *c.left--; *c.left < 0 {
		return context.Canceled
	}
	return c.Context.Err()
}

// TestListingEnds ends the listing of a bundle, as containerd's end does, at each place: what is not listed is not a fault of an image.
func TestListingEnds(t *testing.T) {
	one := newSource(t, "amd64", []layer{newLayer(t, 1, 1)})
	archive := pack(t, text("manifest.json", `[{"Config":"c","RepoTags":["a:1"],"Layers":["a"]},{"Config":"c","RepoTags":["a:2"],"Layers":["b"]}]`),
		member{name: "c", data: one.config}, member{name: "a", data: one.layers[0].packed}, member{name: "b", data: one.layers[0].packed})
	for _, packing := range packings[:3] {
		path := write(t, packing.pack(t, archive))
		ended := 0
		for whole := false; !whole; ended++ {
			left := ended
			b, err := bundle.Open(ending{t.Context(), &left}, path, nil)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatalf("%s, ended at %d: got %v, want that it was canceled", packing.name, ended, err)
			}
			if whole = err == nil; whole {
				if n := len(b.Images()); n != 2 || len(b.Problems()) > 0 {
					t.Errorf("%s, ended at %d: got %d images and problems %v, want 2 and none", packing.name, ended, n, b.Problems())
				}
				b.Close()
			}
		}
		if ended < 3 {
			t.Errorf("%s: got it listed after %d looks at the context, want some more", packing.name, ended)
		}
	}
}

// TestListingOfAnother has a listing of a bundle that had the inode, size and times of another one, as on reproducible images of
// a file system: what is in the other is not taken for what was in the first, though that is larger than what is looked at.
func TestListingOfAnother(t *testing.T) {
	for _, packing := range packings[:3] {
		var files [2]string
		for i := range files {
			image := newSource(t, "amd64", []layer{newLayer(t, uint64(i+1), 1<<20)}, "example/a:1")
			files[i] = write(t, packing.pack(t, pack(t, unnamed([]source{image})...)))
		}
		want := open(t, files[1], nil)
		listing := open(t, files[0], nil).Listing()
		listing.File = want.Listing().File
		got := open(t, files[1], listing)
		if !slices.EqualFunc(got.Images(), want.Images(), func(a, b bundle.Image) bool { return a.Target.Digest == b.Target.Digest }) {
			t.Errorf("%s: got images %v, want %v", packing.name, got.Images(), want.Images())
		}
	}
}
