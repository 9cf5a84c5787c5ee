// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/loader/bundle"
)

// index makes the maps of names anew, from the bundles in their order. c.mu is held.
func (c *Catalog) index() {
	clear(c.names)
	clear(c.digests)
	for _, e := range c.entries {
		for _, image := range slices.Backward(e.images) { // of two images of one name in a bundle ctr imports the last
			image.owned, image.lost, image.twin = nil, nil, nil
			if image.state == NoImage {
				continue
			}
			for _, name := range image.Names {
				c.claim(name, image)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.aliases)) {
		if image, ok := c.aliased(key); ok {
			c.claim(c.aliases[key].wanted, image)
		}
	}
	for _, e := range c.entries {
		for _, image := range e.images {
			c.inherit(image)
		}
	}
}

// aliased returns the image that an alias leads to, over other aliases if need be. c.mu is held.
func (c *Catalog) aliased(key string) (*Image, bool) {
	for range c.aliases { // which may lead in a circle
		a, ok := c.aliases[key]
		if !ok {
			return nil, false
		}
		named, err := c.parse(a.has)
		if err != nil {
			return nil, false
		}
		if image, ok := c.find(named); ok {
			return image, true
		}
		key = named.String()
	}
	return nil, false
}

// claim gives an image a name, unless a bundle before it has it, or it says a digest that is another's, as an alias may. The image
// may have the name in another spelling already.
func (c *Catalog) claim(name string, image *Image) {
	named, err := c.parse(name)
	if err != nil {
		return
	}
	if digested, ok := named.(reference.Digested); ok && digested.Digest() != image.Target.Digest {
		image.lost = append(image.lost, fmt.Sprintf("%s has the digest of another image", name))
		return
	}
	for _, d := range append([]digest.Digest{image.Target.Digest}, image.contents.manifests...) {
		key := named.Name() + "@" + d.String()
		if _, ok := c.digests[key]; !ok {
			c.digests[key] = image
		}
	}
	key := named.String()
	first, ok := c.names[key]
	switch {
	case !ok, first == image && !slices.Contains(image.owned, name):
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
		if image.taken = image.err == nil && len(image.owned) > 0; image.taken {
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
		if c.inherit(image) || !image.taken && image.err == nil && len(image.owned) > 0 { // since another bundle was listed
			image.taken = true
			taken = append(taken, image)
		}
	}
	return taken
}

// inherit gives an image the names of its twin if that could not be loaded, and reports whether it did. c.mu is held.
func (c *Catalog) inherit(image *Image) bool {
	twin := image.twin
	if twin == nil || image.err != nil || len(image.owned) > 0 || twin.err == nil || isFull(twin.err) {
		return false
	}
	image.owned, twin.owned = twin.owned, nil
	for _, known := range []map[string]*Image{c.names, c.digests} {
		for key, is := range known {
			if is == twin {
				known[key] = image
			}
		}
	}
	for _, e := range c.entries {
		for _, other := range e.images {
			if other.twin == twin {
				other.twin = image // which may fail as well
			}
		}
	}
	image.twin = nil
	return true
}

// contested returns the loaded images of a bundle with a name that another laid claim to since it was last called.
func (c *Catalog) contested(e *entry) []*Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*Image
	for _, image := range e.images {
		if image.contested && image.err == nil && len(image.owned) > 0 {
			found = append(found, image)
		}
		image.contested = false
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

// isUnlisted reports whether a bundle is one of the catalog's, and it is not known what is in it.
func (c *Catalog) isUnlisted(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.entries, func(e *entry) bool { return e.path == path && e.bundle == nil })
}

// isListing reports whether a bundle is one of the catalog's, and it is not known yet what is in it.
func (c *Catalog) isListing(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.entries, func(e *entry) bool { return e.path == path && e.state == Listing })
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
	for key, a := range c.aliases {
		if _, ok := c.aliased(key); !ok && len(c.entries) > 0 {
			log.G(ctx).WithFields(log.Fields{"alias": a.wanted, "image": a.has}).Warn("alias of an image that no bundle holds")
		}
	}
}
