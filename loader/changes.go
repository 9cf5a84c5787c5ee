// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"maps"
	"slices"

	"github.com/berth-edge/berth/loader/bundle"
)

// seen is what the file of a bundle is now.
type seen struct {
	same    bool // what is known of the bundle still holds
	fresh   bool // it was being copied, and still is
	gone    bool // it was loaded by hand, and is not there any more
	refused *refusal
}

// look looks at the files of all bundles. The catalog is not locked meanwhile: a file system may hang, and pulls must not.
func (c *Catalog) look() map[string]seen {
	c.mu.Lock()
	entries := make([]entry, 0, len(c.entries))
	for _, e := range c.entries {
		entries = append(entries, *e)
	}
	c.mu.Unlock()
	all := make(map[string]seen, len(entries))
	for _, e := range entries {
		s := seen{same: e.unchanged() && !e.isBadLayout(), fresh: e.state == Copying && isFresh(e.path), gone: e.byHand && isGone(e.path)}
		if e.byHand {
			if r, ok := refusalOf(e.path); ok {
				s.refused = &r
			}
		}
		all[e.path] = s
	}
	return all
}

// begin sets the bundles there are, and what is refused. Those that did not change are kept with what is known of them.
func (c *Catalog) begin(files []string, refused []refusal) []*entry {
	now := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	there := setOf(files)
	for _, e := range c.entries {
		if now[e.path].gone {
			e.byHand = false
		}
		if !e.byHand && !there[e.path] {
			e.close()
		}
	}
	known := c.byPath()
	var entries []*entry
	for _, e := range c.entries {
		if !e.byHand {
			continue
		}
		e.awaited = false
		if r := now[e.path].refused; r != nil {
			e = c.refuse(*r, e)
		} else {
			e = c.keep(e.path, e, now)
		}
		entries = append(entries, e)
	}
	byHand := entries
	isByHand := func(path string) bool {
		return slices.ContainsFunc(byHand, func(e *entry) bool { return e.path == path })
	}
	for _, path := range files {
		if !isByHand(path) {
			entries = append(entries, c.keep(path, known[path], now))
		}
	}
	for _, r := range refused {
		if !isByHand(r.path) {
			entries = append(entries, c.refuse(r, known[r.path]))
		}
	}
	c.entries, c.begun = entries, true
	c.index()
	c.notify()
	return entries
}

// differs reports whether there are other bundles than those that the catalog knows, or one of them changed.
func (c *Catalog) differs(files []string, refused []refusal) bool {
	now := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun {
		return true
	}
	there, refusals := setOf(files), map[string]error{}
	for _, r := range refused {
		refusals[r.path] = r.err
	}
	for _, e := range c.entries {
		is := now[e.path]
		switch {
		case e.refused && e.byHand:
			if is.refused == nil || is.refused.err.Error() != e.err.Error() {
				return true
			}
		case e.refused:
			if err, ok := refusals[e.path]; !ok || err.Error() != e.err.Error() {
				return true
			}
		case is.fresh: // see hasCopied
		case is.gone, !e.byHand && !there[e.path], !is.same:
			return true
		}
	}
	for _, r := range refused {
		files = append(files, r.path)
	}
	known := c.byPath()
	return slices.ContainsFunc(files, func(path string) bool { return known[path] == nil })
}

// forsake forgets bundles that were to be loaded by hand. Those of own are there all the same, and pulls go on to find them.
func (c *Catalog) forsake(entries []*entry, own map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		e.byHand, e.awaited = false, false
		if !own[e.path] {
			e.close()
		}
	}
	c.entries = slices.DeleteFunc(slices.Clone(c.entries), func(e *entry) bool { return slices.Contains(entries, e) && !own[e.path] })
	c.index()
	c.notify()
}

// paths are those of all bundles.
func (c *Catalog) paths() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.byPath()))
}

// byPath are the bundles by their paths. c.mu is held.
func (c *Catalog) byPath() map[string]*entry {
	known := make(map[string]*entry, len(c.entries))
	for _, e := range c.entries {
		known[e.path] = e
	}
	return known
}

func setOf(paths []string) map[string]bool {
	set := make(map[string]bool, len(paths))
	for _, path := range paths {
		set[path] = true
	}
	return set
}

// isCopying reports whether a bundle is being copied.
func (c *Catalog) isCopying() bool { return len(c.copying()) > 0 }

// hasCopied reports whether a bundle that was being copied is not written to any more.
func (c *Catalog) hasCopied() bool {
	return slices.ContainsFunc(c.copying(), func(path string) bool { return !isFresh(path) })
}

// copying are the bundles that are being copied.
func (c *Catalog) copying() (paths []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.state == Copying {
			paths = append(paths, e.path)
		}
	}
	return paths
}

// add puts bundles that are loaded by hand before those there are: who loads one wants what is in it.
func (c *Catalog) add(files []string) []*entry {
	now := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	known, there := c.byPath(), setOf(files)
	var added []*entry
	for _, path := range files {
		e := c.keep(path, known[path], now)
		e.byHand, e.awaited = true, true
		added = append(added, e)
	}
	others := slices.DeleteFunc(c.entries, func(e *entry) bool { return there[e.path] })
	c.entries = append(slices.Clone(added), others...)
	c.index()
	c.notify()
	return added
}

// keep returns the entry of a bundle: the one that was known, or a new one if there was none, or if it changed or could not be
// read. c.mu is held.
func (c *Catalog) keep(path string, e *entry, now map[string]seen) *entry {
	if e == nil {
		return &entry{catalog: c, path: path, state: Listing}
	}
	if now[path].same {
		for _, image := range e.images {
			if image.err != nil && !image.broken {
				image.state, image.err = Waiting, nil // it is tried again
			}
		}
		return e
	}
	e.close()
	state := Listing
	if e.state == Copying {
		state = Copying
	}
	return &entry{catalog: c, path: path, byHand: e.byHand, state: state, said: e.said, noted: e.noted}
}

// refuse returns the entry of what is not read, in the place of one that was known. c.mu is held.
func (c *Catalog) refuse(r refusal, was *entry) *entry {
	e := &entry{catalog: c, path: r.path, refused: true, state: Failed, err: r.err}
	if was != nil {
		was.close()
		e.byHand, e.said, e.noted = was.byHand, was.said, was.noted
	}
	return e
}

// list notes what is in a bundle.
func (c *Catalog) list(ctx context.Context, e *entry, b *bundle.Bundle) {
	found, problems := imagesOf(ctx, b, c.machine)
	c.mu.Lock()
	defer c.mu.Unlock()
	e.bundle, e.images, e.problems, e.state = b, found, problems, Loading
	for _, image := range found {
		image.catalog = c
	}
	c.index()
	c.notify()
}
