// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/distribution/reference"

	"github.com/berth-edge/berth/loader/bundle"
)

// Catalog knows which bundle holds an image. Where two bundles hold different images of one name, it is that of the bundle
// that comes first. It is safe for concurrent use.
type Catalog struct {
	machine machine
	named   func(ref string) (reference.Named, error)
	aliases map[string]alias // by the one form of the name that is wanted

	said atomic.Int32 // problems, in this round

	mu      sync.Mutex
	begun   bool // the bundles are known, if not yet what is in them
	entries []*entry
	names   map[string]*Image // by name:tag
	digests map[string]*Image // by name@digest, of indexes and of manifests
	changed chan struct{}     // closed when something is known that was not
}

// alias is a further name of an image: the name that is wanted, and the name that a bundle has.
type alias struct{ wanted, has string }

func newCatalog(o Options) *Catalog {
	c := &Catalog{
		machine: machineOf(o.Platform), named: o.Named, aliases: map[string]alias{},
		names: map[string]*Image{}, digests: map[string]*Image{}, changed: make(chan struct{}),
	}
	for wanted, has := range o.Aliases {
		if named, err := c.parse(wanted); err == nil {
			c.aliases[named.String()] = alias{wanted, has}
		}
	}
	return c
}

// parse returns a name, which may be written in several ways, in the one form by which it is asked for. A name that nobody can ask
// for has a form as well.
func (c *Catalog) parse(name string) (reference.Named, error) {
	if c.named != nil {
		if named, err := c.named(name); err == nil {
			return named, nil
		}
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, err
	}
	return reference.TagNameOnly(named), nil
}

// OpenCatalog lists the bundles of paths, for who only wants to know what is in them. Bundles that cannot be read are left
// out, as they are while loading.
func OpenCatalog(ctx context.Context, o Options) *Catalog {
	c := newCatalog(o)
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

// Find returns the image that a bundle holds under named, which is in the form of [Options.Named]: by its digest if named has one,
// else by its tag.
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
