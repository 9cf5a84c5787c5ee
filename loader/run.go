// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// Bounds of the wait before what could not be loaded is tried again: a disk may have room by then.
const (
	minRetry = 10 * time.Second
	maxRetry = 5 * time.Minute
)

// Run loads at once, verifies what is unpacked if containerd did not end by itself, calls loaded after that, and loads again
// whenever the bundles changed, until ctx ends. That it verifies, which may take long, keeps it from no bundle. What could not be
// loaded is tried again after a while. What is sent on changes need not be about bundles.
func (l *Loader) Run(ctx context.Context, changes <-chan struct{}, loaded func()) {
	l.unclean.Store(!l.begin(ctx))
	loaded = sync.OnceFunc(loaded)
	var verifies sync.Mutex
	var work sync.WaitGroup
	defer work.Wait()
	retry := minRetry
	for {
		var again <-chan time.Time
		if err := l.round(ctx); err != nil {
			again = time.After(retry)
		}
		switch {
		case !l.unclean.Load():
			loaded()
		case verifies.TryLock():
			work.Go(func() {
				defer verifies.Unlock()
				if l.verifyAll(ctx) {
					l.unclean.Store(false)
				}
				loaded()
			})
		}
		runs, changed := l.wait(ctx, changes, again)
		switch {
		case !runs:
			return
		case changed:
			retry = minRetry
		default:
			retry = min(2*retry, maxRetry)
		}
	}
}

// wait reports whether ctx still runs when it is time to load again, and whether that is since the bundles changed.
func (l *Loader) wait(ctx context.Context, changes <-chan struct{}, again <-chan time.Time) (runs, changed bool) {
	var look <-chan time.Time
	if l.catalog.isCopying() {
		ticks := time.NewTicker(settled / 4)
		defer ticks.Stop()
		look = ticks.C
	}
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-look:
			if l.catalog.hasCopied() {
				return true, true
			}
		case <-again:
			return true, false
		case <-l.again:
			return true, true
		case <-changes: // every container that starts is a mount, and a change
			if l.catalog.differs(find(l.Paths)) {
				log.G(ctx).Debug("the bundles changed")
				return true, true
			}
		}
	}
}

// verifyAll looks at all images, those that no bundle brought too, after containerd did not end by itself. It reports whether
// they are whole now: as long as they are not, the next rounds, and the next start, look again. What there is nothing to mend by
// is said, and left at that.
func (l *Loader) verifyAll(ctx context.Context) bool {
	found, err := l.Verify(ctx, false)
	if err != nil && ctx.Err() == nil {
		log.G(ctx).WithError(err).Warn("verify what is unpacked, since containerd did not end by itself")
	}
	return err == nil && !slices.ContainsFunc(found, func(d Damage) bool {
		return !d.Mended && !errdefs.IsNotFound(d.Err)
	})
}

func (l *Loader) round(ctx context.Context) (err error) {
	defer l.recovered(ctx, func(panicked error) { err = panicked })
	return l.Load(ctx)
}
