// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/loader/bundle"
)

func imageOf(content string, names ...string) *Image {
	return &Image{Bundle: &bundle.Bundle{}, Target: ocispec.Descriptor{Digest: digest.FromString(content)}, Names: names}
}

// TestCatalogNames has three bundles that lay claim to the same names.
func TestCatalogNames(t *testing.T) {
	c := newCatalog(Options{Platform: platforms.DefaultSpec(), Aliases: map[string]string{
		"alias.io/a:1": "quay.io/a:1", "alias.io/none:1": "quay.io/none:1", "alias.io/wrong@" + digest.FromString("none").String(): "quay.io/b:1",
	}})
	first, same := imageOf("first", "quay.io/a:1"), imageOf("first", "quay.io/a:1", "quay.io/b:1")
	other := imageOf("other", "quay.io/a:1")
	c.entries = []*entry{
		{catalog: c, path: "1", images: []*Image{first}}, {catalog: c, path: "2", images: []*Image{same}}, {catalog: c, path: "3", images: []*Image{other}},
	}
	c.index()
	for _, tc := range []struct {
		ref  string
		want *Image
	}{
		{"quay.io/a:1", first},
		{"quay.io/b:1", same},
		{"quay.io/a", nil}, // latest
		{"quay.io/a@" + first.Target.Digest.String(), first},
		{"quay.io/b@" + first.Target.Digest.String(), same},
		{"quay.io/a@" + other.Target.Digest.String(), other}, // it has no name
		{"quay.io/a:1@" + other.Target.Digest.String(), other},
		{"quay.io/a:1@" + digest.FromString("none").String(), nil},
		{"quay.io/c@" + first.Target.Digest.String(), nil}, // another repository
		{"alias.io/a:1", first},
		{"alias.io/none:1", nil},
		{"alias.io/wrong@" + digest.FromString("none").String(), nil},
	} {
		named, err := reference.ParseNormalizedNamed(tc.ref)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := c.Find(named); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.ref, got, tc.want)
		}
	}
	if want := []string{"quay.io/a:1", "alias.io/a:1"}; !slices.Equal(first.owned, want) {
		t.Errorf("got names %q of the first, want %q", first.owned, want)
	}
	if len(other.owned) != 0 || len(other.lost) != 1 {
		t.Errorf("got names %q, lost %q; want one lost, of another digest", other.owned, other.lost)
	}
	if len(same.owned) != 1 || len(same.lost) != 1 || !strings.Contains(same.lost[0], "alias.io/wrong@") {
		t.Errorf("got names %q, lost %q; want an alias lost that has the digest of another image", same.owned, same.lost)
	}
	if !first.contested || other.contested {
		t.Error("want the first contested, and the last not")
	}
	for path, want := range map[string]bool{"1": true, "2": true, "3": false, "4": false} {
		if got := c.holds(path, first.Target.Digest); got != want {
			t.Errorf("bundle %s holds the first image: got %t, want %t", path, got, want)
		}
	}
	if c.holds("3", other.Target.Digest) {
		t.Error("got an image held that has no name")
	}
	if status := c.Status(); status[2].Images[0].State != Shadowed {
		t.Errorf("got state %s of an image without a name, want it shadowed", status[2].Images[0].State)
	}
}

// TestCatalogAliases has aliases of aliases, which must not depend on the order in which they are looked at, and of a digest.
func TestCatalogAliases(t *testing.T) {
	image := imageOf("image", "quay.io/image:1")
	digested := "quay.io/image@" + image.Target.Digest.String()
	c := newCatalog(Options{Platform: platforms.DefaultSpec(), Aliases: map[string]string{
		"a.io/x:1": "b.io/x:1", "b.io/x:1": "c.io/x:1", "c.io/x:1": "quay.io/image:1",
		"z.io/x:1": "y.io/x:1", "y.io/x:1": "quay.io/image:1", "digest.io/x:1": digested,
		"circle.io/a:1": "circle.io/b:1", "circle.io/b:1": "circle.io/a:1", "self.io/a:1": "self.io/a:1",
	}})
	c.entries = []*entry{{catalog: c, images: []*Image{image}}}
	c.index()
	want := []string{"quay.io/image:1", "a.io/x:1", "b.io/x:1", "c.io/x:1", "digest.io/x:1", "y.io/x:1", "z.io/x:1"}
	if !slices.Equal(image.owned, want) {
		t.Errorf("got names %q, want %q", image.owned, want)
	}
}

// TestCatalogSpelledNames has names that pulls ask for in another form. One image has all its spellings, another none of them.
func TestCatalogSpelledNames(t *testing.T) {
	lower := func(ref string) (reference.Named, error) { return reference.ParseDockerRef(strings.ToLower(ref)) }
	c := newCatalog(Options{Platform: platforms.DefaultSpec(), Named: lower, Aliases: map[string]string{"Alias.io/a:1": "QUAY.io/a:1"}})
	image, other := imageOf("image", "Quay.io/a:1", "quay.io/a:1"), imageOf("other", "quay.IO/a:1")
	c.entries = []*entry{{catalog: c, images: []*Image{image}}, {catalog: c, images: []*Image{other}}}
	c.index()
	for _, ref := range []string{"quay.io/a:1", "alias.io/a:1", "quay.io/a@" + image.Target.Digest.String()} {
		named, err := lower(ref)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := c.Find(named); got != image {
			t.Errorf("%s: got %v, want the image", ref, got)
		}
	}
	if want := []string{"Quay.io/a:1", "quay.io/a:1", "Alias.io/a:1"}; !slices.Equal(image.owned, want) || len(other.owned) > 0 {
		t.Errorf("got names %q and %q, want %q and none", image.owned, other.owned, want)
	}
}

// TestCatalogWaits waits for what may be in a bundle that is being listed, and for an image that is being loaded; no longer than is
// allowed, nor than it takes.
func TestCatalogWaits(t *testing.T) {
	named, err := reference.ParseNormalizedNamed("quay.io/a:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name      string
		begun     bool
		of, other State // of the image, "" if there is none, and of another bundle
		waits     bool
	}{
		{"bundles are not known yet", false, "", Loaded, true},
		{"a bundle is being listed", true, "", Listing, true},
		{"a bundle is still copied", true, "", Copying, false},
		{"no bundle has it", true, "", Loaded, false},
		{"it is being loaded", true, Loading, Loaded, true},
		{"it waits to be loaded", true, Waiting, Loaded, false},
		{"it is loaded, and another bundle is listed", true, Loaded, Listing, false},
		{"it could not be loaded", true, Failed, Loaded, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCatalog(Options{Platform: platforms.DefaultSpec()})
			other := &entry{catalog: c, state: tc.other}
			c.begun, c.entries = tc.begun, []*entry{other}
			image := imageOf("image", "quay.io/a:1")
			image.catalog, image.state = c, tc.of
			if tc.of != "" {
				c.entries = append(c.entries, &entry{catalog: c, state: Loading, images: []*Image{image}})
			}
			c.index()
			if tc.waits {
				start := time.Now()
				c.Wait(t.Context(), named, 100*time.Millisecond)
				if took := time.Since(start); took < 100*time.Millisecond {
					t.Errorf("got it waited for during %s, want the limit of 100ms", took)
				}
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				c.Wait(t.Context(), named, time.Hour)
			}()
			if tc.waits {
				select {
				case <-ended:
					t.Error("got an end of the wait, want none as long as nothing happens")
				case <-time.After(50 * time.Millisecond):
				}
				c.mu.Lock()
				c.begun, other.state, image.state = true, Loaded, Loaded
				c.notify()
				c.mu.Unlock()
			}
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("got no end of the wait")
			}
		})
	}
}

// TestCatalogDiffers tells changes of bundles from changes of what is beside them.
func TestCatalogDiffers(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	broken := file("broken.tar", 0o644)
	refused := file("refused.tar", 0o600)
	if err := os.Chmod(refused, 0o666); err != nil {
		t.Fatal(err)
	}
	c := newCatalog(Options{Platform: platforms.DefaultSpec()})
	if !c.differs(find([]string{dir})) {
		t.Error("got nothing new before the first round")
	}
	for _, e := range c.begin(find([]string{dir})) {
		if e.path == broken {
			info, err := os.Lstat(broken)
			if err != nil {
				t.Fatal(err)
			}
			e.cannotRead(info, errors.New("no bundle"))
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"nothing", func() error { return nil }, false},
		{"a hidden file", func() error { file(".hidden", 0o644); return nil }, false},
		{"another file", func() error { file("more.tar", 0o644); return nil }, true},
		{"it is gone again", func() error { return os.Remove(filepath.Join(dir, "more.tar")) }, false},
		{"what was refused is not", func() error { return os.Chmod(refused, 0o644) }, true},
		{"it is again", func() error { return os.Chmod(refused, 0o666) }, false},
		{"the broken one is written to", func() error { return os.WriteFile(broken, []byte("longer than before"), 0o644) }, true},
		{"the broken one is gone", func() error { return os.Remove(broken) }, true},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := c.differs(find([]string{dir})); got != step.want {
			t.Errorf("%s: got %t, want %t", step.name, got, step.want)
		}
	}
}
