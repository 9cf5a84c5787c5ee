// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
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
