// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"time"

	"github.com/containerd/log"
)

// Bounds of the wait before what could not be loaded is tried again: a disk may have room by then.
const (
	minRetry = 10 * time.Second
	maxRetry = 5 * time.Minute
)

// Run loads at once, calls loaded after that, and loads again whenever something changed, until ctx ends. What could not be
// loaded is tried again after a while.
func (l *Loader) Run(ctx context.Context, changes <-chan struct{}, loaded func()) {
	l.unclean.Store(!l.begin(ctx))
	retry := minRetry
	for {
		var again <-chan time.Time
		if err := l.round(ctx); err != nil {
			again = time.After(retry)
		}
		if loaded != nil {
			loaded()
			loaded = nil
		}
		if l.unclean.Swap(false) {
			l.verifyOthers(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
			retry = min(2*retry, maxRetry)
		case <-changes:
			retry = minRetry
			log.G(ctx).Debug("a folder of bundles changed")
		}
	}
}

// verifyOthers looks at the images that no bundle brought, after containerd did not end by itself.
func (l *Loader) verifyOthers(ctx context.Context) {
	if _, err := l.Verify(ctx, false); err != nil && ctx.Err() == nil {
		log.G(ctx).WithError(err).Warn("verify what is unpacked, since containerd did not end by itself")
	}
}

func (l *Loader) round(ctx context.Context) (err error) {
	defer l.recovered(ctx, func(panicked error) { err = panicked })
	return l.Load(ctx)
}
