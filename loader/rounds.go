// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
)

// loadAll lists and loads bundles; a name that several have is that of the one further in front.
func (l *Loader) loadAll(ctx context.Context, entries []*entry) error {
	l.resume(ctx)
	l.unpins = !l.Pin && l.pinnedBefore(ctx)
	var work sync.WaitGroup
	for i, e := range entries {
		work.Go(func() {
			defer l.recovered(ctx, func(err error) {
				e.fail(err)
				e.announce(ctx)
			})
			l.loadBundle(ctx, e, entries[:i])
		})
	}
	work.Wait()
	for _, e := range entries {
		l.loadOthers(ctx, e)
	}
	l.loadAlone(ctx, entries)
	l.settle(ctx, entries)
	if l.unpins {
		if err := l.dropPins(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("unpin what was loaded by hand, since pin = false")
		}
	}
	note(ctx, entries)
	var errs []error
	for _, e := range entries {
		errs = append(errs, e.error())
	}
	return errors.Join(errs...)
}

// loadBundle lists and loads a bundle, which stands behind others.
func (l *Loader) loadBundle(ctx context.Context, e *entry, front []*entry) {
	e.start = time.Now()
	if !l.list(ctx, e) {
		e.announce(ctx)
		return
	}
	l.catalog.waitListed(ctx, front) // or it is not known which names are e's, and what is loaded was a matter of chance
	defer e.bundle.Hold()()
	images := l.catalog.take(e)
	var fetched map[*Image]error
	if e.bundle.Compressed() {
		fetched = l.fetchAll(ctx, e, images)
	}
	slices.SortStableFunc(images, largestFirst)
	var work sync.WaitGroup
	for _, image := range images {
		err, written := fetched[image]
		if err != nil {
			image.end(Failed, err)
			continue
		}
		if err := l.work.Acquire(ctx, 1); err != nil {
			image.fail(err)
			continue
		}
		work.Go(func() {
			defer l.recovered(ctx, image.fail)
			defer l.work.Release(1)
			image.start()
			result, err := l.loadImage(ctx, image, written)
			image.end(result, err)
		})
	}
	work.Wait()
	if len(e.full()) > 0 {
		return // see loadAlone
	}
	e.end()
	e.announce(ctx)
}

// largestFirst is the order in which images are loaded: what is left when there are more cores than images is small. Who waits for
// one that is small does not wait for its turn, since a pull takes it from the bundle.
func largestFirst(a, b *Image) int { return cmp.Compare(b.contents.size(), a.contents.size()) }

// loadOthers loads the images of a bundle that another was to bring, and could not.
func (l *Loader) loadOthers(ctx context.Context, e *entry) {
	images := l.catalog.takeOver(e)
	for _, image := range images {
		_ = l.loadOne(ctx, image) // the image has it
	}
	if len(images) > 0 {
		e.end()
		e.announce(ctx)
	}
}

// loadOne loads an image, and notes how that ended.
func (l *Loader) loadOne(ctx context.Context, image *Image) error {
	defer l.recovered(ctx, image.fail)
	image.start()
	state, err := l.loadImage(ctx, image, true)
	image.end(state, err)
	return err
}

// loadAlone loads the images for which there was no room again, the smallest first and one at a time, after what they left
// went: one that is too large would keep the others out. What it finds out of their sizes holds for the next rounds.
func (l *Loader) loadAlone(ctx context.Context, entries []*entry) {
	var images []*Image
	for _, e := range entries {
		if len(e.full()) == 0 {
			continue
		}
		images = append(images, e.full()...)
		defer func() {
			e.end()
			e.announce(ctx)
		}()
	}
	slices.SortFunc(images, func(a, b *Image) int { return cmp.Compare(a.contents.size(), b.contents.size()) })
	dirty := true
	for _, image := range images {
		if dirty && ctx.Err() == nil {
			l.endLease(ctx, true)
		}
		dirty = l.loadOneAlone(ctx, image)
	}
}

// loadOneAlone reports whether it may have left something.
func (l *Loader) loadOneAlone(ctx context.Context, image *Image) (dirty bool) {
	free, unknown := l.room()
	err := l.loadOne(ctx, image)
	if err != nil && isFull(err) && unknown == nil {
		tooLittle := free
		if was := image.ranOut.Load(); was != nil {
			tooLittle = room{max(free.bytes, was.bytes), max(free.inodes, was.inodes)}
		}
		image.ranOut.Store(&tooLittle)
	}
	after, _ := l.room()
	return err != nil && (after.bytes < free.bytes || after.inodes < free.inodes)
}

// settle records again, now that all bundles are listed, the images that have names which others lay claim to: while they
// were loaded it was not known yet whose these are.
func (l *Loader) settle(ctx context.Context, entries []*entry) {
	for _, e := range entries {
		for _, image := range l.catalog.contested(e) {
			if _, err := l.record(ctx, l.Images, image, false); err != nil {
				image.fail(err)
				e.end()
			}
		}
	}
}
