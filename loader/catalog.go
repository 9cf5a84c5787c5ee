// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/loader/bundle"
)

// Catalog knows which bundle holds an image. Where two bundles hold different images of one name, it is that of the bundle
// that comes first. It is safe for concurrent use.
type Catalog struct {
	platform platforms.MatchComparer
	aliases  map[string]string // by the name that is wanted

	mu      sync.Mutex
	begun   bool // the bundles are known, if not yet what is in them
	entries []*entry
	names   map[string]*Image // by name:tag
	digests map[string]*Image // by name@digest, of indexes and of manifests
	changed chan struct{}     // closed when something is known that was not
}

func newCatalog(platform platforms.MatchComparer, aliases map[string]string) *Catalog {
	return &Catalog{
		platform: platform, aliases: aliases,
		names: map[string]*Image{}, digests: map[string]*Image{}, changed: make(chan struct{}),
	}
}

// OpenCatalog lists the bundles of paths, for who only wants to know what is in them. Bundles that cannot be read are left
// out, as they are while loading.
func OpenCatalog(ctx context.Context, o Options) *Catalog {
	c := newCatalog(platforms.Only(o.Platform), o.Aliases)
	files, refused := find(o.Paths)
	for _, r := range refused {
		log.G(ctx).WithError(r.err).Warn("some bundles are left out")
	}
	for _, e := range c.begin(files, nil) {
		b, err := bundle.Open(ctx, e.path, nil)
		if err != nil {
			e.fail(err)
			continue
		}
		c.list(ctx, e, b)
	}
	return c
}

// Find returns the image that a bundle holds under named: by its digest if named has one, else by its tag.
func (c *Catalog) Find(named reference.Named) (*Image, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(named)
}

func (c *Catalog) find(named reference.Named) (*Image, bool) {
	if digested, ok := named.(reference.Digested); ok {
		image, ok := c.digests[named.Name()+"@"+digested.Digest().String()]
		return image, ok
	}
	image, ok := c.names[reference.TagNameOnly(named).String()]
	return image, ok
}

// Wait returns when it is known whether a bundle holds named, and when that image is not being loaded any more; at most
// after limit.
func (c *Catalog) Wait(ctx context.Context, named reference.Named, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		c.mu.Lock()
		image, found := c.find(named)
		changed := c.changed
		known := c.begun && !slices.ContainsFunc(c.entries, func(e *entry) bool { return e.state == Listing })
		c.mu.Unlock()
		if found && !image.isLoading() || !found && known {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// waitListed returns when it is known what is in bundles. One that is still copied is not waited for.
func (c *Catalog) waitListed(ctx context.Context, entries []*entry) {
	for {
		c.mu.Lock()
		changed := c.changed
		listing := slices.ContainsFunc(entries, func(e *entry) bool { return e.state == Listing })
		c.mu.Unlock()
		if !listing {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// notify wakes who waits. c.mu is held.
func (c *Catalog) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// begin sets the bundles there are, and what is refused. Those that did not change are kept with what is known of them.
func (c *Catalog) begin(files []string, refused []refusal) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var entries []*entry
	for _, e := range c.entries {
		if e.byHand && isGone(e.path) {
			e.byHand = false
		}
		if !e.byHand && !slices.Contains(files, e.path) {
			e.close()
		}
	}
	for _, e := range c.entries {
		if e.byHand {
			entries = append(entries, c.keep(e.path))
		}
	}
	for _, path := range files {
		if !slices.ContainsFunc(entries, func(e *entry) bool { return e.path == path }) {
			entries = append(entries, c.keep(path))
		}
	}
	for _, r := range refused {
		entries = append(entries, c.refuse(r))
	}
	c.entries, c.begun = entries, true
	c.index()
	c.notify()
	return entries
}

// differs reports whether there are other bundles than those that the catalog knows, or one of them changed.
func (c *Catalog) differs(files []string, refused []refusal) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun {
		return true
	}
	for _, e := range c.entries {
		switch {
		case e.refused:
			if !slices.ContainsFunc(refused, func(r refusal) bool { return r.path == e.path && r.err.Error() == e.err.Error() }) {
				return true
			}
		case e.byHand && isGone(e.path), !e.byHand && !slices.Contains(files, e.path), !e.unchanged(), e.isBadLayout():
			return true
		}
	}
	for _, r := range refused {
		files = append(files, r.path)
	}
	return slices.ContainsFunc(files, func(path string) bool {
		return !slices.ContainsFunc(c.entries, func(e *entry) bool { return e.path == path })
	})
}

// add puts bundles that are loaded by hand before those there are: who loads one wants what is in it.
func (c *Catalog) add(files []string) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var added []*entry
	for _, path := range files {
		e := c.keep(path)
		e.byHand = true
		added = append(added, e)
	}
	others := slices.DeleteFunc(c.entries, func(e *entry) bool { return slices.Contains(files, e.path) })
	c.entries = append(slices.Clone(added), others...)
	c.index()
	c.notify()
	return added
}

// keep returns the entry of a bundle, a new one if it changed or could not be read. c.mu is held.
func (c *Catalog) keep(path string) *entry {
	for _, e := range c.entries {
		if e.path != path {
			continue
		}
		if e.unchanged() && !e.isBadLayout() {
			for _, image := range e.images {
				if image.err != nil && !image.broken {
					image.state, image.err = Waiting, nil // it is tried again
				}
			}
			return e
		}
		e.close()
		return &entry{catalog: c, path: path, byHand: e.byHand, state: Listing, said: e.said, noted: e.noted}
	}
	return &entry{catalog: c, path: path, state: Listing}
}

// refuse returns the entry of what is not read. c.mu is held.
func (c *Catalog) refuse(r refusal) *entry {
	e := &entry{catalog: c, path: r.path, refused: true, state: Failed, err: r.err}
	for _, was := range c.entries {
		if was.path == r.path {
			was.close()
			e.said, e.noted = was.said, was.noted
		}
	}
	return e
}

// list notes what is in a bundle.
func (c *Catalog) list(ctx context.Context, e *entry, b *bundle.Bundle) {
	found, problems := imagesOf(ctx, b, c.platform)
	c.mu.Lock()
	defer c.mu.Unlock()
	e.bundle, e.images, e.problems, e.state = b, found, problems, Loading
	for _, image := range found {
		image.catalog = c
	}
	c.index()
	c.notify()
}

// index makes the maps of names anew, from the bundles in their order. c.mu is held.
func (c *Catalog) index() {
	clear(c.names)
	clear(c.digests)
	for _, e := range c.entries {
		for _, image := range e.images {
			image.owned, image.lost, image.contested, image.twin = nil, nil, false, nil
			for _, name := range image.Names {
				c.claim(name, image)
			}
		}
	}
	for wanted, has := range c.aliases {
		if image, ok := c.names[has]; ok {
			c.claim(wanted, image)
		}
	}
}

// claim gives an image a name, unless a bundle before it has it.
func (c *Catalog) claim(name string, image *Image) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return
	}
	for _, d := range append([]digest.Digest{image.Target.Digest}, image.contents.manifests...) {
		key := named.Name() + "@" + d.String()
		if _, ok := c.digests[key]; !ok {
			c.digests[key] = image
		}
	}
	key := reference.TagNameOnly(named).String()
	first, ok := c.names[key]
	switch {
	case !ok:
		c.names[key] = image
		image.owned = append(image.owned, name)
	case first != image:
		first.contested = true
		if first.Target.Digest != image.Target.Digest {
			image.lost = append(image.lost, fmt.Sprintf("%s is that of %s (%s)", name, first.Bundle.Path(), first.Target.Digest))
		} else {
			image.twin = first
		}
	}
}

// take returns the images of a bundle that are to be loaded from it: those of which it has a name.
func (c *Catalog) take(e *entry) []*Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	var taken []*Image
	for _, image := range e.images {
		if image.err == nil && len(image.owned) > 0 {
			taken = append(taken, image)
		}
	}
	return taken
}

// takeOver returns the images of a bundle that are to be loaded from it after all: those that a bundle in front has, too, and
// that could not be loaded from there.
func (c *Catalog) takeOver(e *entry) []*Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	var taken []*Image
	for _, image := range e.images {
		twin := image.twin
		if twin == nil || image.err != nil || len(image.owned) > 0 || twin.err == nil || isFull(twin.err) {
			continue
		}
		image.owned, twin.owned, image.twin = twin.owned, nil, nil
		for _, known := range []map[string]*Image{c.names, c.digests} {
			for key, is := range known {
				if is == twin {
					known[key] = image
				}
			}
		}
		taken = append(taken, image)
	}
	return taken
}

// contested returns the loaded images of a bundle with a name that another laid claim to.
func (c *Catalog) contested(e *entry) []*Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*Image
	for _, image := range e.images {
		if image.contested && image.err == nil && len(image.owned) > 0 {
			found = append(found, image)
		}
	}
	return found
}

// contest notes that it is not known yet whether an image may have its names.
func (c *Catalog) contest(image *Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	image.contested = true
}

// holds reports whether a bundle is one of the catalog's and has the image of a digest, under a name that no other has.
func (c *Catalog) holds(path string, d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.path == path {
			return slices.ContainsFunc(e.images, func(i *Image) bool {
				return len(i.owned) > 0 && (i.Target.Digest == d || slices.Contains(i.contents.manifests, d))
			})
		}
	}
	return false
}

// has reports whether a bundle is one of the catalog's.
func (c *Catalog) has(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.entries, func(e *entry) bool { return e.path == path })
}

// mayHold reports whether a bundle that stands before another may have a name of the other's: it is not listed yet.
func (c *Catalog) mayHold(path, other string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		switch e.path {
		case other:
			return false
		case path:
			return e.state == Listing
		}
	}
	return false
}

// withBlob returns a bundle that has a blob.
func (c *Catalog) withBlob(d digest.Digest) (*bundle.Bundle, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.bundle != nil && e.bundle.Has(d) {
			return e.bundle, true
		}
	}
	return nil, false
}

// warnAliases warns of aliases of images that no bundle holds.
func (c *Catalog) warnAliases(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for wanted, has := range c.aliases {
		if _, ok := c.names[has]; !ok && len(c.entries) > 0 {
			log.G(ctx).WithFields(log.Fields{"alias": wanted, "image": has}).Warn("alias of an image that no bundle holds")
		}
	}
}
